"""The real stages under a real `dvc repro`, on a policy that takes seconds; killed for real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import kills
import pandas as pd
import pytest
import torch
import warm
from conftest import Project, long
from curves import tensorboard_points
from small import PARAMS, clone, hashes
from transformers import AutoModelForCausalLM, AutoTokenizer

from hapo_core.errors import DataError
from pipeline.artifacts import check_manifest
from pipeline.artifacts.tables import GROUPS, POSTERIORS, ROLLOUTS, ROUNDS, read_frame
from pipeline.config import load_params
from pipeline.flows.observer import Observer
from pipeline.train.segment import train_segment

COLD = {"HF_HUB_OFFLINE": "1"}
"""Every process a Python of its own."""
ONE_AFTER_ANOTHER = """
import runpy, sys
for words in (["curate"], ["base"], ["train", "--segment", "1"]):
    sys.argv = words
    try:
        runpy.run_module(f"pipeline.{words[0]}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, words
"""
"""Three stages by a real Python, which imports torch once."""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, warmth: dict[str, str]) -> Project:
    """A clone of the repository with the small configuration, after one `dvc repro`."""
    path = tmp_path_factory.mktemp("real") / "project"
    clone(path)
    project = Project(path, {**COLD, **warmth})
    project.dvc("repro")
    return project


def _another(real: Project, tmp_path: Path) -> Project:
    path = tmp_path / "another"
    shutil.copytree(real.path, path, symlinks=True)
    return Project(path, real.env)


def test_every_artifact_is_there_and_says_what_it_is(real: Project) -> None:
    artifacts = real.path / "artifacts"
    for name, kind in [
        ("data", "data"),
        ("policy/base", "policy"),
        ("policy/1", "segment"),
        ("policy/2", "segment"),
        ("evaluation/base", "evaluation"),
        ("evaluation/final", "evaluation"),
    ]:
        check_manifest(artifacts / name, kind)
    rounds = read_frame(artifacts / "policy/1/rounds.parquet", ROUNDS)
    assert rounds["round"].tolist() == [1, 2, 3, 4]
    assert (rounds["rollouts"] == 24).all() and rounds["probe_avg"].notna().sum() == 2
    groups = read_frame(artifacts / "policy/1/groups/round-00003.parquet", GROUPS)
    assert len(groups) == 6 and groups["posterior_a"].notna().all()
    posteriors = read_frame(artifacts / "policy/2/posteriors.parquet", POSTERIORS)
    assert posteriors["visits"].sum() == 36
    for name in ("report.html", "report.md", "summary.json"):
        assert (real.path / "reports" / name).stat().st_size > 100


def test_rollouts_keep_everything(real: Project) -> None:
    path = real.path / "artifacts/policy/1/rollouts/round-00001.parquet"
    frame = read_frame(path, ROLLOUTS)
    policy, teacher = frame[frame.kind == "policy"], frame[frame.kind == "teacher"]
    assert len(policy) == 24
    assert [len(t) for t in policy.token_ids] == [len(x) for x in policy.logprobs]
    assert policy.replaced.sum() == len(teacher) == teacher.injected.sum() > 0
    assert teacher.logprobs.isna().all() and teacher.advantage.notna().all()
    assert policy[policy.replaced].advantage.isna().all()
    # The advantages of a group are those of its N final rows: they sum to 0.
    trained = frame[~frame.replaced].groupby("prompt_id").advantage
    assert (trained.count() == 4).all() and (trained.sum().abs() < 1e-9).all()


def test_checkpoints_load_with_transformers_alone(real: Project) -> None:
    for name in ("base", "1", "2"):
        folder = real.path / "artifacts/policy" / name / "model"
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = tokenizer("157a+8=?", return_tensors="pt").input_ids
        assert torch.isfinite(model(ids).logits).all()
        assert (folder / "model.safetensors").is_file()


def test_summary_holds_the_numbers(real: Project) -> None:
    summary = json.loads((real.path / "reports/summary.json").read_text())
    assert (summary["method"], summary["profile"], summary["seed"]) == ("hapo", "seconds", 3)
    assert summary["rounds"] == 6 == len(summary["injection_rate"])
    for policy in ("base", "final"):
        entry = summary[policy]["heldout"]
        assert entry["n"] == 8 and entry["k"] == 2 and len(entry["ci"]) == 2
    rounds = pd.concat(
        read_frame(real.path / f"artifacts/policy/{k}/rounds.parquet", ROUNDS) for k in "12"
    )
    assert summary["tokens"]["generated"] == rounds.generated_tokens.sum()
    assert {"base", "train@1", "evaluate@final"} <= set(summary["wall_s"])


def test_nothing_reruns_and_checkout_restores(real: Project, tmp_path: Path) -> None:
    project = _another(real, tmp_path)
    before = hashes(project.path / "artifacts")
    began = time.monotonic()
    assert "Running stage" not in project.dvc("repro").stdout
    assert time.monotonic() - began < 30
    shutil.rmtree(project.path / "artifacts")
    project.dvc("checkout")
    assert hashes(project.path / "artifacts") == before


def test_evaluation_parameters_rerun_evaluation_and_report_only(
    real: Project, tmp_path: Path
) -> None:
    project = _another(real, tmp_path)
    project.edit("heldout: {k: 2,", "heldout: {k: 3,")
    listed = [x for x in project.dvc("repro", "--dry").stdout.splitlines() if "Running" in x]
    assert sorted(x.split("'")[1] for x in listed if "report" not in x) == [
        "deps",
        "evaluate@base",
        "evaluate@final",
    ]


@pytest.mark.parametrize(
    "probed", [pytest.param(True, marks=pytest.mark.slow), pytest.param(False, marks=long)]
)
def test_a_new_benchmark_trains_nothing_again(real: Project, tmp_path: Path, probed: bool) -> None:
    """Problems, traces and what the probe looks at keep their bytes, and so do the weights."""
    project = _another(real, tmp_path)
    if not probed:
        project.edit(", probe_benchmark: heldout, probe_every: 2, probe_problems: 4", "")
        project.dvc("repro")
    before = hashes(project.path / "artifacts/policy")
    source = "    heldout: {kind: chains, count: 8, min_steps: 2, max_steps: 3}\n"
    project.edit(source, source + source.replace("heldout", "second"))
    protocol = "    heldout: {k: 2, max_tokens: 48}\n"
    project.edit(protocol, protocol + protocol.replace("heldout", "second"))
    said = project.dvc("repro").stdout
    ran = {x.split("'")[1] for x in said.splitlines() if x.startswith("Running stage")}
    assert ran == {"deps", "curate", "evaluate@base", "evaluate@final", "report"}
    assert hashes(project.path / "artifacts/policy") == before
    assert (project.path / "artifacts/evaluation/final/second.parquet").is_file()


def _kill_at(stage: subprocess.Popen[str], marker: str) -> None:
    """kill -9 as soon as a line with the marker is read."""
    assert stage.stdout is not None
    for line in stage.stdout:
        if marker in line:
            warm.kill(stage)
            break
    else:
        pytest.fail("the stage ended without the line")
    stage.wait()


@pytest.mark.parametrize(
    "marker",
    [
        pytest.param("round 1/4", marks=long),
        pytest.param("round 2/4", marks=long),
        pytest.param("round 3/4", marks=long),
        "round 4/4",
    ],
)
def test_a_killed_segment_ends_with_the_same_bytes(
    real: Project, tmp_path: Path, marker: str
) -> None:
    """kill -9 right after a round's line, then the same command: identical policy and tables."""
    project = _another(real, tmp_path)
    published = project.path / "artifacts/policy/1"
    whole = hashes(published)
    project.env["HAPO_PROGRESS_SECONDS"] = "0"
    for _ in range(3):  # on a busy machine the segment can end before the signal comes
        shutil.rmtree(published)
        shutil.rmtree(project.path / ".hapo/scratch", ignore_errors=True)
        _kill_at(project.start("pipeline.train", "--segment", "1"), marker)
        if not published.exists():
            break
    assert not published.exists(), "three times finished before the signal came"
    output = project.call("pipeline.train", "--segment", "1").stdout
    assert "continues after round" in output
    assert hashes(project.path / "artifacts/policy/1") == whole
    (curves,) = (project.path / "logs" / "tensorboard").glob("train@1-*")
    assert [step for step, _ in tensorboard_points(curves)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_two_runs_of_the_same_inputs_give_the_same_hashes(real: Project, tmp_path: Path) -> None:
    """Whether curves are written or not, and in a process that begins with nothing imported."""
    path = tmp_path / "fresh"
    clone(path)
    (path / "params.yaml").write_text(PARAMS + "loggers: {tensorboard: null}\n")
    fresh = Project(path, COLD)
    command = [sys.executable, "-c", ONE_AFTER_ANOTHER]
    subprocess.run(command, cwd=path, env=fresh.environment(), check=True, timeout=600)
    # Killed after its end, before DVC recorded it: DVC deletes the output, nothing is done twice.
    shutil.rmtree(path / "artifacts/policy/1")
    fresh.env = real.env
    assert "round 1/" not in fresh.call("pipeline.train", "--segment", "1").stdout
    assert not (path / "logs").exists() and (real.path / "logs" / "tensorboard").is_dir()
    for name in ("data", "policy/base", "policy/1"):
        assert hashes(path / "artifacts" / name) == hashes(real.path / "artifacts" / name)


def test_damage_is_refused_with_place_and_remedy(real: Project, tmp_path: Path) -> None:
    project = _another(real, tmp_path)
    weights = project.path / "artifacts/policy/1/model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.unlink()  # DVC may have linked it
    weights.write_bytes(data)
    done = project.call("pipeline.train", "--segment", "2", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "policy/1/model/model.safetensors" in done.stderr and "dvc checkout" in done.stderr
    weights.unlink()
    done = project.call("pipeline.evaluate", "--target", "final", check=False)
    assert done.returncode in (0, 2)
    done = project.call("pipeline.train", "--segment", "2", check=False)
    assert done.returncode == 2 and "missing" in done.stderr


def test_a_segment_of_another_run_is_refused(
    real: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = _another(real, tmp_path)
    monkeypatch.chdir(project.path)
    path = project.path / "artifacts/policy/1/manifest.json"
    manifest = json.loads(path.read_text())
    path.unlink()
    for key, value in {"seed": 4, "method": "grpo", "segment": "9", "problems": "0" * 64}.items():
        other = {**manifest, "facts": {**manifest["facts"], key: value}}
        path.write_text(json.dumps(other))
        with pytest.raises(DataError, match=f"another run: its {key} is {value}"):
            train_segment(load_params(), "2", Observer("train@2"))


def test_hapo_evaluate_repeats_the_stage(real: Project, tmp_path: Path) -> None:
    """Outside the run, by name: the protocol of params.yaml, and the same bytes."""
    out = tmp_path / "outside"
    words = ["--benchmark", "heldout", "--template", "bare", "--threads", "1"]
    words += ["--max-rows", "512", "--seed", "3", "--out", str(out)]
    real.call("pipeline.cli", "evaluate", "--model", "artifacts/policy/2", *words)
    stage = real.path / "artifacts/evaluation/final"
    assert (out / "heldout.parquet").read_bytes() == (stage / "heldout.parquet").read_bytes()
    done = real.call("pipeline.cli", "pair", str(stage), str(out))
    assert "heldout" in done.stdout and "+0.0" in done.stdout


def test_a_gate_out_of_reach_is_refused_before_anything_runs(real: Project, tmp_path: Path) -> None:
    project = _another(real, tmp_path)
    project.edit("evidence: prompt\n  statistic: thompson", "evidence: group\n  statistic: mean")
    project.edit("{kind: adaptive, gamma_start: 0.5}", "{kind: constant, gamma: 0.99}")
    project.call("pipeline.dependencies")
    done = project.call("pipeline.train", "--segment", "1", check=False)
    assert done.returncode == 2 and "always open" in done.stderr and "luffy" in done.stderr


@long
def test_other_methods_run(real: Project, tmp_path: Path) -> None:
    project = _another(real, tmp_path)
    for method in ("grpo", "luffy", "sft", "sft_then_rl"):
        text = PARAMS.replace("method: hapo", f"method: {method}")
        (project.path / "params.yaml").write_text(text.replace("rounds: 4", "rounds: 3"))
        shutil.rmtree(project.path / "artifacts/policy/1", ignore_errors=True)
        project.call("pipeline.dependencies")
        project.call("pipeline.train", "--segment", "1")
        rounds = read_frame(project.path / "artifacts/policy/1/rounds.parquet", ROUNDS)
        supervised = {"grpo": 0, "luffy": 0, "sft": 3, "sft_then_rl": 2}[method]
        assert (rounds.phase == "sft").sum() == supervised
        assert (rounds.rollouts > 0).sum() == 3 - supervised
        assert rounds.injected_groups.sum() == (18 if method == "luffy" else 0)


def test_a_dry_run_of_a_finished_project_has_nothing_to_do(real: Project) -> None:
    done = real.hapo("run", "--dry-run")
    assert "nothing to run" in done.stdout and "0 problem(s)" in done.stdout


def test_a_profile_says_where_a_round_goes_and_leaves_nothing(
    real: Project, tmp_path: Path
) -> None:
    project = _another(real, tmp_path)
    before = hashes(project.path / "artifacts")
    done = project.hapo("run", "--profile", "train@2")
    table = done.stdout[done.stdout.index("one round of segment 2") :].splitlines()
    total = float(table[0].split(":")[1].split()[0])
    seconds = {line[2:26].strip(): float(line[26:].split()[0]) for line in table[1:]}
    for part in ("generate", "wait for verdicts", "forward", "backward", "optimizer", "disk"):
        assert seconds[part] > 0
    assert sum(seconds.values()) == pytest.approx(total, abs=0.02)
    assert hashes(project.path / "artifacts") == before
    assert not (project.path / ".hapo/profile").exists()


@long
def test_three_kills_in_a_row(real: Project, tmp_path: Path) -> None:
    """The kill matrix, shortened (test_kill_matrix.py): the run, the stage, then everything."""
    start = tmp_path / "start"
    shutil.copytree(real.path, start, symlinks=True)
    kills.forget_segments(start)
    shots = kills.Range(tmp_path, start)
    shots.whole["train@1"] = shots.hashes(real, "train@1")
    project = shots.copy("killed")
    points = [
        kills.Point("rollout half done", kills.C, kills.call(kills.DECODE, n=60)),
        kills.Point("in the checkpoint's rename", kills.T, kills.rename(kills.STATE, 2)),
        kills.Point("dvc.lock truncated", kills.ALL, kills.call(kills.DUMP, "dvc", n=2)),
        kills.Point("nobody", (), {}),
    ]
    for k, point in enumerate(points):
        point = replace(point, target="train@1")
        outcome = shots.kill_once(project, point, f"plan{k}")
        kills.check(outcome, point)
        assert not point.victims or outcome.where != "not reached", outcome.output
    assert shots.hashes(project, "train@1") == shots.whole["train@1"]
    begun = kills.rounds_begun(project)
    assert len(begun) - 4 <= 2 and set(begun) == {1, 2, 3, 4}, begun
