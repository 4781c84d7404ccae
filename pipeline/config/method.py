"""The method: gate, teacher, objective, and what each comparator needs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Section

MethodName = Literal[
    "grpo",
    "hapo",
    "luffy",
    "sft",
    "sft_then_rl",
    "srft",
    "hpt",
    "relift",
    "chord",
    "prefix_rft",
    "bread",
    "real",
]


class ConstantThreshold(Section):
    """gamma_t = gamma."""

    kind: Literal["constant"]
    gamma: float = Field(gt=0, lt=1)


class ScheduledThreshold(Section):
    """gamma_t from gamma_start to gamma_end in t/horizon (METHOD 4)."""

    kind: Literal["linear", "cosine", "sigmoid", "step"]
    gamma_start: float = Field(gt=0, lt=1)
    gamma_end: float = Field(gt=0, lt=1)
    horizon: int = Field(ge=1)
    """Rounds until gamma_end; explicit, so that adding a segment changes no earlier round."""
    step_at: float = Field(default=0.5, gt=0, le=1)
    """`step` only: the share of the horizon at which gamma jumps."""


class AdaptiveThreshold(Section):
    """gamma_t = min(gamma_{t-1}, gamma_start (1 - m_t)^kappa): support never comes back."""

    kind: Literal["adaptive"]
    gamma_start: float = Field(gt=0, lt=1)
    kappa: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the past in m_t, the exponential mean of the on-policy success rate."""


Threshold = Annotated[
    ConstantThreshold | ScheduledThreshold | AdaptiveThreshold, Field(discriminator="kind")
]


class Gate(Section):
    """When the teacher enters: evidence x statistic x threshold (METHOD 4)."""

    evidence: Literal["group", "prompt"] = "group"
    prior_successes: float = Field(default=1.0, gt=0)
    prior_failures: float = Field(default=1.0, gt=0)
    forgetting: float = Field(default=1.0, gt=0, le=1)
    """delta of the prompt posterior; 1 forgets nothing."""
    statistic: Literal["mean", "thompson", "quantile"] = "mean"
    quantile: float | None = Field(default=None, gt=0, lt=1)
    threshold: Threshold
    allow_unreachable: bool = False
    """Accept a gamma outside the reachable range of c (an always- or never-open gate)."""

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        if (self.statistic == "quantile") != (self.quantile is not None):
            raise ValueError("`quantile` belongs to `statistic: quantile`, and is needed there")
        if self.evidence == "group" and self.forgetting != 1.0:
            raise ValueError("`forgetting` needs `evidence: prompt`; group evidence has no past")
        return self


class Srft(Section):
    """`srft` (METHOD 6)."""

    sft_weight: float = Field(default=0.5, ge=0)
    sft_entropy: Literal["minus", "plus"] = "minus"
    """w_sft = sft_weight exp(-H) as in the paper, or exp(+H) as in the released code."""
    positive_weight: float = Field(default=0.1, ge=0)
    """Weight of right rollouts, times exp(H); wrong ones weigh -1."""


class Hpt(Section):
    """`hpt` (METHOD 6)."""

    successes: int = Field(default=0, ge=0)
    """k: imitate the trace iff S <= k."""
    normaliser: Literal["separate", "shared"] = "separate"
    """Whether imitated tokens have a token mean of their own or count with the rollouts."""


class Relift(Section):
    """`relift` (METHOD 6)."""

    buffer: int = Field(default=128, ge=1)
    """Failed prompts that one separate supervised step waits for; its learning rate is scaled by
    sft.learning_rate_scale."""


class Chord(Section):
    """`chord` (METHOD 6): (1 - m) GRPO + m SFT. What is unset follows from the variant."""

    variant: Literal["mu", "phi"] = "mu"
    mix_start: float | None = Field(default=None, ge=0, le=1)
    """m of the first round: .9 for mu, .1 for phi."""
    mix_end: float | None = Field(default=None, ge=0, le=1)
    """m from `horizon` on: .05 for mu, .1 for phi."""
    shape: Literal["cosine", "linear"] = "cosine"
    """How m falls: `cosine` is the released code's; the paper gives the ends only."""
    horizon: int = Field(default=200, ge=1)
    expert_share: float = Field(default=0.2, gt=0, lt=1)
    """Expert traces as a share of all rows of a round (.2 in the released configuration)."""


