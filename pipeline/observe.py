"""Joins a stage to a Prefect run, if a server is there.

Prefect observes, it never decides. The work runs in the main thread, its results are held here,
and the Prefect engine lives in a side thread (`pipeline.joined`) that is waited for only for a
bounded time. A server that is missing, dies or hangs costs a warning and at most a few seconds;
the work is never run twice.
"""

from __future__ import annotations

import atexit
import gc
import http.client
import math
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Generic, Literal, NoReturn, Protocol, TypeVar

from hapo_core.errors import HapoError
from pipeline.process import tether
from pipeline.secrets import hide
from pipeline.store import disk_full

T = TypeVar("T")
API_URL = "PREFECT_API_URL"
PARENT = "HAPO_PARENT_FLOW_RUN"
"""Environment variable: id of the flow run under which a stage's own run nests."""
INTERVAL = "HAPO_PROGRESS_SECONDS"
"""Environment variable: seconds between progress lines (default 5)."""
Health = Literal["healthy", "slow", "dead"]
Fact = float | str | None


# --- what a stage is given ----------------------------------------------------------------------


class Link(Protocol):
    """The Prefect side of an observer (`pipeline.joined.Joined`). None of these raises."""

    def ready(self) -> bool:
        """Whether the server still answers (asked at most every few seconds)."""

    def task(self, name: str, once: Once[T], label: str) -> None:
        """Run `once` as a task run, shown as `label`; on trouble with the server it may be left
        unrun."""

    def log(self, message: str, level: int) -> None:
        """Send a line to the run's log."""

    def table(
        self, key: str, rows: Sequence[Mapping[str, object]], description: str, grows: bool
    ) -> None:
        """Send a table artifact; one that grows replaces what it showed under that key."""

    def markdown(self, key: str, text: str) -> None:
        """Send a Markdown artifact."""


