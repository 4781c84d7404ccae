"""Which Prefect run is shown by a living `hapo run` of this project."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.system.locks import _try

SHOWN = Path(".hapo/shown")


@contextmanager
def shown_run(run_id: str, root: Path = Path()) -> Iterator[None]:
    """Mark the flow run as one of a living process: `is_shown` is true until this one ends."""
    path = root / SHOWN / f"{run_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_shown(run_id: str, root: Path = Path()) -> bool:
    """Whether the process of a flow run of this project is alive, perhaps waiting for a lock."""
    try:
        with (root / SHOWN / f"{run_id}.lock").open("r") as handle:
            return not _try(handle)
    except FileNotFoundError:
        return False
