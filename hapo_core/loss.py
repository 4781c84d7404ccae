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


class Part(StrEnum):
    """Which term of the loss a row belongs to. Every part has a normaliser of its own, taken over
    the whole optimizer batch."""

    MAIN = "main"
    EXPERT = "expert"
    """Likelihood of traces beside the groups (SRFT, HPT, CHORD): always a token mean."""


class Surrogate(StrEnum):
    """What an on-policy row maximises."""

    CLIP = "clip"
    """CLIP(r, A) per token (METHOD 2); `clip` None leaves r A."""
    LOG = "log"
    """A log pi per token (SRFT)."""
    SCORE = "score"
    """A s with s = mean_t log r_t (REAL, whose group weights A come from `hapo_core.coupled`)."""


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
    surrogate: Surrogate = Surrogate.CLIP
    score_tau: float = 0.5
    """tau of REAL's group loss."""
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
    scales = [0.0] * len(rows)
    for part in Part:
        members = [i for i, row in enumerate(rows) if row.part is part]
        how = Aggregation.TOKEN_MEAN if part is Part.EXPERT else aggregation
        plain = _part_scales([rows[i] for i in members], how, max_tokens) if members else []
        for i, scale in zip(members, plain, strict=True):
            scales[i] = rows[i].weight * scale
    return scales


def _part_scales(
    rows: Sequence[TrainRow], aggregation: Aggregation, max_tokens: int
) -> list[float]:
    match aggregation:
        case Aggregation.TOKEN_MEAN:
            total = sum(len(row.response_ids) for row in rows)
            return [1.0 / total] * len(rows)
        case Aggregation.SEQ_MEAN:
            return [1.0 / (len(rows) * len(row.response_ids)) for row in rows]
        case Aggregation.CONSTANT:
            return [1.0 / (len(rows) * max_tokens)] * len(rows)
        case Aggregation.GROUP_MEAN:
            return [1.0 / len({row.group for row in rows})] * len(rows)


