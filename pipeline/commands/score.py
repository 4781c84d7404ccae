"""`hapo score`: grade a file of existing generations."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.values import count, finite, folder, number, positive


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hapo score`."""
    parser = subparsers.add_parser("score", help="grade a file of existing generations")
    add = parser.add_argument
    add("file", type=Path, help="parquet, jsonl (or .gz), csv, or a folder of them")
    add("--response", help="column of the generations (text, a chat, or a list of them)")
    add("--gold", help="column of the reference answers; a.b reads inside a mapping")
    add("--id", help="column of the problem's id; rows with equal ids are samples of one problem")
    add(
        "--label",
        help="column of the file's own verdict or reward, to be compared; none: no column",
    )
    add("--label-threshold", type=finite, help="a reward above it counts as right")
    add("--truncated", help="column that says which generations were cut; none: no column")
    add(
        "--benchmark",
        metavar="NAME[=PATH]",
        help="take the golds from a benchmark, found by the problem's text or id",
    )
    add("--columns", default="", help="of that benchmark's file, if it is your own")
    add("--mark", default="box", help="how an answer is marked: box (default) or ####")
    add("--no-box", action="store_true", help="accept answers without a mark")
    add("--verifier", default="math", help="math, exact, or module:function (docs/verification.md)")
    add("--timeout", type=positive, default=5.0, help="seconds to grade one answer")
    add("--workers", type=count, default=2, help="grading processes (default 2)")
    add("--limit", type=count, help="only the first rows; said with the number")
    add("--show", type=number, default=10, help="differences to print (default 10); all are kept")
    add("--out", type=folder, help="folder of the result (default scores/FILE)")
    parser.set_defaults(command=score_command)


def score_command(options: argparse.Namespace) -> None:
    """`hapo score FILE`."""
    from pipeline.flows.stage import run_stage
    from pipeline.measure.score import Scoring

    run_stage("score", lambda observer: Scoring(options, observer).run())
