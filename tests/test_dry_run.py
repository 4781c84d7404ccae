"""`hapo run --dry-run` on a project that has not run: findings, plan, and nothing touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import REPO
from small import PARAMS, clone

from pipeline import cli, estimates
from pipeline.config import Params, load_params
from pipeline.estimates import Size


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "project"
    clone(path)
    monkeypatch.chdir(path)
    return path


def test_a_fresh_project_shows_the_whole_plan(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(p for p in project.rglob("*") if ".dvc" not in p.parts)
    assert cli.main(["run", "--dry-run"]) == 0
    out = capsys.readouterr().out
    plan = [line.split()[0] for line in out.splitlines() if "time unknown" in line]
    for earlier, later in (
        ("curate", "train@1"),
        ("base", "train@1"),
        ("train@1", "train@2"),
        ("train@2", "evaluate@final"),
        ("evaluate@final", "report"),
    ):
        assert plan.index(earlier) < plan.index(later)
    assert len(plan) == 7
    assert "source chains: 24 generated problems" in out and "0 problem(s)" in out
    assert sorted(p for p in project.rglob("*") if ".dvc" not in p.parts) == before


def test_targets_narrow_the_plan(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--dry-run", "train@1"]) == 0
    out = capsys.readouterr().out
    plan = {line.split()[0] for line in out.splitlines() if "time unknown" in line}
    assert plan == {"curate", "base", "train@1"}


def test_overrides_are_refused_rather_than_ignored(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["-S", "seed=4"], ["--use", "quickstart"]):
        assert cli.main(["run", "--dry-run", *words]) == 2
        assert "params.yaml as it is" in capsys.readouterr().err


def test_missing_data_columns_and_engines_are_problems(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "rows.jsonl").write_text('{"question": "1+1?", "solution": "2"}\n')
    text = (
        PARAMS.replace(
            "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n",
            "    lost: {kind: table, adapter: gsm8k, path: lost.jsonl}\n"
            "    other: {kind: table, adapter: gsm8k, path: rows.jsonl}\n",
        )
        .replace("rollout: {", "rollout: {engine: vllm, ")
        .replace("heads: 2", "heads: 1")
    )
    text = text.replace("compute: {threads: 1}", "compute: {device: cuda, processes: 3}")
    (project / "params.yaml").write_text(text)
    assert cli.main(["run", "--dry-run"]) == 1
    problems = [x for x in capsys.readouterr().out.splitlines() if x.startswith("PROBLEM")]
    assert any("lost: there is no such file" in x for x in problems)
    assert any("other: the file has no column 'answer'" in x for x in problems)
    assert any("no vLLM environment at build/engine-cpu" in x for x in problems)
    assert any("compute" in x for x in problems) or torch.cuda.device_count() >= 3


@pytest.mark.parametrize("name", ["qwen2.5-math-7b", "qwen2.5-math-1.5b"])
def test_large_profiles_say_what_is_missing_here(
    project: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.copy(REPO / "params" / f"{name}.yaml", project / "params.yaml")
    assert cli.main(["run", "--dry-run"]) == 1
    out = capsys.readouterr().out
    assert "source openr1_46k: the dataset is on the hub, but offline mode is on" in out
    assert "no vLLM environment at build/engine-cuda" in out
    if not torch.cuda.is_available():
        assert "there is no GPU here" in out
    assert "evaluate@final" in out


def seven_billion() -> Params:
    return load_params(REPO / "params" / "qwen2.5-math-7b.yaml")


def test_memory_and_disk_are_those_of_the_profile_comment() -> None:
    params, size = seven_billion(), Size(7_615_616_512, 1_089_998_336, 16384)
    memory = estimates.memory_of_process(params, size)
    assert memory == pytest.approx(34.8e9, rel=0.01)
    weights = 4 * size.parameters
    disk = estimates.bytes_on_disk(params, size, ["train@1"])
    # artifact and its copy in the cache, two resume points, two exports to the servers
    assert disk > 4 * 3 * weights + 2 * weights
    assert estimates.bytes_on_disk(params, size, ["report"]) == 0


def test_time_comes_from_rounds_of_other_segments() -> None:
    params = seven_billion()
    timings = {"train@1": {"wall_s": 200.0}, "curate": {"wall_s": 7.0}}
    assert estimates.seconds(params, "curate", timings) == 7.0
    assert estimates.seconds(params, "train@4", timings) == 200.0
    assert estimates.seconds(params, "base", timings) is None
    assert estimates.seconds(params, "train@4", {}) is None
