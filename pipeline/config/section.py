"""What all sections of params.yaml share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all sections: no unknown keys, no coercion of strings to numbers, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


RewardName = Annotated[str, Field(pattern=r"^(math|exact|reasoning_gym|[A-Za-z_][\w.]*:\w+)$")]
"""`math`, `exact`, `reasoning_gym`, or `package.module:function` (docs/verification.md)."""
