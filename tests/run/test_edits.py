"""Somebody edits in the middle of a stage of every kind: it does not publish, and says what."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from conftest import REPO, copy_code, long
from tiny_segment import CHAINS, PARAMS

from hapo_core.errors import HapoError
from pipeline.artifacts.places import output_of
from pipeline.base.stage import build_base
from pipeline.cold_start.stage import cold_start
from pipeline.config import load_params
from pipeline.curate.stage import curate
from pipeline.dependencies.lock import renew
from pipeline.evaluate.stage import evaluate_policy
from pipeline.flows.observer import Observer
from pipeline.report.stage import report
from pipeline.train.segment import train_segment

T = TypeVar("T")
STAGES: dict[str, Callable[[Observer], object]] = {
    "curate": lambda observer: curate(load_params(), observer),
    "base": lambda observer: build_base(load_params(), observer),
    "cold_start@start": lambda observer: cold_start(load_params(), "start", observer),
    "train@1": lambda observer: train_segment(load_params(), "1", observer),
    "evaluate@final": lambda observer: evaluate_policy(load_params(), "final", observer),
    "report": report,
}


class Editing(Observer):
    """Edits when the stage first tells of itself; what the stage logs is kept."""

    def __init__(self, stage: str, edit: Callable[[], None]) -> None:
        super().__init__(stage)
        self.edit: Callable[[], None] | None = edit

    def _now(self) -> None:
        edit, self.edit = self.edit, None
        if edit is not None:
            edit()

    def task(self, name: str, fn: Callable[..., T], *args: object, **kwargs: object) -> T:
        found = super().task(name, fn, *args, **kwargs)
        self._now()
        return found

    def progress(self, done: int, total: int, **facts: Any) -> None:
        self._now()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with code of its own, in which every stage has run."""
    root = tmp_path_factory.mktemp("edits")
    copy_code(root)
    (root / "rows.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n' * 2)
    shutil.copy(REPO / "tests/support/kill_site/plain_reward.py", root / "mine.py")
    given = json.loads(json.dumps(PARAMS)) | {"method": "hapo"}
    given["base"] |= {"steps": 3, "batch_size": 2}
    rows = {"kind": "table", "adapter": "generic", "path": "rows.jsonl"}
    given["curate"]["sources"] |= {"easy": {**CHAINS, "count": 4}, "rows": rows}
    given["curate"]["benchmarks"]["heldout"]["reward"] = "mine:grade"
    cold = {"sources": ["easy"], "rounds": 2, "batch": 2, "learning_rate": 0.002}
    given["cold_start"] = {"start": cold}
    given["segments"] = {"1": {"prev": "start", "rounds": 1}}
    given["targets"]["start"] = {"policy": "start"}
    given["train"]["probe_benchmark"] = "heldout"
    (root / "params.yaml").write_text(json.dumps(given))
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(root)
    try:
        renew(load_params())
        for stage, work in STAGES.items():
            if stage == "report":
                for target in ("base", "start"):
                    evaluate_policy(load_params(), target, Observer(f"evaluate@{target}"))
            work(Observer(stage))
        yield root
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    shutil.copytree(whole, path, symlinks=True)
    shutil.rmtree(path / ".hapo" / "scratch", ignore_errors=True)
    monkeypatch.chdir(path)
    return path


def append(name: str, text: str = "\nMORE = 1\n") -> Callable[[], None]:
    def edit() -> None:
        with Path(name).open("a") as file:
            file.write(text)

    return edit


def replace(name: str, old: str, new: str) -> Callable[[], None]:
    def edit() -> None:
        path = Path(name)
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return edit


def flip(name: str) -> Callable[[], None]:
    """Another byte in a file's middle, its time and size as they were."""

    def edit() -> None:
        path = Path(name)
        data, facts = bytearray(path.read_bytes()), path.stat()
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    return edit


def back(name: str) -> Callable[[], None]:
    """Moved away and put back, as somebody does who tries another one in its place."""

    def edit() -> None:
        Path(name).rename("elsewhere")
        Path("elsewhere").rename(name)

    return edit


POLICY, BASE = "artifacts/policy/1/model/model.safetensors", "artifacts/policy/base/model"
EDITS = {
    "curate": [
        (replace("params.yaml", '"seed": 3', '"seed": 4'), "seed: 3 -> 4"),
        (append("pipeline/curate/rules/split.py"), r"pipeline.curate.rules.split was edited"),
        (append("mine.py"), "mine was edited"),
        (append("rows.jsonl", '{"problem": "1+2", "answer": "3"}\n'), "rows.jsonl was edited"),
        (back("rows.jsonl"), "rows.jsonl was written, or moved and put back"),
        (append("deps/curate.json", " "), "deps/curate.json was replaced"),
    ],
    "base": [
        (replace("params.yaml", '"hidden_size": 48', '"hidden_size": 64'), "hidden_size: 48"),
        (append("hapo_core/policy.py"), "hapo_core.policy was edited"),
        (append("deps/base.json", " "), "deps/base.json was replaced"),
    ],
    "cold_start@start": [
        (replace("params.yaml", '"batch": 2', '"batch": 3'), "start.batch: 2 -> 3"),
        (append("hapo_core/loss.py"), "hapo_core.loss was edited"),
        (flip(f"{BASE}/model.safetensors"), "policy/base/model/model.safetensors was written"),
        (back("artifacts/policy/base"), "policy/base was written"),
        (append("artifacts/data/traces.parquet", " "), "traces.parquet was edited"),
    ],
    "train@1": [
        (replace("params.yaml", '"start", "rounds": 1', '"start", "rounds": 2'), "rounds: 1 -> 2"),
        (append("hapo_core/gate.py"), "hapo_core.gate was edited"),
        (append("mine.py"), "mine was edited"),
        (append("artifacts/policy/start/manifest.json", " "), "artifacts/policy/start was edited"),
        (flip("artifacts/policy/start/model/model.safetensors"), "start/model/.* was written"),
        (append("artifacts/data/problems.parquet", " "), "problems.parquet was edited"),
    ],
    "evaluate@final": [
        (replace("params.yaml", '"k": 1', '"k": 2'), "heldout.k: 1 -> 2"),
        (append("pipeline/evaluate/templates.py"), "pipeline.evaluate.templates was edited"),
        (append("mine.py"), "mine was edited"),
        (flip(POLICY), "model.safetensors was written"),
        (back("artifacts/data/benchmarks/heldout.parquet"), "heldout.parquet was written"),
    ],
    "report": [
        (replace("params.yaml", '"profile": "methods"', '"profile": "x"'), "profile: methods -> x"),
        (append("pipeline/report/words.py"), "pipeline.report.words was edited"),
        (append("pipeline/show/templates/report.html.j2", "<p>"), r"templates/.* was edited"),
        (append("artifacts/provenance/train@1.json", " "), r"train@1.json was edited"),
        (flip("artifacts/policy/1/groups/round-00001.parquet"), "round-00001.parquet was written"),
        (flip("artifacts/evaluation/final/heldout.parquet"), "final/heldout.parquet was written"),
        (append("artifacts/timings/train@1.json", " "), r"timings/train@1.json was edited"),
        (append("deps/report.json", " "), "deps/report.json was replaced"),
    ],
}  # fmt: skip


QUICK = {"curate": (3, 4), "base": (1,), "cold_start@start": (0, 3), "train@1": (2, 4)}
QUICK |= {"evaluate@final": (0, 3), "report": (0, 1, 3, 4)}
"""Which of them `make test` makes; `make soak` makes all."""
CASES = [
    pytest.param(stage, *one, marks=[] if n in QUICK[stage] else long)
    for stage, edits in EDITS.items()
    for n, one in enumerate(edits)
]


@pytest.mark.parametrize(("stage", "edit", "said"), CASES)
def test_edited_in_the_middle(here: Path, stage: str, edit: Callable[[], None], said: str) -> None:
    output = output_of(stage) or Path("reports")
    files = [p for p in output.rglob("*") if p.is_file()]
    assert files
    before = {p: p.read_bytes() for p in files}
    observer = Editing(stage, edit)
    with pytest.raises(HapoError, match=said):
        STAGES[stage](observer)
    assert observer.edit is None, "the stage told nothing: the edit was never made"
    assert {p: p.read_bytes() for p in output.rglob("*") if p.is_file()} == before
