"""params.yaml is edited after the run: what is said of the run stays as it was made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPO
from report_run import SMALL, make_run
from ruamel.yaml import YAML

from pipeline import cli
from pipeline.artifacts import atomic_write_text, identity, read_json
from pipeline.compare.cells import Cell
from pipeline.compare.collect import _check_made
from pipeline.compare.two_runs import find_side, tables
from pipeline.config import load_params, parse_params
from pipeline.dependencies.lock import GRAPH, graph_of, place_of, text_of
from pipeline.dependencies.made import as_made
from pipeline.dependencies.provenance import PROVENANCE, begin
from pipeline.flows.observer import Observer
from pipeline.report.stage import write_report

STAGES = ("curate", "base", "train@1", "train@2", "evaluate@base", "evaluate@final")


def recorded_run(root: Path, **story: object) -> Path:
    """A made-up run whose stages recorded what they were made with."""
    make_run(root, replace(SMALL, **story))  # type: ignore[arg-type]
    params = load_params(root / "params.yaml")
    for stage in STAGES:
        begin(stage, params).write(root / PROVENANCE)
    atomic_write_text(place_of(GRAPH, root), text_of(graph_of(params)))
    return root


def edit(root: Path) -> None:
    """Another method, rate, seed and gate, fewer segments, another protocol."""
    yaml, path = YAML(typ="safe"), root / "params.yaml"
    raw = yaml.load(path.read_text())
    raw["method"], raw["seed"] = "grpo", 99
    raw["update"]["learning_rate"] = 0.5
    raw["gate"]["threshold"] = {"kind": "constant", "gamma": 0.9}
    raw["segments"] = {"1": {"prev": "base", "rounds": 3}}
    raw["targets"]["final"] = {"policy": "1"}
    raw["rollout"]["group_size"] = 2
    for entry in raw["evaluate"]["benchmarks"].values():
        entry["k"] = 3
    yaml.dump(raw, path)


SAID = "params.yaml differs now from what this was made with"


def test_the_report(tmp_path: Path) -> None:
    root = recorded_run(tmp_path)
    write_report(Observer("report"), root)
    before = {p.name: p.read_bytes() for p in (root / "reports").rglob("*") if p.is_file()}
    assert SAID not in before["report.md"].decode()
    edit(root)
    write_report(Observer("report"), root)
    after = {p.name: p.read_bytes() for p in (root / "reports").rglob("*") if p.is_file()}
    same = {n for n in before if n not in ("report.md", "report.html", "summary.json")}
    assert {n: after[n] for n in same} == {n: before[n] for n in same} and same
    text = after["report.md"].decode()
    assert SAID in text and "update.learning_rate: " in text and "-> 0.5" in text
    a, b = (json.loads(x["summary.json"]) for x in (before, after))
    assert a.pop("notes") == [n for n in b.pop("notes") if SAID not in n] and a == b
    lines = [x for x in text.splitlines() if SAID not in x]
    old = before["report.md"].decode().splitlines()
    assert [x for x in lines if x not in old] == []


def test_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recorded_run(tmp_path)
    (root / "dvc.yaml").touch()
    (root / ".dvc").mkdir()
    said = []
    for change in (None, edit):
        if change is not None:
            change(root)
        assert cli.main(["audit", str(root), "--groups", "0"]) == 0
        said.append((root / "reports/audit.md").read_text())
        capsys.readouterr()
    old, new = (text.splitlines() for text in said)
    assert [x for x in new if x not in old] == [x for x in new if SAID in x] != []
    assert [x for x in old if x not in new] == []
    assert read_json(root / "reports/audit.json")["method"] == "hapo"


def test_two_runs(tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for root, seed in zip(roots, (7, 8), strict=True):
        recorded_run(root, seed=seed)
        write_report(Observer("report"), root)
    sides = [find_side(str(root)) for root in roots]
    before = tables(*sides)
    assert [row[0] for row in before[1].rows] == ["seed"]
    edit(roots[1])
    after = tables(*sides)
    assert [t.rows for t in after] == [t.rows for t in before]
    assert SAID in after[1].note and str(roots[1]) in after[1].note


def test_a_cell_of_other_values(tmp_path: Path) -> None:
    """params.yaml was edited between the plan and DVC's look at it."""
    root = recorded_run(tmp_path)
    raw = YAML(typ="safe").load((root / "params.yaml").read_text())
    _check_made(Cell("hapo", 7, raw, "hapo-s7-x"), root)
    raw["update"]["learning_rate"] = 0.5
    with pytest.raises(Exception, match=r"update.learning_rate: 0.5 -> .*"):
        _check_made(Cell("hapo", 7, raw, "hapo-s7-x"), root)


