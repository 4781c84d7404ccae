"""Tensors on disk that every process writes, and reads, for its own part only.

By `torch.distributed.checkpoint` (DCP) in safetensors files, whose headers say where in the whole
tensor their part lies; so any number of processes reads what any other number wrote, and plain
safetensors too. DCP's own file format is not used: it holds pickles.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultSavePlanner,
    create_default_global_save_plan,
)
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.tensor import DTensor

from hapo_core.distributed import ALONE, Ranks
from hapo_core.errors import DataError
from hapo_core.tensor_file import file_pieces

PART_BYTES = 1 << 30
"""Of a file of one process, about: DCP holds what it writes to a file a second time."""


def write_shards(tensors: Mapping[str, torch.Tensor], folder: Path, ranks: Ranks) -> None:
    """Write the ranks' parts of `tensors` below `folder`, durable; what all hold is written once.

    Args:
        tensors: the same names, in the same order, on every rank; all ranks must call.
    Raises:
        OSError: on every rank, if one of them cannot write.
    """
    if not tensors:  # moments before the first step; DCP would write nothing at all
        if ranks.first:
            folder.mkdir(parents=True)
            write_whole(tensors, folder / "none.safetensors", ALONE)
        return
    part_of, part, held = dict[str, int](), 1, 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if held and held + size > PART_BYTES * ranks.count:
            part, held = part + 1, 0
        part_of[name], held = part, held + size
    # Of what every rank holds whole, the first writes all. DCP's own way to deal work over ranks
    # sends pickles between them, so each saves as if it were alone, under names of its own.
    own = {n: t for n, t in tensors.items() if ranks.first or isinstance(t, DTensor)}
    writer = _PartWriter(folder, part_of, ranks.index + 1)
    problem: tuple[int, str] | None = None
    failed: OSError | None = None
    try:
        with _own_errors():
            dcp.save(own, storage_writer=writer, planner=_PartPlanner(), no_dist=True)
    except OSError as error:
        failed, problem = error, (error.errno or errno.EIO, str(error))
    problems = ranks.all_gather(problem)
    if failed is not None:
        raise failed
    for rank, told in enumerate(problems):
        if told is not None:
            raise OSError(told[0], f"process {rank} could not write its part: {told[1]}")


class _PartPlanner(DefaultSavePlanner):
    """Plans for one rank's parts: nobody else's are there to make tensors whole."""

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        self.global_plan, self.metadata = create_default_global_save_plan(all_plans)
        return self.global_plan, self.metadata


class _PartWriter(HuggingFaceStorageWriter):
    """Writes one rank's parts, in files that carry its number and that of the tensors' part."""

    def __init__(self, folder: Path, part_of: dict[str, int], shard: int) -> None:
        super().__init__(str(folder), part_of, save_distributed=True)
        self.shard = shard

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        given = {"fqn_to_index_mapping": self.fqn_to_index_mapping, "shard_index": self.shard}
        return [replace(plan, storage_data=given) for plan in plans]


def stored_names(folder: Path) -> set[str]:
    """Names of all tensors in the safetensors files of a folder (not of those below it).

    Raises:
        DataError: there is no such file, or one cannot be read.
    """
    if not any(folder.glob("*.safetensors")):
        raise DataError("there is no safetensors file", where=str(folder))
    try:
        return set(HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata)
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"the tensors cannot be read: {error}", where=str(folder)) from error


def read_shards(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Fill `tensors`, each as it is sharded, from the files of a folder. Ranks read for themselves.

    The caller has checked the folder's manifest: DCP does not miss a file that is not there.

    Raises:
        DataError: a tensor is missing or has another shape, or a file cannot be read.
    """
    if not tensors:
        return
    reader = HuggingFaceStorageReader(str(folder))
    try:
        with _own_errors():
            dcp.load(dict(tensors), storage_reader=reader, no_dist=True)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(f"not the state of this model: {error}", where=str(folder)) from error


@contextmanager
def _own_errors() -> Iterator[None]:
    """DCP wraps what a rank raised in an exception that is no `Exception`; and it warns of work
    without a process group, which is meant here."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise cause from None


def write_whole(tensors: Mapping[str, torch.Tensor], path: Path, ranks: Ranks) -> None:
    """Write tensors, sharded or not, as one plain safetensors file, holding one of them whole at a
    time. All ranks must call; the first writes, the bytes that `safetensors.torch.save_file` would.

    (DCP's consolidation of shards is of no use here: it leaves scalars, AdamW's `step`, at zero.)
    """
    pieces = file_pieces(tensors, wanted=ranks.first)
    if ranks.first:
        with path.open("wb") as sink:
            sink.writelines(pieces)
    else:
        for _ in pieces:
            pass
