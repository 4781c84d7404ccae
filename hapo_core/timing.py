"""Seconds by kind of work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Laps:
    """Sums up how long pieces of work took, by name.

    An accelerator works behind the back of the program: only with `exact` (which waits for it, and
    so slows it a little) do its seconds go to the piece that caused them.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.exact = False

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the block's seconds under `name`."""
        began = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - began

    def _now(self) -> float:
        if self.exact and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()
