"""Somebody edits while it runs: what is recorded stays what the result was made with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO, TOY_PARAMS, Project, copy_code, long
from ruamel.yaml import YAML
from tiny_segment import PARAMS, here, start
from told import Listening

from hapo_core.errors import HapoError
from pipeline.artifacts import inputs_hash, read_json
from pipeline.build.device import prepare_compute
from pipeline.config import load_params
from pipeline.dependencies.__main__ import main as renew_all
from pipeline.dependencies.lock import renew
from pipeline.dependencies.provenance import begin
from pipeline.dependencies.variables import ARITHMETIC, arithmetic
from pipeline.flows.observer import Observer
from pipeline.train.segment import Segment, train_segment

__all__ = ["here", "start"]
RATE = "sed -i 's/^update: {learning_rate: 0.001}/update: {learning_rate: 0.01}/' params.yaml"
BACK = "sed -i 's/^update: {learning_rate: 0.01}/update: {learning_rate: 0.001}/' params.yaml"


def attack(project: Project, stage: str, when: str, do: str) -> None:
    """What happens to the project while the next run is in `stage`."""
    (project.path / "edited.flag").unlink(missing_ok=True)
    project.env["TOY_EDIT"] = json.dumps({"stage": stage, "when": when, "do": do})


def run(project: Project, *words: str, check: bool = True) -> str:
    done = project.hapo("run", "--no-server", *words, check=check)
    assert (done.returncode == 0) == check, done.stdout + done.stderr
    return done.stdout + done.stderr


def recorded(project: Project) -> dict[str, Any]:
    """The stages of dvc.lock."""
    lock = project.path / "dvc.lock"
    return dict(YAML(typ="safe").load(lock.read_text())["stages"]) if lock.is_file() else {}


def made(project: Project, stage: str) -> dict[str, Any]:
    return dict(read_json(project.path / f"artifacts/provenance/{stage}.json"))


# --- with DVC -------------------------------------------------------------------------------------


def test_a_rate_edited_in_the_middle_is_never_served(project: Project) -> None:
    """Refused; with the old value it is made; the run cache has no bytes of .001 under .01."""
    attack(project, "train@1", "middle", RATE)
    assert "update.learning_rate: 0.001 -> 0.01" in run(project, "train@2", check=False)
    assert "train@1" not in recorded(project)
    subprocess.run(BACK, shell=True, cwd=project.path, check=True)
    run(project, "train@2")
    assert made(project, "train@2")["parameters"]["update"]["learning_rate"] == 0.001
    project.ran()
    subprocess.run(RATE, shell=True, cwd=project.path, check=True)
    run(project, "train@2")
    assert project.ran() == ["train@1", "train@2"]
    assert made(project, "train@1")["parameters"]["update"]["learning_rate"] == 0.01
    subprocess.run(BACK, shell=True, cwd=project.path, check=True)
    run(project, "train@2")  # the run cache may serve this one
    assert made(project, "train@2")["parameters"]["update"]["learning_rate"] == 0.001


@pytest.mark.parametrize(
    ("do", "said"),
    [
        pytest.param(RATE, "update.learning_rate: 0.001 -> 0.01", marks=long),
        pytest.param(
            "echo 'MORE = 1' >> hapo_core/update.py", "hapo_core.update was edited", marks=long
        ),
        (
            "git checkout -q -b other && sed -i s/hapo/grpo/ params.yaml && "
            "echo 'MORE = 1' >> hapo_core/loss.py && git -c user.name=t -c user.email=t@l commit "
            "-qam other",
            "hapo_core.loss was edited",
        ),
        pytest.param(
            "sed -i 's/prev: \"1\", rounds: 2/prev: base, rounds: 2/' params.yaml",
            "segments.2.prev",
            marks=long,
        ),
    ],
)
def test_an_edit_between_two_segments(project: Project, do: str, said: str) -> None:
    """One `hapo run` never has segments of two settings under one lock."""
    attack(project, "train@1", "end", do)
    assert said in run(project, "train@2", check=False)
    assert "train@2" not in recorded(project)


def test_a_target_swapped_after_dvc_read_it(project: Project) -> None:
    """DVC would record segment 1 as what was measured."""
    project.edit("targets:\n", 'targets:\n  mid: {policy: "1"}\n')
    swap = "sed -i 's/mid: {policy: \"1\"}/mid: {policy: base}/' params.yaml"
    attack(project, "train@1", "end", swap)
    assert "targets.mid.policy: 1 -> base" in run(project, "evaluate@mid", check=False)
    assert "evaluate@mid" not in recorded(project)
    run(project, "evaluate@mid")
    assert made(project, "evaluate@mid")["parameters"]["target"] == {"policy": "base"}


def test_an_edit_while_the_locks_are_made(project: Project) -> None:
    """DVC hashes params.yaml after the stage `deps`: a lock of the values before it would stay."""
    real = project.path / "pipeline/dependencies/lock.py"
    flag = "__import__('pathlib').Path('edited.flag')"
    do = f"__import__('subprocess').run({RATE!r}, shell=True)"
    hook = (
        f"    if not {flag}.exists():\n        {flag}.touch()\n        {do}\n    return changed\n"
    )
    real.write_text(real.read_text().replace("    return changed\n", hook, 1))
    project.dvc("repro", "train@1")
    assert made(project, "train@1")["parameters"]["update"]["learning_rate"] == 0.01


@pytest.mark.slow
def test_clean_records_no_edit_as_what_made_it(finished_project: Project) -> None:
    """Killed in the middle of `hapo clean`; then another params.yaml, then the next run."""
    project = finished_project
    kill = (
        "import os\nfrom pipeline.clean import clean, plan\nfrom pipeline.run import thinning\n"
        "thinning.subprocess.run = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "clean.carry_out(plan.plan(plan.Rules()))"
    )
    assert project.call("pipeline.cli", "status").returncode == 0
    script = project.path / "kill_it.py"
    script.write_text(kill)
    assert project.call("kill_it", check=False).returncode == -9
    project.edit('"1": {prev: base, rounds: 2}', '"1": {prev: base, rounds: 3}')
    project.ran()
    run(project)
    assert {"train@1", "train@2"} <= set(project.ran())
    assert made(project, "train@1")["parameters"]["segment"]["rounds"] == 3


# --- a stage alone --------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with its code, a verifier of the user's and a source file outside; locked."""
    root, outside = tmp_path / "project", tmp_path / "rows.jsonl"
    root.mkdir()
    copy_code(root)
    outside.write_text('{"problem": "1+1", "answer": "2"}\n')
    (root / "mine.py").write_text("from helper import same as grade\n")
    (root / "helper.py").write_text("def same(gold, answer):\n    return gold\n")
    text = TOY_PARAMS.replace("{verifier: exact}", '{verifier: "mine:grade"}')
    mark = "  benchmarks:\n    held_out: {kind: chains"
    rows = f"    rows: {{kind: table, adapter: generic, path: {outside}}}\n"
    (root / "params.yaml").write_text(text.replace(mark, rows + mark, 1))
    monkeypatch.chdir(root)
    renew_all()
    return root


