"""Runs one command and lets nothing of it outlive the process that asked for it.

Started by file name with the standard library alone: `python supervise.py PARENT COMMAND...`. It
leads the session that its command runs in. When the command ends, when PARENT is gone
(PR_SET_PDEATHSIG on Linux) or on SIGTERM, the whole process group is killed, so that no engine
process keeps memory or a GPU after the API process in front of it was killed. vLLM's sockets lie
in a folder that goes with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 5.0
_LONGEST = 45
"""Bytes of a folder in which the folder of the sockets is made."""


class _Stop(Exception):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stop


def _short_folder() -> str | None:
    """Where the sockets fit, whose whole paths have 107 bytes at the most: a batch job's TMPDIR may
    be too long. None: the usual folder."""
    usual = os.fsencode(tempfile.gettempdir())
    return "/tmp" if len(usual) > _LONGEST and os.access("/tmp", os.W_OK | os.X_OK) else None


def run(parent: int, command: list[str]) -> int:
    """Run `command`; returns its exit status, and does not return where the group is killed."""
    signal.signal(signal.SIGTERM, _stop)
    # The kernel signals the end of the parent's *thread* as well: only getppid tells them apart,
    # so the signal merely wakes the wait below.
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child: subprocess.Popen[bytes] | None = None
    sockets = tempfile.mkdtemp(prefix="hapo-engine-", dir=_short_folder())
    try:
        if os.getppid() == parent:
            child = subprocess.Popen(command, env={**os.environ, "VLLM_RPC_BASE_PATH": sockets})
        while child is not None and os.getppid() == parent:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(_LOOK_SECONDS)
    except _Stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if child is not None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)
    return 1


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), sys.argv[2:]))
