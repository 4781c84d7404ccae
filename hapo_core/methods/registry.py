"""All methods by name: every file of this folder that has an `ENTRY`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from hapo_core.methods.entry import MethodEntry


@cache
def methods() -> Mapping[str, MethodEntry]:
    """Name of the file -> its entry, in the order of lists."""
    found: dict[str, MethodEntry] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        entry = getattr(importlib.import_module(f"hapo_core.methods.{module.name}"), "ENTRY", None)
        if isinstance(entry, MethodEntry):
            found[module.name] = entry
    ordered = sorted(found.items(), key=lambda item: (item[1].place, item[0]))
    return MappingProxyType(dict(ordered))
