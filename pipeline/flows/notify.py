"""Who is told: two automations on the Prefect server that call a webhook of somebody's.

They are the server's own (its page "Automations" shows them, and they go on after every run): one
for runs of this project that failed or crashed, one for the event ALARM, which a training stage
emits when the teacher's alarm speaks. Imports Prefect where it is used, not before.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast
from uuid import UUID, uuid4

from hapo_core.errors import HapoError
from pipeline.flows.names import deployment_name, project_tags

if TYPE_CHECKING:
    from prefect.blocks.webhook import Webhook
    from prefect.events.schemas.automations import AutomationCore

ALARM = "hapo.alarm"
"""The event that the teacher's alarm is; its payload has the sentence as `text`."""


def resource(root: Path) -> str:
    """What events of a project name as their resource."""
    return f"hapo.{project_tags(root)[1]}"


def alarm_event(stage: str, text: str, root: Path, run: str | None) -> dict[str, object]:
    """The event of an alarm, as the server's API takes it; `run` is the stage's flow run."""
    about = {"prefect.resource.id": resource(root), "prefect.resource.name": deployment_name(root)}
    of = {"prefect.resource.id": f"prefect.flow-run.{run}", "prefect.resource.role": "flow-run"}
    return {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": ALARM,
        "resource": about,
        "related": [of] if run else [],
        "payload": {"text": f"{stage}: {text}"},
    }


def notify(url: str, root: Path) -> list[str]:
    """Tell `url` of failures and alarms of this project, from now on; a first message is sent.

    Needs PREFECT_API_URL in the environment. An earlier address of the project is replaced.

    Returns:
        What was done, in words.

    Raises:
        HapoError: the address does not take the message; nothing was changed.
    """
    from prefect.blocks.webhook import Webhook
    from prefect.client.orchestration import get_client

    name = deployment_name(root)
    hook = Webhook.model_validate({"url": url, "headers": {"Content-Type": "application/json"}})
    asyncio.run(_greet(hook, name))
    forget(root)
    # Prefect says "UUID or a coroutine": outside of an event loop it is the UUID.
    block = cast(UUID, hook.save(project_tags(root)[1], overwrite=True))
    made = _automations(root, block)
    with get_client(sync_client=True) as client:
        for automation in made:
            client.create_automation(automation)
    return [f"automation  {automation.name}" for automation in made]


def forget(root: Path) -> list[str]:
    """Tell nobody any more; the names of the automations that went."""
    from prefect.client.orchestration import get_client

    gone = []
    with get_client(sync_client=True) as client:
        for name in _names(root):
            for found in client.read_automations_by_name(name):
                client.delete_automation(found.id)
                gone.append(name)
    return gone


def _names(root: Path) -> tuple[str, str]:
    project = deployment_name(root)
    return f"{project}: failed runs", f"{project}: the teacher's alarm"


async def _greet(hook: Webhook, name: str) -> None:
    import httpx

    said = f"hapo: failures and alarms of {name} are told here."
    try:
        answer = await hook.call({"text": said, "content": said, "project": name, "event": "hello"})
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{type(error).__name__}: {error}".replace(hook.url.get_secret_value(), "...")
        raise HapoError(
            f"the address does not take a message: {reason}",
            where="hapo server notify",
            remedy="an address that answers a POST of JSON with 2xx, as the incoming webhooks of "
            "Slack, Mattermost and Discord do",
        ) from error


def _automations(root: Path, block: UUID) -> list[AutomationCore]:
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    failed, alarm = _names(root)
    project = deployment_name(root)
    tag = {"prefect.resource.id": f"prefect.tag.{project_tags(root)[1]}"}
    triggers = {
        failed: (
            EventTrigger.model_validate(
                {
                    "match": {"prefect.resource.id": "prefect.flow-run.*"},
                    "match_related": {**tag, "prefect.resource.role": "tag"},
                    "expect": {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                    "for_each": {"prefect.resource.id"},
                    "posture": Posture.Reactive,
                    "threshold": 1,
                }
            ),
            _payload(
                project,
                "(flow_run.name ~ ' ' ~ flow_run.state.name ~ '. ' "
                "~ (flow_run.state.message or ''))",
                "flow_run.id | string",
            ),
        ),
        alarm: (
            EventTrigger.model_validate(
                {
                    "match": {"prefect.resource.id": resource(root)},
                    "expect": {ALARM},
                    "posture": Posture.Reactive,
                    "threshold": 1,
                }
            ),
            _payload(project, "event.payload.text", "(flow_run.id | string if flow_run else none)"),
        ),
    }
    return [
        AutomationCore(
            name=name,
            description="Made by `hapo server notify`.",
            trigger=trigger,
            actions=[CallWebhook(block_document_id=block, payload=payload)],
        )
        for name, (trigger, payload) in triggers.items()
    ]


def _payload(project: str, said: str, run: str) -> str:
    """The template of the message: JSON with the sentence as Slack and Mattermost (`text`) and
    Discord (`content`) want it."""
    text = f"('hapo ' ~ '{project}' ~ ': ' ~ {said}) | tojson"
    return (
        f'{{"text": {{{{ {text} }}}}, "content": {{{{ {text} }}}}, '
        f'"project": "{project}", "event": {{{{ event.event | tojson }}}}, '
        f'"flow_run": {{{{ {run} | tojson }}}}}}'
    )
