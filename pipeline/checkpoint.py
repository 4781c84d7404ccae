"""Training state on disk: policy, optimizer, gate and counters, whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import DataError
from hapo_core.gate import GateState, Posterior
from hapo_core.policy import save_policy
from hapo_core.ranks import ALONE, Ranks, gathered, like, whole
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


def moments(
    model: PreTrainedModel, optimizer: torch.optim.AdamW, keep: bool = True
) -> dict[str, torch.Tensor]:
    """AdamW's moments by parameter name, whole; parameters never stepped are left out.

    Sharded ones are gathered, so every rank must ask; only those that `keep` hold the result.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            full = gathered(value.detach())
            if keep:
                tensors[f"{name}|{key}"] = full.cpu().contiguous()
    return tensors


def save_optimizer(model: PreTrainedModel, optimizer: torch.optim.AdamW, path: Path) -> None:
    """Write `moments` as safetensors."""
    save_file(moments(model, optimizer), path)


def load_optimizer(model: PreTrainedModel, optimizer: torch.optim.AdamW, path: Path) -> None:
    """Restore what `save_optimizer` wrote, sharded as the parameters are.

    Raises:
        DataError: unreadable file, or the state of another model.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"the optimizer state cannot be read: {error}", where=str(path)) from error
    parameters = dict(model.named_parameters())
    for full, tensor in tensors.items():
        name, key = full.rsplit("|", 1)
        if name not in parameters:
            raise DataError(f"optimizer state for an unknown parameter {name!r}", where=str(path))
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU.
        placed = tensor if key == "step" else like(tensor, parameter)
        optimizer.state[parameter][key] = placed


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
    """`model/`, `state/` and `posteriors.parquet`, the same in a resume point and in a segment.

    The format knows nothing of ranks: any number of processes can go on from it.

    Args:
        waiting: the prompts that the method remembers (`Method.waiting`), in order.
        ranks: all must call; the first writes.
    """
    tensors = moments(model, optimizer, keep=ranks.first)
    with whole(model):
        if ranks.first:
            (folder / "state").mkdir(parents=True)
            save_policy(model, tokenizer, folder / "model")
            save_file(tensors, folder / "state" / "optimizer.safetensors")
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
        ranks.wait()


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
    """Write `folder` aside and rename it into place, manifest last; see `write_parts`.

    Raises:
        HapoError: the disk lacks the space; said before anything is written, as far as the
            tensors and the state before tell.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    needed = max([_bytes(model, optimizer), *map(folder_bytes, folder.parent.glob("round-*"))])
    if ranks.first:
        shutil.rmtree(aside, ignore_errors=True)
        require_space(folder, needed)
    with guard_disk(folder, needed):
        try:
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
