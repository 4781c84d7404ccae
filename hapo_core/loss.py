"""Token objectives and their aggregation (METHOD 2, 3.1, 5).

The loss of an optimizer batch is sum over tokens of scale x term. The scale of every row is fixed
from the WHOLE batch before it is split (`row_scales`), so micro-batches, padding, order and
sharding cannot change losses or gradients beyond floating-point addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hapo_core.advantage import negative_scale
from hapo_core.metrics import Metrics
from hapo_core.mismatch import Apart
from hapo_core.objective import (
    Aggregation,
    Mismatch,
    Objective,
    Part,
    RatioLevel,
    RowKind,
    Surrogate,
    TeacherShape,
    TrainRow,
)


def row_scales(rows: Sequence[TrainRow], aggregation: Aggregation, max_tokens: int) -> list[float]:
    """Per-token scale of every row [rows], from the whole optimizer batch (dead rows counted).

    The loss is minus the sum over all tokens of scale x term. What a mean divides by (tokens, rows
    or groups) is counted here, once, before the batch is split: a micro-batch adds its share of the
    sum and needs to know nothing of the others. The parts are normalised apart, so that traces
    imitated beside the groups do not change how much a group's row counts; a row's weight
    multiplies last and enters no normaliser.

    Args:
        rows: all rows of all groups of the batch, on every rank.
        max_tokens: the response budget, the constant of `constant`.
    """
    scales = [0.0] * len(rows)
    for part in Part:
        members = [i for i, row in enumerate(rows) if row.part is part]
        how = aggregation if part is Part.MAIN else Aggregation.TOKEN_MEAN
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


def negative_weighed(rows: Sequence[TrainRow], objective: Objective) -> list[TrainRow]:
    """The rows of a whole optimizer batch with `negative_weight` on advantages below 0 (METHOD 9).

    Only the policy's own rows have it: a trace's advantage and a coupled weight are no verdict on
    what the policy wrote.
    """
    own = [row.kind is RowKind.ON_POLICY and row.part is Part.MAIN for row in rows]
    weight = objective.negative_weight
    if weight is None:
        advantages = [row.advantage for row, is_own in zip(rows, own, strict=True) if is_own]
        weight = negative_scale(advantages, objective.negative_floor)
    if weight == 1.0:
        return list(rows)
    return [
        replace(row, advantage=weight * row.advantage) if is_own and row.advantage < 0 else row
        for row, is_own in zip(rows, own, strict=True)
    ]


@dataclass(frozen=True)
class LossParts:
    """`loss`: scalar tensor to call backward on. `metrics`: what was measured beside it."""

    loss: torch.Tensor
    metrics: Metrics


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
        ValueError: entropies are needed and missing, or a teacher's log-probs are.
    """
    lengths = torch.tensor([len(r.response_ids) for r in rows], device=logprobs.device)
    old = logprobs.detach() if old_logprobs is None else old_logprobs

    def spread(values: Sequence[float]) -> torch.Tensor:
        t = torch.tensor(values, dtype=torch.float32, device=logprobs.device)
        return t.repeat_interleave(lengths)

    scale = spread(scales)
    if any(r.entropy_exponent for r in rows):
        scale = scale * _entropy_factor(rows, lengths, entropies)
    factor = spread([r.factor(r.kind, objective.teacher_weight) for r in rows])
    _weigh_prefixes(factor, rows, lengths, objective)
    policy, teacher = (_tokens_of(k, rows, lengths) for k in (RowKind.ON_POLICY, RowKind.TEACHER))
    metrics = Metrics()
    correction = _mismatch(rows, lengths, old, policy, objective, metrics)

    surrogate = _policy_surrogate(logprobs, old, lengths, factor, objective) * correction
    shaped = _teacher_surrogate(logprobs, factor, objective)
    imitated, imitation = ~(policy | teacher), _likelihood_slope(rows, lengths, logprobs)
    if any(r.kind is RowKind.DISTILL for r in rows):
        scored, gap = _scored(rows, lengths, logprobs)
        metrics.mean("distill_gap", float(gap[scored].sum()), int(scored.sum()))
        if (c := objective.distill_clip) is not None:
            metrics.mean("distill_clipped", int((gap[scored].abs() > c).sum()), int(scored.sum()))
            gap = gap.clamp(-c, c)
        imitation = torch.where(scored, -gap, imitation)
    term = torch.where(policy, surrogate, torch.where(teacher, shaped, imitation * logprobs))
    prefix = None
    if any(r.prefix for r in rows):
        prefix, trained = _prefix_tokens(rows, lengths, entropies, objective.prefix_share)
        # Tokens that do not train have scale 0: in the loss, in the pulls and in the bonus.
        scale = scale * trained
    loss = -(scale * term).sum()
    if any(r.offset for r in rows):
        loss = loss + sum(s * r.offset for s, r in zip(scales, rows, strict=True))
    ratioed = policy
    if prefix is not None:
        teacher, policy = teacher | prefix, policy & ~prefix
    if entropies is not None:
        # Mean nats per trained on-policy token.
        metrics.mean("entropy", float(entropies.detach()[policy].sum()), int(policy.sum()))
        if objective.entropy_coefficient > 0:
            bonus = (scale * entropies)[policy].sum()
            loss = loss - objective.entropy_coefficient * bonus

    with torch.no_grad():
        pull = scale * factor.abs()
        teacher_slope = _teacher_slope(logprobs.detach(), objective)
        own_slope = correction * _policy_slope(logprobs.detach(), old, lengths, factor, objective)
        own_pull = torch.where(ratioed, pull * own_slope, torch.zeros_like(pull))
        if objective.surrogate is Surrogate.CLIP and objective.ratio_level is RatioLevel.SEQUENCE:
            own_pull = _row_means(own_pull, lengths)  # each token moves the ratio of all
        prefix_pull = pull * teacher_slope
        if prefix is not None:
            own_prefix = prefix & _own_kind(rows, lengths)
            prefix_pull = torch.where(own_prefix, own_pull, prefix_pull)
        teacher_pull = float(prefix_pull[teacher].sum())
        teacher_pull += float((scale * imitation.abs())[imitated].sum())
        policy_pull = float(own_pull[policy].sum())
        # sum scale |d term / d log p| over teacher tokens, over that of on-policy tokens.
        metrics.mean("teacher_balance", teacher_pull, policy_pull)
        metrics.per_step("loss", float(loss.detach()))
    return LossParts(loss, metrics)


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


