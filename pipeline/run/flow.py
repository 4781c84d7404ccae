"""The flow behind `hapo serve` and prefect.yaml: `hapo run` with parameters from the UI.

Prefect starts it as a process of its own, in the project's folder, and tells it which flow run it
is. Imported only by Prefect and by `pipeline.run.deployment`. No postponed annotations here:
Prefect makes the UI's form of them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import State, flow
from prefect.states import Failed

from hapo_core.errors import HapoError
from pipeline.config import profiles
from pipeline.flows.flow import HAPO
from pipeline.flows.health import API_URL, prepare_environment
from pipeline.run.flow_run import RunFlow
from pipeline.run.request import Request
from pipeline.run.supervisor import Supervisor, exclusive
from pipeline.system.locks import WaitStopped
from pipeline.system.processes import tether_to
from pipeline.system.project import find_root
from pipeline.system.remedies import in_project_words
from pipeline.system.secrets import hide

_GRACE_SECONDS = 15.0
"""For a run whose `hapo serve` or worker ended: to stop its stage and close its runs."""

if TYPE_CHECKING:
    Profile = str
else:  # the shipped profiles, so that the UI offers them by name
    _names = tuple(profiles.names(find_root()))
    Profile = Literal[_names] if _names else str


@flow(name=HAPO.name, flow_run_name=HAPO.name, persist_result=False, retries=0)
def hapo(
    profile: Profile | None = None,
    targets: list[str] = [],  # noqa: B006  Prefect shows it as the form's default
    force: bool = False,
    overrides: list[str] = [],  # noqa: B006
    wait: bool = True,
) -> State[Any]:
    """Run what is not up to date in this project.

    Args:
        profile: Begin with this shipped profile; empty keeps the present params.yaml.
        targets: Stages, e.g. train@2; empty runs the whole graph.
        force: Run the targets (or everything) even if nothing changed.
        overrides: Changes of params.yaml, e.g. update.learning_rate=2e-5; they stay there.
        wait: Wait for a run that holds the project or the device; otherwise fail at once.
    """
    request = Request(
        targets=tuple(targets),
        force=force,
        profile=profile,
        overrides=tuple(overrides),
        person=False,
        wait=wait,
    )
    root = find_root()
    os.chdir(root)
    return _run(request, root)


def _run(request: Request, root: Path) -> State[Any]:
    """`pipeline.run.supervisor.run` on the flow run that this process is; the state it ends
    with."""
    tether_to([os.getppid()], grace=_GRACE_SECONDS)
    api = os.environ[API_URL]
    prepare_environment()
    top = RunFlow(api, root)
    top.adopt()
    supervisor = Supervisor()
    supervisor.show_on(top, api)
    code = 1
    try:
        with supervisor.signals(), exclusive(request, root, supervisor):
            top.sweep()
            code = supervisor.work(request)
    except WaitStopped as stop:
        top.log(hide(str(stop)))
    except HapoError as error:
        top.log(hide(str(in_project_words(error))))
        top.finish(1, supervisor.stopped)
        return Failed(message=hide(str(in_project_words(error))))
    return top.finish(code, supervisor.stopped)
