"""`hapo clean`: what may go from the disk, why, and what stays; nothing that a run still needs.

Retention: every segment's tables and (by default) policy stay, optimizer states of all segments but
the last may go. A segment that loses a part keeps a manifest that says so, and DVC is told
(`dvc commit`), so that nothing runs again for it. A kill in between is finished by the next
`hapo run` or `hapo clean` (`.hapo/clean.json`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.locks import run_lock
from pipeline.places import POLICIES, dvc_cache
from pipeline.retention import Plan, Rules, plan
from pipeline.status import read_status
from pipeline.store import (
    MANIFEST,
    THINNED,
    atomic_write_json,
    check_manifest,
    fsync_folder,
    human_bytes,
    identity,
    read_json,
    remove,
    rewrite_manifest,
)

JOURNAL = Path(".hapo/clean.json")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


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


def finish(root: Path = Path()) -> list[str]:
    """Finish a `carry_out` that was cut off; call it while holding the run lock.

    Returns:
        What was done, in words; empty where there was nothing.
    """
    if not (root / JOURNAL).is_file():
        return []
    journal = read_json(root / JOURNAL)
    for name, parts in journal["segments"].items():
        _thin(root / POLICIES / name, parts)
    for stage in journal["stages"]:
        command = [sys.executable, "-m", "dvc", "commit", "--force", "--quiet", stage]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode != 0:
            raise HapoError(
                f"DVC did not record the smaller segment: {(done.stderr or done.stdout).strip()}",
                where=stage,
                remedy="`hapo clean` again; or `dvc checkout` brings everything back",
            )
    (root / JOURNAL).unlink()
    return [f"finished `hapo clean`: segments {', '.join(journal['segments'])} are smaller now"]


def _readers(root: Path, names: Iterable[str]) -> set[str]:
    """The stages that write or read one of the segments' folders."""
    from dvc.repo import Repo

    folders = [str((root / POLICIES / name).absolute()) for name in names]
    found = set()
    for stage in Repo(str(root)).index.stages:
        paths = [str(x.fs_path) for x in (*stage.outs, *stage.deps)]
        if any(p == f or f.startswith(p + os.sep) for p in paths for f in folders):
            found.add(str(stage.addressing))
    return found


def _thin(folder: Path, parts: Sequence[str]) -> None:
    """Replace the folder by one without the parts, whose manifest names them; doing it twice is
    doing it once."""
    aside = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old.partial")
    if old.exists() and not folder.exists():  # killed between the two renames
        old.rename(folder)
    remove(aside)
    remove(old)
    manifest = read_json(folder / MANIFEST)
    if set(parts) <= set(manifest["facts"].get(THINNED, [])):
        return
    gone = {folder / part for part in parts}
    shutil.copytree(
        folder,
        aside,
        copy_function=os.link,
        ignore=lambda at, names: [n for n in names if Path(at, n) in gone or n == MANIFEST],
    )
    rewrite_manifest(aside, manifest, parts, identity(folder))
    folder.rename(old)
    aside.rename(folder)
    fsync_folder(folder.parent)
    remove(old)


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


# --- the command --------------------------------------------------------------------------------


def parse_bytes(text: str) -> int:
    """20GB, 500M, 1.5 t.

    Raises:
        ConfigError: not a size.
    """
    match = re.fullmatch(r"([\d.]+)\s*([kmgt]?)b?", text.strip().lower())
    try:
        return int(float(match[1]) * _UNITS[match[2]]) if match else _no_size(text)
    except ValueError:
        return _no_size(text)


def _no_size(text: str) -> int:
    raise ConfigError(f"{text!r} is not a size", where="--budget", remedy="20GB, 500M")


def show(planned: Plan, dry: bool) -> str:
    """The plan as text."""
    lines = []
    for head, items in (("goes ", planned.gone), ("stays", planned.kept)):
        lines += [f"{head}  {human_bytes(i.bytes):>9}  {i.path}  {i.why}" for i in items]
    verb = "would free" if dry else "frees"
    lines.append(
        f"{verb} {human_bytes(planned.freed)} of {human_bytes(planned.used)} "
        "(artifacts, cache, scratch, copies)"
    )
    if any(item.segment for item in planned.gone):
        lines.append(
            "their copies in DVC's cache go with `hapo clean --cache`, unless a commit or an "
            "experiment refers to them"
        )
    if planned.missing:
        lines.append(
            f"still {human_bytes(planned.missing)} over the budget: `--policies best` or `last`, "
            "`--unfinished`, `--cache` may free more"
        )
    return "\n".join(lines)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo clean`."""
    parser = subparsers.add_parser("clean", help="free disk space by rules; loses no run")
    parser.add_argument("--dry-run", action="store_true", help="explain, and change nothing")
    parser.add_argument("--budget", type=parse_bytes, help="stop as soon as this much is kept")
    parser.add_argument("--policies", choices=("every", "best", "last"), default="every")
    parser.add_argument("--metric", default="probe_avg", help="column that says which is best")
    parser.add_argument("--all-optimizers", action="store_true", help="keep optimizer states")
    parser.add_argument("--unfinished", action="store_true", help="also work to be continued")
    parser.add_argument("--cache", action="store_true", help="DVC's cache instead (dvc gc)")
    parser.add_argument("--damaged", action="store_true", help="only what DVC's cache has wrong")
    parser.add_argument("--tips", action="store_true", help="--cache: forget older commits")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.run import find_root

    os.chdir(find_root())
    with run_lock():
        for line in finish():
            print(line)
        if options.damaged:
            return _clean_damaged(options.dry_run)
        if options.cache:
            return _clean_cache(options)
        rules = Rules(
            options.policies,
            options.all_optimizers,
            options.metric,
            options.unfinished,
            options.budget,
        )
        planned = plan(rules)
        print(show(planned, options.dry_run))
        if not options.dry_run:
            carry_out(planned)
        return 1 if planned.missing else 0


def _clean_cache(options: argparse.Namespace) -> int:
    kept = "the tips of branches and tags" if options.tips else "every commit"
    print(f"keeps what the workspace, {kept} and all experiments refer to; remotes are not touched")
    code, said = collect_cache(options.dry_run, options.tips)
    print(said)
    return code


def _clean_damaged(dry: bool) -> int:
    found = damaged_objects()
    for path in found:
        print(f"{'would go' if dry else 'goes'}  {path}  its bytes have another md5")
        if not dry:
            remove(path)
    print(
        "delete the artifact that an error named, then `hapo run`: DVC makes it again"
        if found
        else "no object of DVC's cache is damaged"
    )
    return 0
