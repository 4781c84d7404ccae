"""`hapo samples`: read what the policy wrote, in the terminal or on a page."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from pipeline.commands.values import count, number


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo samples`."""
    parser = subparsers.add_parser(
        "samples", help="read responses with answer, gold, verdict and what the teacher did"
    )
    parser.add_argument("--round", type=number, metavar="N", help="default: the last one that fits")
    parser.add_argument("--target", metavar="NAME", help="of an evaluated policy, e.g. final")
    parser.add_argument("--benchmark", metavar="NAME", help="with --target; default: the first")
    parser.add_argument(
        "--beside", metavar="NAME", help="with --target: its responses under those of this one"
    )
    parser.add_argument("--prompt", metavar="ID", help="only responses to this problem")
    parser.add_argument(
        "--verdict", action="append", default=[], help="correct, wrong, unparsed, ..."
    )
    parser.add_argument(
        "--injected", action="store_true", help="only traces and the rollouts they replaced"
    )
    parser.add_argument("--limit", type=count, default=5, help="default 5")
    parser.add_argument("--page", action="store_true", help="write reports/samples.html instead")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from hapo_core.errors import ConfigError
    from hapo_core.verify import Verdict
    from pipeline.config import load_params
    from pipeline.config.nearest import nearest
    from pipeline.dependencies.made import as_made
    from pipeline.samples.page import write_page
    from pipeline.samples.select import (
        Wanted,
        beside,
        chosen,
        latest,
        of_evaluation,
        of_one,
        rollout_files,
    )
    from pipeline.samples.text import as_text
    from pipeline.samples.verdicts import with_rules
    from pipeline.system.project import find_root

    os.chdir(find_root())
    made = as_made(load_params())
    params = made.params
    for line in made.differs:
        print(f"note: {line}", file=sys.stderr)
    if options.page:
        print(f"page  {write_page(params).absolute()}")
        return 0
    if options.limit < 1:
        raise ConfigError("nothing to show", where="--limit", remedy="1 or more")
    known = [verdict.value for verdict in Verdict]
    for name in options.verdict:
        if name not in known:
            raise ConfigError(
                f"there is no verdict {name!r}{nearest(name, known)}",
                where="--verdict",
                remedy="one of " + ", ".join(known),
            )
    wanted = Wanted((), options.prompt, tuple(options.verdict), options.injected, options.limit)
    if options.target:
        benchmark = options.benchmark or next(iter(params.evaluate.benchmarks))
        found = chosen(of_evaluation(Path(), options.target, benchmark), wanted)
        if options.beside:
            found = beside(found, of_evaluation(Path(), options.beside, benchmark))
    else:
        files = rollout_files(params)
        number = max(files) if options.round is None else options.round
        if number not in files:
            raise ConfigError(
                f"no rollouts of round {number}",
                where="--round",
                remedy=f"rounds {min(files)} to {max(files)} have some",
            )
        found = latest(files, wanted) if options.round is None else of_one(files, number, wanted)
    if not found:
        where = ", or another target or benchmark" if options.target else ""
        where = where if options.round is None else ", or another round"
        print(f"no response fits; fewer filters{where}")
        return 1
    print(as_text(with_rules(found, params), min(120, shutil.get_terminal_size().columns)))
    return 0
