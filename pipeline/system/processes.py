"""Processes that do not outlive the one that needs them, and are ended within a known time."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

RUN_PID = "HAPO_RUN_PID"
"""Environment variable: the `hapo run` process that a stage belongs to."""
_SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 5.0
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills the child when the thread that started it ends (Linux)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def tether() -> None:
    """End this process when the DVC (or `hapo run`) process that started it is gone.

    PR_SET_PDEATHSIG covers one generation only, and DVC puts a shell between itself and the
    stage, so a daemon thread waits on a pidfd of each ancestor up to DVC. A stage that a person
    starts by hand is left alone.
    """
    if "DVC_STAGE" not in os.environ and RUN_PID not in os.environ:
        return
    watched = list(_ancestors())
    if RUN_PID in os.environ:
        watched.append(int(os.environ[RUN_PID]))
    tether_to(watched)


def tether_to(pids: list[int], grace: float = _GRACE_SECONDS) -> None:
    """End this process when one of these is gone: SIGTERM, and SIGKILL `grace` seconds later."""
    arguments = (pids, grace)
    threading.Thread(target=_wait_for_death, args=arguments, name="tether", daemon=True).start()


def _ancestors() -> Iterable[int]:
    parent = os.getppid()
    yield parent
    with suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() in _SHELLS:
            yield int(Path(f"/proc/{parent}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _wait_for_death(pids: list[int], grace: float) -> None:
    try:
        handles = [os.pidfd_open(pid) for pid in pids]
    except ProcessLookupError:
        handles = []  # one is gone already
    except (AttributeError, OSError):  # another kernel: look now and then
        while all(alive(pid) for pid in pids):
            time.sleep(2.0)
    else:
        select.select(handles, [], [])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os.kill(os.getpid(), signal.SIGKILL)


def children() -> list[int]:
    """The processes that this one started and that have not ended (Linux; elsewhere none)."""
    found = []
    for task in Path("/proc/self/task").glob("*/children"):
        found += [int(pid) for pid in task.read_text().split()]
    return found


def works_in(folder: Path) -> bool:
    """Whether a process has this folder, or one below it, as its working directory (Linux)."""
    inside = folder.resolve()
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):
            if entry.readlink().is_relative_to(inside):
                return True
    return False


def alive(pid: int) -> bool:
    """Whether a process of this id runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return True


def stop_group(process: subprocess.Popen[bytes], waits: tuple[float, float] = (3.0, 3.0)) -> None:
    """End a process group led by our child `process`: SIGINT, then SIGTERM, then SIGKILL.

    SIGINT first, as Ctrl-C in a terminal would: DVC then lets its stage end and releases its
    locks. Returns when no process of the group is left, at the latest about `sum(waits)` seconds
    later.
    """
    steps = zip((signal.SIGINT, signal.SIGTERM), waits, strict=True)
    if not any(_ends(process.pid, number, wait, process) for number, wait in steps):
        _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def stop_group_of(leader: int, wait: float = 8.0) -> None:
    """End a process group that may not be our child's: SIGTERM, then SIGKILL."""
    if not _ends(leader, signal.SIGTERM, wait, None):
        _signal_group(leader, signal.SIGKILL)


def _ends(group: int, number: int, wait: float, child: subprocess.Popen[bytes] | None) -> bool:
    _signal_group(group, number)
    end = time.monotonic() + wait
    while time.monotonic() < end:
        if child is not None:
            child.poll()  # reap it: a zombie still counts as a member of the group
        else:
            with suppress(ChildProcessError):
                os.waitpid(group, os.WNOHANG)
        if not group_alive(group):
            return True
        time.sleep(0.05)
    return False


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def group_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
