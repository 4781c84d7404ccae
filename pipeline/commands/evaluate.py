"""`hapo evaluate`: any Hugging Face model on benchmarks, outside a run. `hapo pair`: two of
them on the same problems."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.values import count, file, finite, folder, inside, number, positive


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `hapo evaluate` and `hapo pair`."""
    from pipeline.config.data import DATE
    from pipeline.config.presets import PRESETS

    parser = subparsers.add_parser("evaluate", help="measure any Hugging Face model")
    add = parser.add_argument
    add("--model", required=True, help="a folder, a policy of a run, or a hub id (owner/name)")
    add("--revision", help="of a hub id: commit, tag or branch")
    add(
        "--benchmark",
        required=True,
        action="append",
        metavar="NAME[=PATH]",
        help=f"{', '.join(PRESETS)}; one of params.yaml; or NAME=PATH of your own (repeatable)",
    )
    add("--columns", default="", help="of your own file: problem=COL,answer=COL[,id=COL]")
    add("--k", type=count, help="samples a problem")
    add("--temperature", type=finite)
    add("--top-p", type=finite)
    add("--max-tokens", type=count, help="most new tokens of a response")
    add("--limit", type=count, help="only the first problems; said with the number")
    add("--seed", type=number, default=0)
    add("--template", default="boxed", help="boxed (default), bare, plain-boxed or plain")
    add("--suffix", help="appended to the problem, instead of the template's own")
    add("--system", help="system message")
    add(
        "--date",
        default=DATE,
        help=f"what a chat template that asks is told to be today (default {DATE})",
    )
    add("--out", type=folder, help="folder of the result (default evaluations/MODEL)")
    add("--device", help="default: cuda if there, else cpu")
    add("--dtype", help="float32 or bfloat16 (default: bfloat16 on cuda, float32 on cpu)")
    add("--threads", type=count, help="of torch on the CPU")
    add("--max-rows", type=count, default=64, help="responses decoded at once (default 64)")
    add("--verifier", default="math", help="math, exact, or module:function (docs/verification.md)")
    add("--no-box", action="store_true", help="accept answers without a box")
    add("--timeout", type=positive, default=5.0, help="seconds to grade one answer")
    add("--workers", type=count, default=2, help="grading processes (default 2)")
    add("--keep-bad-golds", action="store_true", help="go on where golds cannot be graded")
    parser.set_defaults(command=evaluate_command)
    pair = subparsers.add_parser("pair", help="paired test of two evaluations")
    pair.add_argument("a", type=Path, help="folder of an evaluation: the one to start from")
    pair.add_argument("b", type=Path, help="the other; a positive difference means b is better")
    pair.add_argument("--benchmark", action="append", help="only this one (repeatable)")
    pair.add_argument("--any-template", action="store_true", help="prompts may differ")
    pair.add_argument("--confidence", type=inside, default=0.95)
    pair.add_argument("--seed", type=number, default=0, help="of the resampling")
    pair.add_argument("--json", type=file, help="write the result there, too")
    pair.set_defaults(command=pair_command)


def pair_command(options: argparse.Namespace) -> None:
    """`hapo pair A B`."""
    from pipeline.artifacts import atomic_write_json
    from pipeline.compare.pair import pair, pairing_lines

    found = pair(
        options.a,
        options.b,
        names=options.benchmark,
        any_template=options.any_template,
        confidence=options.confidence,
        seed=options.seed,
    )
    print("\n".join(pairing_lines(found, options.confidence)))
    if options.json is not None:
        atomic_write_json(options.json, {name: item.to_dict() for name, item in found.items()})


def evaluate_command(options: argparse.Namespace) -> None:
    """`hapo evaluate`."""
    from pipeline.flows.stage import run_stage
    from pipeline.measure.model import ModelEvaluation

    run_stage("evaluate", lambda observer: ModelEvaluation(options, observer).run())
