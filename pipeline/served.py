"""The flow behind `hapo serve` and prefect.yaml: `hapo run` with parameters from the UI.

Prefect starts it as a process of its own, in the project's folder, and tells it which flow run it
is. Imported only by Prefect and by `pipeline.deployment`. No postponed annotations here: Prefect
makes the UI's form of them.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefect import flow
from prefect.states import Failed, State

from hapo_core.errors import HapoError
from pipeline import profiles
from pipeline.locks import WaitStopped
from pipeline.observe import API_URL, prepare_environment
from pipeline.process import tether_to
from pipeline.request import Request
from pipeline.run import Supervisor, alone, find_root
from pipeline.secrets import hide
from pipeline.topflow import TopFlow

_GRACE_SECONDS = 15.0
"""For a run whose `hapo serve` or worker ended: to stop its stage and close its runs."""

if TYPE_CHECKING:
    Profile = str
else:  # the shipped profiles, so that the UI offers them by name
    _names = tuple(profiles.names(find_root()))
    Profile = Literal[_names] if _names else str


@flow(name="hapo", flow_run_name="hapo", persist_result=False, retries=0)
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
        wait=wait,
    )
    root = find_root()
    os.chdir(root)
    return _run(request, root)


def _run(request: Request, root: Path) -> State[Any]:
    """`pipeline.run.run` on the flow run that this process is; the state it ends with."""
    tether_to([os.getppid()], grace=_GRACE_SECONDS)
    api = os.environ[API_URL]
    prepare_environment()
    top = TopFlow(api, root)
    top.adopt()
    supervisor = Supervisor()
    supervisor.show_on(top, api)
    code = 1
    try:
        with supervisor.signals(), alone(request, root, supervisor):
            top.sweep()
            code = supervisor.work(request)
    except WaitStopped as stop:
        top.log(hide(str(stop)))
    except HapoError as error:
        top.log(hide(str(error)))
        top.finish(1, supervisor.stopped)
        return Failed(message=hide(str(error)))
    return top.finish(code, supervisor.stopped)
