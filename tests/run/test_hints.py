"""What `hapo run` leaves out of DVC's output, and what it keeps."""

from __future__ import annotations

from pipeline.run.dvc import Hints

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
