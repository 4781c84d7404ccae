"""Rewards, rollouts, updates and rounds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hapo_core.update_spec import LoraSpec, UpdateSpec
from hapo_core.verifier_settings import VerifierSettings
from pipeline.config.engine import EngineChoice
from pipeline.config.section import Name, RewardName, Section, shared


class Rewards(shared(VerifierSettings, "kind")):  # type: ignore[misc]
    """Which verifier marks the responses."""

    verifier: RewardName = VerifierSettings.kind
    """The reward of sources that name none (`curate.sources.NAME.reward`)."""
    max_unknown_share: float = Field(default=0.05, ge=0, le=1)
    """A round with more timeouts, errors or bad golds than this share stops the run."""


class RolloutParams(EngineChoice):
    """How the policy's own responses are drawn."""

    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    max_rows: int = Field(default=256, ge=1)
    """Responses decoded at once (memory), over all servers."""

    @model_validator(mode="after")
    def _logprobs(self) -> RolloutParams:
        if self.engine == "vllm" and self.top_p < 1 and self.temperature != 1:
            raise ValueError(
                "vLLM reports log-probs either before the temperature or after the top-p cut, the "
                "update needs them between: with `engine: vllm` set top_p or temperature to 1"
            )
        return self


class Lora(shared(LoraSpec)):  # type: ignore[misc]
    """Low-rank adapters through peft (extra `lora`): only they train and are saved."""


Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Update(shared(UpdateSpec, "mismatch_limit")):  # type: ignore[misc]
    """The optimizer step of a round."""

    mismatch_correction: Literal["off", "token_truncate", "sequence_mask"] = "off"
    mismatch_cap: float = Field(default=2.0, gt=1)
    mismatch_limit: Limit | Literal["off"] | None = None
    """Largest mean |delta log p| of sampler and trainer on the policy's own tokens: a round above
    it stops before its step. By default 1e-3 where both compute in float32, 0.1 with bfloat16,
    divided by a `rollout.temperature` below 1; `off` measures only (docs/methods.md)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    lora: Lora | None = None
    """None trains all weights."""


class DifficultyBand(Section):
    """Train only on problems that the starting policy solves neither always nor never."""

    samples: int = Field(default=8, ge=1)
    """Responses of the starting policy per problem."""
    temperature: float = Field(default=1.0, gt=0)
    low: float = Field(default=0.0, ge=0, le=1)
    """Least success rate of a problem that stays."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest success rate of a problem that stays."""

    @model_validator(mode="after")
    def _ordered(self) -> DifficultyBand:
        if self.low > self.high:
            raise ValueError(f"`low` ({self.low:g}) exceeds `high` ({self.high:g})")
        if (self.low, self.high) == (0.0, 1.0):
            raise ValueError("a band from 0 to 1 keeps every problem: set `low` or `high`")
        return self


class Train(Section):
    """Rounds, and what is watched in between."""

    prompts_per_round: int = Field(ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    """Rounds between resume points in the scratch folder; a kill costs at most these rounds."""
    difficulty: DifficultyBand | None = None
    """Measured once, at the start of the first segment; None trains on every problem."""
    probe_benchmark: str | None = None
    """Benchmark watched during training; None switches the probe off."""
    watch: tuple[Name, ...] = Field(default=(), exclude_if=lambda names: not names)
    """Benchmarks beside it that are not trained on, measured like the probe: what training costs
    elsewhere. `gate.stop_loss` has them as a witness, and measures them before the first round."""
    probe_every: int = Field(default=10, ge=1)
    probe_problems: int = Field(default=64, ge=1)
    probe_samples: int = Field(default=4, ge=1)
    probe_temperature: float = Field(default=0.6, ge=0)

    @property
    def watched(self) -> list[str]:
        """All benchmarks that training measures, the probe's first."""
        probe = [] if self.probe_benchmark is None else [self.probe_benchmark]
        return list(dict.fromkeys([*probe, *self.watch]))


class Segment(Section):
    """Several rounds in one DVC stage, starting from `prev`."""

    prev: str
    rounds: int = Field(ge=1)
    """How many; at most, where a budget of tokens is set."""
    generated: int | None = Field(default=None, ge=1)
    """Budget of tokens that the policy draws: the segment ends with the round that reaches it."""
    trained: int | None = Field(default=None, ge=1)
    """The same for tokens that go through forward and backward."""

    def spent(self, generated: int, trained: int) -> bool:
        """Whether a budget is reached."""
        pairs = ((self.generated, generated), (self.trained, trained))
        return any(budget is not None and used >= budget for budget, used in pairs)

    def fits(self, rounds: int) -> bool:
        """Whether a finished segment may have this many rounds."""
        bounded = self.generated is not None or self.trained is not None
        return 1 <= rounds <= self.rounds if bounded else rounds == self.rounds