def _scored(
    rows: Sequence[TrainRow], lengths: torch.Tensor, logprobs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(flags of the tokens of distillation, log pi - log pi_T there and 0 elsewhere), detached."""
    scored = _tokens_of(RowKind.DISTILL, rows, lengths)
    gap, start = torch.zeros_like(logprobs), 0
    for row in rows:
        end = start + len(row.response_ids)
        if row.kind is RowKind.DISTILL:
            if row.teacher_logprobs is None:
                raise ValueError("rows of distillation need the teacher's log-probs")
            given = torch.tensor(row.teacher_logprobs, dtype=gap.dtype, device=gap.device)
            gap[start:end] = logprobs.detach()[start:end] - given
        start = end
    return scored, gap


def _weigh_prefixes(
    factor: torch.Tensor, rows: Sequence[TrainRow], lengths: torch.Tensor, objective: Objective
) -> None:
    """Give prefixes, in place, the factor of their own objective, not of the row's."""
    if any(r.prefix for r in rows):
        for row, part in zip(rows, factor.split(lengths.tolist()), strict=True):
            part[: row.prefix] = row.factor(row.prefix_kind, objective.teacher_weight)


def _row_means(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The mean of each row, for each of its tokens."""
    means = torch.stack([part.mean() for part in values.split(lengths.tolist())])
    return means.repeat_interleave(lengths)


def _ratio(
    logprobs: torch.Tensor, old: torch.Tensor, lengths: torch.Tensor, level: RatioLevel
) -> torch.Tensor:
    """pi / pi_old of each token, or for each token the geometric mean over its row."""
    log_ratio = logprobs - old
    if level is RatioLevel.SEQUENCE:
        log_ratio = _row_means(log_ratio, lengths)
    return log_ratio.exp()


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
    if objective.surrogate is Surrogate.SCORE:
        return advantage * (logprobs - old) / lengths.repeat_interleave(lengths)
    ratio = _ratio(logprobs, old, lengths, objective.ratio_level)
    if objective.clip is None:
        return ratio * advantage
    low, high = objective.clip
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def _policy_slope(
    logprobs: torch.Tensor,
    old: torch.Tensor,
    lengths: torch.Tensor,
    advantage: torch.Tensor,
    objective: Objective,
) -> torch.Tensor:
    """|d surrogate / d log p| per token, divided by |A|: the ratio, and 0 where it is clipped."""
    if objective.surrogate is Surrogate.LOG:
        return torch.ones_like(logprobs)
    if objective.surrogate is Surrogate.SCORE:
        return 1.0 / lengths.repeat_interleave(lengths)
    ratio = _ratio(logprobs, old, lengths, objective.ratio_level)
    if objective.clip is None:
        return ratio
    low, high = objective.clip
    clipped = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
    return torch.where(clipped, torch.zeros_like(ratio), ratio)


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
        case TeacherShape.TRUST:
            # Both sides meet at p = alpha with value 1 and slope 1.
            far = logprobs - math.log(objective.trust_alpha)
            shaped = torch.where(far < 0, far.clamp(max=0).exp(), 1 + far)
    return factor * shaped


def _teacher_slope(logprobs: torch.Tensor, objective: Objective) -> torch.Tensor:
    """df / d log p: lambda p / (p + lambda)^2, 1, p, or min(1, p / alpha)."""
    match objective.teacher_shape:
        case TeacherShape.RATIO:
            f = torch.sigmoid(logprobs - math.log(objective.shaping_lambda))
            return f * (1 - f)
        case TeacherShape.LOG:
            return torch.ones_like(logprobs)
        case TeacherShape.PROB:
            return logprobs.exp()
        case TeacherShape.TRUST:
            return (logprobs - math.log(objective.trust_alpha)).exp().clamp(max=1.0)


def _mismatch(
    rows: Sequence[TrainRow],
    lengths: torch.Tensor,
    old: torch.Tensor,
    policy: torch.Tensor,
    objective: Objective,
    metrics: Metrics,
) -> torch.Tensor:
    """Weights w per token (1 on teacher and SFT rows); |delta log p| of sampler and trainer is
    measured over on-policy tokens with sampler log-probs."""
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
    if len(size):
        metrics.mean("mismatch_mean", float(size.sum()), len(size))
        metrics.max("mismatch_max", float(size.max()))
        drawn, now = float(sampler[known].sum()), float(old[known].sum())
        metrics.apart.add(Apart(len(size), float(size.sum()), drawn, now))
    match objective.mismatch:
        case Mismatch.OFF:
            weight = torch.ones_like(old)
        case Mismatch.TOKEN_TRUNCATE:
            weight = delta.exp().clamp(max=objective.mismatch_cap)
        case Mismatch.SEQUENCE_MASK:
            sums = torch.stack([part.sum() for part in delta.split(lengths.tolist())])
            kept = (sums <= math.log(objective.mismatch_cap)).to(old.dtype)
            weight = kept.repeat_interleave(lengths)
    return weight
