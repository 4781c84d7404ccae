"""Is this process getting on? A thread looks, and ends a process whose main thread stands still.

Ranks wait for one another for as long as the others work: rank 0 may draw responses for hours.
What none of them may do is to stand still. So each watches itself. A sign of life is `beat()`,
called wherever work that waits for something else (servers, verifiers) gets on, or processor time
of the main thread, or bytes that the process reads and writes. While the main thread waits for
other ranks (`waiting()`), it is they who are watched.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

BUSY = 4
"""How much longer a main thread may compute without a `beat` than it may do nothing at all."""
_LEAST_SHARE = 0.01
"""Of a processor, below which a thread only wakes up now and then."""
_LEAST_BYTES = 64 * 1024
"""Read or written between two looks, below which it is the talk of threads beside the work."""
_GRACE_SECONDS = 10.0
_beats = 0
_waits = 0


def beat() -> None:
    """Note progress: a response, a verdict, a decoding step or a micro-batch is done."""
    global _beats
    _beats += 1


@contextmanager
def waiting() -> Iterator[None]:
    """Inside, the main thread waits for other ranks."""
    global _waits
    _waits += 1
    beat()
    try:
        yield
    finally:
        _waits -= 1
        beat()


class Watch:
    """Looks at one process (`signs`), as often as `look` is called.

    Args:
        seconds: how long nothing may happen.
        signs: beats, whether it waits for others, processor seconds, bytes read and written.
    """

    def __init__(
        self, seconds: float, signs: Callable[[], tuple[int, bool, float, int]], now: float
    ) -> None:
        self.seconds, self.signs = seconds, signs
        self.idle_since = self.busy_since = self.looked = now
        self.before = signs()

    def look(self, now: float) -> str | None:
        """What is wrong, or None."""
        before, self.before = self.before, self.signs()
        span, self.looked = now - self.looked, now
        beats, waits, cpu, moved = self.before
        was_stopped = span > self.seconds / 2  # this process itself: it starts afresh
        if was_stopped or beats != before[0] or waits:
            self.idle_since = self.busy_since = now
        elif cpu - before[2] > _LEAST_SHARE * span or moved - before[3] > _LEAST_BYTES:
            self.idle_since = now
        if now - self.idle_since > self.seconds:
            return f"has done nothing for {now - self.idle_since:.0f} s"
        if now - self.busy_since > BUSY * self.seconds:
            return f"has computed for {now - self.busy_since:.0f} s without getting on"
        return None


def watch_main_thread(name: str, seconds: float, finished: threading.Event) -> threading.Thread:
    """Start the thread that ends this process if its main thread stands still for `seconds`, until
    `finished` is set. It says where, asks with SIGTERM, and after some seconds asks no more."""
    main = threading.main_thread()
    clock = time.pthread_getcpuclockid(main.ident or 0)

    def signs() -> tuple[int, bool, float, int]:
        return _beats, _waits > 0, time.clock_gettime(clock), _bytes_moved()

    def watching() -> None:
        watch = Watch(seconds, signs, time.monotonic())
        while not finished.wait(min(5.0, seconds / 20)):
            problem = watch.look(time.monotonic())
            if problem is not None:
                _end(name, problem, main)

    thread = threading.Thread(target=watching, name="heartbeat", daemon=True)
    thread.start()
    return thread


def _end(name: str, problem: str, main: threading.Thread) -> None:
    frame = sys._current_frames().get(main.ident or 0)
    where = "".join(traceback.format_stack(frame)[-3:]) if frame is not None else ""
    said = f"error: {name} {problem}; it is ended, so that the others need not wait. It stands at\n"
    sys.stderr.write(said + where)
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os._exit(1)


def _bytes_moved() -> int:
    moved = 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, count = line.partition(":")
            moved += int(count) if name in ("rchar", "wchar", "read_bytes") else 0
    return moved
