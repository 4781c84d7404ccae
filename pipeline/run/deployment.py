"""The Prefect side of `hapo serve`: a deployment with its schedule, and the runner behind it.

Imported only after the environment is prepared, because importing Prefect takes about a second.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.flows import EntrypointType  # type: ignore[attr-defined]
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule

from hapo_core.errors import ConfigError
from pipeline.flows.names import project_tags
from pipeline.flows.records import drop_schedules
from pipeline.flows.server_home import is_server
from pipeline.run.clock import time_zone
from pipeline.run.flow import hapo
from pipeline.system.processes import children


class _Runner(Runner):
    """Prefect's, which on SIGTERM waits for the run that goes on: here the run is stopped too."""

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        for pid in children():
            if not is_server(pid):  # the server outlives whoever started it
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
        super().handle_sigterm(*args, **kwargs)


class Service:
    """The deployment `hapo/NAME` of a project; `run` waits for its runs and starts them.

    Raises:
        ConfigError: `cron` or `interval` cannot be read.
    """

    def __init__(self, name: str, root: Path, cron: str | None, interval: float | None) -> None:
        self.name = name
        schedules = _schedules(cron, interval)
        self._runner = _Runner(name=name, limit=1, pause_on_shutdown=True)
        made = self._runner.add_flow(
            hapo,
            name=name,
            schedules=schedules,
            paused=False,
            tags=project_tags(root),
            description=f"`hapo run` in {root} on {socket.gethostname()}",
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        self.deployment = cast(UUID, made)  # no coroutine outside of an event loop
        if not schedules:
            asyncio.run(drop_schedules(self.deployment))

    def run(self) -> None:
        """Start one run after the other, until SIGTERM or Ctrl-C."""
        with suppress(KeyboardInterrupt):
            asyncio.run(self._runner.start())


def _schedules(cron: str | None, interval: float | None) -> list[Schedule]:
    if cron is not None:
        try:
            return [Cron(cron, timezone=time_zone(), slug="cron")]
        except ValueError as error:
            raise ConfigError(
                f"no cron schedule: {cron!r}",
                where="--cron",
                remedy="five fields: minute hour day month weekday, e.g. '0 2 * * *'",
            ) from error
    if interval is not None:
        if interval <= 0:
            raise ConfigError("an interval is more than 0 seconds", where="--interval")
        return [Interval(interval, slug="interval")]
    return []
