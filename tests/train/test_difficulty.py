"""The difficulty band: measured by the first segment, taken over by the next, off by default."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hapo_core.errors import ConfigError, DataError
from hapo_core.rollout import Finish, Prompt, Rollout, Sampling
from hapo_core.verify import VerifierPool, VerifierSettings
from pipeline.artifacts.tables import DIFFICULTY, ROLLOUTS, read_frame
from pipeline.base.stage import build_base
from pipeline.config import Params, parse_params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.train.difficulty import TABLE, within_band
from pipeline.train.segment import train_segment
from pipeline.train.trainset import TrainSet

CHAINS = {"kind": "chains", "count": 12, "min_steps": 1, "max_steps": 2}
RAW: dict[str, Any] = {
    "profile": "band",
    "seed": 1,
    "method": "grpo",
    "curate": {
        "sources": {"chains": CHAINS},
        "benchmarks": {"held_out": {**CHAINS, "count": 2}},
        "max_trace_tokens": 24,
        "decontaminate_ngram": 0,
    },
    "base": {
        "kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 1, "steps": 1, "batch_size": 2,
        "learning_rate": 0.001, "slip_probability": 0.5,
    },
    "gate": {"threshold": {"kind": "constant", "gamma": 0.3}},
    "rollout": {"max_tokens": 24, "group_size": 2, "max_rows": 8},
    "update": {"learning_rate": 0.001},
    "train": {"prompts_per_round": 2},
    "segments": {"1": {"prev": "base", "rounds": 1}, "2": {"prev": "1", "rounds": 1}},
    "evaluate": {"benchmarks": {"held_out": {"k": 2, "max_tokens": 24}}},
    "targets": {"base": {"policy": "base"}, "final": {"policy": "2"}},
}  # fmt: skip


def params_with(band: dict[str, object] | None) -> Params:
    return parse_params({**RAW, "train": {**RAW["train"], "difficulty": band}})


class Scripted:
    """An engine whose policy solves problem `pK` in K of every 4 samples."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        for prompt in prompts:
            self.asked.append(prompt.prompt_id)
            for sample in range(sampling.n):
                answer = "7" if sample % 4 < int(prompt.prompt_id[1:]) else "8"
                text = f"\\boxed{{{answer}}}"
                yield Rollout(prompt.prompt_id, sample, (1, 2), (0.0, 0.0), Finish.STOP, text)


def trainset() -> TrainSet:
    names = [f"p{k}" for k in range(5)]
    return TrainSet(
        {n: Prompt(n, (1, 2)) for n in names},
        dict.fromkeys(names, "7"),
        {},
        dict.fromkeys(names, "math"),
    )


def measure(tmp_path: Path, engine: Scripted, band: dict[str, object]) -> TrainSet:
    params = params_with(band)
    assert params.train.difficulty is not None
    with VerifierPool(VerifierSettings()) as pool:
        return within_band(
            params, params.train.difficulty, trainset(), engine, pool,
            tmp_path / "out", None, tmp_path / "scratch", Observer("curate"),
        )  # fmt: skip


def test_the_band_keeps_what_is_neither_too_easy_nor_too_hard(tmp_path: Path) -> None:
    band: dict[str, object] = {"samples": 4, "low": 0.25, "high": 0.75}
    engine = Scripted()
    data = measure(tmp_path, engine, band)
    assert data.prompt_ids == ["p1", "p2", "p3"] == list(data.answers)
    table = read_frame(tmp_path / "out" / TABLE, DIFFICULTY)
    assert list(table.successes) == [0, 1, 2, 3, 4] and set(table.known) == {4}
    assert engine.asked == [f"p{k}" for k in range(5)]
    again = Scripted()  # a resumed segment reads its table
    assert measure(tmp_path, again, band) == data and again.asked == []


def test_a_killed_measurement_continues_behind_its_finished_shards(tmp_path: Path) -> None:
    band: dict[str, object] = {"samples": 4, "low": 0.25, "high": 0.75}
    measure(tmp_path, Scripted(), band)
    whole = (tmp_path / "out" / TABLE).read_bytes()
    (tmp_path / "out" / TABLE).unlink()
    shards = sorted((tmp_path / "scratch/difficulty").glob("*.parquet"))
    assert len(shards) == 3  # two problems of four samples fill the eight rows
    shards[1].unlink()
    engine = Scripted()
    measure(tmp_path, engine, band)
    assert engine.asked == ["p2", "p3"]
    assert (tmp_path / "out" / TABLE).read_bytes() == whole


def test_an_empty_band_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 of 5 .*2 easier, 3 harder, 0 unknown"):
        measure(tmp_path, Scripted(), {"samples": 4, "low": 0.6, "high": 0.7})


def test_contradictions_are_refused() -> None:
    for band in ({"low": 0.8, "high": 0.2}, {"samples": 4}, {"low": 0.1, "samples": 0}):
        with pytest.raises(ConfigError, match=r"train\.difficulty"):
            params_with(band)


@pytest.mark.slow
def test_two_real_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The untrained policy solves nothing, so a band from 0 to 0.5 keeps all twelve problems."""
    monkeypatch.chdir(tmp_path)
    params, observer = params_with({"samples": 2, "high": 0.5}), Observer("train@1")
    curate(params, Observer("curate"))
    build_base(params, Observer("base"))
    train_segment(params, "1", observer)
    train_segment(params, "2", observer)
    tables = [Path(f"artifacts/policy/{k}/{TABLE}") for k in (1, 2)]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    assert len(read_frame(tables[0], DIFFICULTY)) == 12
    rollouts = read_frame(Path("artifacts/policy/2/rollouts/round-00002.parquet"), ROLLOUTS)
    assert len(rollouts) == 4
    shutil.rmtree("artifacts/policy/2")
    tables[0].unlink()
    with pytest.raises(DataError):  # the manifest of segment 1 misses its table
        train_segment(params, "2", observer)
