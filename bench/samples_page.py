"""Size and build time of the samples page for a long run of made-up rollouts.

    python bench/samples_page.py --rounds 500

Writes tables as training does (real schemas, random words), then `hapo samples --page` on them.
`--prompts`, `--group`, `--characters` and `--benchmarks` say how large a round, its responses and
the evaluations are. The page chooses: its size must not follow the run's.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.artifacts import write_manifest
from pipeline.artifacts.places import DATA, EVALUATIONS, POLICIES
from pipeline.artifacts.tables import (
    BENCHMARK,
    GENERATIONS,
    GROUPS,
    PROBLEMS,
    ROLLOUTS,
    write_table,
)
from pipeline.config import Params, parse_params
from pipeline.config.yaml import round_trip
from pipeline.samples.page import PAGE, write_page

QUICKSTART = Path(__file__).parents[1] / "params" / "quickstart.yaml"
WORDS = ["so", "the", "sum", "of", "both", "is", "then", "we", "add", "12", "x^2", "<b>", "="]


def text(draw: random.Random, characters: int) -> str:
    """Words, and an answer in a box."""
    words = (draw.choice(WORDS) for _ in range(characters // 4))
    return " ".join(words)[: max(0, characters - 12)] + f" \\boxed{{{draw.randrange(99)}}}"


def problem(number: int, name: str) -> dict[str, Any]:
    """A row of a table of problems."""
    return {
        "problem_id": f"{name}/{number}",
        "problem": f"What is {number} + 1, and why? " * 4,
        "answer": str(number % 99),
        "source": name,
        "reward": "math",
        "prompt_ids": [1, 2, 3],
    }


def response(draw: random.Random, characters: int) -> dict[str, Any]:
    """What rollouts and generations have in common."""
    written = text(draw, characters)
    return {
        "token_ids": list(range(characters // 4)),
        "finish": "stop",
        "text": written,
        "verdict": draw.choice(("correct", "wrong")),
        "extracted": written.rpartition("{")[2].rstrip("}"),
    }


def write_round(root: Path, number: int, sizes: argparse.Namespace) -> None:
    """One round of rollouts and groups; the teacher enters every third group."""
    draw, rollouts, groups = random.Random(number), list[dict[str, Any]](), list[dict[str, Any]]()
    for prompt in range(sizes.prompts):
        name, entered = f"mine/{prompt}", prompt % 3 == 0
        for sample in range(sizes.group + entered):
            trace = sample == sizes.group
            row = response(draw, sizes.characters)
            if trace:
                row |= {"verdict": "correct", "finish": "teacher"}
            rollouts.append(
                {
                    **row,
                    "round": number,
                    "prompt_id": name,
                    "sample": sample,
                    "kind": "teacher" if trace else "policy",
                    "prefix_tokens": None,
                    "logprobs": None if trace else [-0.5] * len(row["token_ids"]),
                    "reward": float(row["verdict"] == "correct"),
                    "advantage": 0.5,
                    "replaced": entered and sample == 0,
                    "injected": trace,
                }
            )
        groups.append(
            {
                "round": number,
                "prompt_id": name,
                "successes": 1,
                "known": sizes.group,
                "size": sizes.group,
                "confidence": 0.2,
                "gamma": 0.5,
                "has_trace": True,
                "decision": "injected" if entered else "gate_closed",
                "dead": False,
            }
        )
    folder = root / POLICIES / "1"
    write_table(rollouts, ROLLOUTS, folder / "rollouts" / f"round-{number:06d}.parquet")
    write_table(groups, GROUPS, folder / "groups" / f"round-{number:06d}.parquet")


def write_run(root: Path, sizes: argparse.Namespace) -> Params:
    """The tables of a whole run, and its configuration."""
    names = [f"bench{i}" for i in range(sizes.benchmarks)]
    whole = round_trip().load(QUICKSTART.read_text(encoding="utf-8"))
    whole["segments"] = {"1": {"prev": "base", "rounds": sizes.rounds}}
    whole["targets"]["final"]["policy"] = "1"
    chains = dict(next(iter(whole["curate"]["benchmarks"].values())))
    whole["curate"]["benchmarks"] = {name: dict(chains) for name in names}
    entry = dict(next(iter(whole["evaluate"]["benchmarks"].values())))
    whole["evaluate"]["benchmarks"] = {name: dict(entry) for name in names}
    whole["train"]["probe_benchmark"] = names[0]
    params = parse_params(whole)
    rows = [{**problem(i, "mine"), "split": "train"} for i in range(sizes.prompts)]
    write_table(rows, PROBLEMS, root / DATA / "problems.parquet")
    for number in range(1, sizes.rounds + 1):
        write_round(root, number, sizes)
    write_manifest(root / POLICIES / "1", "policy", {})
    draw = random.Random(0)
    for name in names:
        held = [problem(i, name) for i in range(60)]
        write_table(held, BENCHMARK, root / DATA / "benchmarks" / f"{name}.parquet")
        for target in params.targets:
            made = [
                {
                    **response(draw, sizes.characters),
                    "benchmark": name,
                    "problem_id": row["problem_id"],
                    "sample": sample,
                }
                for row in held
                for sample in range(4)
            ]
            write_table(made, GENERATIONS, root / EVALUATIONS / target / f"{name}.parquet")
    return params


def main() -> None:
    """Write the run, build the page, print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--characters", type=int, default=2000)
    parser.add_argument("--benchmarks", type=int, default=3)
    sizes = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params = write_run(root, sizes)
        tables = sum(p.stat().st_size for p in root.rglob("*.parquet"))
        began = time.perf_counter()
        write_page(params, root)
        seconds, size = time.perf_counter() - began, (root / PAGE).stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{sizes.rounds} rounds of {sizes.prompts} x {sizes.group}, {sizes.characters} characters, "
        f"{sizes.benchmarks} benchmarks: tables {tables / 1e6:.1f} MB, page {size / 1e6:.2f} MB "
        f"in {seconds:.1f} s, peak {peak:.0f} MB"
    )


if __name__ == "__main__":
    main()
