"""The process that grades: `python -m hapo_core.verify.workers.worker KIND MEMORY_MB PARENT_PID`.

It imports the grader once and then forks a child that serves jobs from the inherited pipes. A
child that is killed or crashes is replaced by another fork, in milliseconds instead of the second
that an import of sympy takes. This process has one thread, so the fork is safe; the training
process, with its threads and devices, is never forked.

Frames are a 4-byte big-endian length and ASCII JSON, so that lone surrogates survive.
Down: {"id", "gold", "answer"}. Up: {"ready": pid} once per child, then one
{"id", "verdict", "detail", "leaves"} for each job.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import struct
import sys
from pathlib import Path

from hapo_core.verify.domains import Grader, load_grader
from hapo_core.verify.verdict import Verdict

_EXIT_FRESH = 3
"""A child leaves with this status to be replaced by a fresh one."""
_PR_SET_PDEATHSIG = 1
_EXAMPLES = (
    "\\frac{1}{2}",
    "x=3\\sqrt{2}-\\pi",
    "(1, -2)",
    "\\frac{a x^{2}+b}{2 c_{1}}",
    "\\sin(2 x) e^{-t} \\log_{2} n",
    "\\binom{n}{2} 2^{k}",
    "3R^{2}+M",
    "E_{k}",
    "\\frac{9}{\\pi^{2}}(\\sqrt{3}+3)",
    "x^{4}-x^{3}-13x+3-2i",
)
_DETAIL_LIMIT, _DETAIL_BYTES = 500, 3500
"""Keep every upward frame below PIPE_BUF, so that a kill never leaves half a frame: a character
beyond the basic plane is twelve bytes of ASCII JSON."""


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies (Linux; elsewhere EOF must do)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took effect
        os._exit(1)


class _Pipes:
    """The two pipes to the pool. A grader may print, or start programs that do: what it takes for
    its own standard input and output must not be the frames' (one printed line was read as the
    length of a frame, and the pool waited for ever)."""

    down, up = 0, 1

    @classmethod
    def withdraw(cls) -> None:
        """Move the pipes to descriptors that no program inherits; stdin is empty from here on, and
        stdout leads nowhere (stderr stays the worker's log)."""
        cls.down, cls.up = os.dup(0), os.dup(1)
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def _read_exactly(count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        part = os.read(_Pipes.down, min(count, 1 << 16))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _send(message: dict[str, object]) -> None:
    body = json.dumps(message).encode("ascii")
    os.write(_Pipes.up, struct.pack(">I", len(body)) + body)


def _receive() -> dict[str, str] | None:
    head = _read_exactly(4)
    body = _read_exactly(struct.unpack(">I", head)[0]) if head else None
    return json.loads(body) if body else None


def _attempt(grader: Grader, gold: str, answer: str) -> tuple[str, str, bool]:
    """One job: verdict, detail, and whether the child is still fit for the next."""
    try:
        found: object = grader(gold, answer)
        match found:
            case (Verdict() as verdict, str() as detail):
                return verdict.value, detail, True
        what = f"it returned {found!r:.60}, and a grader returns (Verdict, text)"
        return Verdict.ERROR.value, what, True
    except MemoryError:
        return Verdict.ERROR.value, "memory limit", False
    except RecursionError:
        return Verdict.UNPARSED.value, "nested too deeply", True
    except Exception as error:  # noqa: BLE001 - the boundary of a process that runs plugged code
        return Verdict.ERROR.value, f"{type(error).__name__}: {error}"[:_DETAIL_LIMIT], True


def _memory_ran_out(memory_mb: int) -> bool:
    """Whether the address space came near its limit (Linux). Libraries swallow MemoryError, and a
    verdict reached after one would be a guess."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return False
    peak = next((line for line in status.splitlines() if line.startswith("VmPeak")), "VmPeak: 0 kB")
    return int(peak.split()[1]) > 0.9 * memory_mb * 1024


def _serve(grader: Grader, memory_mb: int) -> int:
    """Grade jobs until the pipe closes; returns the exit status."""
    limit = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    me = os.getpid()
    _send({"ready": me})
    while (job := _receive()) is not None:
        verdict, detail, fit = _attempt(grader, job["gold"], job["answer"])
        if os.getpid() != me:  # the grader forked and came back twice: one of them answers
            os._exit(0)
        if verdict != Verdict.CORRECT.value and _memory_ran_out(memory_mb):
            verdict, detail, fit = Verdict.ERROR.value, "memory limit", False
        detail = detail[:_DETAIL_LIMIT]
        if len(json.dumps(detail)) > _DETAIL_BYTES:
            detail = detail[: _DETAIL_BYTES // 12]
        _send({"id": job["id"], "verdict": verdict, "detail": detail, "leaves": not fit})
        if not fit:
            return _EXIT_FRESH
    return 0


def _warm_up(kind: str, grader: Grader) -> None:
    """Import and build once, before the first fork, what every child would do again."""
    if kind in ("math", "math_any_form", "math_verify"):
        for example in _EXAMPLES:
            grader(example, f"{example}+1")
    elif kind == "reasoning_gym":
        from hapo_core.verify.gym import create

        create("basic_arithmetic", size=1, seed=0)


def main(kind: str, memory_mb: int, parent: int) -> None:
    """Load the grader, then keep one serving child alive until the pipe closes."""
    _die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    _Pipes.withdraw()
    grader = load_grader(kind)
    _warm_up(kind, grader)
    me = os.getpid()
    while True:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _die_with(me)
                status = _serve(grader, memory_mb)
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
