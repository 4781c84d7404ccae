"""What sends logs and task states: silent on the screen, without credentials on the server.

Imported only where a server answers.
"""

from __future__ import annotations

import logging
import time
import traceback
from typing import Any

from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from pipeline.system.secrets import hide


class _HideSecrets(logging.Filter):
    """Takes credentials out of what goes to the server's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        record.msg, record.args, record.exc_info = hide(text), (), None
        return True


def drained(end: float) -> bool:
    """Send what is left of logs and task states; whether all of it went out in time."""
    left: set[Any] = set()
    for worker in (APILogWorker, EventsWorker):
        pair = worker.drain_all(timeout=max(end - time.monotonic(), 0.1), at_exit=False)
        left |= pair[1]  # type: ignore[index]  # no loop runs in this thread: (done, not done)
    return not left


def prepare_senders(reconnections: int | None = None) -> None:
    """Our lines are printed by the observer; Prefect's copies go to the server only.

    Args:
        reconnections: how often task states are sent again to a server that is gone; None leaves
            that to a run which is Prefect's own.
    """
    if reconnections is not None:
        EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=reconnections)
    logger = logging.getLogger("prefect")
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_HideSecrets())
    # An error of a task is logged by the flow, a second copy helps nobody.
    logging.getLogger("prefect.task_runs").setLevel(logging.CRITICAL + 1)
    for sender in ("EventsWorker", "APILogWorker"):
        logging.getLogger(sender).setLevel(logging.CRITICAL)
    logging.raiseExceptions = False  # Prefect's log sender would complain about each batch
