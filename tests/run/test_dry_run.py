"""`hapo run --dry-run` on a project that has not run: findings, plan, and nothing touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import REPO, Project
from small import PARAMS, clone

from pipeline import cli
from pipeline.checks import estimates
from pipeline.checks.estimates import Size
from pipeline.checks.memory import memory
from pipeline.config import Params, load_params


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


def test_overrides_are_looked_at_and_not_written(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project / "params.yaml").read_bytes()
    words = ["-S", "seed=4", "-S", "segments.2.rounds=7", "-S", "train.prompts_per_round=3"]
    assert cli.main(["run", "--dry-run", *words]) == 0
    assert "seed 4: 2 segment(s), 11 rounds of 3 prompts" in capsys.readouterr().out
    assert cli.main(["run", "--dry-run", "--use", "quickstart"]) == 0
    out = capsys.readouterr().out
    assert "profile quickstart" in out and out.index("train@3") < out.index("evaluate@final")
    assert (project / "params.yaml").read_bytes() == before
    assert cli.main(["run", "--dry-run", "-S", "trian.prompts_per_round=3"]) == 2
    assert "unknown key; did you mean 'train'?" in capsys.readouterr().err
    assert cli.main(["run", "--profile", "-S", "seed=4"]) == 2
    assert "params.yaml as it is" in capsys.readouterr().err


def test_it_finds_what_curation_would_refuse(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The very row, wherever it stands: the sample of rows that are graded would miss it."""
    good = [{"id": i, "problem": f"{i}+1=?", "answer": str(i + 1)} for i in range(300)]
    loose = [{"problem_id": i, "trace": f"\\boxed{{{i + 1}}}"} for i in range(300)]
    faults = {
        "problem without answer": ([*good[:-1], {**good[-1], "answer": ""}], loose),
        "duplicate id": ([*good[:-1], {**good[-1], "id": 4}], loose[:-1]),
        "trace without problem": (good, [*loose[:-1], {**loose[-1], "problem_id": "lost"}]),
    }
    mine = (
        "    mine: {kind: table, path: rows.jsonl, reward: exact, columns: {id: id, problem: "
        "problem, answer: answer}, traces_path: loose.jsonl}\n"
    )
    chains = "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n"
    (project / "params.yaml").write_text(PARAMS.replace(chains, mine))
    for what, (rows, traces) in faults.items():
        for name, lines in (("rows", rows), ("loose", traces)):
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (project / f"{name}.jsonl").write_text(text)
        assert cli.main(["run", "--dry-run"]) == 1
        out = capsys.readouterr().out
        line = next(x for x in out.splitlines() if x.startswith("PROBLEM"))
        assert what in line and "line 300" in line


def test_it_says_what_is_too_long(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": f"{i}+1=?", "answer": str(i + 1), "trace": "1" * 60} for i in range(20)]
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = "    mine: {kind: table, path: rows.jsonl}\n"
    chains = "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n"
    text = PARAMS.replace(chains, mine).replace("method: hapo", "method: grpo")
    (project / "params.yaml").write_text(text)
    cli.main(["run", "--dry-run"])
    out = capsys.readouterr().out
    assert "20 of 20 traces are longer than curate.max_trace_tokens (48)" in out
    (project / "params.yaml").write_text(
        text.replace("max_prompt_tokens: 40", "max_prompt_tokens: 3")
    )
    assert cli.main(["run", "--dry-run"]) == 1
    assert (
        "20 of 20 prompts are longer than curate.max_prompt_tokens (3)" in capsys.readouterr().out
    )


def test_times_of_earlier_runs_survive_their_results(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.artifacts import record_pace, record_timing

    for stage, seconds in (("curate", 7.0), ("base", 11.0), ("report", 3.0), ("train@1", 40.0)):
        record_timing(stage, seconds)
    record_timing("evaluate@base", 20.0)
    shutil.rmtree("artifacts")  # as DVC does before a stage runs again
    assert cli.main(["run", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "time unknown" not in out
    assert [x.split("about ")[1] for x in out.splitlines() if "about" in x and "train@" in x] == [
        "40s", "20s"
    ]  # fmt: skip
    assert "together            about 2m01s" in out
    shutil.rmtree(".hapo")
    record_pace(round_s=2.0, evaluation_s=5.0)
    assert cli.main(["run", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "at least 22s; the others are unknown until they have run once" in out


def test_where_a_round_went_and_who_waited(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.artifacts import record_pace, record_timing

    assert cli.main(["run", "--dry-run"]) == 0
    assert "`hapo run --profile` measures one" in capsys.readouterr().out
    record_pace(round_s=8.0, parts={"rollout": 6.0, "update": 1.5, "gate": 0.001})
    words = ["run", "--dry-run", "-S", "rollout.engine=vllm", "-S", "base.heads=1"]
    cli.main(words)
    out = capsys.readouterr().out
    assert "a round took 8s here: rollout 6 s, update 1.5 s, other 0.499 s\n" in out
    assert "  1 card(s) of the trainer: idle 81% of it\n" in out
    assert "  1 vLLM server(s): idle 25% of it\n" in out
    rounds = load_params().segments["1"].rounds
    record_timing("train@1", 2.0 * rounds, parts={"rollout": rounds * 0.5, "update": rounds * 1.0})
    cli.main(words)
    out = capsys.readouterr().out  # what ran counts more than what was measured
    assert "a round took 2s here: update 1 s, rollout 0.5 s, other 0.5 s\n" in out
    assert "  1 card(s) of the trainer: idle 50% of it\n" in out
    assert "  1 vLLM server(s): idle 75% of it\n" in out


def test_a_teacher_without_usable_traces_is_a_problem(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"problem": f"Find {i}.", "answer": str(i), "trace": f"The answer is {i}."}
        for i in range(20)
    ]
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = "    mine: {kind: table, path: rows.jsonl, reward: exact}\n"
    chains = "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n"
    (project / "params.yaml").write_text(PARAMS.replace(chains, mine))
    assert cli.main(["run", "--dry-run"]) == 1
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if x.startswith("PROBLEM traces"))
    assert "0 of 20 sampled problems" in line and "20 × verdict unparsed" in line
    assert line.count("The answer is") == 3 and "mark:" in line
    marked = mine.replace("rows.jsonl,", "rows.jsonl, mark: last_number,")
    (project / "params.yaml").write_text(PARAMS.replace(chains, marked))
    assert cli.main(["run", "--dry-run"]) == 0
    assert "20 of 20 sampled problems have a usable trace" in capsys.readouterr().out


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
    assert any("other: the row has no column 'answer'" in x for x in problems)
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
    held = memory(params, size.parameters, size.ends, None)
    assert sum(held.update.values()) == pytest.approx(34.8e9, rel=0.01)
    # While responses are drawn gradients are gone, and every process holds all weights.
    assert held.rollout["all weights, whole"] == pytest.approx(4 * 5 / 6 * 6.5256e9, rel=0.01)
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


def test_a_dry_run_leaves_no_lock_behind(finished_project: Project) -> None:
    project = finished_project
    for words in (["run", "--dry-run"], ["run", "--dry-run", "train@1"], ["status"]):
        project.hapo(*words, check=False)  # the toy has a problem: contexts
        lock = project.path / ".dvc" / "tmp" / "rwlock"
        if lock.is_file():
            assert not any(json.loads(lock.read_text()).values()), words  # nobody holds anything
    assert "warning" not in project.hapo("run", "--no-server").stderr
