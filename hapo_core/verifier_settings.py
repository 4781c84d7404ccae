"""What a person sets of the verifier. No verifier is loaded."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hapo_core.errors import ConfigError
from hapo_core.settings import Count, Flag, Positive, settings

REWARDS = ("math", "exact", "reasoning_gym", "math_verify")
"""The rewards that ship with hapo."""


@settings
class VerifierSettings:
    """How responses are verified.

    Raises:
        ConfigError: a value out of range.
    """

    kind: str = "math"
    """One of `REWARDS` (`math_verify` is the plain library), or "module:function" naming a
    `hapo_core.verify.domains.Grader`; the reward of jobs that name none themselves."""
    require_box: Flag = True
    """A response without a final mark (box) is `unparsed`, whatever else it says. Otherwise a
    stated answer ("the answer is 5") or a closing formula is accepted too."""
    unevaluated: Flag = False
    """An answer that states the sum, product, integral or limit of the question, for a gold that
    is its value, is right (`math`). It may only repeat the question."""
    timeout_seconds: Positive = 5.0
    """Wall limit of one attempt at one response."""
    workers: Count = 2
    """Grading processes."""
    memory_mb: Annotated[int, Field(strict=True, ge=256)] = 2048
    """Address space of one of them, in MiB."""

    @property
    def grader(self) -> str:
        """The name under which `load_grader` knows what these settings ask for."""
        return "math_any_form" if self.kind == "math" and self.unevaluated else self.kind

    def __post_init__(self) -> None:
        if self.kind not in REWARDS and self.kind.count(":") != 1:
            raise ConfigError(
                f"there is no verifier {self.kind!r}",
                remedy=f"use {', '.join(REWARDS)}, or module:function of your own grader",
            )
        if self.workers < 1 or self.timeout_seconds <= 0 or self.memory_mb < 256:
            raise ConfigError(
                "a verifier needs workers >= 1, timeout_seconds > 0 and memory_mb >= 256",
                where=repr(self),
            )
