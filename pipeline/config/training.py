"""Rewards, rollouts, updates and rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.engine import EngineChoice
from pipeline.config.section import RewardName, Section


class Rewards(Section):
    """Which verifier marks the responses."""

    verifier: RewardName = "math"
    """The reward of sources that name none (`curate.sources.NAME.reward`)."""
    require_box: bool = True
    """A response without a final mark (box) is `unparsed`, whatever else it says."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    workers: int = Field(default=2, ge=1)
    memory_mb: int = Field(default=2048, ge=256)
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


class Lora(Section):
    """Low-rank adapters through peft (extra `lora`): only they train and are saved."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of the layers that get one (`q_proj`); None means all linear layers but the head."""


class Update(Section):
    """The optimizer step of a round."""

    learning_rate: float = Field(gt=0)
    warmup_rounds: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(default=1.0, gt=0)
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps per pass over the round's groups."""
    epochs: int = Field(default=1, ge=1)
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens of one forward pass; changes memory, never the result."""
    mismatch_correction: Literal["off", "token_truncate", "sequence_mask"] = "off"
    mismatch_cap: float = Field(default=2.0, gt=1)
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    mixed_precision: bool = False
    """Passes in bfloat16 on float32 (master) weights, gradients and optimizer state."""
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
    probe_every: int = Field(default=10, ge=1)
    probe_problems: int = Field(default=64, ge=1)
    probe_samples: int = Field(default=4, ge=1)
    probe_temperature: float = Field(default=0.6, ge=0)


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
