"""Late runs of a schedule: one waits, the others are cancelled.

Prefect plans a run for every point of a schedule and keeps those that find no free place as
*Late*; a schedule that is faster than its runs makes an endless line. Its concurrency limits
(`ConcurrencyLimitConfig`, collision strategy `CANCEL_NEW`) also refuse runs that a person starts
while another one is at work; hence this. Imported only where a server answers.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

REASON = "an earlier run of the schedule still waits for its turn and does the same"
_WAITING = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))


async def cancel_late(deployment: UUID) -> int:
    """Of a deployment's late scheduled runs with equal parameters leave the first alone.

    Runs that a person started, or planned for later, are never touched.

    Returns:
        How many were cancelled.
    """
    seen: set[str] = set()
    cancelled = 0
    async with get_client() as client:
        for run in await _late(client, deployment):
            what = json.dumps(run.parameters, sort_keys=True, default=str)
            if what in seen:
                await client.set_flow_run_state(run.id, Cancelled(message=REASON))
                cancelled += 1
            seen.add(what)
    return cancelled


async def _late(client: PrefectClient, deployment: UUID) -> list[FlowRun]:
    """The scheduled runs whose time has come, in that order."""
    found = await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[deployment]),
            state=_WAITING,
            expected_start_time=FlowRunFilterExpectedStartTime(before_=datetime.now(UTC)),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
        limit=200,
    )
    return [run for run in found if run.auto_scheduled]
