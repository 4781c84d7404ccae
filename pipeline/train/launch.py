"""Starts the processes of one segment on this machine, watches them, and ends them together.

torch's elastic agent is not used for this: it opens a store on all interfaces for as long as the
processes run (pytorch/pytorch#173909) and hands pickles through it. Here the ranks find one another
through a file in a folder of this user alone; the launcher itself opens no socket.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hapo_core.distributed import STORE, patience
from hapo_core.errors import HapoError
from pipeline.system.processes import die_with_parent, tether

LAUNCHED = "HAPO_LAUNCHED"
"""Environment variable: the id of the process that started this one with `launch`."""
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL, when the ranks are to end."""
_LOOK_SECONDS = 0.05


def is_rank() -> bool:
    """Whether torchrun (or `launch`) started this process as one of several."""
    return "RANK" in os.environ


def stay_with_launcher() -> None:
    """End at once when the process that launched this one ends, however it ends."""
    launcher = os.environ.get(LAUNCHED)
    if launcher is not None:
        die_with_parent()
        if os.getppid() != int(launcher):  # it ended before the kernel was told
            raise SystemExit(128 + signal.SIGKILL)


def launch(processes: int, module: str, *words: str) -> None:
    """Run `python -m MODULE WORDS` in several processes until all have ended.

    One that fails, is killed or stands still ends the others; if this process ends they end too.

    Raises:
        HapoError: one of them failed; its own message is above.
        SystemExit: a signal asked this process to end; the others have ended.
    """
    tether()
    stopped_for = patience().total_seconds()
    # mkdtemp gives the folder the mode 0700: nobody else finds the ranks or takes part.
    with tempfile.TemporaryDirectory(prefix="hapo-ranks-") as folder, _stops() as stops:
        ranks: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(processes):
                if not stops:
                    ranks.append(_start(rank, processes, folder, module, words))
            failure = _watch(ranks, stops, stopped_for)
        finally:
            _end(ranks)
    if failure is not None:
        raise HapoError(
            f"process {failure[0]} of {processes} {failure[1]}; the others were stopped",
            where=f"{module} {' '.join(words)}",
            remedy="its message is above; the same command goes on from the last checkpoint",
        )
    if stops:
        raise SystemExit(128 + stops[0])


def _start(
    rank: int, count: int, folder: str, module: str, words: Sequence[str]
) -> subprocess.Popen[bytes]:
    env = dict(os.environ)
    env.setdefault("OMP_NUM_THREADS", "1")  # each sets its own number of threads
    env |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    env |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    env |= {STORE: f"{folder}/ranks", LAUNCHED: str(os.getpid())}
    return subprocess.Popen(
        [sys.executable, "-u", "-m", module, *words],
        env=env,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches the launcher, which ends them in order
        preexec_fn=die_with_parent,
    )


def _watch(
    ranks: Sequence[subprocess.Popen[bytes]], stops: Sequence[int], stopped_for: float
) -> tuple[int, str] | None:
    """Wait until all have ended well (or a signal came): None. Else (rank, what became of it)."""
    still = [0.0] * len(ranks)
    while not stops:
        codes = [process.poll() for process in ranks]
        failed = [(rank, code) for rank, code in enumerate(codes) if code]
        if failed:
            # A killed one comes first: the others fail because its connections are gone.
            rank, code = min(failed, key=lambda one: (one[1] > 0, one[0]))
            how = (
                f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
            )
            return rank, how
        if all(code == 0 for code in codes):
            return None
        time.sleep(_LOOK_SECONDS)
        for rank, process in enumerate(ranks):
            # Counted in looks, so that the time in which all were stopped together counts little.
            still[rank] = still[rank] + _LOOK_SECONDS if _is_stopped(process.pid) else 0.0
            if still[rank] > stopped_for:
                return rank, f"has been stopped (SIGSTOP) for {stopped_for:g} s"
    return None


def _is_stopped(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
    return False


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to those that still run, SIGKILL to their sessions after the grace."""
    left = [process for process in ranks if process.poll() is None]
    for process in left:
        process.terminate()
    end = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < end and any(process.poll() is None for process in left):
        time.sleep(_LOOK_SECONDS)
    for process in left:
        if process.poll() is None:  # not yet reaped: the group's number is still its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _stops() -> Iterator[list[int]]:
    """Inside, signals that ask this process to end are noted in the list and do nothing else."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = {number: signal.signal(number, note) for number in _STOPS}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
