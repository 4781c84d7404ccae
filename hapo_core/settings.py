"""Settings that a person writes: dataclasses whose ranges stand beside their fields, once.

A caller of the library makes them as any dataclass, and nothing is checked. Where they come out of
a file, pydantic builds them from the same declaration: no unknown keys, no text for a number, every
value within its range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeVar, dataclass_transform

from pydantic import Field

T = TypeVar("T")

Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
Inside = Annotated[float, Field(strict=True, gt=0, lt=1)]
"""(0, 1)."""
FromZero = Annotated[float, Field(strict=True, ge=0, lt=1)]
"""[0, 1)."""
UpToOne = Annotated[float, Field(strict=True, gt=0, le=1)]
"""(0, 1]."""
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
"""[0, 1]."""


@dataclass_transform(frozen_default=True)
def settings(kind: type[T]) -> type[T]:
    """Decorator: a frozen dataclass of which pydantic accepts no unknown keys.

    Its own `__post_init__` may raise ValueError for what only several fields together can break.
    """
    made = dataclass(frozen=True)(kind)
    # Fields are strict each on its own: a strict dataclass would take no mapping from a file.
    made.__pydantic_config__ = {"extra": "forbid", "strict": False}  # type: ignore[attr-defined]
    return made
