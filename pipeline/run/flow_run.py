"""The flow run `hapo` above the stages: cached stages, cancelling, and runs that a kill left open.

Imported only where a server answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as WaitTimeoutError
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import State
from prefect.states import Cancelled, Completed, Failed

from pipeline.flows import records
from pipeline.flows.flow import HAPO
from pipeline.flows.flow_run import FlowRun
from pipeline.flows.names import deployment_name, project_tags
from pipeline.run.shown_runs import is_shown, shown_run

T = TypeVar("T")
_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Between the tries to show a cached stage, seconds."""
_WAIT_SECONDS = 3.0
_LATE_SECONDS = 5.0
"""Between two looks at the late runs of the schedule."""
_START_SECONDS = 15.0
"""Longer than a stage waits: the server may have started a moment ago, on a busy machine."""


class RunFlow:
    """The top-level flow run of one `hapo run`. No method raises for the server's sake.

    Args:
        api: a Prefect API that answers.
        root: the project; runs of another project on the same server are left alone.
    """

    def __init__(self, api: str, root: Path) -> None:
        self._root = root.resolve()
        self.tags = project_tags(root)
        self.joined = FlowRun(HAPO.name, api, self.tags, deployment_name(root))
        self._living = ExitStack()
        self._asked: Future[Any] | None = None
        self._done: set[str] = set()
        self._looked = 0.0

    def start(self) -> UUID | None:
        """Begin the run; its id, or None where the server was too slow."""
        self.joined.start(_START_SECONDS)
        self._mark()
        return self.joined.run_id

    def adopt(self) -> UUID | None:
        """Show things on the flow run that this thread is in; whoever started it ends it."""
        self.joined.adopt()
        self._mark()
        if self.joined.run_id is not None:
            self.joined.submit(records.add_tags(self.joined.run_id, self.tags))
        return self.joined.run_id

    def _mark(self) -> None:
        if self.joined.run_id is not None:
            self._living.enter_context(shown_run(str(self.joined.run_id), self._root))

    def sweep(self) -> None:
        """Close what a killed run left open; call it while holding the project's lock."""
        own, root = self.joined.run_id, self._root
        self._wait(
            records.close_stale(self.tags, lambda r: r.id == own or is_shown(str(r.id), root))
        )

    def log(self, message: str) -> None:
        """A line of DVC's for the run's log."""
        self.joined.log(message, 20)

    def cached(self, stage: str) -> None:
        """Show a stage that DVC skipped."""
        self.joined.submit(self._show_cached(stage))

    def finished(self, stage: str) -> None:
        """Note that DVC took the stage's outputs: if its run is still open, it completed."""
        self._done.add(stage)

    def stop_asked(self) -> str | None:
        """What somebody in the UI wants, if the run shall end; asks in the background, never
        waits."""
        if self.joined.run_id is None or not self.joined.ready():
            return None
        self._thin_out()
        if self._asked is None:
            self._asked = self.joined.submit(records.read_state(self.joined.run_id))
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        if asked.cancelled() or asked.exception() is not None:
            return None
        state = asked.result()
        if state is not None and (state.is_cancelling() or state.is_cancelled()):
            return "cancelled from the UI"
        return "suspended from the UI" if state is not None and state.is_paused() else None

    def _thin_out(self) -> None:
        """Where a schedule started this run: let one late run of it wait, not all."""
        deployment = self.joined.deployment_id
        if deployment is not None and time.monotonic() - self._looked > _LATE_SECONDS:
            self._looked = time.monotonic()
            self.joined.submit(records.cancel_late(deployment))

    def finish(self, code: int, stopped: str | None) -> State[Any]:
        """Close the run and whatever a killed stage left open under it; the state it got."""
        run_id = self.joined.run_id
        if run_id is not None and self.joined.ready():
            self._wait(records.close_children(run_id, lambda r: self._state_of(r.name, stopped)))
        final: State[Any] = Completed()
        if stopped is not None:
            final = Cancelled(message=stopped)
        elif code != 0:
            why = self._wait(records.why_failed(run_id)) if run_id is not None else None
            final = Failed(message=why or f"dvc repro ended with status {code}")
        self.joined.finish(None, final)
        self._living.close()
        return final

    def _wait(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the server said; None where it did not in time."""
        future = self.joined.submit(work)
        if future is None:
            return None
        try:
            failed = future.exception(timeout=_WAIT_SECONDS) is not None
        except WaitTimeoutError:
            future.cancel()
            return None
        return None if failed else future.result()

    async def _show_cached(self, stage: str) -> None:
        run_id = self.joined.run_id
        assert run_id is not None
        key = uuid4().hex  # the same at every try: a mark that arrived is not made twice
        for pause in _PAUSES:
            try:
                await records.mark_cached(run_id, stage, key)
                return
            except httpx.HTTPError:  # a busy server: 503, or too slow
                await asyncio.sleep(pause)
        await records.mark_cached(run_id, stage, key)

    def _state_of(self, name: str, stopped: str | None) -> State[Any]:
        if name in self._done:
            return Completed(message="finished; the server did not hear of it")
        if stopped is not None:
            return Cancelled(message=stopped)
        return records.killed("the stage's process")
