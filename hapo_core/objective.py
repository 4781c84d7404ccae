"""What an optimizer batch is made of (rows), and what is done with it (objective, presets)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hapo_core.advantage import AdvantageKind


class RowKind(StrEnum):
    """Whose tokens a row holds, and so which objective they get."""

    ON_POLICY = "on_policy"
    TEACHER = "teacher"
    SFT = "sft"
    DISTILL = "distill"
    """A rollout of the policy that the policy, shown the trace, has scored (METHOD 9)."""


class Part(StrEnum):
    """Which term of the loss a row belongs to. Every part has a normaliser of its own, taken over
    the whole optimizer batch."""

    MAIN = "main"
    EXPERT = "expert"
    """Likelihood of traces beside the groups (SRFT, HPT, CHORD): always a token mean."""
    DISTILL = "distill"
    """Rollouts that were scored: always a token mean."""


class Surrogate(StrEnum):
    """What an on-policy row maximises."""

    CLIP = "clip"
    """CLIP(r, A) per token (METHOD 2); `clip` None leaves r A."""
    LOG = "log"
    """A log pi per token (SRFT)."""
    SCORE = "score"
    """A s with s = mean_t log r_t (REAL, whose weights A come from its coupling)."""


class TeacherShape(StrEnum):
    """f(p) of a teacher token (METHOD 3.1)."""

    RATIO = "ratio"
    """p / (p + lambda), LUFFY's policy shaping."""
    LOG = "log"
    """log p, the plain likelihood anchor."""
    PROB = "prob"
    """p."""
    TRUST = "trust"
    """p / alpha below alpha, 1 + log(p / alpha) above: the gradient on log p is min(1, p / alpha),
    so that tokens that the policy holds for impossible pull little (TRAPO, arXiv 2512.17636)."""


class TeacherWeight(StrEnum):
    """What multiplies f(p)."""

    ADVANTAGE = "advantage"
    NONE = "none"
    CONFIDENCE = "confidence"
    """1 - c."""


class TeacherBaseline(StrEnum):
    """What the own rows of an injected group are compared with."""

    JOINT = "joint"
    """All N rewards, the trace's among them (METHOD 3)."""
    OWN = "own"
    """Each other: the trace's reward moves no own row. With S = 0 own rows get exactly 0."""


class Aggregation(StrEnum):
    """How token terms become one number; each normaliser spans the whole optimizer batch."""

    TOKEN_MEAN = "token_mean"
    SEQ_MEAN = "seq_mean"
    CONSTANT = "constant"
    GROUP_MEAN = "group_mean"
    """Sum over the rows of a group, mean over the groups (REAL)."""


class RatioLevel(StrEnum):
    """On which level pi / pi_old is taken."""

    TOKEN = "token"
    SEQUENCE = "sequence"
    """s = exp(mean_t log r_t) for all tokens of a row (GSPO)."""


class Mismatch(StrEnum):
    """Correction for a sampler whose log-probs differ from the trainer's (METHOD 5)."""

    OFF = "off"
    TOKEN_TRUNCATE = "token_truncate"
    SEQUENCE_MASK = "sequence_mask"


class Coupling(Protocol):
    """A loss in which the rows of a group weigh each other. A batch is split into micro-batches
    that know nothing of each other, so the weights are taken from all of its rows first."""

    def __call__(self, rows: Sequence[TrainRow], scores: Sequence[float]) -> list[TrainRow]:
        """The rows, in their order, with the weights that their groups give them.

        Args:
            scores: mean_t log(pi / pi_old) of each row under the present policy.
        """
        ...


@dataclass(frozen=True)
class Objective:
    """All that the loss needs to know. `clip` is (eps_lo, eps_hi) or None."""

    advantage: AdvantageKind = AdvantageKind.STD
    clip: tuple[float, float] | None = (0.2, 0.2)
    aggregation: Aggregation = Aggregation.TOKEN_MEAN
    ratio_level: RatioLevel = RatioLevel.TOKEN
    entropy_coefficient: float = 0.0
    teacher_shape: TeacherShape = TeacherShape.RATIO
    teacher_weight: TeacherWeight = TeacherWeight.ADVANTAGE
    shaping_lambda: float = 0.1
    trust_alpha: float = 0.1
    """alpha of the shape `trust`."""
    teacher_baseline: TeacherBaseline = TeacherBaseline.JOINT
    negative_weight: float | None = 1.0
    """Multiplies advantages below 0 of the policy's own rows; None: adaptive, `negative_scale`."""
    negative_floor: float = 0.1
    """The least that an adaptive negative weight becomes."""
    mismatch: Mismatch = Mismatch.OFF
    mismatch_cap: float = 2.0
    temperature: float = 1.0
    surrogate: Surrogate = Surrogate.CLIP
    coupling: Coupling | None = None
    """How the rows of a group weigh each other, where they do (REAL)."""
    distill_clip: float | None = None
    """Largest |log pi - log pi_T| of a scored token, in nats; None: not clipped."""
    prefix_share: float = 1.0
    """Share of a row's prefix tokens that train: those of the highest entropy (Prefix-RFT)."""


