"""A run with a cold start is measured from there: what the cold start gave is not the method's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from report_run import SMALL, make_run, params_of

from pipeline.artifacts import read_json, write_manifest
from pipeline.compare.cells import plan
from pipeline.compare.collect import files_of, targets_of
from pipeline.config import load_params
from pipeline.config.yaml import round_trip
from pipeline.flows.observer import Observer
from pipeline.report.stage import write_report
from pipeline.run.result import _result_rows
from pipeline.samples.page import start_and_end

COLD = {"sources": ["chains"], "rounds": 5, "batch": 4, "learning_rate": 1e-3, "keep": True}


def warmed() -> dict[str, object]:
    """The story's params.yaml, with a cold start named `warm` before its first segment."""
    raw = params_of(replace(SMALL, probe=False))
    raw["cold_start"] = {"warm": COLD}
    raw["segments"]["1"]["prev"] = "warm"
    raw["targets"]["warm"] = {"policy": "warm"}
    # Not in the order of the alphabet: the first one leads the report.
    raw["evaluate"]["benchmarks"] = dict(reversed(raw["evaluate"]["benchmarks"].items()))
    return raw


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from 4 % (base) over 30 % (cold start) to 48 %."""
    root = tmp_path_factory.mktemp("cold") / "run"
    make_run(root, SMALL)
    other = root.with_name("other")
    make_run(other, replace(SMALL, held_out=(0.3, 0.48)))
    home = root / "artifacts/evaluation/warm"
    shutil.copytree(other / "artifacts/evaluation/base", home)
    metrics = json.loads((home / "metrics.json").read_text())
    (home / "metrics.json").write_text(json.dumps(metrics | {"policy": "warm"}))
    write_manifest(home, "evaluation", {})
    with (root / "params.yaml").open("w", encoding="utf-8") as sink:
        round_trip().dump(warmed(), sink)
    write_report(Observer("report"), root)
    return root


def test_the_report_starts_at_the_cold_start(root: Path) -> None:
    summary = read_json(root / "reports/summary.json")
    warm = read_json(root / "artifacts/evaluation/warm/metrics.json")["benchmarks"]
    cold = read_json(root / "artifacts/evaluation/base/metrics.json")["benchmarks"]
    assert summary["start"] == "warm"
    for name, entry in summary["base"].items():
        assert entry["avg"] == warm[name]["avg"] > 2 * cold[name]["avg"]
    assert "benchmark short" in summary["verdict"], "the first benchmark of params.yaml leads"
    assert _result_rows(summary)[0][1] == "warm"


def test_the_samples_page_begins_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def of_evaluation(root: Path, target: str, benchmark: str) -> list[object]:
        asked.append(target)
        return []

    monkeypatch.setattr("pipeline.samples.page.of_evaluation", of_evaluation)
    start_and_end(load_params(root / "params.yaml"), root)
    assert asked == ["warm", "final"] * 2


def test_a_comparison_measures_from_there_too(root: Path) -> None:
    params = load_params(root / "params.yaml")
    assert params.start == "warm"
    (cell,) = plan(warmed(), {"hapo": {}}, [0], None, "code")
    assert targets_of(cell) == ("warm", "final")
    assert Path("artifacts/evaluation/warm") in files_of(cell)
    assert Path("artifacts/evaluation/base") not in files_of(cell)
