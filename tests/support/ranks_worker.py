"""Under torchrun: rounds of the tiny policy, as each rank sees them, into files (test_ranks.py)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tiny import made_groups, planned_round, tiny_policy

from hapo_core.distributed import ALONE, Ranks, full_tensor, join, shard, unsharded, unsharded_state
from hapo_core.update import Updater, UpdateSpec

CASES = {
    "hapo": ("hapo", UpdateSpec(1e-3, micro_batch_tokens=120), False),
    "minibatches": ("dapo", UpdateSpec(1e-3, minibatches=2, micro_batch_tokens=200), False),
    "real": ("real", UpdateSpec(1e-3, minibatches=2), False),
    "sharded": ("hapo", UpdateSpec(1e-3, minibatches=2, micro_batch_tokens=120), True),
}
"""Name: method, optimizer settings, whether blocks are sharded."""


def trained(name: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Two rounds: metrics of both, the gradient of the first step, the weights at the end."""
    method, spec, sharded = CASES[name]
    model, tokenizer = tiny_policy(3)
    if sharded and ranks.count > 1:
        shard(model, ranks)
    updater = Updater(model, spec, ranks)
    names = {p: n for n, p in model.named_parameters()}
    gradient: dict[str, torch.Tensor] = {}

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not gradient:
            gradient.update({n: full_tensor(p.grad).clone() for p, n in names.items()})

    updater.optimizer.register_step_pre_hook(keep)
    metrics = []
    for seed in (0, 1):
        groups = made_groups(tokenizer, [0, 2, 5, 8, 1], seed=seed)
        planned, extras, objective = planned_round(method, groups)
        metrics.append(updater.update(planned, objective, 64, 1e-3, extras.beside))
    with unsharded(model):
        weights = {n: w.clone() for n, w in unsharded_state(model).items()}
    return {"metrics": metrics, "gradient": gradient, "weights": weights}


def main() -> None:
    """Write what every rank has."""
    torch.set_num_threads(1)
    ranks = join("cpu")
    assert ranks.count == 2
    found = {name: trained(name, ranks) for name in CASES}
    torch.save(found, Path(sys.argv[1]) / f"rank-{ranks.index}.pt")
    ranks.close()


if __name__ == "__main__":
    main()