@pytest.mark.parametrize(
    ("stage", "name", "said"),
    [
        ("train@1", "hapo_core/update.py", "hapo_core.update was edited"),
        ("train@1", "pipeline/grading/jobs.py", "pipeline.grading.jobs was edited"),
        ("train@1", "mine.py", "mine was edited"),
        ("curate", "helper.py", "helper was edited"),
        ("curate", "../rows.jsonl", "rows.jsonl was edited"),
        ("evaluate@final", "mine.py", "mine was edited"),
    ],
)
def test_a_file_edited_in_the_middle(code: Path, stage: str, name: str, said: str) -> None:
    """Also with its old time and size, and half-saved."""
    taken, path = begin(stage, load_params()), code / name
    old, facts = path.read_text(), path.stat()
    taken.check()
    taken.unchanged()
    path.write_text(old.swapcase() if path.suffix != ".py" else old + "\nMORE = 1\n")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    for look in (taken.unchanged, taken.check):
        with pytest.raises(HapoError, match=said):
            look()
    path.unlink()
    with pytest.raises(HapoError):
        taken.check()
    path.write_text(old)
    taken.unchanged()
    if path.suffix == ".jsonl":  # what it has read of a source is not known
        with pytest.raises(HapoError, match="jsonl was written, or moved"):
            taken.check()
        taken = begin(stage, load_params())
    taken.check()
    if path.suffix == ".py":
        path.write_text("def half(")
        with pytest.raises(HapoError, match="cannot be read as Python"):
            taken.check()


def test_edited_between_the_process_and_its_lock(code: Path) -> None:
    """The process read params.yaml, then came the edit, then it looked at its lock."""
    params, path = load_params(), code / "params.yaml"
    path.write_text(path.read_text().replace('prev: "1", rounds: 2', 'prev: "1", rounds: 9'))
    with pytest.raises(HapoError, match=r"segment\.rounds: 2 -> 9"):
        begin("train@2", params)
    renew(load_params())
    with pytest.raises(HapoError, match="rounds: 2 -> 9"):
        begin("train@2", params)
    begin("train@2", load_params()).check()