PAPER = Objective()
"""HAPO's equations: std, clip 0.2, token mean."""


LUFFY_RELEASE = Objective(
    advantage=AdvantageKind.MEAN_ONLY,
    clip=None,
    aggregation=Aggregation.CONSTANT,
    entropy_coefficient=0.001,
)
"""LUFFY's released run: mean-only, no clip, sum over a constant, entropy .001."""


DAPO = Objective(clip=(0.2, 0.28))
"""Clip-higher and the token mean (arXiv 2503.14476)."""


DR_GRPO = Objective(advantage=AdvantageKind.MEAN_ONLY, aggregation=Aggregation.CONSTANT)
"""No std, no length in the normaliser (arXiv 2503.20783)."""


GSPO = Objective(
    clip=(3e-4, 4e-4), aggregation=Aggregation.SEQ_MEAN, ratio_level=RatioLevel.SEQUENCE
)
"""Ratio and clip of whole sequences (arXiv 2507.18071)."""


@dataclass(frozen=True)
class TrainRow:
    """One row of the optimizer batch.

    `advantage` is A of an on-policy or teacher row (1 for SFT); `confidence` is the gate's c of the
    row's group (teacher rows). `sampler_logprobs`: of the engine, one per token after the prefix;
    None where there was no sampler.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    kind: RowKind
    advantage: float = 1.0
    confidence: float = 0.0
    sampler_logprobs: tuple[float, ...] | None = None
    part: Part = Part.MAIN
    weight: float = 1.0
    """Multiplies the row's scale; it does not enter the normaliser."""
    entropy_exponent: float = 0.0
    """k of a further factor exp(k H), H the detached mean token entropy of this row (SRFT)."""
    phi: bool = False
    """SFT rows: weigh each token by p (1 - p), detached (CHORD-phi)."""
    prefix: int = 0
    """The first tokens of the response that are the teacher's (Prefix-RFT)."""
    prefix_kind: RowKind = RowKind.ON_POLICY
    """The objective of these tokens: ratio to pi_old, or TEACHER."""
    group: str = ""
    """Rows of one name are one group of the `group_mean` aggregation."""
    offset: float = 0.0
    """Constant that makes a linearised loss show its true value (REAL)."""
    sample: int | None = None
    """Index of the rollout of the group that the row holds."""
    branch: int | None = None
    """Index of the continuation that it holds."""
    teacher_logprobs: tuple[float, ...] | None = None
    """Rows of distillation: log pi_T of each token; None until the teacher has scored them."""

    def teacher_factor(self, weight: TeacherWeight) -> float:
        """What multiplies f(p) on this row."""
        match weight:
            case TeacherWeight.ADVANTAGE:
                return self.advantage
            case TeacherWeight.NONE:
                return 1.0
            case TeacherWeight.CONFIDENCE:
                return 1.0 - self.confidence

    def trains(self, objective: Objective) -> bool:
        """Whether the row has any gradient: rows without are skipped, but still counted."""
        kinds = {self.kind, self.prefix_kind} if self.prefix else {self.kind}
        return any(self._pulls(kind, objective) for kind in kinds)

    def factor(self, kind: RowKind, weight: TeacherWeight) -> float:
        """What multiplies the objective of this row's tokens of a kind."""
        return self.teacher_factor(weight) if kind is RowKind.TEACHER else self.advantage

    def _pulls(self, kind: RowKind, objective: Objective) -> bool:
        """Whether this row's tokens of a kind have any gradient."""
        if (
            kind in (RowKind.SFT, RowKind.DISTILL)
            or self.factor(kind, objective.teacher_weight) != 0.0
        ):
            return True
        return kind is RowKind.ON_POLICY and objective.entropy_coefficient > 0.0