def test_segments_of_two_settings(tmp_path: Path) -> None:
    root = recorded_run(tmp_path)
    path = root / PROVENANCE / "train@1.json"
    made = read_json(path)
    made["parameters"]["update"]["learning_rate"] = 0.125
    path.write_text(json.dumps(made))
    found = as_made(load_params(root / "params.yaml"), root)
    assert any("train@1 was made with other values than train@2" in x for x in found.differs)


@pytest.mark.parametrize("path", sorted([*(REPO / "params").glob("*.yaml"), REPO / "params.yaml"]))
def test_what_is_recorded_reads_back(path: Path, tmp_path: Path) -> None:
    params = load_params(path)
    assert parse_params(params.model_dump(mode="json")) == params
    assert as_made(params, tmp_path).params is params  # nothing is recorded


def two_seeds(tmp_path: Path) -> tuple[Path, Path]:
    mine, other = (recorded_run(tmp_path / name, seed=n) for name, n in (("a", 7), ("b", 8)))
    assert as_made(load_params(mine / "params.yaml"), mine).differs == ()
    return mine, other


def said_of(root: Path) -> str:
    return "\n".join(as_made(load_params(root / "params.yaml"), root).differs)


def test_a_record_of_another_run(tmp_path: Path) -> None:
    """It is named, and its values are not taken for this run's."""
    mine, other = two_seeds(tmp_path)
    for stage in ("train@1", "train@2", "evaluate@final"):
        name = PROVENANCE / f"{stage}.json"
        (mine / name).write_bytes((other / name).read_bytes())
    made = as_made(load_params(mine / "params.yaml"), mine)
    assert made.params.seed == 7
    for stage in ("train@1", "train@2", "evaluate@final"):
        assert f"what is recorded of {stage} is of another artifact" in said_of(mine)
    write_report(Observer("report"), mine)
    assert "of another artifact" in (mine / "reports/report.md").read_text()


def test_an_evaluation_of_another_seed(tmp_path: Path) -> None:
    """Copied alone, and with its record."""
    mine, other = two_seeds(tmp_path)
    name = Path("artifacts/evaluation/final")
    shutil.rmtree(mine / name)
    shutil.copytree(other / name, mine / name)
    assert "evaluate@final is of another artifact than artifacts/evaluation/final" in said_of(mine)
    record = PROVENANCE / "evaluate@final.json"
    (mine / record).write_bytes((other / record).read_bytes())
    said = said_of(mine)
    assert "evaluate@final was made with other values than train@2: seed: 8 -> 7" in said


def test_made_from_something_else(tmp_path: Path) -> None:
    mine, _ = two_seeds(tmp_path)
    name, data = mine / PROVENANCE / "train@1.json", mine / "artifacts/data"
    listed, entry = next(iter(read_json(data / "manifest.json")["files"].items()))
    inputs = {
        f"artifacts/data/{listed}": entry["sha256"],
        "artifacts/policy/base": identity(mine / "artifacts/policy/base"),
        "artifacts/not/here": "0" * 64,
    }
    for what, said in ((None, ""), (listed, f"another artifacts/data/{listed} than")):
        wrong = {f"artifacts/data/{what}": "0" * 64} if what else {}
        name.write_text(json.dumps({**read_json(name), "inputs": {**inputs, **wrong}}))
        assert said in said_of(mine) and bool(said_of(mine)) == bool(what)
