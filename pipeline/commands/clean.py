"""`hapo clean`."""

from __future__ import annotations

import argparse
import os
import re

from pipeline.artifacts import (
    human_bytes,
    remove,
)
from pipeline.clean.clean import carry_out, collect_cache, damaged_objects
from pipeline.clean.plan import Plan, Rules, plan
from pipeline.run.thinning import finish
from pipeline.system.locks import run_lock

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def parse_bytes(text: str) -> int:
    """20GB, 500M, 1.5 t.

    Raises:
        ArgumentTypeError: not a size.
    """
    match = re.fullmatch(r"(\d*\.?\d+|\d+\.)\s*([kmgt]?)b?", text.strip().lower())
    if not match or len(text) > 40:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size; write 20GB or 500M")
    return int(float(match[1]) * _UNITS[match[2]])


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
    parser.add_argument("--history", action="store_true", help="also Prefect's finished runs")
    parser.add_argument("--cache", action="store_true", help="DVC's cache instead (dvc gc)")
    parser.add_argument("--damaged", action="store_true", help="only what DVC's cache has wrong")
    parser.add_argument("--tips", action="store_true", help="--cache: forget older commits")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.system.project import find_root

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
            options.history,
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
    print(re.sub(r"\bRemoved\b", "would remove", said) if options.dry_run else said)
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
