"""Joins a stage to a Prefect run, if a server is there.

Prefect observes, it never decides. The work runs in the main thread, its results are held here,
and the Prefect engine lives in a side thread (`pipeline.flows.flow_run`) that is waited for only
for a bounded time. A server that is missing, dies or hangs costs a warning and at most a few
seconds; the work is never run twice.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from pipeline.flows.flow import flow_of
from pipeline.system.secrets import hide

T = TypeVar("T")
PARENT = "HAPO_PARENT_FLOW_RUN"
"""Environment variable: id of the flow run under which a stage's own run nests."""
INTERVAL = "HAPO_PROGRESS_SECONDS"
"""Environment variable: seconds between progress lines (default 5)."""
LIVE = "HAPO_PROGRESS_LIVE"
"""Environment variable: set where each progress line takes the place of the one before."""
Fact = float | str | None


# --- what a stage is given ----------------------------------------------------------------------


class Link(Protocol):
    """The Prefect side of an observer (`pipeline.flows.flow_run.FlowRun`). None of these raises."""

    def ready(self) -> bool:
        """Whether the server still answers (asked at most every few seconds)."""

    def task(self, name: str, once: Once[T], label: str) -> None:
        """Run `once` as a task run, shown as `label`; on trouble with the server it may be left
        unrun."""

    def log(self, message: str, level: int) -> None:
        """Send a line to the run's log."""

    def alarm(self, message: str) -> None:
        """Emit the event that automations of the server wait for (`pipeline.flows.notify`)."""

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
        self._stays, self._tenth = LIVE not in os.environ, -1
        self._sent: dict[str, float] = {}
        self.part = ""
        """What the tasks belong to, e.g. a round's number; shown beside their names."""

    def task(self, name: str, fn: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Run `fn(*args, **kwargs)` exactly once, in this thread; as a task run when joined.

        Raises:
            ValueError: `pipeline.flows.flow` declares no such task of this stage.
            BaseException: what `fn` raised, unchanged.
        """
        flow_of(self.stage).check_task(name)
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

    def alarm(self, message: str) -> None:
        """Print and log a warning that somebody must hear, and emit it as an event."""
        self.log(message, 30)
        if self._link is not None:
            self._link.alarm(hide(message))

    def progress(
        self, done: int, total: int, *, what: str = "round", lines: int = 0, **facts: Fact
    ) -> None:
        """Report how far the stage is: `train@2  round 17/60  success 12.5 %  left 1m40s`.

        `lines`: about so many in all, where they stay on the screen; 0 does not count them.
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
        tenth = done * lines // total
        if lines and self._stays and tenth == self._tenth and done < total:
            return
        self._printed, self._tenth = now, tenth
        parts = [f"{what} {done}/{total}"]
        parts += [_fact(name, value) for name, value in facts.items() if value is not None]
        since, first = self._first
        if first < done < total:
            parts.append("left " + brief((now - since) / (done - first) * (total - done)))
        self.log("  ".join(parts))

    def table_artifact(
        self, key: str, rows: Sequence[Mapping[str, object]], description: str = ""
    ) -> None:
        """Show a table (a declared artifact) on the run's page; nothing in a plain run. Never
        blocks."""
        flow_of(self.stage).check_artifact(key)
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
        flow_of(self.stage).check_artifact(key)
        now = time.monotonic()
        if not last and now - self._sent.get(key, -math.inf) < self._interval:
            return
        link = self._ready_link()
        if link is not None:
            self._sent[key] = now
            link.table(key, rows, description, True)

    def markdown_artifact(self, key: str, text: str) -> None:
        """Show Markdown (a declared artifact) on the run's page; nothing in a plain run. Never
        blocks."""
        flow_of(self.stage).check_artifact(key)
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


def brief(seconds: float) -> str:
    """45s, 1m40s, 2h05m."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


# --- running a stage ----------------------------------------------------------------------------


def warn(message: str) -> None:
    """One line on stderr."""
    print(hide(f"warning: {message}"), file=sys.stderr, flush=True)
