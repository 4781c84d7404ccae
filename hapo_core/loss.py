"""Token objectives and their aggregation (METHOD 2, 3.1, 5).

The loss of an optimizer batch is sum over tokens of scale x term. The scale of every row is fixed
from the WHOLE batch before it is split (`row_scales`), so micro-batches, padding, order and
sharding cannot change losses or gradients beyond floating-point addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch

from hapo_core.advantage import AdvantageKind


class RowKind(StrEnum):
    """Whose tokens a row holds, and so which objective they get."""

    ON_POLICY = "on_policy"
    TEACHER = "teacher"
    SFT = "sft"


class TeacherShape(StrEnum):
    """f(p) of a teacher token (METHOD 3.1)."""

    RATIO = "ratio"
    """p / (p + lambda), LUFFY's policy shaping."""
    LOG = "log"
    """log p, the plain likelihood anchor."""
    PROB = "prob"
    """p."""


class TeacherWeight(StrEnum):
    """What multiplies f(p)."""

    ADVANTAGE = "advantage"
    NONE = "none"
    CONFIDENCE = "confidence"
    """1 - c."""


class Aggregation(StrEnum):
    """How token terms become one number; each normaliser spans the whole optimizer batch."""

    TOKEN_MEAN = "token_mean"
    SEQ_MEAN = "seq_mean"
    CONSTANT = "constant"


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
    mismatch: Mismatch = Mismatch.OFF
    mismatch_cap: float = 2.0
    temperature: float = 1.0


PAPER = Objective()
"""HAPO's equations: std, clip 0.2, token mean."""
LUFFY_RELEASE = Objective(
    advantage=AdvantageKind.MEAN_ONLY,
    clip=None,
    aggregation=Aggregation.CONSTANT,
    entropy_coefficient=0.001,
)
"""LUFFY's released run: mean-only, no clip, sum over a constant, entropy .001."""


