"""The flow run's place on the server: under its parent's task, or of a deployment."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from prefect import Task
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow
from prefect.states import Pending

from pipeline.flows.observer import PARENT, warn


async def create_flow_run(
    client: PrefectClient,
    stage: Flow[[], Any],
    name: str,
    tags: Sequence[str],
    deployment: str | None,
) -> FlowRun:
    """Create the flow run of `stage`, pending.

    A parent (its id is in the environment) gets a placeholder task, under which the UI shows this
    run; a parent that the server does not know costs a warning.

    Args:
        deployment: the run belongs to this one, which is made where there is none.
    """
    parent = os.environ.get(PARENT)
    placeholder = None
    if parent:
        try:
            await client.read_flow_run(UUID(parent))
            placeholder = await client.create_task_run(
                Task(fn=_nothing, name=name),
                flow_run_id=UUID(parent),
                dynamic_key=uuid4().hex,
                name=name,
                state=Pending(),
            )
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
        stage,
        name=name,
        tags=list(tags),
        state=Pending(),
        parent_task_run_id=placeholder.id if placeholder else None,
    )


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
    """The placeholder in the parent flow; the stage's own flow run stands for it."""
