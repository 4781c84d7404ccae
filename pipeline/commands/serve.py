"""`hapo serve`: a deployment of this project, so that a schedule or the UI starts runs here."""

from __future__ import annotations

import argparse
import os

from hapo_core.errors import ConfigError
from pipeline.commands.values import positive
from pipeline.config.section import checked_name
from pipeline.flows.health import API_URL, prepare_environment
from pipeline.flows.names import deployment_name
from pipeline.flows.server_home import forget_failure
from pipeline.run.clock import time_zone
from pipeline.run.supervisor import connect
from pipeline.system.project import find_root

POLL = "PREFECT_RUNNER_POLL_FREQUENCY"
RETRIES = "PREFECT_CLIENT_MAX_RETRIES"
_POLL_SECONDS = "5"


def serve(cron: str | None, interval: float | None, name: str | None) -> int:
    """Serve the flow `hapo` from the project of the working directory, until stopped.

    One run at a time. The schedule is paused when the service stops, and goes on with the next
    `hapo serve` of the same name.

    Args:
        cron: when, e.g. `0 2 * * *`, in the machine's time zone; None schedules nothing.
        interval: seconds between runs, instead of `cron`.
        name: of the deployment; by default from the project's folder and the machine.

    Raises:
        ConfigError: no project, a name that is none, or `cron` or `interval` cannot be read.
        HapoError: no server answers or starts.
    """
    root = find_root()
    if name is not None:
        try:
            checked_name(name)
        except ValueError as error:
            raise ConfigError(str(error), where="--name") from error
    os.chdir(root)
    # A service is started by a person or with the machine, which is busy then: a server that was
    # too slow last time is tried again.
    forget_failure(root)
    api, ui = connect()
    os.environ[API_URL] = api
    os.environ.setdefault(POLL, _POLL_SECONDS)
    prepare_environment()
    os.environ[RETRIES] = "5"  # no stage waits here: a busy server is asked again
    from pipeline.run.deployment import Service

    service = Service(name or deployment_name(root), root, cron, interval)
    print(f"serves hapo/{service.name}, {_when(cron, interval)}; Ctrl-C ends it")
    print(f"UI      {ui}/deployments/deployment/{service.deployment}", flush=True)
    service.run()
    return 0


def _when(cron: str | None, interval: float | None) -> str:
    if cron is not None:
        return f"scheduled at {cron!r} ({time_zone()})"
    return "runs from the UI only" if interval is None else f"every {interval:g} s"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo serve`."""
    parser = subparsers.add_parser("serve", help="let a schedule, and the UI, start runs here")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--cron", help="e.g. '0 2 * * *', in the machine's time zone")
    when.add_argument("--interval", type=positive, metavar="SECONDS", help="between two runs")
    parser.add_argument("--name", help="of the deployment; default: the folder and the machine")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    return serve(options.cron, options.interval, options.name)
