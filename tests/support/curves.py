"""Reading back what the loggers wrote."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path


def tensorboard_points(folder: Path) -> list[tuple[int, float]]:
    loading = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    found = loading.EventAccumulator(str(folder))
    found.Reload()
    return [(e.step, round(e.value, 6)) for e in found.Scalars("success")]
