"""The newest policy of a run, loaded so that the audit can take gradients of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hapo_core.errors import HapoError
from pipeline.artifacts.disk import human_bytes
from pipeline.artifacts.places import POLICIES
from pipeline.audit.read import RunTables
from pipeline.build.device import prepare_compute
from pipeline.build.optimizer import adapt, update_spec
from pipeline.config import Params
from pipeline.models import load_tokenizer_of, policy_model
from pipeline.system.memory import memory_bytes

if TYPE_CHECKING:
    from pipeline.train.shown import ShownTraces
    from pipeline.train.trainset import TrainSet

COPIES = 3
"""Of the weights, at the least: themselves, and a gradient with and one without the teacher."""


def audited(params: Params, root: Path, tables: RunTables) -> Any:
    """An `Updater` of the policy in `tables.policy`, be it a segment or a resume point, whole or in
    shards.

    Raises:
        HapoError: the gradients do not fit into memory.
    """
    from hapo_core.policy import load_policy
    from hapo_core.update import Updater
    from pipeline.train.checkpoint import in_shards, load_weights

    device, dtype = prepare_compute(params.compute)
    state = tables.policy
    sharded = in_shards(state)
    held = state / "weights" if sharded else state / "model"
    if params.update.lora is None:  # gradients of adapters are small beside the weights
        _refuse_large(held, memory(device))
    if sharded:
        assert tables.running is not None  # what is finished is whole
        before = policy_model(root / POLICIES / params.segments[tables.running].prev)
        model, _ = load_policy(before, dtype, params.compute.attention)
        adapt(params, model)
        load_weights(model, state)
    else:
        model, _ = load_policy(held, dtype, params.compute.attention)
    model.to(device)  # type: ignore[arg-type]
    return Updater(model, update_spec(params))


def shown_traces(params: Params, root: Path, data: TrainSet) -> ShownTraces | None:
    """The teacher that scores rollouts, where the run has one."""
    if not params.distils:
        return None
    from pipeline.train.shown import ShownTraces

    tokenizer = load_tokenizer_of(policy_model(root / POLICIES / params.start))
    return ShownTraces(params, data, tokenizer)


def memory(device: Any) -> int:
    """Bytes of memory where the gradients would lie."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return memory_bytes()


def _refuse_large(weights: Path, there: int) -> None:
    need = COPIES * sum(p.stat().st_size for p in weights.glob("*.safetensors"))
    if need > there:
        raise HapoError(
            f"to compare gradients takes {human_bytes(need)} at the least, and there are "
            f"{human_bytes(there)}",
            where=str(weights),
            remedy="leave the comparison out: `hapo audit --groups 0`",
        )
