"""One grading process as the pool sees it: send a job, wait at most so long, kill, replace."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hapo_core.errors import HapoError
from hapo_core.verify.verdict import VerifierSettings

_START_SECONDS = 120.0
"""Python and sympy must be imported by then, even on a busy machine."""
_PATIENCE, _TICK = 4.0, 0.02
_ROOT = str(Path(__file__).resolve().parents[3])
PROGRAM = [sys.executable, "-m", "hapo_core.verify.workers.worker"]
"""What a worker is started by."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Reply:
    """What came of one attempt: status is "done", "timeout" or "crash"."""

    status: str
    verdict: str = ""
    detail: str = ""


class GradingProcess:
    """A worker process and the child in it that grades. Used by one thread at a time."""

    def __init__(self, settings: VerifierSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._buffer = b""
        self._child: int | None = None
        self._next_id = 0
        self._stopping = False
        self._killed = False

    def attempt(self, gold: str, answer: str, patient: bool = False) -> Reply:
        """Grade one pair within the wall limit; a child that fails is replaced.

        Args:
            patient: the limit counts the child's own processor time, up to four times the wall
                limit, so that a busy machine does not turn a slow pair into a timeout.

        Raises:
            HapoError: the worker process cannot be started at all.
        """
        if self._stopping:
            return Reply("crash", detail="the pool was closed")
        self._ensure_ready()
        self._next_id += 1
        job = {"id": str(self._next_id), "gold": gold, "answer": answer}
        limit = self._settings.timeout_seconds
        deadline, last = time.monotonic() + limit, time.monotonic() + _PATIENCE * limit
        before = self._child_seconds()
        try:
            self._send(job)
            while True:
                reply = self._receive(deadline)
                if reply is None:
                    left = min(limit - (self._child_seconds() - before), last - time.monotonic())
                    if patient and left > _TICK:
                        deadline = time.monotonic() + left
                        continue
                    self._kill_child()
                    return Reply("timeout")
                if "ready" in reply:  # the child that had the job is gone, this is its successor
                    self._child = int(str(reply["ready"]))
                    return Reply("crash", detail="the grader crashed")
                if reply["id"] == job["id"]:
                    break
        except (BrokenPipeError, EOFError):
            self.close()
            return Reply("crash", detail="the worker died")
        if reply.get("leaves"):
            self._child = None
        return Reply("done", str(reply["verdict"]), str(reply["detail"]))

    def pids(self) -> list[int]:
        """The worker and its grading child, while they run."""
        worker = [self._process.pid] if self._process is not None else []
        return worker + ([self._child] if self._child is not None else [])

    def interrupt(self) -> None:
        """Stop whatever runs; the only method for another thread. `close` must follow."""
        self._stopping = True
        process, child = self._process, self._child
        if process is not None:
            process.kill()
        if child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def close(self) -> None:
        """End the worker and its child now, whatever they do."""
        if self._process is None:
            return
        process, self._process, self._buffer = self._process, None, b""
        process.kill()  # its child follows by PR_SET_PDEATHSIG; elsewhere by the next line
        self._kill_child()
        for pipe in (process.stdin, process.stdout, self._log):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()

    def _ensure_ready(self) -> None:
        """Start the worker if there is none; one that is killed while it starts is started anew."""
        try:
            self._await_ready()
        except HapoError:
            if not self._killed or self._stopping:
                raise
            self._await_ready()

    def _await_ready(self) -> None:
        if self._process is None:
            self._start()
        if self._child is not None:
            return
        try:
            while self._child is None:
                reply = self._receive(time.monotonic() + _START_SECONDS)
                if reply is None:
                    raise EOFError
                if "ready" in reply:
                    self._child = int(str(reply["ready"]))
        except EOFError as error:
            story = self._story()
            self._killed = self._ended_by(signal.SIGKILL)
            self.close()
            raise HapoError(
                f"the verification worker did not start: {story}",
                remedy="is math-verify installed, and is memory_mb large enough?",
            ) from error

    def _ended_by(self, number: int) -> bool:
        """Whether the worker, whose pipe has closed, was ended by this signal."""
        if self._process is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        return self._process.returncode == -number

    def _start(self) -> None:
        settings = self._settings
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
        path = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        environment["PYTHONHASHSEED"] = "0"  # sympy orders by hash: one seed, one verdict
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            self._process = subprocess.Popen(
                [*PROGRAM, settings.grader, str(settings.memory_mb), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
                start_new_session=True,  # Ctrl-C is the parent's; it ends its workers itself
                bufsize=0,
            )
        except OSError as error:
            raise HapoError(f"the verification worker cannot be started: {error}") from error
        self._child, self._buffer = None, b""

    def _story(self) -> str:
        if self._log is None:
            return "no message"
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "no message"

    def _child_seconds(self) -> float:
        """Processor time of the child so far; endless where /proc is missing (no patience)."""
        try:
            text = Path(f"/proc/{self._child}/stat").read_text("ascii")
        except OSError:
            return float("inf")
        user, system = text.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def _kill_child(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._child = None

    def _send(self, job: dict[str, str]) -> None:
        assert self._process is not None and self._process.stdin is not None
        body = json.dumps(job).encode("ascii")
        view = memoryview(struct.pack(">I", len(body)) + body)
        while view:
            view = view[self._process.stdin.write(view) or 0 :]

    def _receive(self, deadline: float) -> dict[str, object] | None:
        """The next frame, or None at the deadline. Raises EOFError when the worker is gone."""
        assert self._process is not None and self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            if len(self._buffer) >= 4:
                end = 4 + struct.unpack(">I", self._buffer[:4])[0]
                if len(self._buffer) >= end:
                    body, self._buffer = self._buffer[4:end], self._buffer[end:]
                    frame: dict[str, object] = json.loads(body)
                    return frame
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise EOFError
            self._buffer += part
