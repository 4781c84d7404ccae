"""Ranks start together and end together, whatever ends first: real processes that train nothing."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPO, eventually, long
from listening import listening

from hapo_core.errors import HapoError
from pipeline.system.processes import alive
from pipeline.train import launch as launching
from pipeline.train.launch import launch


@pytest.fixture(autouse=True)
def findable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(REPO / "tests" / "support"))
    monkeypatch.setattr(launching, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def forked(tmp_path: Path) -> Iterator[int]:
    """A launcher of two ranks that go on for ever, the second deaf to SIGTERM; its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            launch(2, "toy_rank", str(tmp_path), "goes", "deaf")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        finally:
            os._exit(code)
    eventually(lambda: len(told(tmp_path)) == 2, 20)
    yield pid


def told(folder: Path) -> dict[int, list[str]]:
    """rank -> id and environment of those that have begun."""
    found = sorted(folder.glob("rank-*"))
    return {int(path.name.removeprefix("rank-")): path.read_text().split() for path in found}


def pids(folder: Path) -> list[int]:
    return [int(words[0]) for words in told(folder).values()]


def test_every_rank_is_told_its_place(tmp_path: Path) -> None:
    launch(3, "toy_rank", str(tmp_path), "0", "0", "0")
    ranks = told(tmp_path)
    assert [ranks[k][1:4] for k in range(3)] == [[str(k), str(k), "3"] for k in range(3)]
    assert len({words[4] for words in ranks.values()}) == 1  # one store
    assert not Path(ranks[0][4]).parent.exists()  # and it is gone


def test_one_that_fails_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(HapoError, match="process 1 of 3 ended with 7; the others were stopped"):
        launch(3, "toy_rank", str(tmp_path), "goes", "7", "deaf")
    assert len(pids(tmp_path)) == 3 and not any(alive(pid) for pid in pids(tmp_path))


def test_one_that_stands_still_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPO_COLLECTIVE_SECONDS", "1")
    with pytest.raises(HapoError, match=r"process 0 of 2 has been stopped \(SIGSTOP\) for 1 s"):
        launch(2, "toy_rank", str(tmp_path), "stops", "goes")
    assert not any(alive(pid) for pid in pids(tmp_path))


@pytest.mark.slow
def test_one_that_hangs_outside_of_the_update_ends_the_stage(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It runs and sleeps while the other waits for it, which it would do for twelve hours."""
    monkeypatch.setenv("HAPO_COLLECTIVE_SECONDS", "2")
    began = time.monotonic()
    with pytest.raises(HapoError, match=r"process 0 of 2 (was killed by SIGTERM|ended with 143)"):
        launch(2, "hanging_rank", "hangs", "waits")
    assert time.monotonic() - began < 60
    told = capfd.readouterr().err
    assert "error: process 0 of 2 has done nothing for 2 s" in told and "hanging_rank.py" in told


@long
def test_one_that_works_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPO_COLLECTIVE_SECONDS", "2")
    launch(2, "hanging_rank", "works", "waits")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_and_is_the_exit_status(
    forked: int, tmp_path: Path, number: signal.Signals
) -> None:
    folder = Path(told(tmp_path)[0][4]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not listening([forked])
    os.kill(forked, number)
    _, status = os.waitpid(forked, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number
    assert not any(alive(pid) for pid in pids(tmp_path))
    assert not folder.exists()


def test_a_killed_launcher_leaves_no_rank(forked: int, tmp_path: Path) -> None:
    began = time.monotonic()
    os.kill(forked, signal.SIGKILL)
    os.waitpid(forked, 0)
    eventually(lambda: not any(alive(pid) for pid in pids(tmp_path)), 10)
    assert time.monotonic() - began < 5
