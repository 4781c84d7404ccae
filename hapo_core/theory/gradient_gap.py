"""How far an update with the teacher differs from the one without: real gradients, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hapo_core.groups import Group, PlannedGroup
from hapo_core.objective import Objective, TrainRow
from hapo_core.update import Updater


@dataclass(frozen=True)
class GradientGap:
    """The gradient of a batch with injection, g, against the one without, h.

    `cosine` and `ratio` (|g| / |h|) are None where a gradient is 0 or absent, e.g. where all groups
    are dead without the teacher. `equal`: the two are the same to the bit.
    """

    with_norm: float
    without_norm: float
    cosine: float | None
    equal: bool

    @property
    def ratio(self) -> float | None:
        """|g| / |h|."""
        return self.with_norm / self.without_norm if self.without_norm > 0 else None


def without_teacher(group: Group) -> Group:
    """The group as if its prompt had no trace: nothing to inject, nothing to continue."""
    return replace(group, trace=None, continuations=())


def gradient_gap(
    updater: Updater,
    taught: Sequence[PlannedGroup],
    alone: Sequence[PlannedGroup],
    objective: Objective,
    max_tokens: int,
    beside: Sequence[TrainRow] = (),
) -> GradientGap:
    """Compare the gradients of two plans of the same groups, under the present policy.

    Both are gradients of the whole loss (its normaliser over the batch included), with pi_old the
    present policy: what the first optimizer step of a round would take, before clipping.

    Args:
        taught: the groups as the method plans them.
        alone: the same groups planned `without_teacher`.
        beside: rows of traces that the method trains in the same step (CHORD).
    """
    g = updater.gradients(taught, objective, max_tokens, beside)
    h = updater.gradients(alone, objective, max_tokens)
    norms = _product(g, g) ** 0.5, _product(h, h) ** 0.5
    if g is None or h is None:
        return GradientGap(*norms, None, g is None and h is None)
    whole = norms[0] * norms[1]
    cosine = max(-1.0, min(1.0, _product(g, h) / whole)) if whole > 0 else None
    return GradientGap(*norms, cosine, all(_same(x, y) for x, y in zip(g, h, strict=True)))


Parts = Sequence[torch.Tensor | None]
_SLICE = 1 << 24
"""Numbers that are held in float64 at a time."""


def _product(g: Parts | None, h: Parts | None) -> float:
    """Inner product in float64, slice by slice: of a policy of 7B a whole copy has 56 GB."""
    total = 0.0
    for x, y in zip(g or (), h or (), strict=True):
        if x is None or y is None:
            continue
        pieces = zip(x.flatten().split(_SLICE), y.flatten().split(_SLICE), strict=True)
        total += math.fsum(float(torch.dot(a.double(), b.double())) for a, b in pieces)
    return total


def _same(x: torch.Tensor | None, y: torch.Tensor | None) -> bool:
    if x is None or y is None:
        held = x if y is None else y
        return held is None or not bool(held.any())
    return bool(torch.equal(x, y))
