"""Two sets of parameters compared: one rule for locks, provenance, DVC's record and status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def changed_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`update.epochs: 1 -> 2`, one for every value that differs, by path.

    A key that is missing is not one whose value is null (`loggers.tensorboard: null` switches off
    what is on without it), and DVC, which compares texts, runs the stage for it.
    """
    old, new = flat(before), flat(now)
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if (key in old) != (key in new) or old.get(key) != new.get(key)
    ]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as `section.key: value`; sequences as lists, however they were read."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    return "null" if values[key] is None else str(values[key])
