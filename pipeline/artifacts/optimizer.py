"""The optimizer state on disk: whole or sharded, for any number of processes."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from hapo_core.distributed import ALONE, Ranks
from hapo_core.errors import DataError
from pipeline.artifacts.tensors import read_shards, stored_names, write_whole


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
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU, unless it is fused.
        place = parameter.device if optimizer.defaults["fused"] else torch.device("cpu")
        step = key == "step"
        tensor = torch.zeros((), device=place) if step else torch.zeros_like(parameter)
        tensors[full] = optimizer.state[parameters[name]][key] = tensor.detach()
    read_shards(tensors, folder)
