"""The parts of `hapo run`: lines of DVC, the result, locks and what heals them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Project, eventually
from dvc.fs import LocalFileSystem
from dvc.rwlock import rwlock

from hapo_core.errors import ConfigError, HapoError
from pipeline.config import load_params
from pipeline.run.dvc import Event, is_dvc_line, read_line
from pipeline.run.result import next_steps, result_table
from pipeline.run.supervisor import Supervisor
from pipeline.system.dvc_state import heal_lockfile, heal_rwlock, keep_lockfile, writers
from pipeline.system.locks import Patience, WaitStopped, run_lock
from pipeline.system.project import find_root


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("Running stage 'train@2':", Event("running", "train@2")),
        ("Stage 'curate' didn't change, skipping", Event("skipped", "curate")),
        (
            "Stage 'base' is cached - skipping run, checking out outputs",
            Event("skipped", "base"),
        ),
        ("train@2  round 1/2", None),
    ],
)
def test_lines_of_dvc(line: str, event: Event | None) -> None:
    assert read_line(line) == event
    assert is_dvc_line(line) == (event is not None)


def test_result_table() -> None:
    number = {"avg": 0.05, "n": 64, "k": 8, "ci": [0.03, 0.075]}
    summary = {"method": "hapo", "profile": "quickstart", "seed": 0, "rounds": 60}
    summary |= {"base": {"held_out": number}, "final": {"held_out": {**number, "avg": None}}}
    assert result_table(summary).splitlines() == [
        "method hapo, profile quickstart, 60 rounds, seed 0",
        "benchmark  base              final  change  n   k",
        "held_out   5.0 % [3.0, 7.5]  -      -       64  8",
    ]


def test_the_result_shows_every_benchmark_and_falls_in_red() -> None:
    up, down = {"avg": 0.5, "n": 8, "k": 1}, {"avg": 0.25, "n": 8, "k": 1}
    summary = {"base": {"a": up, "b": down, "c": up}, "final": {"a": down, "b": up, "c": up}}
    plain = result_table(summary).splitlines()[2:]
    assert [line.split()[5:-2] for line in plain] == [["-25.0", "fell"], ["+25.0"], ["+0.0"]]
    red = result_table(summary, colour=True).splitlines()[2:]
    assert [line.startswith("\x1b[31m") for line in red] == [True, False, False]


def test_an_alarm_is_the_last_line_in_red() -> None:
    number = {"avg": 0.5, "n": 8, "k": 1}
    summary = {"base": {"a": number}, "final": {"a": number}, "alarm": {"sentence": "Alarm in 3."}}
    assert result_table(summary).splitlines()[-1] == "Alarm in 3."
    assert result_table(summary, colour=True).endswith("\x1b[31mAlarm in 3.\x1b[0m")


def test_a_change_that_chance_may_have_made_is_no_fall() -> None:
    """The last lines and the report's sentence are of one mind."""
    before, after = {"avg": 0.05, "n": 60, "k": 1}, {"avg": 0.025, "n": 60, "k": 1}
    for outcome, said in (("unclear", "-2.5 not clear"), ("lower", "-2.5 fell")):
        summary = {"base": {"a": before}, "final": {"a": after}}
        summary |= {"difference": {"a": {"outcome": outcome, "p_value": 0.5}}}
        line = result_table(summary, colour=True).splitlines()[2]
        assert said in line and line.startswith("\x1b[31m") == (outcome == "lower")


def test_what_to_do_next(tmp_path: Path) -> None:
    from small import PARAMS

    (tmp_path / "params.yaml").write_text(PARAMS)
    text = next_steps(load_params(tmp_path / "params.yaml"))
    for command in ("hapo samples", "--methods hapo grpo", "hapo segments 3 --rounds 20"):
        assert command in text


HINTS = [
    "",
    "To track the changes with git, run:",
    "",
    "\tgit add dvc.lock artifacts/.gitignore",
    "",
    "To enable auto staging, run:",
    "",
    "\tdvc config core.autostage true",
    "Use `dvc push` to send your updates to remote storage.",
    "",
]


def test_hints_of_dvc_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor()
    lines = ["Running stage 'report':", "report  done", *HINTS[1:-1], "report  more", "", "\tx"]
    for line in lines:
        supervisor._line(line)
    shown = capsys.readouterr().out.split("\n")
    assert shown[:-1] == ["Running stage 'report':", "report  done", "report  more", "", "\tx"]


def test_a_disk_that_fills_while_dvc_commits_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's own line, as it prints it when its copy of an artifact finds no room."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "artifacts/policy/2").mkdir(parents=True)
    (tmp_path / "artifacts/policy/2/weights").write_bytes(b"x" * 5_000_000)
    supervisor = Supervisor()
    supervisor._line("Running stage 'train@2':")
    supervisor._line("ERROR: unexpected error - [Errno 28] No space left on device: 'cache'")
    assert "5.0 MB are needed" in str(supervisor.full) and "missing" in str(supervisor.full)
    assert "the same command continues" in str(supervisor.full)
    other = Supervisor()
    other._line("ERROR: failed to reproduce 'train@2'")
    assert other.full is None


