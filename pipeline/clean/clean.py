"""`hapo clean`: what may go from the disk, why, and what stays; nothing that a run still needs.

Retention: every segment's tables and (by default) policy stay, optimizer states of all segments but
the last may go. A segment that loses a part keeps a manifest that says so, and DVC is told
(`dvc commit`), so that nothing runs again for it. A kill in between is finished by the next
`hapo run` or `hapo clean` (`.hapo/clean.json`).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from pipeline.artifacts import (
    atomic_write_json,
    check_manifest,
    remove,
)
from pipeline.artifacts.places import POLICIES, dvc_cache
from pipeline.checks.status import read_status
from pipeline.clean.plan import Plan
from pipeline.run.thinning import JOURNAL, _readers, finish

# --- carrying it out ----------------------------------------------------------------------------


def carry_out(planned: Plan, root: Path = Path()) -> None:
    """Remove what the plan lets go; call it while holding the run lock.

    Raises:
        HapoError: DVC refused a commit; the next run or clean tries again.
        DataError: a segment differs from its manifest: nothing of it is removed.
    """
    thin: dict[str, list[str]] = {}
    for item in planned.gone:
        if item.segment is not None and item.part is not None:
            thin.setdefault(item.segment, []).append(item.part)
        else:
            remove(item.path)
    if not thin:
        return
    for name in thin:
        check_manifest(root / POLICIES / name, "segment")
    current = [s.name for s in read_status(root).stages if s.state == "up to date"]
    stages = [s for s in current if s in _readers(root, thin)]
    atomic_write_json(root / JOURNAL, {"segments": thin, "stages": stages})
    finish(root)


# --- the cache ----------------------------------------------------------------------------------


def collect_cache(dry: bool, tips: bool, root: Path = Path()) -> tuple[int, str]:
    """`dvc gc` with the widest safe scope: (its exit status, what it said).

    Args:
        dry: only say how much would go.
        tips: keep what the tips of branches, tags and experiments refer to, instead of every
            commit.
    """
    scope = ["--all-branches", "--all-tags"] if tips else ["--all-commits"]
    command = [sys.executable, "-m", "dvc", "gc", "--workspace", *scope, "--all-experiments"]
    done = subprocess.run(
        [*command, "--dry" if dry else "--force"], cwd=root, capture_output=True, text=True
    )
    lines = (done.stdout + done.stderr).splitlines()
    # Commits before the first run have no dvc.lock and refer to nothing; DVC warns of each output.
    said = [line for line in lines if line and "is missing version info" not in line]
    return done.returncode, "\n".join(said)


def damaged_objects(root: Path = Path()) -> list[Path]:
    """The objects of DVC's cache whose bytes do not have the md5 that they are named by.

    DVC itself trusts an object that is read-only, and would bring the damage back at every
    checkout, even after the stage has made the right bytes again.
    """
    found = []
    for path in sorted((dvc_cache(root) / "files/md5").glob("[0-9a-f][0-9a-f]/*")):
        with path.open("rb") as source:
            if hashlib.file_digest(source, "md5").hexdigest() != path.parent.name + path.stem:
                found.append(path)
    return found