@dataclass(frozen=True)
class TrainRow:
    """One row of the optimizer batch.

    `advantage` is A of an on-policy or teacher row (1 for SFT); `confidence` is the gate's c of the
    row's group (teacher rows). `sampler_logprobs`: of the engine, None where there was no sampler.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    kind: RowKind
    advantage: float = 1.0
    confidence: float = 0.0
    sampler_logprobs: tuple[float, ...] | None = None

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
        match self.kind:
            case RowKind.SFT:
                return True
            case RowKind.TEACHER:
                return self.teacher_factor(objective.teacher_weight) != 0.0
            case RowKind.ON_POLICY:
                return self.advantage != 0.0 or objective.entropy_coefficient > 0.0


def row_scales(rows: Sequence[TrainRow], aggregation: Aggregation, max_tokens: int) -> list[float]:
    """Per-token scale of every row, from the whole optimizer batch (dead rows counted).

    Args:
        rows: all rows of all groups of the batch, on every rank.
        max_tokens: the response budget, the constant of `constant`.
    """
    match aggregation:
        case Aggregation.TOKEN_MEAN:
            total = sum(len(row.response_ids) for row in rows)
            return [1.0 / total] * len(rows)
        case Aggregation.SEQ_MEAN:
            return [1.0 / (len(rows) * len(row.response_ids)) for row in rows]
        case Aggregation.CONSTANT:
            return [1.0 / (len(rows) * max_tokens)] * len(rows)


@dataclass(frozen=True)
class LossParts:
    """`loss`: scalar tensor to call backward on. The rest are detached sums for the metrics."""

    loss: torch.Tensor
    teacher_pull: float
    """sum scale |d term / d log p| over teacher tokens."""
    policy_pull: float
    """The same over on-policy tokens."""
    entropy_sum: float
    """Nats, over on-policy tokens (0 unless entropies were given)."""
    mismatch_sum: float
    """sum |log pi_trainer - log pi_sampler| over on-policy tokens with sampler log-probs."""
    mismatch_max: float
    mismatch_tokens: int


def batch_loss(
    rows: Sequence[TrainRow],
    scales: Sequence[float],
    logprobs: torch.Tensor,
    objective: Objective,
    old_logprobs: torch.Tensor | None = None,
    entropies: torch.Tensor | None = None,
) -> LossParts:
    """The loss of some rows of the batch (METHOD 2 and 5), ready to be summed over micro-batches.

    Args:
        rows: rows of this micro-batch.
        scales: their entries of `row_scales`.
        logprobs: float32 [response tokens of `rows`], differentiable, rows one after another.
        old_logprobs: the same under pi_old, detached; None where pi_old is the current policy.
        entropies: float32, like `logprobs`; needed if the objective has an entropy term.
    """
    lengths = torch.tensor([len(r.response_ids) for r in rows], device=logprobs.device)
    old = logprobs.detach() if old_logprobs is None else old_logprobs

    def spread(values: Sequence[float]) -> torch.Tensor:
        t = torch.tensor(values, dtype=torch.float32, device=logprobs.device)
        return t.repeat_interleave(lengths)

    def tokens_of(kind: RowKind) -> torch.Tensor:
        flags = torch.tensor([r.kind is kind for r in rows], device=logprobs.device)
        return flags.repeat_interleave(lengths)

    scale = spread(scales)
    factor = spread([_factor(r, objective) for r in rows])
    policy, teacher = tokens_of(RowKind.ON_POLICY), tokens_of(RowKind.TEACHER)
    correction, mismatch = _mismatch(rows, lengths, old, policy, objective)

    surrogate = _policy_surrogate(logprobs, old, lengths, factor, objective) * correction
    shaped = _teacher_surrogate(logprobs, factor, objective)
    term = torch.where(policy, surrogate, torch.where(teacher, shaped, logprobs))
    loss = -(scale * term).sum()
    entropy_sum = 0.0
    if entropies is not None:
        entropy_sum = float(entropies.detach()[policy].sum())
        if objective.entropy_coefficient > 0:
            bonus = (scale * entropies)[policy].sum()
            loss = loss - objective.entropy_coefficient * bonus

    with torch.no_grad():
        slope = _teacher_slope(logprobs.detach(), objective)
        teacher_pull = float((scale * factor.abs() * slope)[teacher].sum())
        policy_pull = float((scale * factor.abs() * correction)[policy].sum())
    return LossParts(loss, teacher_pull, policy_pull, entropy_sum, *mismatch)


def _factor(row: TrainRow, objective: Objective) -> float:
    if row.kind is RowKind.TEACHER:
        return row.teacher_factor(objective.teacher_weight)
    return row.advantage


def _policy_surrogate(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    lengths: torch.Tensor,
    advantage: torch.Tensor,
    objective: Objective,
) -> torch.Tensor:
    """CLIP(r, A) per token (METHOD 2); r on token or sequence level."""
    log_ratio = logprobs - old
    if objective.ratio_level is RatioLevel.SEQUENCE:
        means = torch.stack([part.mean() for part in log_ratio.split(lengths.tolist())])
        log_ratio = means.repeat_interleave(lengths)
    ratio = log_ratio.exp()
    if objective.clip is None:
        return ratio * advantage
    low, high = objective.clip
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _teacher_surrogate(
    logprobs: torch.Tensor, factor: torch.Tensor, objective: Objective
) -> torch.Tensor:
    """factor x f(p), gradient through p; behaviour probability 1, no clip (METHOD 5)."""
    match objective.teacher_shape:
        case TeacherShape.RATIO:
            # p / (p + lambda) = sigmoid(log p - log lambda), stable for p near 0.
            shaped = torch.sigmoid(logprobs - math.log(objective.shaping_lambda))
        case TeacherShape.LOG:
            shaped = logprobs
        case TeacherShape.PROB:
            shaped = logprobs.exp()
    return factor * shaped


def _teacher_slope(logprobs: torch.Tensor, objective: Objective) -> torch.Tensor:
    """df / d log p: lambda p / (p + lambda)^2, 1, or p."""
    match objective.teacher_shape:
        case TeacherShape.RATIO:
            f = torch.sigmoid(logprobs - math.log(objective.shaping_lambda))
            return f * (1 - f)
        case TeacherShape.LOG:
            return torch.ones_like(logprobs)
        case TeacherShape.PROB:
            return logprobs.exp()


def _mismatch(
    rows: Sequence[TrainRow],
    lengths: torch.Tensor,
    old: torch.Tensor,
    policy: torch.Tensor,
    objective: Objective,
) -> tuple[torch.Tensor, tuple[float, float, int]]:
    """Weights w per token (1 on teacher and SFT rows), and (sum, max, count) of |delta log p|."""
    sampler, known = old.clone(), torch.zeros_like(policy)
    start = 0
    for row in rows:
        end = start + len(row.response_ids)
        if row.kind is RowKind.ON_POLICY and row.sampler_logprobs is not None:
            sampler[start:end] = torch.tensor(row.sampler_logprobs, device=old.device)
            known[start:end] = True
        start = end
    delta = old - sampler
    size = delta[known].abs()
    stats = (float(size.sum()), float(size.max()) if len(size) else 0.0, len(size))
    match objective.mismatch:
        case Mismatch.OFF:
            weight = torch.ones_like(old)
        case Mismatch.TOKEN_TRUNCATE:
            weight = delta.exp().clamp(max=objective.mismatch_cap)
        case Mismatch.SEQUENCE_MASK:
            sums = torch.stack([part.sum() for part in delta.split(lengths.tolist())])
            kept = (sums <= math.log(objective.mismatch_cap)).to(old.dtype)
            weight = kept.repeat_interleave(lengths)
    return weight, stats