def test_root_is_found_from_below(project: Project, tmp_path: Path) -> None:
    assert find_root(project.path / "hapo_core" / "methods") == project.path
    with pytest.raises(ConfigError, match="no hapo project"):
        find_root(tmp_path)


def test_rwlock_is_healed(tmp_path: Path) -> None:
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    assert heal_rwlock(tmp_path) == []
    path.parent.mkdir(parents=True)
    for torn in ("", '{"a": ', "[]"):
        path.write_text(torn)
        assert heal_rwlock(tmp_path) and not path.exists()
    command = [sys.executable, "-c", "import time; time.sleep(60)", "dvc"]
    with subprocess.Popen(command) as living:
        said = Path(f"/proc/{living.pid}/cmdline")
        eventually(lambda: b"sleep" in said.read_bytes())  # for a moment after exec it is empty
        entry = {"pid": living.pid, "cmd": "dvc repro"}
        dead = {"pid": 999999999, "cmd": "dvc repro"}
        other = {"pid": 1, "cmd": "an id that was given to another program"}
        path.write_text(
            json.dumps(
                {
                    "write": {"a": entry, "b": dead},
                    "read": {"a": [dead, entry], "b": [dead], "c": [other]},
                }
            )
        )
        assert writers(tmp_path) == {"a": living.pid}
        assert heal_rwlock(tmp_path)
        assert json.loads(path.read_text()) == {"write": {"a": entry}, "read": {"a": [entry]}}
        assert heal_rwlock(tmp_path) == []
        living.kill()


def test_rwlock_is_read_as_dvc_writes_it(tmp_path: Path) -> None:
    fs = LocalFileSystem()
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    with rwlock(str(tmp_path / ".dvc/tmp"), fs, "dvc repro", ["/in"], ["/out"], False):
        text = (tmp_path / ".dvc/tmp/rwlock").read_text()
        assert heal_rwlock(tmp_path)  # this process is no dvc by its command line: dropped
        assert json.loads((tmp_path / ".dvc/tmp/rwlock").read_text()) == {}
        (tmp_path / ".dvc/tmp/rwlock").write_text(text)
    assert set(json.loads(text)["write"]) == {"/out"} and set(json.loads(text)["read"]) == {"/in"}


@pytest.mark.parametrize("torn", ["", "schema: '2.0'\nstages:\n  base:\n    cmd: [", "- 1\n"])
def test_a_torn_lock_file_is_put_back(tmp_path: Path, torn: str) -> None:
    """DVC writes dvc.lock in place; a kill in that moment must not stop the next run."""
    lock = tmp_path / "dvc.lock"
    assert heal_lockfile(tmp_path) == []
    lock.write_text(torn)
    assert "removed" in heal_lockfile(tmp_path)[0] and not lock.exists()
    whole = "schema: '2.0'\nstages:\n  base:\n    cmd: python -m pipeline.base\n"
    lock.write_text(whole)
    keep_lockfile(tmp_path)
    assert heal_lockfile(tmp_path) == []
    lock.write_text(torn)
    keep_lockfile(tmp_path)  # never replaces the good copy
    assert "put back" in heal_lockfile(tmp_path)[0] and lock.read_text() == whole


def test_nothing_is_touched_beside_a_dvc_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An override would be written into params.yaml, and cost the other its stage."""
    monkeypatch.setattr("pipeline.system.locks.DVC_ENDS_SECONDS", 0.2)
    command = [sys.executable, "-c", "import time; time.sleep(60)", "dvc"]
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    with subprocess.Popen(command) as other:
        said = Path(f"/proc/{other.pid}/cmdline")
        eventually(lambda: b"sleep" in said.read_bytes())
        entry = {"write": {"/p/out": {"pid": other.pid, "cmd": "dvc repro"}}}
        (tmp_path / ".dvc/tmp/rwlock").write_text(json.dumps(entry))
        with pytest.raises(HapoError, match=f"DVC works in this project: process {other.pid}"):
            run_lock(tmp_path).__enter__()
        told: list[str] = []
        stop = Patience(told.append, lambda: "enough" if told else None)
        with pytest.raises(WaitStopped):
            run_lock(tmp_path, stop).__enter__()
        assert "this run waits for it" in told[0]
        other.kill()
    with run_lock(tmp_path):  # it has ended
        pass


def test_run_lock_names_the_holder(tmp_path: Path) -> None:
    second = run_lock(tmp_path)
    with run_lock(tmp_path), pytest.raises(HapoError, match=f"process {os.getpid()}"):
        second.__enter__()
    with run_lock(tmp_path):
        pass
