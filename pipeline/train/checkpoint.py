"""Training state on disk: policy, optimizer, gate and counters, whole or not there.

A segment, and a resume point of weights that are not sharded, hold `model/` and
`state/optimizer.safetensors`. A resume point of sharded weights holds `weights/` and `moments/` in
their place, written by all ranks. Any number of ranks, sharded or not, goes on from either.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.alarm import AlarmState
from hapo_core.distributed import ALONE, Ranks, is_sharded, unsharded
from hapo_core.errors import DataError
from hapo_core.gate import GateState, Posterior
from hapo_core.policy import save_policy
from pipeline.artifacts import (
    atomic_write_json,
    folder_bytes,
    fsync_folder,
    guard_disk,
    read_json,
    require_space,
)
from pipeline.artifacts.optimizer import moments, save_optimizer
from pipeline.artifacts.seals import broken, newest_whole, write_resume_point, write_seal
from pipeline.artifacts.tables import POSTERIORS, read_table, write_table
from pipeline.artifacts.tensors import read_shards, stored_names, write_shards

KIND = "training-state"
COUNTS = "posteriors.parquet"
KEPT = 2
"""Resume points of a running segment that are kept."""


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
    alarm = counters.get("alarm")
    return GateState(
        posteriors,
        None if gamma is None else float(str(gamma)),
        None if mean is None else float(str(mean)),
        AlarmState.from_json(alarm) if isinstance(alarm, dict) else None,
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
) -> list[str]:
    """`model/`, `state/` and `posteriors.parquet`, as a segment holds them.

    They say nothing of ranks, and no rank holds all moments at once. All must call; the first
    writes.

    Args:
        waiting: the prompts that the method remembers (`Method.waiting`), in order.

    Returns:
        Names of the files, from `folder`; on the first rank.
    """
    names = [COUNTS, "state/counters.json", "state/optimizer.safetensors"]
    with unsharded(model):
        if ranks.first:
            names += [f"model/{n}" for n in save_policy(model, tokenizer, folder / "model")]
    if ranks.first:
        _write_counters(folder, state, rounds_done, waiting)
    save_optimizer(model, optimizer, folder / "state" / "optimizer.safetensors", ranks)
    ranks.barrier()
    return names


def _write_counters(
    folder: Path, state: GateState, rounds_done: int, waiting: Sequence[str]
) -> None:
    (folder / "state").mkdir(parents=True)
    write_table(posterior_rows(state), POSTERIORS, folder / COUNTS)
    atomic_write_json(
        folder / "state" / "counters.json",
        {
            "rounds": rounds_done,
            "gamma": state.gamma,
            "mean_success": state.mean_success,
            "waiting": list(waiting),
            **({"alarm": state.alarm.as_json()} if state.alarm is not None else {}),
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
    ranks.barrier()
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
                write_resume_point(aside, KIND, {"rounds": rounds_done})
                aside.rename(folder)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)  # what it took is not what is missing
            raise
    if ranks.first:
        fsync_folder(folder.parent)
    ranks.barrier()


def read_gate_state(folder: Path) -> tuple[GateState, int]:
    """(gate state, rounds done) of a state folder or a segment."""
    counters = read_json(folder / "state" / "counters.json")
    table = read_table(folder / COUNTS, POSTERIORS)
    return gate_state(table, counters), int(counters["rounds"])


def read_waiting(folder: Path) -> list[str]:
    """The prompts that the method remembers, of a state folder or a segment."""
    return [str(i) for i in read_json(folder / "state" / "counters.json")["waiting"]]


def newest_state(scratch: Path, first: int, tell: Callable[[str], None]) -> Path | None:
    """The newest resume point of a segment from which it can go on, None to start it anew.

    A resume point counts only with the tables of all rounds before it as they were written. One
    that is damaged, or whose rounds are, is removed, and the one before it is tried: two are kept,
    so that damage costs rounds and not the segment.

    Args:
        scratch: the segment's scratch folder.
        first: rounds that earlier segments have done.
        tell: gets a line about everything that is damaged.
    """

    def rounds_of(state: Path) -> str | None:
        done = int(state.name.split("-")[1])
        for number in range(first + 1, done + 1):
            if (problem := _broken_round(scratch, number)) is not None:
                return problem
        held = read_gate_state(state)[1]
        return None if held == done else f"{state} holds the state after round {held}"

    return newest_whole(scratch / "states", "round-*", KIND, tell, rounds_of)


def round_seal(scratch: Path, number: int) -> Path:
    """Where the hashes of a finished round's tables (counted from 1) lie."""
    return scratch / "rounds" / f"round-{number:05d}.seal.json"


def _tables(scratch: Path, number: int) -> list[Path]:
    name = f"round-{number:05d}.parquet"
    return [scratch / "rounds" / name, *(scratch / "out" / n for n in tables_of_rounds([number]))]


def tables_of_rounds(numbers: Iterable[int]) -> list[str]:
    """The tables of rounds (counted from 1) in a segment, from its folder."""
    return [f"{kind}/round-{n:05d}.parquet" for n in numbers for kind in ("rollouts", "groups")]


def _broken_round(scratch: Path, number: int) -> str | None:
    return broken(round_seal(scratch, number), scratch, _tables(scratch, number))


def seal_round(scratch: Path, number: int, first: int) -> None:
    """Seal the three tables of a finished round.

    Raises:
        DataError: the round before has lost its seal: the scratch folder was deleted meanwhile.
    """
    write_seal(round_seal(scratch, number), _tables(scratch, number), scratch)
    if number - 1 > first and not round_seal(scratch, number - 1).is_file():
        raise _changed(scratch, f"{round_seal(scratch, number - 1)} is missing")


def check_rounds(scratch: Path, first: int, done: int, problem: str | None = None) -> None:
    """Compare all rounds of a segment with their seals, before they are published.

    Args:
        problem: what is wrong already.

    Raises:
        DataError: one of them has changed or gone.
    """
    if problem is not None:
        raise _changed(scratch, problem)
    for number in range(first + 1, done + 1):
        problem = _broken_round(scratch, number)
        if problem is not None:
            raise _changed(scratch, problem)


def _changed(scratch: Path, problem: str) -> DataError:
    return DataError(
        f"the unfinished work of this segment has changed while it ran: {problem}",
        where=str(scratch),
        remedy="run the same command again: it goes back to the newest whole resume point, or "
        "starts the segment anew",
    )
