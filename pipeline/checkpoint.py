"""Training state on disk: policy, optimizer, gate and counters, whole or not there.

A segment, and a resume point of weights that are not sharded, hold `model/` and
`state/optimizer.safetensors`. A resume point of sharded weights holds `weights/` and `moments/` in
their place, written by all ranks. Any number of ranks, sharded or not, goes on from either.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import DataError
from hapo_core.gate import GateState, Posterior
from hapo_core.policy import save_policy
from hapo_core.ranks import ALONE, Ranks, is_sharded, whole
from pipeline.shards import read_shards, stored_names, write_shards, write_whole
from pipeline.store import (
    atomic_write_json,
    check_manifest,
    folder_bytes,
    fsync_folder,
    guard_disk,
    read_json,
    require_space,
    write_manifest,
)
from pipeline.tables import POSTERIORS, read_table, write_table

KIND = "training-state"


def moments(model: PreTrainedModel, optimizer: torch.optim.AdamW) -> dict[str, torch.Tensor]:
    """AdamW's moments by parameter name, as sharded as those; parameters never stepped are left
    out."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def save_optimizer(
    model: PreTrainedModel, optimizer: torch.optim.AdamW, path: Path, ranks: Ranks = ALONE
) -> None:
    """Write `moments` as one safetensors file; all ranks must call."""
    write_whole(moments(model, optimizer), path, ranks)


def load_optimizer(model: PreTrainedModel, optimizer: torch.optim.AdamW, folder: Path) -> None:
    """Restore the moments in a folder's safetensors files, sharded as the parameters are.

    Raises:
        DataError: unreadable file, or the state of another model.
    """
    parameters = dict(model.named_parameters())
    tensors = dict[str, torch.Tensor]()
    for full in sorted(stored_names(folder)):
        name, mark, key = full.rpartition("|")
        if not mark:
            continue  # weights beside them
        if name not in parameters:
            raise DataError(f"optimizer state for an unknown parameter {name!r}", where=str(folder))
        # AdamW keeps its step counter on the CPU.
        tensor = torch.zeros(()) if key == "step" else torch.zeros_like(parameters[name])
        tensors[full] = optimizer.state[parameters[name]][key] = tensor.detach()
    read_shards(tensors, folder)


def _weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and the buffers that a checkpoint holds."""
    gone = {f"{m}.{b}" for m, x in model.named_modules() for b in x._non_persistent_buffers_set}
    buffers = {name: b for name, b in model.named_buffers() if name not in gone}
    return {name: p.detach() for name, p in model.named_parameters()} | buffers


def in_shards(state: Path) -> bool:
    """Whether a resume point is one of sharded weights: it has no `model/`."""
    return (state / "weights").is_dir()


def load_weights(model: PreTrainedModel, state: Path) -> None:
    """Give `model` the weights of a resume point that is `in_shards`.

    Raises:
        DataError: unreadable, or the weights of another model.
    """
    folder, weights = state / "weights", _weights(model)
    if (found := stored_names(folder)) != set(weights):
        odd = ", ".join(sorted(found ^ set(weights))[:3])
        raise DataError(f"the weights are those of another model ({odd})", where=str(folder))
    read_shards(weights, folder)


def optimizer_folder(state: Path) -> Path:
    """Where a resume point or a segment holds its moments."""
    return state / ("moments" if in_shards(state) else "state")


def posterior_rows(state: GateState) -> list[dict[str, object]]:
    """The POSTERIORS table, sorted by prompt."""
    return [
        {"prompt_id": i, "a": p.a, "b": p.b, "visits": p.visits, "last_round": p.last_round}
        for i, p in sorted(state.posteriors.items())
    ]


def gate_state(table: pa.Table, counters: dict[str, object]) -> GateState:
    """The gate's memory from its table and the counters."""
    posteriors = {
        str(row["prompt_id"]): Posterior(row["a"], row["b"], row["visits"], row["last_round"])
        for row in table.to_pylist()
    }
    gamma, mean = counters["gamma"], counters["mean_success"]
    return GateState(
        posteriors,
        None if gamma is None else float(str(gamma)),
        None if mean is None else float(str(mean)),
    )


