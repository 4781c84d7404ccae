"""REAL's group loss (arXiv 2602.05630, METHOD 6), in which the rows of a group weigh each other.

L = log(1 + sum_neg e^{s/tau}) + log(1 + sum_pos e^{-s/tau}),  s = mean_t log r_t of a row.
A batch is split into micro-batches that know nothing of each other, so the weights -dL/ds are taken
from the whole group first; with them the loss is linear in s and has L's exact gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hapo_core.objective import TrainRow


def group_loss(
    labels: Sequence[float], scores: Sequence[float], tau: float
) -> tuple[float, list[float]]:
    """L of one group and the weights -dL/ds, float64.

    Args:
        labels: above 0 for a right response, below for a wrong one, 0 for one that takes no part.
        scores: s of each response.
    """
    weights = [0.0] * len(labels)
    loss = 0.0
    for sign in (1.0, -1.0):
        members = [i for i, label in enumerate(labels) if sign * label > 0]
        # log(1 + sum e^x) = logsumexp(0, x...): no overflow however far the policy has moved.
        exponents = [-sign * scores[i] / tau for i in members]
        total = float(np.logaddexp.reduce([0.0, *exponents]))
        loss += total
        for i, x in zip(members, exponents, strict=True):
            weights[i] = sign * math.exp(x - total) / tau
    return loss, weights


@dataclass(frozen=True)
class RealWeights:
    """REAL's coupling: labels (the rows' `advantage`) turned into weights; `offset` makes the sum
    over a group of weight x score show L. Rows are grouped by `TrainRow.group`."""

    tau: float

    def __call__(self, rows: Sequence[TrainRow], scores: Sequence[float]) -> list[TrainRow]:
        """See `hapo_core.objective.Coupling`."""
        out = list(rows)
        for name in dict.fromkeys(row.group for row in rows):
            members = [i for i, row in enumerate(rows) if row.group == name]
            held = [scores[i] for i in members]
            loss, weights = group_loss([rows[i].advantage for i in members], held, self.tau)
            alive = [i for i in members if rows[i].advantage != 0.0]
            linear = math.fsum(w * s for w, s in zip(weights, held, strict=True))
            for i, weight in zip(members, weights, strict=True):
                offset = (loss + linear) / len(alive) if i in alive else 0.0
                out[i] = replace(rows[i], advantage=weight, offset=offset)
        return out
