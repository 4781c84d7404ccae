"""`hapo report`: two runs side by side."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pipeline.commands.values import folder
from pipeline.compare.two_runs import WORKSPACE, find_side, tables, write


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo report`."""
    parser = subparsers.add_parser("report", help="compare two runs on one page")
    parser.add_argument("--against", required=True, metavar="RUN", help="the run to start from")
    parser.add_argument("--of", default=WORKSPACE, metavar="RUN", help="default: the workspace")
    parser.add_argument("--out", type=folder, default=Path("reports"), help="folder of the page")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.show.pages import markdown_table
    from pipeline.system.project import find_root

    os.chdir(find_root())
    a, b = find_side(options.against), find_side(options.of)
    found = tables(a, b)
    page = write(a, b, found, options.out)
    for table in found:
        print(f"{markdown_table(table)}\n")
    print(f"page  {page.absolute()}")
    return 0
