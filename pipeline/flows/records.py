"""What stands on the server: runs asked for, made, tagged and closed, by a client of its own.

The one module that speaks to the server beside the engine (`flow_run.py`). Every function is a
coroutine for the loop beside the work, and may fail with the server. Imported only where a server
answers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from prefect import Flow, State, Task, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Completed, Crashed, Pending

from pipeline.flows.observer import PARENT, warn

LATE_REASON = "an earlier run of the schedule still waits for its turn and does the same"
_OPEN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.SCHEDULED]
_BEGUN = [StateType.RUNNING, StateType.CANCELLING]
"""Of a top-level run that had a process: one that is scheduled or pending will get its own."""
StateOf = Callable[[FlowRun], State[Any]]


# --- runs and tasks that are made -----------------------------------------------------------------


async def create_flow_run(
    stage: Flow[[], Any], name: str, tags: Sequence[str], deployment: str | None
) -> FlowRun:
    """Create the flow run of `stage`, pending.

    A parent (its id is in the environment) gets a placeholder task, under which the UI shows this
    run; a parent that the server does not know costs a warning.

    Args:
        deployment: the run belongs to this one, which is made where there is none.
    """
    parent = os.environ.get(PARENT)
    placeholder = None
    async with get_client() as client:
        if parent:
            try:
                await client.read_flow_run(UUID(parent))
                placeholder = await _create_task_run(client, parent, name, uuid4().hex, Pending())
            except (ObjectNotFound, PrefectHTTPStatusError, ValueError) as error:
                warn(f"no parent flow run {parent} on this server: {error}")
        if deployment is not None:
            return await client.create_flow_run_from_deployment(
                await _find_deployment(client, stage, deployment, tags),
                name=name,
                tags=list(tags),
                state=Pending(),
            )
        return await client.create_flow_run(
            stage, name=name, tags=list(tags), state=Pending(), parent_task_run_id=placeholder
        )


async def mark_cached(run: UUID, stage: str, key: str) -> None:
    """A task run for a stage that DVC skipped; the same `key` makes no second one."""
    async with get_client() as client:
        state: State[Any] = Completed(name="Cached", message="DVC: unchanged")
        await _create_task_run(client, run, stage, key, state)


async def _create_task_run(
    client: PrefectClient, run: UUID | str, name: str, key: str, state: State[Any]
) -> UUID:
    task = Task(fn=_nothing, name=name)
    made = await client.create_task_run(
        task, flow_run_id=UUID(str(run)), dynamic_key=key, name=name, state=state
    )
    return made.id


async def _find_deployment(
    client: PrefectClient, stage: Flow[[], Any], name: str, tags: Sequence[str]
) -> UUID:
    try:
        return (await client.read_deployment_by_name(f"{stage.name}/{name}")).id
    except ObjectNotFound:
        return await client.create_deployment(
            await client.create_flow(stage),
            name,
            tags=list(tags),
            description="Runs by `hapo run`; `hapo serve` lets the UI start them too.",
        )


def _nothing() -> None:
    """A task without work: a stage's own flow run stands for it, or DVC skipped the stage."""


# --- one run --------------------------------------------------------------------------------------


async def read_state(run: UUID) -> State[Any] | None:
    """The state that the server has."""
    async with get_client() as client:
        return (await client.read_flow_run(run)).state


async def why_failed(run: UUID) -> str | None:
    """The stages below that failed, and what they said."""
    broken = {"type": {"any_": [StateType.FAILED, StateType.CRASHED]}}
    async with get_client() as client:
        below = _where(parent_flow_run_id={"any_": [run]}, state=broken)
        runs = await client.read_flow_runs(flow_run_filter=below)
    said = [f"{r.name}: {r.state.message}" for r in runs if r.state and r.state.message]
    return "\n".join(said) or None


async def add_tags(run: UUID, tags: Sequence[str]) -> None:
    """Beside those that it has: a deployment by prefect.yaml cannot know the project's."""
    async with get_client() as client:
        known = (await client.read_flow_run(run)).tags
        await client.update_flow_run(run, tags={*known, *tags})


async def patch_artifact(artifact: UUID, changed: Mapping[str, Any]) -> None:
    """Not `update_artifact`: that also stores the whole table in an event, every time."""
    async with get_client() as client:
        await client.request("PATCH", "/artifacts/{id}", path_params={"id": artifact}, json=changed)


# --- what a kill left open ------------------------------------------------------------------------


async def close_stale(tags: Sequence[str], is_alive: Callable[[FlowRun], bool]) -> None:
    """Crash the runs of these tags that have begun and whose process is gone."""
    async with get_client() as client:
        begun = _where(tags={"all_": list(tags)}, state={"type": {"any_": _BEGUN}})
        for run in await client.read_flow_runs(flow_run_filter=begun):
            if not is_alive(run):
                await close_children(run.id, lambda _: killed("the stage's process"))
                state = killed("the `hapo run` process")
                await client.set_flow_run_state(run.id, state, force=True)


async def close_children(parent: UUID, state_of: StateOf) -> None:
    """Give the runs below one, and their tasks, a state where they are still open."""
    still_open = {"type": {"any_": _OPEN}}
    async with get_client() as client:
        below = _where(parent_flow_run_id={"any_": [parent]}, state=still_open)
        for run in await client.read_flow_runs(flow_run_filter=below):
            state = state_of(run)
            tasks = await client.read_task_runs(
                flow_run_filter=_where(id={"any_": [run.id]}),
                task_run_filter=TaskRunFilter.model_validate({"state": still_open}),
            )
            for task in tasks:
                await client.set_task_run_state(task.id, state, force=True)
            await client.set_flow_run_state(run.id, state, force=True)


def killed(what: str) -> State[Any]:
    """Of a run that nobody ended."""
    return Crashed(message=f"{what} was killed")


# --- a schedule's runs ----------------------------------------------------------------------------


async def cancel_late(deployment: UUID) -> int:
    """Of a deployment's late scheduled runs with equal parameters leave the first alone.

    Prefect plans a run for every point of a schedule and keeps those that find no free place as
    *Late*; a schedule that is faster than its runs makes an endless line. Its concurrency limits
    (`ConcurrencyLimitConfig`, collision strategy `CANCEL_NEW`) also refuse runs that a person
    starts while another one is at work; hence this. Runs that a person started, or planned for
    later, are never touched.

    Returns:
        How many were cancelled.
    """
    seen: set[str] = set()
    cancelled = 0
    async with get_client() as client:
        for run in await _late(client, deployment):
            what = json.dumps(run.parameters, sort_keys=True, default=str)
            if what in seen:
                await client.set_flow_run_state(run.id, Cancelled(message=LATE_REASON))
                cancelled += 1
            seen.add(what)
    return cancelled


async def _late(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    """The scheduled runs whose time has come, in that order."""
    waiting = _where(
        deployment_id={"any_": [deployment]},
        state={"type": {"any_": [StateType.SCHEDULED]}},
        expected_start_time={"before_": datetime.now(UTC)},
    )
    first = FlowRunSort.EXPECTED_START_TIME_ASC
    found = await client.read_flow_runs(flow_run_filter=waiting, sort=first, limit=200)
    return [run for run in found if run.auto_scheduled]


async def drop_schedules(deployment: UUID) -> None:
    """Those of an earlier `hapo serve` of this name."""
    async with get_client() as client:
        for schedule in await client.read_deployment_schedules(deployment):
            await client.delete_deployment_schedule(deployment, schedule.id)


def _where(**fields: object) -> FlowRunFilter:
    return FlowRunFilter.model_validate(fields)
