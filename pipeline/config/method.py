"""The method: gate, teacher, objective, and the options that each method's file declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from hapo_core.methods.registry import methods
from pipeline.config.section import Section

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(methods())]
"""The files of `hapo_core/methods` that hold a method."""


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


class StopLoss(Section):
    """The alarm that a teacher does harm (METHOD 9). Witnesses: the surprise of traces, the effect
    of help (`gate.holdout`), the fall of benchmarks (`train.watch`)."""

    action: Literal["shut", "tell"] = "shut"
    """What an alarm does: shut the gate for good, or only say so."""
    false_alarms: float = Field(default=0.05, gt=0, lt=1)
    """Largest chance that a witness speaks in a run though nothing is wrong; all its looks share
    it."""
    surprise: float | None = Field(default=None, allow_inf_nan=False)
    """Nats a token by which traces may surprise the policy more than own rollouts do, on average
    over open groups; unset: surprise is no witness."""


class Gate(Section):
    """When the teacher enters: evidence x statistic x threshold (METHOD 4)."""

    evidence: Literal["group", "prompt"] = "group"
    prior_successes: float = Field(default=1.0, gt=0)
    prior_failures: float = Field(default=1.0, gt=0)
    forgetting: float = Field(default=1.0, gt=0, le=1)
    """delta of the prompt posterior; 1 forgets nothing."""
    correlation: float = Field(default=0.0, ge=0, le=1)
    """rho: how far errors of the verifier in one group go together. A rollout counts
    1 / (1 + (N - 1) rho); 0 takes them as independent (docs/verification.md has measured ones)."""
    statistic: Literal["mean", "thompson", "quantile"] = "mean"
    quantile: float | None = Field(default=None, gt=0, lt=1)
    threshold: Threshold
    holdout: float = Field(default=0.0, ge=0, lt=1, exclude_if=lambda h: h == 0)
    """Share of the injections, drawn at random, that are left out to measure what help does: the
    report compares both at the prompts' next visits (METHOD 9)."""
    max_surprise: float | None = Field(
        default=None, allow_inf_nan=False, exclude_if=lambda m: m is None
    )
    """Nats a token by which a trace may surprise the policy more than its own rollouts of the same
    group do (below 0: it must surprise less). Above it the gate stays shut for this trace, and the
    round's tables say so. Unset: every trace may enter (METHOD 9; docs/gates.md: finding a bound).
    """
    stop_loss: StopLoss | None = Field(default=None, exclude_if=lambda s: s is None)
    """The alarm, and what it does; unset: none."""
    allow_unreachable: bool = False
    """Accept a gamma outside the reachable range of c (an always- or never-open gate)."""

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        if (self.statistic == "quantile") != (self.quantile is not None):
            raise ValueError("`quantile` belongs to `statistic: quantile`, and is needed there")
        if self.evidence == "group" and self.forgetting != 1.0:
            raise ValueError("`forgetting` needs `evidence: prompt`; group evidence has no past")
        return self

    @property
    def guard(self) -> dict[str, str]:
        """Keys of the guard that are set -> the word that takes each back."""
        fields = type(self).model_fields
        return {k: off for k, off in OFF.items() if getattr(self, k) != fields[k].default}


OFF = {"holdout": "0", "max_surprise": "null", "stop_loss": "null"}
"""The guard's keys, and what takes them back: a method that asks no gate refuses them."""

SHOWN = (
    "{problem}\n\nHere is a reference solution:\n\n{solution}\n\n"
    "Now solve the problem again in your own words."
)


class Distill(Section):
    """The policy, shown the trace, scores its own rollouts (METHOD 9): `teacher.use: distill`, and
    method `opsd`. It is refused where showing the trace does not raise the policy's own success."""

    weight: float = Field(default=1.0, gt=0)
    """Of this part of the loss, a token mean over the scored tokens."""
    clip: float | Literal["off"] = 1.0
    """Largest |log pi - log pi_T| of a token, in nats."""
    template: str = SHOWN
    """What stands in the problem's place in the teacher's prompt; has {problem} and {solution}."""
    gain_problems: int = Field(default=64, ge=1)
    """Problems with a trace on which the gain is measured, before the first round."""
    gain_samples: int = Field(default=4, ge=1)
    """Responses to each, with the trace shown and without."""
    without_gain: Literal["refuse", "go_on"] = "refuse"
    """What happens where the gain's interval does not lie above 0."""

    @model_validator(mode="after")
    def _whole(self) -> Distill:
        if isinstance(self.clip, float) and self.clip <= 0:
            raise ValueError("`clip` is above 0, or off")
        for name in ("{problem}", "{solution}"):
            if name not in self.template:
                raise ValueError(f"`template` lacks {name}")
        return self


