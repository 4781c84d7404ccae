"""The command `hapo compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.values import count, folder, number


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo compare`."""
    parser = subparsers.add_parser(
        "compare", help="methods x seeds at an equal budget, as DVC experiments"
    )
    add = parser.add_argument
    add("--methods", nargs="+", default=[], metavar="NAME", help="methods, presets, or `all`")
    add("--cells", nargs="+", type=Path, default=[], metavar="FILE", help="YAML: label -> settings")
    add("--cell", action="append", default=[], metavar="LABEL:KEY=VALUE,...")
    add("--set", action="append", default=[], metavar="KEY=VALUE,...", help="for all cells")
    add("--seeds", nargs="+", type=number, default=[0, 1, 2])
    add(
        "--budget",
        metavar="KIND=AMOUNT",
        help="rounds=N, generated=TOKENS or trained=TOKENS; default: the rounds of params.yaml",
    )
    add("--jobs", type=count, default=1, help="cells at a time (default 1)")
    add("--against", nargs="+", metavar="LABEL", help="default: grpo, sft_then_rl")
    add("--out", type=folder, help="folder of the page (default reports/comparison)")
    add("--show", action="store_true", help="only the page, of what is finished; run nothing")
    add("--detach", action="store_true", help="queue and start, and do not wait")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.compare.drive import compare

    return compare(options)
