"""verl's losses and advantages as a second outside oracle: same log-probs, loss and gradient.

verl pins other transformers than we do, and Ray; `make test-verl` puts it, without its
dependencies, into a folder of its own and runs this file. Its functions are called as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.loss import batch_loss, row_scales
from hapo_core.objective import (
    DAPO,
    DR_GRPO,
    GSPO,
    PAPER,
    Aggregation,
    Mismatch,
    Objective,
    RatioLevel,
    RowKind,
    TrainRow,
)

pytest.importorskip("verl", reason="verl is not installed (`make test-verl`)")

MAX_TOKENS = 12
LENGTHS = [3, 1, 7, 2, 12, 5, 9, 4]
ADVANTAGES = [2.4749, -0.3536, -0.5401, 0.8, 1.6202, -0.7246, 0.35, -1.2]
MODES = {
    Aggregation.TOKEN_MEAN: "token-mean",
    Aggregation.SEQ_MEAN: "seq-mean-token-mean",
    Aggregation.CONSTANT: "seq-mean-token-sum-norm",
}
CASES = {
    "paper": PAPER,
    "dapo": DAPO,
    "dr_grpo": DR_GRPO,
    "gspo": GSPO,
    "gspo-wide": Objective(
        clip=(0.05, 0.1), aggregation=Aggregation.SEQ_MEAN, ratio_level=RatioLevel.SEQUENCE
    ),
    "truncated": Objective(mismatch=Mismatch.TOKEN_TRUNCATE, mismatch_cap=1.1),
}


def noise(count: int, size: float, seed: int) -> torch.Tensor:
    return size * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def table(flat: torch.Tensor) -> torch.Tensor:
    """Rows one after another -> [rows, MAX_TOKENS], padded with zeros, differentiable."""
    parts = flat.split(LENGTHS)
    return torch.stack([torch.nn.functional.pad(p, (0, MAX_TOKENS - len(p))) for p in parts])


def verl_loss(
    objective: Objective, new: torch.Tensor, old: torch.Tensor, sampler: torch.Tensor
) -> torch.Tensor:
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
    from verl.workers.config import ActorConfig

    assert objective.clip is not None
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=8,
        ppo_micro_batch_size_per_gpu=8,
        clip_ratio=objective.clip[0],
        clip_ratio_low=objective.clip[0],
        clip_ratio_high=objective.clip[1],
        clip_ratio_c=1e9,  # no dual clip, which none of the papers here has
    )
    mask = table(torch.ones(len(new)))
    weights: Any = None
    if objective.mismatch is Mismatch.TOKEN_TRUNCATE:
        weights, _ = compute_rollout_correction_weights(
            table(old - sampler), mask, "token", objective.mismatch_cap
        )
    kind = "gspo" if objective.ratio_level is RatioLevel.SEQUENCE else "vanilla"
    advantages = torch.tensor(ADVANTAGES)[:, None] * mask
    loss, _ = get_policy_loss_fn(kind)(
        table(old), table(new), advantages, mask, MODES[objective.aggregation], config, weights
    )
    return loss


@pytest.mark.parametrize("moved", [False, True], ids=["ratio-1", "moved"])
@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_agree(name: str, moved: bool) -> None:
    objective, count = CASES[name], sum(LENGTHS)
    new = (-0.2 - noise(count, 1.0, 0).abs()).requires_grad_()
    wide = 1e-3 if name == "gspo" else 0.3  # both sides of every clip are reached
    old = new.detach() + (noise(count, wide, 1) if moved else 0.0)
    sampler = old + noise(count, 0.2, 2)
    rows = [
        TrainRow((1,), (2,) * n, RowKind.ON_POLICY, a, sampler_logprobs=tuple(s.tolist()))
        for n, a, s in zip(LENGTHS, ADVANTAGES, sampler.split(LENGTHS), strict=True)
    ]
    scales = row_scales(rows, objective.aggregation, MAX_TOKENS)
    ours = batch_loss(rows, scales, new, objective, old).loss
    theirs = verl_loss(objective, new, old, sampler)
    (mine,) = torch.autograd.grad(ours, new)
    (other,) = torch.autograd.grad(theirs, new)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=1e-6)
    assert float(other.abs().max()) > 0
    assert float((mine - other).abs().max()) <= 1e-5 * float(other.abs().max())


@pytest.mark.parametrize("kind", list(AdvantageKind))
def test_advantages_agree(kind: AdvantageKind) -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rewards = [[1.0, 0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 1, 1, 1, 1, 1], [0.0] * 8, [0.5, 0.25] * 4]
    flat = torch.tensor(rewards).flatten()
    found, _ = compute_grpo_outcome_advantage(
        flat[:, None],
        torch.ones(len(flat), 1),
        np.repeat(np.arange(len(rewards)), 8),
        norm_adv_by_std_in_grpo=kind is AdvantageKind.STD,
    )
    ours = [a for group in rewards for a in group_advantages(group, kind)]
    assert ours == pytest.approx(found.flatten().tolist(), abs=1e-5)
