"""The difficulty band: train on problems whose success rate under the starting policy lies in it.

The first segment measures it before its first round, because that is where the starting policy and
the curated problems meet; the segments after it take the table over. Finished shards of problems
survive a kill. Switched off (`train.difficulty: null`, the default) nothing here runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hapo_core.errors import DataError
from hapo_core.rollout import Prompt, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.verify import VerifierPool
from pipeline.artifacts import guard_disk
from pipeline.artifacts.seals import Tell, sealed_part
from pipeline.artifacts.tables import DIFFICULTY, read_table, write_table
from pipeline.config import DifficultyBand, Params
from pipeline.flows.observer import Observer
from pipeline.grading.benchmark import respond
from pipeline.train.trainset import TrainSet

TABLE = "difficulty.parquet"
BAND_ROUND = (1 << 31) - 1
"""A round that no training reaches: its draws are not those of the first rounds."""


def within_band(
    params: Params,
    band: DifficultyBand,
    data: TrainSet,
    engine: Engine,
    pool: VerifierPool,
    out: Path,
    previous: Path | None,
    scratch: Path,
    observer: Observer,
    unchanged: Callable[[Tell], None] = lambda tell: None,
) -> TrainSet:
    """The training problems that lie in the band; writes `out/difficulty.parquet`.

    Args:
        engine: of the starting policy; only asked where `previous` is None.
        out: the segment's output folder.
        previous: the segment before, whose table is taken over; None in the first segment.
        scratch: for finished shards.
        unchanged: asked before a shard is kept (`pipeline.dependencies.provenance`).

    Raises:
        DataError: no problem lies in the band, or the table of `previous` is missing.
    """
    table = out / TABLE
    out.mkdir(parents=True, exist_ok=True)
    with guard_disk(out):  # also after a kill: of what lies there only the shards are sealed
        if previous is not None:
            read_table(previous / TABLE, DIFFICULTY)
            shutil.copyfile(previous / TABLE, table)
        else:
            rows = _measure(params, band, data, engine, pool, scratch, observer, unchanged)
            write_table(rows, DIFFICULTY, table)
    found = read_table(table, DIFFICULTY).to_pylist()
    kept = {r["problem_id"] for r in found if r["kept"]}
    easy = sum(r["known"] > 0 and r["successes"] / r["known"] > band.high for r in found)
    hard = sum(r["known"] > 0 and r["successes"] / r["known"] < band.low for r in found)
    unknown = sum(r["known"] == 0 for r in found)
    counts = f"{len(kept)} of {len(found)} problems lie in the difficulty band "
    counts += f"[{band.low:g}, {band.high:g}]; {easy} easier, {hard} harder, {unknown} unknown"
    observer.log(counts)
    if not kept:
        raise DataError(
            counts, where="train.difficulty", remedy="widen the band, or raise `samples`"
        )
    return data.only(kept)


def _measure(
    params: Params,
    band: DifficultyBand,
    data: TrainSet,
    engine: Engine,
    pool: VerifierPool,
    scratch: Path,
    observer: Observer,
    unchanged: Callable[[Tell], None],
) -> list[dict[str, object]]:
    size = max(1, params.rollout.max_rows // band.samples)
    prompts = [data.prompts[i] for i in sorted(data.prompts)]
    rows: list[dict[str, object]] = []
    for start in range(0, len(prompts), size):
        part = scratch / "difficulty" / f"{start:06d}.parquet"
        make = partial(_shard, params, band, data, engine, pool, prompts[start : start + size])
        table, _ = sealed_part(part, DIFFICULTY, make, observer.log, unchanged)
        rows += table.to_pylist()
        observer.progress(len(rows), len(prompts), what="difficulty of problem")
    return rows


def _shard(
    params: Params,
    band: DifficultyBand,
    data: TrainSet,
    engine: Engine,
    pool: VerifierPool,
    prompts: Sequence[Prompt],
) -> list[dict[str, object]]:
    rollout = params.rollout
    sampling = Sampling(band.samples, band.temperature, rollout.top_p, rollout.max_tokens)
    found = respond(
        engine,
        pool,
        prompts,
        data.answers,
        sampling,
        params.seed,
        rewards=data.rewards,
        opening=data.opening,
        round_index=BAND_ROUND,
    )
    known: dict[str, list[float]] = {p.prompt_id: [] for p in prompts}
    for one in found:
        if one.reward is not None:
            known[one.rollout.prompt_id].append(one.reward)
    return [
        {
            "problem_id": name,
            "samples": band.samples,
            "known": len(rewards),
            "successes": int(sum(rewards)),
            "kept": bool(rewards) and band.low <= sum(rewards) / len(rewards) <= band.high,
        }
        for name, rewards in known.items()
    ]