class PrefixRft(Section):
    """`prefix_rft` (METHOD 6)."""

    low_start: float = Field(default=0.95, ge=0, lt=1)
    low_end: float = Field(default=0.05, ge=0, lt=1)
    """The share of the trace that is given is uniform between `low`, which falls along a cosine
    from low_start to low_end, and `high`."""
    high: float = Field(default=0.95, gt=0, lt=1)
    horizon: int = Field(default=500, ge=1)
    top_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the prefix tokens that train: those of the highest entropy."""
    prefix_tokens: Literal["ratio", "teacher"] = "ratio"
    """Objective of these tokens: the ratio to pi_old as everywhere, or the teacher's shape."""

    @model_validator(mode="after")
    def _ordered(self) -> PrefixRft:
        if max(self.low_start, self.low_end) > self.high:
            raise ValueError("low_start and low_end must not exceed high")
        return self


class Bread(Section):
    """`bread` (METHOD 6)."""

    splits: int = Field(default=10, ge=2)
    """K: prefixes are the first k/K of a trace; a search takes about log2(K) times N samples."""


class Real(Section):
    """`real` (METHOD 6)."""

    tau: float = Field(default=0.5, gt=0)


class Teacher(Section):
    """How a teacher row weighs in the loss (METHOD 3.1), and what single methods do with traces.

    A method reads its own section only; the sections of other methods may stay, so that one file
    serves a comparison.
    """

    weight: Literal["advantage", "none", "confidence"] = "advantage"
    shape: Literal["ratio", "log", "prob"] = "ratio"
    shaping_lambda: float = Field(default=0.1, gt=0)
    srft: Srft = Srft()
    hpt: Hpt = Hpt()
    relift: Relift = Relift()
    chord: Chord = Chord()
    prefix_rft: PrefixRft = PrefixRft()
    bread: Bread = Bread()


class Objective(Section):
    """The on-policy objective. `preset` fixes what is not named here (METHOD 3.1)."""

    preset: Literal["paper", "luffy", "dapo", "dr_grpo", "gspo"] = "paper"
    advantage: Literal["std", "mean_only"] | None = None
    clip: tuple[float, float] | Literal["off"] | None = None
    """(eps_lo, eps_hi); `off` switches clipping off."""
    aggregation: Literal["token_mean", "seq_mean", "constant"] | None = None
    ratio_level: Literal["token", "sequence"] | None = None
    """Unset: `token`, or what the preset says."""
    entropy_coefficient: float | None = Field(default=None, ge=0)
    dynamic_sampling: int | Literal["off"] | None = None
    """DAPO: groups whose rewards are all equal are set aside and other prompts sampled, at most
    this many times train.prompts_per_round in all. Preset dapo: 10; needs method grpo."""
    overlong_buffer: float | Literal["off"] | None = None
    """DAPO: share of the response budget over which a penalty grows. Preset dapo: 0.2."""
    overlong_weight: float = Field(default=0.5, gt=0)
    """The full penalty, for rewards of 1 and 0 (DAPO: 1 for rewards of 1 and -1, which is the same
    under advantages with std)."""
    real: Real = Real()

    @model_validator(mode="after")
    def _ranges(self) -> Objective:
        if isinstance(self.dynamic_sampling, int) and self.dynamic_sampling < 1:
            raise ValueError("`dynamic_sampling` is a number of batches >= 1, or off")
        if isinstance(self.overlong_buffer, float) and not 0 < self.overlong_buffer <= 1:
            raise ValueError("`overlong_buffer` is a share in (0, 1], or off")
        return self


class Sft(Section):
    """Supervised rounds of `sft` and `sft_then_rl`."""

    rounds: int = Field(default=0, ge=0)
    """`sft_then_rl`: how many rounds are supervised before GRPO starts."""
    learning_rate_scale: float = Field(default=1.0, gt=0)