def test_a_lock_replaced_in_the_middle(code: Path) -> None:
    """As a checkout of another branch does: DVC would record the other lock."""
    taken = begin("train@1", load_params())
    lock = code / "deps/train.json"
    lock.write_text(lock.read_text() + " ")
    with pytest.raises(HapoError, match=r"deps/train.json was replaced"):
        taken.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVIDIA_TF32_OVERRIDE", "1"),
        # Measured: both change last bits on this kind of machine, whatever `compute.threads` says.
        ("OMP_THREAD_LIMIT", "1"),
        ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2"),
    ],
)
def test_a_variable_that_chooses_the_arithmetic(
    code: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Recorded, and another one takes up no unfinished work: half a segment in TF32 is neither."""
    monkeypatch.delenv(name, raising=False)
    without = begin("train@1", load_params())
    monkeypatch.setenv(name, value)
    taken = begin("train@1", load_params())
    assert taken.lock["packages"][name] == value
    assert inputs_hash(taken.lock, []) != inputs_hash(without.lock, [])
    with pytest.raises(HapoError, match=rf"{name}: \(none\) -> {value}"):
        without.check()


def test_what_the_stage_sets_itself_is_no_change(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    taken, threads = begin("train@1", load_params()), torch.get_num_threads()
    prepare_compute(load_params().compute)
    torch.set_num_threads(threads)
    assert "CUBLAS_WORKSPACE_CONFIG" in os.environ
    taken.check()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with pytest.raises(HapoError, match=r"CUBLAS_WORKSPACE_CONFIG: \(none\) -> :16:8"):
        taken.check()


def test_variables_are_recorded_by_name_and_no_others() -> None:
    given = dict.fromkeys((*ARITHMETIC, "PYTHONHASHSEED", "OMP_NUM_THREADS", "HF_TOKEN"), "x")
    assert arithmetic(given) == dict.fromkeys(ARITHMETIC, "x")
    assert arithmetic({}) == {}


def test_an_edit_of_nothing_that_counts(code: Path) -> None:
    taken, path = begin("train@1", load_params()), code / "params.yaml"
    path.write_text(path.read_text().replace("profile: toy", "profile: mine") + "# a comment\n")
    update = code / "hapo_core/update.py"
    update.write_text(update.read_text() + "\n# a comment\n")
    taken.unchanged()
    taken.check()


# --- the real training stage ----------------------------------------------------------------------


@pytest.fixture
def real(here: Path) -> Path:
    """Curated data, the starting policy, code of its own, and a verifier of the user's."""
    (here / "data").unlink()
    for package in ("hapo_core", "pipeline"):
        skip = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPO / package, here / package, ignore=skip)
    (here / "mine.py").write_text(
        "from hapo_core.verify.exact import *\n\n\n"
        "def grade(gold, answer):\n    return gold.strip() in answer\n"
    )
    given = {**PARAMS, "method": "hapo", "rewards": {"verifier": "exact", "workers": 1}}
    given["segments"] = {"1": {"prev": "base", "rounds": 4}}
    (here / "params.yaml").write_text(json.dumps(given))
    renew(load_params())
    return here


def artifact() -> dict[str, bytes]:
    folder = Path("artifacts/policy/1")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finished_rounds_stay_for_the_old_values(real: Path) -> None:
    train_segment(load_params(), "1", Observer("train@1"))
    whole = artifact()
    shutil.rmtree("artifacts/policy/1")
    shutil.rmtree(".hapo/scratch")

    # A file of the code: the round in which it was edited is not kept.
    segment = Segment(load_params(), "1", Observer("train@1"))
    path = real / "hapo_core/verify/exact.py"
    old = path.read_text()
    try:
        segment.round(0)
        segment.round(1)
        path.write_text(old + "\nMORE = 1\n")
        with pytest.raises(HapoError, match=r"hapo_core\.verify\.exact was edited"):
            segment.round(2)
    finally:
        segment.close()
    with pytest.raises(HapoError, match="since this run began"):
        Segment(load_params(), "1", Observer("train@1"))
    path.write_text(old)

    # params.yaml: told at once, refused at the end; then put back.
    listening, params = Listening("train@1"), real / "params.yaml"
    segment = Segment(load_params(), "1", listening)
    before = params.read_text()
    try:
        assert segment.done == 2
        segment.round(2)
        params.write_text(before.replace('"learning_rate": 0.001', '"learning_rate": 0.01'))
        segment.round(3)
        assert [x for x in listening.lines if "update.learning_rate: 0.001 -> 0.01" in x]
        with pytest.raises(HapoError, match=r"learning_rate: 0.001 -> 0.01"):
            segment.publish()
    finally:
        segment.close()
    assert not Path("artifacts/policy/1").exists()
    params.write_text(before)
    listening = Listening("train@1")
    train_segment(load_params(), "1", listening)
    assert artifact() == whole
    assert "continues after round 4" in listening.lines

    # The new values start anew and never find the old rounds.
    params.write_text(before.replace('"learning_rate": 0.001', '"learning_rate": 0.01'))
    renew(load_params())
    shutil.rmtree("artifacts/policy/1")
    listening = Listening("train@1")
    train_segment(load_params(), "1", listening)
    assert not [line for line in listening.lines if line.startswith("continues")]
    assert artifact() != whole
    made_with = read_json(Path("artifacts/provenance/train@1.json"))
    assert made_with["parameters"]["update"]["learning_rate"] == 0.01
