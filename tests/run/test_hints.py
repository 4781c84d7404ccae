"""What `hapo run` leaves out of DVC's output, and what it keeps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.run.dvc import Hints
from pipeline.run.supervisor import Supervisor

OUTPUT = """\
Stage 'curate' didn't change, skipping
Running stage 'base':
> python -m pipeline.base
base  step 500/500  loss 0.1
Generating lock file 'dvc.lock'
Updating lock file 'dvc.lock'

Running stage 'train@1':
> python -m pipeline.train --segment 1
Traceback (most recent call last):

	a line of somebody's error
ERROR: failed to reproduce 'train@1'
To track the changes with git, run:

	git add dvc.lock

To enable auto staging, run:

	dvc config core.autostage true
Use `dvc push` to send your updates to remote storage.
"""


def test_hints_and_lock_files_are_left_out_and_all_else_is_kept() -> None:
    hints = Hints()
    shown = [line for line in OUTPUT.splitlines() if not hints.is_one(line)]
    assert shown == [
        "Stage 'curate' didn't change, skipping",
        "Running stage 'base':",
        "base  step 500/500  loss 0.1",
        "Running stage 'train@1':",
        "Traceback (most recent call last):",
        "",
        "\ta line of somebody's error",
        "ERROR: failed to reproduce 'train@1'",
    ]


def test_the_runs_log_on_the_server_says_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each stage its last line; nothing of DVC's lock file and commands, no progress before."""
    monkeypatch.chdir(tmp_path)
    logged = list[str]()
    flow: Any = SimpleNamespace(log=logged.append, cached=lambda _: None, finished=lambda _: None)
    supervisor = Supervisor()
    supervisor.flow = flow
    lines = OUTPUT.replace("base  step 500/500", "base  step 1/500  loss 4\nbase  step 500/500")
    for line in lines.splitlines():
        supervisor._line(line)
    assert logged == [
        "Stage 'curate' didn't change, skipping",
        "Running stage 'base':",
        "base  step 500/500  loss 0.1",
        "Running stage 'train@1':",
        "ERROR: failed to reproduce 'train@1'",
    ]
