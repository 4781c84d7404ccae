"""`hapo segments`."""

from __future__ import annotations

import argparse

from pipeline.commands.values import number
from pipeline.config.segments import set_segments


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo segments N [--rounds R]`."""
    parser = subparsers.add_parser("segments", help="set the number of segments and their rounds")
    parser.add_argument("count", type=number)
    parser.add_argument("--rounds", type=number, help="rounds of every unfinished segment")
    parser.add_argument("--force", action="store_true", help="change finished segments too")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    done = set_segments(options.count, options.rounds, force=options.force)
    for line in done or ["nothing to change"]:
        print(line)
    return 0