@dataclass(frozen=True)
class LossParts:
    """`loss`: scalar tensor to call backward on. The rest are detached sums for the metrics."""

    loss: torch.Tensor
    teacher_pull: float
    """sum scale |d term / d log p| over teacher tokens, those of likelihood rows included."""
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
        entropies: float32, like `logprobs`; needed if the objective or a row uses entropies.
    Raises:
        ValueError: entropies are needed and missing.
    """
    lengths = torch.tensor([len(r.response_ids) for r in rows], device=logprobs.device)
    old = logprobs.detach() if old_logprobs is None else old_logprobs

    def spread(values: Sequence[float]) -> torch.Tensor:
        t = torch.tensor(values, dtype=torch.float32, device=logprobs.device)
        return t.repeat_interleave(lengths)

    scale = spread(scales)
    if any(r.entropy_exponent for r in rows):
        scale = scale * _entropy_factor(rows, lengths, entropies)
    factor = spread([_factor(r, objective) for r in rows])
    policy, teacher = (_tokens_of(k, rows, lengths) for k in (RowKind.ON_POLICY, RowKind.TEACHER))
    correction, mismatch = _mismatch(rows, lengths, old, policy, objective)

    surrogate = _policy_surrogate(logprobs, old, lengths, factor, objective) * correction
    shaped = _teacher_surrogate(logprobs, factor, objective)
    imitated, imitation = ~(policy | teacher), _likelihood_slope(rows, lengths, logprobs)
    term = torch.where(policy, surrogate, torch.where(teacher, shaped, imitation * logprobs))
    prefix = None
    if any(r.prefix for r in rows):
        prefix, trained = _prefix_tokens(rows, lengths, entropies, objective.prefix_share)
        # Tokens that do not train have scale 0: in the loss, in the pulls and in the bonus.
        scale = scale * trained
    loss = -(scale * term).sum()
    if any(r.offset for r in rows):
        loss = loss + sum(s * r.offset for s, r in zip(scales, rows, strict=True))
    entropy_sum = 0.0
    if prefix is not None:
        teacher, policy = teacher | prefix, policy & ~prefix
    if entropies is not None:
        entropy_sum = float(entropies.detach()[policy].sum())
        if objective.entropy_coefficient > 0:
            bonus = (scale * entropies)[policy].sum()
            loss = loss - objective.entropy_coefficient * bonus

    with torch.no_grad():
        slope = _teacher_slope(logprobs.detach(), objective)
        if prefix is not None:
            slope = torch.where(prefix & _own_kind(rows, lengths), torch.ones_like(slope), slope)
        if objective.surrogate is Surrogate.SCORE:
            correction = correction / lengths.repeat_interleave(lengths)
        teacher_pull = float((scale * factor.abs() * slope)[teacher].sum())
        teacher_pull += float((scale * imitation)[imitated].sum())
        policy_pull = float((scale * factor.abs() * correction)[policy].sum())
    return LossParts(loss, teacher_pull, policy_pull, entropy_sum, *mismatch)


def _tokens_of(kind: RowKind, rows: Sequence[TrainRow], lengths: torch.Tensor) -> torch.Tensor:
    """Flags of the tokens with this objective, bool [tokens]."""
    flags = torch.tensor([r.kind is kind for r in rows], device=lengths.device)
    tokens = flags.repeat_interleave(lengths)
    if any(r.prefix for r in rows):
        for row, part in zip(rows, tokens.split(lengths.tolist()), strict=True):
            part[: row.prefix] = row.prefix_kind is kind
    return tokens


def _own_kind(rows: Sequence[TrainRow], lengths: torch.Tensor) -> torch.Tensor:
    """Flags of rows whose prefix has the ratio to pi_old, spread over their tokens."""
    flags = torch.tensor([r.prefix_kind is RowKind.ON_POLICY for r in rows], device=lengths.device)
    return flags.repeat_interleave(lengths)


def _needed(entropies: torch.Tensor | None) -> torch.Tensor:
    if entropies is None:
        raise ValueError("rows with entropy weights or a prefix need entropies")
    return entropies.detach()


def _entropy_factor(
    rows: Sequence[TrainRow], lengths: torch.Tensor, entropies: torch.Tensor | None
) -> torch.Tensor:
    """exp(k H) of each row, spread over its tokens; H is the row's own mean, so that no split of
    the batch can change it."""
    means = torch.stack([part.mean() for part in _needed(entropies).split(lengths.tolist())])
    exponents = torch.tensor([r.entropy_exponent for r in rows], device=means.device)
    return (exponents * means).exp().repeat_interleave(lengths)


def _prefix_tokens(
    rows: Sequence[TrainRow],
    lengths: torch.Tensor,
    entropies: torch.Tensor | None,
    share: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(flags of prefix tokens, flags of tokens that train): of each prefix the ceil(share x length)
    tokens of the highest entropy, the earlier first among equals; all other tokens train."""
    values = _needed(entropies)
    prefix = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    trained = torch.ones_like(prefix)
    start = 0
    for row in rows:
        end = start + row.prefix
        prefix[start:end] = True
        trained[start:end] = False
        order = values[start:end].argsort(descending=True, stable=True)
        trained[start + order[: math.ceil(share * row.prefix)]] = True
        start += len(row.response_ids)
    return prefix, trained


def _likelihood_slope(
    rows: Sequence[TrainRow], lengths: torch.Tensor, logprobs: torch.Tensor
) -> torch.Tensor:
    """What multiplies log p on likelihood rows, detached: 1, or p (1 - p) on rows with `phi`."""
    if not any(r.phi for r in rows):
        return torch.ones_like(logprobs)
    p = logprobs.detach().exp()
    phi = torch.tensor([r.phi for r in rows], device=p.device).repeat_interleave(lengths)
    return torch.where(phi, p * (1 - p), torch.ones_like(p))


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
    """A log pi, A s, or CLIP(r, A) per token (METHOD 2) with r on token or sequence level."""
    if objective.surrogate is Surrogate.LOG:
        return advantage * logprobs
    log_ratio = logprobs - old
    if objective.surrogate is Surrogate.SCORE:
        return advantage * log_ratio / lengths.repeat_interleave(lengths)
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
            own = start + row.prefix
            sampler[own:end] = torch.tensor(row.sampler_logprobs, device=old.device)
            known[own:end] = True
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