def write_parts(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.AdamW,
    state: GateState,
    rounds_done: int,
    waiting: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> None:
    """`model/`, `state/` and `posteriors.parquet`, as a segment holds them.

    They say nothing of ranks, and no rank holds all moments at once. All must call; the first
    writes.

    Args:
        waiting: the prompts that the method remembers (`Method.waiting`), in order.
    """
    with whole(model):
        if ranks.first:
            save_policy(model, tokenizer, folder / "model")
    if ranks.first:
        _write_counters(folder, state, rounds_done, waiting)
    save_optimizer(model, optimizer, folder / "state" / "optimizer.safetensors", ranks)
    ranks.wait()


def _write_counters(
    folder: Path, state: GateState, rounds_done: int, waiting: Sequence[str]
) -> None:
    (folder / "state").mkdir(parents=True)
    write_table(posterior_rows(state), POSTERIORS, folder / "posteriors.parquet")
    atomic_write_json(
        folder / "state" / "counters.json",
        {
            "rounds": rounds_done,
            "gamma": state.gamma,
            "mean_success": state.mean_success,
            "waiting": list(waiting),
        },
    )


def _bytes(model: PreTrainedModel, optimizer: torch.optim.AdamW) -> int:
    """Of all tensors that a state holds; its tables are small beside them."""
    tensors = [*model.parameters(), *model.buffers()]
    for held in optimizer.state.values():
        tensors += [value for value in held.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_state(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.AdamW,
    state: GateState,
    rounds_done: int,
    waiting: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> None:
    """Write a resume point aside and rename it into place, manifest last; see `write_parts`. Of
    sharded weights every rank writes its own part.

    Raises:
        HapoError: the disk lacks the space; said before anything is written, as far as the
            tensors and the state before tell.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    needed = max([_bytes(model, optimizer), *map(folder_bytes, folder.parent.glob("round-*"))])
    if ranks.first:
        shutil.rmtree(aside, ignore_errors=True)
        require_space(folder, needed)
    ranks.wait()
    with guard_disk(folder, needed):
        try:
            if is_sharded(model):
                write_shards(_weights(model), aside / "weights", ranks)
                write_shards(moments(model, optimizer), aside / "moments", ranks)
                if ranks.first:
                    _write_counters(aside, state, rounds_done, waiting)
            else:
                write_parts(aside, model, tokenizer, optimizer, state, rounds_done, waiting, ranks)
            if ranks.first:
                write_manifest(aside, KIND, {"rounds": rounds_done})
                aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # what it took is not what is missing
            raise
    if ranks.first:
        fsync_folder(folder.parent)
    ranks.wait()


def read_gate_state(folder: Path) -> tuple[GateState, int]:
    """(gate state, rounds done) of a state folder or a segment."""
    counters = read_json(folder / "state" / "counters.json")
    table = read_table(folder / "posteriors.parquet", POSTERIORS)
    return gate_state(table, counters), int(counters["rounds"])


def read_waiting(folder: Path) -> list[str]:
    """The prompts that the method remembers, of a state folder or a segment."""
    return [str(i) for i in read_json(folder / "state" / "counters.json")["waiting"]]


def newest_state(root: Path) -> Path | None:
    """The newest whole state below `root`; unfinished leftovers are removed."""
    for leftover in root.glob(".*.partial"):
        shutil.rmtree(leftover)
    for folder in sorted(root.glob("round-*"), reverse=True):
        check_manifest(folder, KIND)
        return folder
    return None


def drop_older(root: Path, keep: Path) -> None:
    """Remove all states but `keep`."""
    for folder in root.glob("round-*"):
        if folder != keep:
            shutil.rmtree(folder)
