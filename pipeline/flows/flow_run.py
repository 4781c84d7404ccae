"""The Prefect side of a stage: its engine in a side thread, its tasks around our calls.

Imported only after the server answered, because importing Prefect takes about a second.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import UUID

from prefect import Flow, State, Task, flow, get_run_logger
from prefect.artifacts import MarkdownArtifact, TableArtifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun as PrefectFlowRun
from prefect.context import FlowRunContext, SyncClientContext
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Failed

from hapo_core.errors import HapoError
from pipeline.flows.flow import flow_of
from pipeline.flows.health import ask, patience, post
from pipeline.flows.logs import drained, prepare_senders
from pipeline.flows.notify import alarm_event
from pipeline.flows.observer import Observer, Once, warn
from pipeline.flows.records import create_flow_run, patch_artifact
from pipeline.system.secrets import hide

T = TypeVar("T")
_START_SECONDS = 4.0
_END_SECONDS = 5.0
_ATTEMPTS = 3
_ASK_EVERY_SECONDS = 2.0
_ASK_AGAIN_SECONDS = 30.0
_stuck = False


def stuck() -> bool:
    """Whether something unsent is left, for a server that answers too slowly or no longer."""
    return _stuck


def run_joined(name: str, api: str, work: Callable[[Observer], T]) -> T:
    """`pipeline.flows.stage.run_stage` where a server answers."""
    joined = FlowRun(name, api)
    observer = Observer(name, joined)
    once = Once(lambda: work(observer))
    joined.start()
    try:
        return once.outcome()
    finally:
        joined.finish(once.error)


class FlowRun:
    """A flow run of this process (`pipeline.flows.observer.Link`).

    The engine runs in a daemon thread. Its flow function only waits for the outcome of the work,
    which the main thread does in a copy of the flow's context.

    Args:
        name: of the flow and the flow run.
        api: address that is asked for its health.
        tags: of the flow run.
        deployment: the run belongs to this one, which is made where there is none: the UI offers
            to cancel only the runs of a deployment.
    """

    def __init__(
        self, name: str, api: str, tags: Sequence[str] = (), deployment: str | None = None
    ) -> None:
        self._deployment = deployment
        self.name, self.api, self.tags = name, api, list(tags)
        self._run: PrefectFlowRun | None = None
        self._over = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context: contextvars.Context | None = None
        self._logger: Any = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._done: asyncio.Event | None = None
        self._final: State[Any] | None = None
        self._lost = self._slow = self._warned = False
        self._asked, self._ask_every = time.monotonic(), _ASK_EVERY_SECONDS
        self._label = ""
        self._grown: dict[str, UUID] = {}
        self._growing = asyncio.Lock()
        self._tasks: dict[str, tuple[Task[..., Any], list[Once[Any]]]] = {}
        self._sending: set[Future[Any]] = set()
        self._adopted = False

    @property
    def run_id(self) -> UUID | None:
        """The flow run, once the server made it."""
        return self._run.id if self._run is not None else None

    @property
    def deployment_id(self) -> UUID | None:
        """The deployment that started the flow run this process was given (`adopt`)."""
        return self._run.deployment_id if self._adopted and self._run is not None else None

    # --- life ---

    def start(self, seconds: float = _START_SECONDS) -> None:
        """Create the flow run; returns when it runs, or after `seconds` (times `patience`)
        without it."""
        prepare_senders(reconnections=1)
        threading.Thread(target=self._engine_thread, name="prefect", daemon=True).start()
        self._started.wait(seconds * patience())
        if not self._started.is_set():
            warn(f"the Prefect server is slow: {self.name} starts before its run is registered")

    def adopt(self) -> None:
        """Use the flow run that this thread is in, instead of creating one."""
        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        prepare_senders()
        self._run, self._adopted = context.flow_run, True
        self._logger = get_run_logger()
        self._context = contextvars.copy_context()
        threading.Thread(target=self._side_thread, name="prefect", daemon=True).start()
        self._started.wait()

    def _side_thread(self) -> None:
        async def stay() -> None:
            self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
            self._started.set()
            await self._done.wait()

        try:
            asyncio.run(stay())
        finally:
            self._ended.set()

    def finish(self, error: BaseException | None, final: State[Any] | None = None) -> None:
        """Close the flow run: Completed, Failed or Cancelled; waits 5 s at most,
        times `patience`."""
        global _stuck
        self._final = final or _final_state(error)
        self._over = True
        end = time.monotonic() + _END_SECONDS * patience()
        healthy = (
            self.ready() if self._lost else ask(self.api, timeout=2.0 * patience()) == "healthy"
        )
        if not healthy and self._context is not None:
            self._lose()
        if self._context is not None and self._loop is not None and self._done is not None:
            if isinstance(error, Exception):
                self._log_error(error)
            if healthy:
                wait(set(self._sending), timeout=_left(end))
                if not self._adopted:  # else the client is the engine's, which still needs it
                    self._context.run(_leave_client)
            self._loop.call_soon_threadsafe(self._done.set)
        if healthy:
            self._ended.wait(_left(end))
            healthy = self._adopted or drained(end)
        _stuck = not healthy

    def _engine_thread(self) -> None:
        try:
            for left in reversed(range(_ATTEMPTS)):
                try:
                    asyncio.run(self._engine())
                    break
                except Exception as error:  # noqa: BLE001  whatever it is: it does not decide
                    if self._context is not None or self._over or not left:
                        self._trouble(error)
                        break
                    time.sleep(1.0)  # a busy server answers 503 (its database was locked)
        finally:
            self._started.set()
            self._ended.set()

    async def _engine(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()

        async def body() -> State[Any] | None:
            if self._context is None:  # a server may ask for a second try: there is none
                self._logger = get_run_logger()
                self._context = contextvars.copy_context()
                self._context.run(_enter_client)
                self._started.set()
                assert self._done is not None
                if not self._over:
                    await self._done.wait()
            return self._final

        kind = flow_of(self.name).name
        decorate = flow(name=kind, validate_parameters=False, persist_result=False, retries=0)
        stage: Flow[[], Any] = decorate(body)
        if self._run is None:
            self._run = await create_flow_run(stage, self.name, self.tags, self._deployment)
        engine = run_flow(stage, flow_run=self._run, return_type="state")
        await cast(Coroutine[Any, Any, Any], engine)

    # --- the link ---

    def ready(self) -> bool:
        """Asks every 2 s, a lost server ever more rarely; one slow answer is forgiven."""
        if self._context is None or self._ended.is_set():
            return False
        now = time.monotonic()
        if now - self._asked > self._ask_every:
            self._asked = now
            health = ask(self.api, timeout=0.25 if self._lost else patience())
            if health == "healthy":
                self._found()
            elif health == "dead" or self._slow:
                self._lose()
            self._slow = health == "slow"
        return not self._lost and not self._slow

    def _lose(self) -> None:
        if self._lost:
            self._ask_every *= 2
            return
        self._lost, self._ask_every = True, _ASK_AGAIN_SECONDS
        if not self._warned:
            self._warned = True
            warn(f"the Prefect server no longer answers: {self.name} goes on without it")

    def _found(self) -> None:
        if self._lost:
            self._warned = False
            warn(f"the Prefect server answers again: {self.name} is shown there again")
        self._lost, self._ask_every = False, _ASK_EVERY_SECONDS

    def _trouble(self, error: BaseException) -> None:
        """Prefect failed at something that is its own business: say so once, ask soon."""
        self._asked = -math.inf
        if not self._warned:
            self._warned = True
            warn(f"Prefect: {type(error).__name__}: {error}; {self.name} goes on")

    def task(self, name: str, once: Once[Any], label: str) -> None:
        assert self._context is not None
        self._label = label
        if name not in self._tasks:
            self._tasks[name] = self._make_task(name)
        task, slot = self._tasks[name]
        slot.append(once)
        try:
            self._context.copy().run(cast(Callable[[], None], task))
        except _Shown:
            pass  # the call's own error is kept in `once`
        except Exception as error:  # noqa: BLE001  whatever Prefect has: it does not decide
            self._trouble(error)
        finally:
            slot.pop()

    def _make_task(self, name: str) -> tuple[Task[..., Any], list[Once[Any]]]:
        slot: list[Once[Any]] = []

        def call() -> None:
            try:
                slot[-1].run()
            except Exception as error:  # noqa: BLE001  its text goes to Prefect, itself to `once`
                raise _Shown(hide(f"{type(error).__name__}: {error}")) from None

        task: Task[..., Any] = Task(
            fn=call,
            name=name,
            task_run_name=lambda: self._label,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=0,
        )
        return task, slot

    def log(self, message: str, level: int) -> None:
        if self._logger is not None and not self._lost:
            self._logger.log(level, message)

    def alarm(self, message: str) -> None:
        """Waits for the server, 2 s at most: once a run, and whether or not it knows this run."""
        run = str(self.run_id) if self.run_id is not None else None
        fault = post(self.api, "/events", [alarm_event(self.name, message, Path(), run)])
        if fault is not None:
            warn(f"the Prefect server did not take the alarm as an event: {fault}")

    def table(
        self, key: str, rows: Sequence[Mapping[str, object]], description: str, grows: bool
    ) -> None:
        table = [dict(row) for row in rows]
        description = hide(description)
        artifact = TableArtifact(key=_key(key), table=table, description=description)
        self.submit(self._grow(artifact) if grows else artifact.acreate())

    async def _grow(self, artifact: TableArtifact) -> None:
        key = artifact.key or ""
        async with self._growing:  # in the order of submission
            known = self._grown.get(key)
            if known is None:
                self._grown[key] = (await artifact.acreate()).id
                return
            changed = {"data": await artifact.aformat(), "description": artifact.description}
            await patch_artifact(known, changed)

    def markdown(self, key: str, text: str) -> None:
        text = hide(text)
        first = text.lstrip("# ").partition("\n")[0]  # what its card on the run's page says
        artifact = MarkdownArtifact(key=_key(key), markdown=text, description=first)
        self.submit(artifact.acreate())

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T] | None:
        """Run a coroutine beside the engine, in the flow's context; a failure loses the link."""
        if self._context is None or self._loop is None or self._loop.is_closed():
            work.close()
            return None
        future = self._context.copy().run(asyncio.run_coroutine_threadsafe, work, self._loop)
        self._sending.add(future)
        future.add_done_callback(self._sent)
        return future

    def _sent(self, future: Future[Any]) -> None:
        self._sending.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            self._trouble(error)

    def _log_error(self, error: Exception) -> None:
        if self._logger is not None and not self._lost:
            unexpected = None if isinstance(error, HapoError) else error
            self._logger.error(str(error), exc_info=unexpected)


class _Shown(Exception):
    """What Prefect is told of a call's error."""


def _final_state(error: BaseException | None) -> State[Any] | None:
    if error is None:
        return None
    if isinstance(error, HapoError):
        return Failed(message=hide(str(error)))
    if isinstance(error, Exception):
        return Failed(message=hide(f"{type(error).__name__}: {error}"))
    return Cancelled(message=f"stopped: {type(error).__name__} {error}")


def _enter_client() -> None:
    """One HTTP client for all tasks of the run instead of one for each."""
    SyncClientContext().__enter__()


def _leave_client() -> None:
    client = SyncClientContext.get()
    if client is not None:
        client.client.__exit__(None, None, None)


def _left(end: float) -> float:
    return max(end - time.monotonic(), 0.1)


def _key(text: str) -> str:
    """Artifact keys hold lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
