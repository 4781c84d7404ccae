"""The benchmark evaluation."""

from __future__ import annotations

from pydantic import Field, model_validator

from pipeline.config.engine import EngineChoice
from pipeline.config.presets import PresetName, find_preset
from pipeline.config.section import Name, Section


class BenchmarkProtocol(Section):
    """How one benchmark is measured; all of it is printed with the number.

    What is not given comes from `preset`, and without one `k` and `max_tokens` are needed.
    """

    preset: PresetName | None = None
    """A protocol of `pipeline.config.presets`; unset, it comes from the `kind` in
    `curate.benchmarks`."""
    k: int = Field(ge=1)
    """Samples per problem (avg@k)."""
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: object) -> object:
        preset = find_preset(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset.protocol(), **given} if preset and isinstance(given, dict) else given


class Evaluate(EngineChoice):
    """The benchmark evaluation of the starting and the final policy."""

    benchmarks: dict[Name, BenchmarkProtocol] = Field(min_length=1)
    max_rows: int = Field(default=512, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    bootstrap_draws: int = Field(default=2000, ge=100)
    """Of paired tests and the intervals of their differences."""


class Target(Section):
    """A policy to evaluate: `base` or a segment."""

    policy: str
