"""`hapo clean`: what goes, what stays, and that nothing runs again or is lost for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
from conftest import Project, eventually, long
from tiny import tiny_policy
from torch.optim import AdamW

from hapo_core.errors import DataError, HapoError
from hapo_core.gate import GateState
from pipeline.artifacts import check_manifest, need_part
from pipeline.build.engine import ENGINES
from pipeline.clean.plan import _engines
from pipeline.commands.clean import parse_bytes
from pipeline.train import checkpoint

OPTIMIZER = "artifacts/policy/{}/state/optimizer.safetensors"


def states(project: Project) -> set[str]:
    found = json.loads(project.hapo("status", "--json").stdout)
    return {f"{s['name']} {s['state']}" for s in found["stages"] if s["state"] != "up to date"}


def commit(project: Project, message: str) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["add", "."], ["commit", "-qm", message]):
        subprocess.run([*git, *words], cwd=project.path, check=True)


@long
def test_a_dry_run_explains_and_changes_nothing(finished_project: Project) -> None:
    project = finished_project
    out = project.hapo("clean", "--dry-run").stdout
    (gone,) = [line for line in out.splitlines() if line.startswith("goes")]
    assert OPTIMIZER.format(1) in gone and "segment 1 was continued" in gone
    assert f"{OPTIMIZER.format(2)}  the last segment" in out and "would free" in out
    assert (project.path / OPTIMIZER.format(1)).is_file() and states(project) == set()


def test_an_older_optimizer_goes_and_nothing_runs_again(finished_project: Project) -> None:
    project = finished_project
    commit(project, "whole")
    out = project.hapo("clean").stdout
    assert "segment 1 was continued" in out and f"{OPTIMIZER.format(2)}  the last segment" in out
    folder = project.path / "artifacts/policy/1"
    assert not (project.path / OPTIMIZER.format(1)).exists()
    assert check_manifest(folder, "segment")["facts"]["thinned"] == ["state/optimizer.safetensors"]
    assert states(project) == set()
    project.dvc("repro")
    assert project.ran() == []
    shutil.rmtree(project.path / "artifacts")
    project.dvc("checkout")
    assert (folder / "model/weights").is_file() and not (folder / "state").exists()
    with pytest.raises(HapoError, match="dvc repro -f train@1"):
        need_part(folder, "state/optimizer.safetensors")
    # The commit before still has it: its objects stay, even with the cache cleaned.
    project.hapo("clean", "--cache")
    subprocess.run(["git", "checkout", "-q", "HEAD", "--", "dvc.lock"], cwd=project.path)
    project.dvc("checkout")
    assert (project.path / OPTIMIZER.format(1)).is_file()


def test_damage_in_the_cache_does_not_come_back(finished_project: Project) -> None:
    """One bit of a read-only object: DVC trusts it, so the stage's own bytes are not enough. The
    cache lies where DVC's configuration says."""
    project = finished_project
    (project.path / ".dvc/cache").rename(project.path / "elsewhere")
    project.dvc("cache", "dir", "--local", "elsewhere")
    assert "no object" in project.hapo("clean", "--damaged").stdout
    folder = project.path / "artifacts/policy/2"
    bits = bytearray((folder / "model/weights").read_bytes())
    name = hashlib.md5(bits).hexdigest()
    stored = project.path / f"elsewhere/files/md5/{name[:2]}/{name[2:]}"
    bits[0] ^= 1
    facts = stored.stat()
    stored.chmod(0o644)
    stored.write_bytes(bits)
    stored.chmod(0o444)
    os.utime(stored, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    shutil.rmtree(folder)
    project.dvc("checkout")
    with pytest.raises(DataError, match="hapo clean --damaged"):
        check_manifest(folder)
    assert str(stored) in project.hapo("clean", "--damaged").stdout
    shutil.rmtree(folder)
    project.hapo("run", "--no-server")
    check_manifest(folder)
    assert "train@2" in project.ran()


@long
def test_made_again_it_is_the_same_run(finished_project: Project) -> None:
    project = finished_project
    before = (project.path / "artifacts/policy/2/manifest.json").read_bytes()
    project.hapo("clean")
    project.dvc("repro", "--force", "--single-item", "train@1")
    assert (project.path / OPTIMIZER.format(1)).is_file()
    project.dvc("repro")
    assert (project.path / "artifacts/policy/2/manifest.json").read_bytes() == before


@pytest.mark.slow
def test_a_kill_between_the_folders_and_dvc_is_finished_later(finished_project: Project) -> None:
    project = finished_project
    code = (
        "import os\nfrom pipeline.clean import clean, plan\nfrom pipeline.run import thinning\n"
        "decided = plan.plan(plan.Rules())\n"
        "thinning.subprocess.run = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "clean.carry_out(decided)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.path, env=project.environment(), timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert not (project.path / OPTIMIZER.format(1)).exists() and states(project) != set()
    old = project.path / "artifacts/policy/1"
    old.rename(old.with_name(".1.old.partial"))  # as if killed between the two renames
    done = project.hapo("run", "--no-server")
    assert "finished `hapo clean`: segments 1" in done.stderr
    assert project.ran() == [] and states(project) == set()


@long
def test_what_is_needed_stays(finished_project: Project) -> None:
    """A changed segment 2 starts from segment 1 again: its optimizer state is needed."""
    project = finished_project
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    out = project.hapo("clean").stdout
    assert f"{OPTIMIZER.format(1)}  train@2 is not up to date and needs it" in out
    assert (project.path / OPTIMIZER.format(1)).is_file()


@long
def test_policies_by_rule(finished_project: Project) -> None:
    project = finished_project
    out = project.hapo("clean", "--policies", "last", "--all-optimizers").stdout
    assert not (project.path / "artifacts/policy/1/model").exists(), out
    assert (project.path / OPTIMIZER.format(1)).is_file()
    assert (project.path / "artifacts/policy/2/model/weights").is_file()
    assert states(project) == set()


def test_scratch_and_leftovers(finished_project: Project) -> None:
    project = finished_project
    scratch = project.path / ".hapo/scratch"
    for name, mark in [("train@2-aa", True), ("train@2-bb", False), ("train@9-cc", False)]:
        (scratch / name / "out").mkdir(parents=True)
        if mark:
            (scratch / name / "published").write_text("artifacts/policy/2\n")
    leftover = project.path / "artifacts/policy/.2.partial"
    leftover.mkdir()
    out = project.hapo("clean", "--all-optimizers").stdout
    assert sorted(p.name for p in scratch.iterdir()) == ["train@2-bb"], out
    assert "--unfinished" in out and not leftover.exists()
    project.hapo("clean", "--unfinished")
    assert list(scratch.iterdir()) == []


@long
def test_a_budget_says_what_is_missing(finished_project: Project) -> None:
    done = finished_project.hapo("clean", "--dry-run", "--budget", "1k", check=False)
    assert done.returncode == 1 and "over the budget" in done.stdout
    out = finished_project.hapo("clean", "--budget", "1GB").stdout
    assert "the budget is met without it" in out and "frees 0 B" in out
    assert [parse_bytes(t) for t in ("20GB", "1.5k", "7")] == [20 * 10**9, 1500, 7]
    with pytest.raises(ArgumentTypeError, match="not a size"):
        parse_bytes("much")


@long
def test_the_cache_keeps_every_run_that_something_refers_to(finished_project: Project) -> None:
    """Two commits and the workspace: after `--cache` each of them can still be checked out."""
    project = finished_project
    commit(project, "first")
    first = (project.path / "artifacts/policy/2/model/weights").read_text()
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.dvc("repro")
    commit(project, "second")
    project.edit('{prev: "1", rounds: 3}', '{prev: "1", rounds: 4}')
    project.dvc("repro")
    (project.path / ".dvc/cache/files/md5/00").mkdir(parents=True, exist_ok=True)
    stray = project.path / ".dvc/cache/files/md5/00" / ("0" * 30)
    stray.write_text("nothing refers to this")
    assert "every commit" in project.hapo("clean", "--cache", "--dry-run").stdout
    assert stray.exists()
    project.hapo("clean", "--cache")
    assert not stray.exists()
    shutil.rmtree(project.path / "artifacts")
    project.dvc("checkout")
    git = ["git", "checkout", "-q", "HEAD~1", "--", "dvc.lock", "params.yaml"]
    subprocess.run(git, cwd=project.path, check=True)
    project.dvc("checkout")
    assert (project.path / "artifacts/policy/2/model/weights").read_text() == first


@long
def test_not_while_a_run_goes_on(finished_project: Project) -> None:
    project = finished_project
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.env["TOY_SECONDS"] = "60"
    run = project.start("pipeline.cli", "run", "--no-server")
    log = project.path / "ran.log"
    try:
        eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=60)
        for words in (["clean"], ["clean", "--cache"]):
            done = project.hapo(*words, check=False)
            assert done.returncode == 2 and str(run.pid) in done.stderr
    finally:
        run.kill()
        run.communicate(timeout=30)


def test_a_checkpoint_that_does_not_fit_is_refused_before_it_begins(small_disk: Path) -> None:
    model, tokenizer = tiny_policy()
    optimizer = AdamW(model.parameters())
    states = small_disk / "states"
    with pytest.raises(HapoError, match=r"kB are needed.*kB are missing"):
        for number in range(9):  # the disk has room for one or two at most
            state = states / f"round-{number:05d}"
            checkpoint.write_state(state, model, tokenizer, optimizer, GateState(), number)
    assert all(not p.name.startswith(".") for p in states.iterdir())
    newest = checkpoint.newest_state(small_disk, number, pytest.fail)
    assert newest is not None and newest.name == f"round-{number - 1:05d}"


def test_prefects_files_go_by_rule(finished_project: Project) -> None:
    home = finished_project.path / ".hapo" / "prefect"
    home.mkdir(parents=True)
    for name in ("prefect.db", "prefect.damaged-1.db", "server.log", "server.log.1", "password"):
        (home / name).write_bytes(b"x" * 10_000)
    said = finished_project.hapo("clean", "--dry-run").stdout
    gone = [line for line in said.splitlines() if line.startswith("goes") and "prefect/" in line]
    assert len(gone) == 3 and all("kB" in line for line in gone)
    assert "--history" in said and len(list(home.iterdir())) == 5
    finished_project.hapo("clean")
    assert {path.name for path in home.iterdir()} == {"prefect.db", "password"}
    finished_project.hapo("clean", "--history")
    assert {path.name for path in home.iterdir()} == {"password"}


def test_logs_of_engines_go_by_age_and_size(tmp_path: Path) -> None:
    folder = tmp_path / ENGINES / "train@1"
    (folder / "weights-3").mkdir(parents=True)
    for name, size in (("server-0.log", 9), ("server-1.log", 20_000_000), ("server-2.log", 9)):
        (folder / name).touch()
        os.truncate(folder / name, size)
    (folder / "weights-3" / "model.safetensors").write_bytes(b"x" * 5000)
    os.utime(folder / "server-2.log", (0, 0))
    said = {item.path.name: (goes, item.why) for item, goes in _engines(tmp_path)}
    assert {name for name, (goes, _) in said.items() if goes} == {
        "server-1.log",
        "server-2.log",
        "weights-3",
    }
    assert "over 10.0 MB" in said["server-1.log"][1] and "30 days" in said["server-2.log"][1]
    assert [goes for _, goes in _engines(tmp_path, {"train@1"})] == [False]
    with subprocess.Popen(["sleep", "60"], cwd=folder) as server:
        eventually(lambda: [goes for _, goes in _engines(tmp_path)] == [False], 10)
        server.kill()