class _Teacher(Section):
    """How a teacher row weighs in the loss (METHOD 3.1), and what single methods do with traces.

    A method reads its own section only; the sections of other methods may stay, so that one file
    serves a comparison.
    """

    weight: Literal["advantage", "none", "confidence"] = "advantage"
    shape: Literal["ratio", "log", "prob", "trust"] = "ratio"
    shaping_lambda: float = Field(default=0.1, gt=0)
    trust_alpha: float = Field(default=0.1, gt=0, le=1, exclude_if=lambda a: a == 0.1)
    """`trust` only: tokens of a probability below this pull in proportion to it (METHOD 9)."""
    baseline: Literal["joint", "own"] = Field(default="joint", exclude_if=lambda b: b == "joint")
    """What the rollouts of an injected group are compared with: the trace among them (METHOD 3),
    or each other (METHOD 9)."""
    use: Literal["inject", "distill"] = Field(default="inject", exclude_if=lambda u: u == "inject")
    """What an open gate of HAPO does: the trace takes the place of a rollout, or the policy, shown
    the trace, scores its own rollouts."""
    distill: Distill = Field(default=Distill(), exclude_if=lambda d: d == Distill())
    trace_choice: Literal["turn", "likeliest"] = Field(
        default="turn", exclude_if=lambda c: c == "turn"
    )
    """Which of several usable traces a visit may use: one by chance, or the one that the present
    policy is least surprised by (METHOD 9; a forward pass over the traces of the round)."""
    measure_surprise: bool = Field(default=False, exclude_if=lambda m: not m)
    """Record how far each trace of a round surprises the policy, whatever else is set; the same
    forward pass. `trace_choice: likeliest` and `gate.max_surprise` record it anyway."""


class _Objective(Section):
    """The on-policy objective. `preset` fixes what is not named here (METHOD 3.1)."""

    preset: Literal["paper", "luffy", "dapo", "dr_grpo", "gspo"] = "paper"
    advantage: Literal["std", "mean_only"] | None = None
    clip: tuple[float, float] | Literal["off"] | None = None
    """(eps_lo, eps_hi); `off` switches clipping off."""
    aggregation: Literal["token_mean", "seq_mean", "constant"] | None = None
    ratio_level: Literal["token", "sequence"] | None = None
    """Unset: `token`, or what the preset says."""
    entropy_coefficient: float | None = Field(default=None, ge=0)
    negative_weight: float | Literal["adaptive"] = Field(default=1.0, exclude_if=lambda w: w == 1.0)
    """Multiplies the advantages below 0 of the policy's own rollouts (METHOD 9). `adaptive`: rows
    above 0 over rows below 0 in the optimizer batch, between `negative_floor` and 1."""
    negative_floor: float = Field(default=0.1, gt=0, le=1, exclude_if=lambda f: f == 0.1)
    """`negative_weight: adaptive` only."""
    dynamic_sampling: int | Literal["off"] | None = None
    """DAPO: groups whose rewards are all equal are set aside and other prompts sampled, at most
    this many times train.prompts_per_round in all. Preset dapo: 10; needs method grpo."""
    overlong_buffer: float | Literal["off"] | None = None
    """DAPO: share of the response budget over which a penalty grows. Preset dapo: 0.2."""
    overlong_weight: float = Field(default=0.5, gt=0)
    """The full penalty, for rewards of 1 and 0 (DAPO: 1 for rewards of 1 and -1, which is the same
    under advantages with std)."""

    @model_validator(mode="after")
    def _ranges(self) -> _Objective:
        if isinstance(self.negative_weight, float) and not 0 <= self.negative_weight <= 1:
            raise ValueError("`negative_weight` is in [0, 1], or adaptive")
        if isinstance(self.dynamic_sampling, int) and self.dynamic_sampling < 1:
            raise ValueError("`dynamic_sampling` is a number of batches >= 1, or off")
        if isinstance(self.overlong_buffer, float) and not 0 < self.overlong_buffer <= 1:
            raise ValueError("`overlong_buffer` is a share in (0, 1], or off")
        return self


def _with_options(base: type[Section], section: str) -> type[Section]:
    """The section with the options of every method that stand in it, each under its name."""
    fields: dict[str, Any] = {
        name: (type(entry.options), entry.options)
        for name, entry in methods().items()
        if entry.options is not None and entry.section == section
    }
    name, lines = base.__name__.removeprefix("_"), base.__doc__
    return create_model(name, __base__=base, __doc__=lines, __module__=__name__, **fields)


if TYPE_CHECKING:
    Teacher = _Teacher
    Objective = _Objective
else:
    Teacher, Objective = _with_options(_Teacher, "teacher"), _with_options(_Objective, "objective")


class Sft(Section):
    """Supervised rounds."""

    rounds: int = Field(default=0, ge=0)
    """How many rounds are supervised before reinforcement starts (`sft_then_rl`)."""
    learning_rate_scale: float = Field(default=1.0, gt=0)
