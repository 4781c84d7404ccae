"""Where the stages' artifacts lie, from the project's root; dvc.yaml names the same places."""

from __future__ import annotations

import os
from pathlib import Path

ARTIFACTS = Path("artifacts")
DATA = ARTIFACTS / "data"
PROBE = ARTIFACTS / "probe"
"""A copy of the benchmark that training watches: another benchmark is no reason to train again."""
POLICIES = ARTIFACTS / "policy"
BASE = POLICIES / "base"
EVALUATIONS = ARTIFACTS / "evaluation"
TIMINGS = ARTIFACTS / "timings"
SUMMARY = Path("reports/summary.json")
REPORT = Path("reports/report.html")


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home folder; as it is where nobody knows one: a user of that name
    is unknown, or this one has neither HOME nor an entry in the system's list of users.
    (`Path.expanduser` raises there.) What is missing is then told by its name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def output_of(stage: str) -> Path | None:
    """The folder that a stage writes (`train@1`); None for the report and what is no stage."""
    kind, _, key = stage.partition("@")
    folders = {"curate": DATA, "base": BASE, "evaluate": EVALUATIONS / key}
    folders |= dict.fromkeys(("cold_start", "train"), POLICIES / key)
    return folders.get(kind)


def dvc_cache(root: Path = Path()) -> Path:
    """The folder of DVC's cache: `.dvc/cache`, unless its configuration says otherwise.

    Only reads, so that it answers on a full disk too.
    """
    from dvc.config import Config

    own = root / ".dvc"
    return Path(Config(str(own.absolute()))["cache"].get("dir") or own / "cache")