class Once(Generic[T]):
    """A call that happens at most once, and whose outcome is kept whoever made it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._result: T
        self.error: BaseException | None = None

    @property
    def started(self) -> bool:
        return self._call is None

    def run(self) -> None:
        """Make the call, now or never again.

        Raises:
            BaseException: whatever the call raised, then and on every later `run`.
        """
        if self._call is not None:
            call, self._call = self._call, None
            try:
                self._result = call()
            except BaseException as error:  # noqa: BLE001  kept and raised again below
                self.error = error
        if self.error is not None:
            raise self.error

    def outcome(self) -> T:
        """The result; makes the call if nobody did."""
        self.run()
        return self._result


class Observer:
    """What a stage tells about itself while it works: tasks, progress, log lines, artifacts.

    Args:
        stage: the DVC stage's name (`train@2`).
        link: the Prefect side, or None for a plain run.
    """

    def __init__(self, stage: str, link: Link | None = None) -> None:
        self.stage = stage
        self._link = link
        self._first: tuple[float, int] | None = None
        self._printed = -1e9
        self._interval = float(os.environ.get(INTERVAL, "5"))
        self._sent: dict[str, float] = {}
        self.part = ""
        """What the tasks belong to, e.g. a round's number; shown beside their names."""

    def task(self, name: str, fn: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run `fn(*args, **kwargs)` exactly once, in this thread; as a task run when joined.

        Raises:
            BaseException: what `fn` raised, unchanged.
        """
        once = Once(lambda: fn(*args, **kwargs))
        link = self._ready_link()
        if link is not None:
            link.task(name, once, f"{name} {self.part}".rstrip())
        return once.outcome()

    def log(self, message: str, level: int = 20) -> None:
        """Print one line, and send it to the run's log when joined; without credentials."""
        message = hide(message)
        print(f"{self.stage}  {message}", flush=True)
        if self._link is not None:
            self._link.log(message, level)

    def progress(self, done: int, total: int, *, what: str = "round", **facts: Fact) -> None:
        """Report how far the stage is: `train@2  round 17/60  success 12.5 %  left 1m40s`.

        Printed at most every few seconds, and always at the end. Facts are shown in the given
        order, None is skipped, text is shown as it is. Numbers named `*_rate`, `*_share`,
        `success`, `injected`, `dead` or `truncated` are shares in [0, 1] and shown in percent;
        `tokens_per_second` is shown as tok/s; others get four digits.
        """
        now = time.monotonic()
        if self._first is None or done < self._first[1]:
            self._first = (now, done)
        if now - self._printed < self._interval and done < total:
            return
        self._printed = now
        parts = [f"{what} {done}/{total}"]
        parts += [_fact(name, value) for name, value in facts.items() if value is not None]
        since, first = self._first
        if first < done < total:
            parts.append("left " + duration((now - since) / (done - first) * (total - done)))
        self.log("  ".join(parts))

    def table_artifact(
        self, key: str, rows: Sequence[Mapping[str, object]], description: str = ""
    ) -> None:
        """Show a table on the run's page; nothing in a plain run. Never blocks."""
        link = self._ready_link()
        if link is not None:
            link.table(key, rows, description, False)

    def growing_table(
        self,
        key: str,
        rows: Sequence[Mapping[str, object]],
        description: str = "",
        *,
        last: bool = False,
    ) -> None:
        """Show a table that gets longer: one artifact, updated every few seconds and at `last`."""
        now = time.monotonic()
        if not last and now - self._sent.get(key, -math.inf) < self._interval:
            return
        link = self._ready_link()
        if link is not None:
            self._sent[key] = now
            link.table(key, rows, description, True)

    def markdown_artifact(self, key: str, text: str) -> None:
        """Show Markdown on the run's page; nothing in a plain run. Never blocks."""
        link = self._ready_link()
        if link is not None:
            link.markdown(key, text)

    def _ready_link(self) -> Link | None:
        return self._link if self._link is not None and self._link.ready() else None


_SHARES = ("success", "injected", "dead", "truncated")


def _fact(name: str, value: float | str) -> str:
    label = name.removesuffix("_rate").removesuffix("_share").replace("_", " ")
    if isinstance(value, str):
        return f"{label} {value}"
    if name == "tokens_per_second":
        return f"{value / 1000:.1f}k tok/s" if value >= 1000 else f"{value:.0f} tok/s"
    if name in _SHARES or name.endswith(("_rate", "_share")):
        return f"{label} {100 * value:.1f} %"
    return f"{label} {value:.4g}"


def duration(seconds: float) -> str:
    """45s, 1m40s, 2h05m."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


# --- running a stage ----------------------------------------------------------------------------


def run_stage(name: str, work: Callable[[Observer], T]) -> T:
    """Run `work` once and return its result, as a Prefect flow run where a server answers.

    Args:
        name: the DVC stage's name; the flow run gets it, nested under the run that the
            environment variable HAPO_PARENT_FLOW_RUN names.
        work: the stage's plain function; called in this thread.

    Raises:
        BaseException: what `work` raised, unchanged. Prefect adds nothing of its own.
    """
    tether()
    with _sigterm_as_exit():
        api = os.environ.get(API_URL)
        if not api:
            return work(Observer(name))
        if not answers(api) and not answers(api):  # a busy machine gets a second chance
            warn(f"no Prefect server answers at {api}: {name} runs without it")
            return work(Observer(name))
        prepare_environment()
        from pipeline.joined import run_joined

        return run_joined(name, api, work)


def stage_main(main: Callable[[], object]) -> NoReturn:
    """The end of every stage module: `if __name__ == "__main__": stage_main(main)`.

    A HapoError (or a full disk) becomes a message and exit status 2, without a traceback.
    """
    code = guarded(main)
    sys.stdout.flush()
    sys.stderr.flush()
    joined = sys.modules.get("pipeline.joined")
    if joined is not None and joined.stuck():
        # Prefect's own exit hooks would wait for a server that no longer answers.
        os._exit(code)
    sys.exit(code)


def guarded(main: Callable[[], object]) -> int:
    """Call `main` and give its exit status; errors that users can mend become messages."""
    # The interpreter's last collection would visit every object of torch and Prefect: seconds on a
    # busy machine, at the end of each stage and after every Ctrl-C.
    atexit.register(gc.freeze)
    try:
        result = main()
    except HapoError as error:
        print(hide(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has enough; nothing more may be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        full = disk_full(error, Path(error.filename or "."))
        if full is None:
            raise
        print(f"error: {full}", file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


def warn(message: str) -> None:
    """One line on stderr."""
    print(hide(f"warning: {message}"), file=sys.stderr, flush=True)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that worker pools close, instead of cutting it off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- the server, as seen from a stage -----------------------------------------------------------


def ask(api: str, timeout: float = 1.0) -> Health:
    """How a Prefect server at `api` (http://HOST:PORT/api) is; takes `timeout` seconds at most."""
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        request = urllib.request.Request(api.rstrip("/") + "/health", headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            healthy = reply.status == 200 and reply.read(16).strip() == b"true"
            return "healthy" if healthy else "dead"
    except TimeoutError:
        return "slow"
    except urllib.error.URLError as error:
        return "slow" if isinstance(error.reason, TimeoutError) else "dead"
    except (OSError, ValueError, http.client.HTTPException):
        return "dead"


def answers(api: str, timeout: float = 1.0) -> bool:
    """Whether a healthy Prefect server answers at `api`."""
    return ask(api, timeout) == "healthy"


def prepare_environment() -> None:
    """Settings that Prefect must find when it is imported."""
    for key in [k for k in os.environ if k.startswith("PREFECT__")]:
        del os.environ[key]
    os.environ.update(
        PREFECT_CLIENT_MAX_RETRIES="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_INTERNAL_LEVEL="CRITICAL",
        PREFECT_API_REQUEST_TIMEOUT="10",
    )
