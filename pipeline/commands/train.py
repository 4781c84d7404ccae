"""`hapo train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.commands.values import count, folder, number
from pipeline.run.request import Request
from pipeline.run.supervisor import run


def add_arguments(parser: argparse._ActionsContainer, *, needed: bool) -> None:
    """The options that say what a project is made from."""
    add = parser.add_argument
    add("--model", required=needed, help="folder of a Hugging Face model, or a hub id")
    add("--data", "--problems", dest="data", type=Path, required=needed, help="problems, answers")
    add("--traces", type=Path, help="file of worked solutions, one a row, joined by id or text")
    add("--test", type=Path, help="problems to measure on; default: some of --data, held out")
    add("--method", default="hapo", help="hapo (default), grpo, ... (docs/methods.md)")
    add("--rounds", type=count, default=20, help="default 20; more than before adds to them")
    add("--seed", type=number, default=0)
    add("--columns", default="", help="of --data, if unclear: problem=THEIRS,answer=THEIRS,id=...")
    add("--traces-columns", default="", help="of --traces: trace=THEIRS,problem_id=THEIRS")
    add("--adapter", help="how rows of --data are read (`hapo data adapters`)")
    add("--mark", help="how solutions mark their answer: box, ####, last_number or a pattern")
    add("--verifier", default="math", help="math (default), exact, or module:function")
    add(
        *("-S", "--set"),
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="set a key of params.yaml, e.g. -S update.learning_rate=2e-5",
    )


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo train`."""
    parser = subparsers.add_parser(
        "train", help="one line from a model and a file of problems to a run of your own"
    )
    add_arguments(parser, needed=True)
    parser.add_argument("--dir", type=folder, default=Path(), help="of the project (default: here)")
    parser.add_argument("--write-only", action="store_true", help="write the project; run nothing")
    parser.add_argument("--no-server", action="store_true", help="without Prefect")
    parser.set_defaults(command=_command)


def write(options: argparse.Namespace, folder: Path) -> list[str]:
    """Make the project that the options ask for, or go on with it; what was done, in words."""
    from pipeline.start.fit import Given
    from pipeline.start.train import Wanted, go_on, is_project, pairs, start

    _check(options)
    given = Given(
        options.data,
        options.traces,
        options.method,
        options.adapter,
        pairs(options.columns, "--columns"),
        pairs(options.traces_columns, "--traces-columns"),
        options.mark,
        options.verifier,
    )
    wanted = Wanted(
        given, options.model, options.rounds, options.seed, options.test, tuple(options.overrides)
    )
    return go_on(folder, wanted) if is_project(folder) else start(folder, wanted)


def _check(options: argparse.Namespace) -> None:
    from hapo_core.errors import ConfigError
    from hapo_core.methods.registry import methods
    from pipeline.config.nearest import nearest

    if options.method not in methods():
        raise ConfigError(
            f"there is no method {options.method!r}{nearest(options.method, list(methods()))}",
            where="--method",
            remedy="one of " + ", ".join(methods()),
        )
    if options.rounds < 1:
        raise ConfigError("rounds are counted from 1", where="--rounds")


def _command(options: argparse.Namespace) -> int:
    for line in write(options, options.dir):
        print(line, flush=True)
    if options.write_only:
        print(f"next: {'' if options.dir == Path() else f'cd {options.dir} && '}hapo run")
        return 0
    os.chdir(options.dir)
    return run(Request(), with_server=not options.no_server)
