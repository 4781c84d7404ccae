"""The methods side by side on a profile, several seeds: the table of docs/quickstart.md.

    python bench/methods.py --profile quickstart --seeds 0 1 2 --workers 2 --out build/methods

Every seed curates its own problems, all seeds start from one base policy; every method then
trains from it with equal rounds (and so equal sampled responses; the supervised rounds of sft and
sft_then_rl sample none), by the very stages that `dvc repro` runs. Finished cells are kept; the
same command continues.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from hapo_core.evaluate import align, bootstrap_interval, paired_test
from pipeline.tables import GENERATIONS, ROUNDS, read_frame

REPO = Path(__file__).resolve().parents[1]
METHODS = ("grpo", "luffy", "hapo", "sft", "sft_then_rl")


def prepare(cell: Path, profile: str, seed: int, changes: dict[str, object]) -> list[str]:
    """Write the cell's params.yaml; returns its segments."""
    cell.mkdir(parents=True, exist_ok=True)
    params = YAML().load(REPO / "params" / f"{profile}.yaml")
    params["seed"] = seed
    params["compute"]["threads"] = 1
    for path, value in changes.items():
        *parents, last = path.split(".")
        section = params
        for key in parents:
            section = section[key]
        section[last] = value
    YAML().dump(params, cell / "params.yaml")
    return list(params["segments"])


def stage(cell: Path, *words: str) -> None:
    """One stage of the pipeline in a cell; its output goes to the cell's log."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    env = {**kept, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"}
    with (cell / "log.txt").open("a") as log:
        subprocess.run(
            [sys.executable, "-m", *words], cwd=cell, env=env, stdout=log, stderr=log, check=True
        )


def base(root: Path, profile: str, seed: int, built: Path | None) -> Path:
    """Curation, base policy and its evaluation, shared by the methods of a seed.

    The starting policy does not depend on the run's seed: it is built once, then copied.
    """
    cell = root / f"seed{seed}" / "base"
    prepare(cell, profile, seed, {})
    if (cell / "artifacts/evaluation/base/metrics.json").is_file():
        return cell
    stage(cell, "pipeline.curate")
    if built is None:
        stage(cell, "pipeline.base")
    else:
        shutil.copytree(
            built / "artifacts/policy/base", cell / "artifacts/policy/base", dirs_exist_ok=True
        )
    stage(cell, "pipeline.evaluate", "--target", "base")
    return cell


def run(root: Path, profile: str, seed: int, name: str, changes: dict[str, object]) -> None:
    """One cell: train every segment from the seed's base, evaluate the last."""
    origin, cell = root / f"seed{seed}" / "base", root / f"seed{seed}" / name
    segments = prepare(cell, profile, seed, changes)
    if (cell / "artifacts/evaluation/final/metrics.json").is_file():
        return
    (cell / "artifacts/policy").mkdir(parents=True, exist_ok=True)
    for part in ("data", "policy/base"):
        if not (cell / "artifacts" / part).exists():
            shutil.copytree(origin / "artifacts" / part, cell / "artifacts" / part)
    for segment in segments:
        if not (cell / "artifacts/policy" / segment / "manifest.json").is_file():
            stage(cell, "pipeline.train", "--segment", segment)
    stage(cell, "pipeline.evaluate", "--target", "final")
    print(f"done: seed {seed}, {name}", flush=True)


def scores(folder: Path, benchmark: str) -> dict[str, float]:
    """avg@k of every problem."""
    frame = read_frame(folder / f"{benchmark}.parquet", GENERATIONS)
    correct = (frame.verdict == "correct").groupby(frame.problem_id).mean()
    return {str(k): float(v) for k, v in correct.items()}


def table(root: Path, seeds: list[int], cells: list[str], benchmark: str) -> str:
    """Markdown: avg@k per seed and pooled over seeds x problems, tokens, injection, dead groups."""
    head = ["cell", *(f"seed {s}" for s in seeds), "all seeds [95 %]", "p against grpo"]
    head += ["injected first/last 10", "dead", "generated", "trained"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    pooled = {c: pooled_scores(root, seeds, c, benchmark) for c in ["base", *cells]}
    for name, values in pooled.items():
        array = np.array(list(values.values()))
        low, high = bootstrap_interval(array, 0.95, 2000, 0, name)
        each = [np.mean([v for k, v in values.items() if k.startswith(f"{s}:")]) for s in seeds]
        row = [name, *(f"{100 * x:.1f}" for x in each)]
        row.append(f"{100 * array.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        row += against(values, pooled.get("grpo"), name)
        row += costs(root, seeds, name)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def pooled_scores(root: Path, seeds: list[int], name: str, benchmark: str) -> dict[str, float]:
    """Scores by seed and problem."""
    target = "base" if name == "base" else "final"
    return {
        f"{s}:{k}": v
        for s in seeds
        for k, v in scores(
            root / f"seed{s}" / name / "artifacts/evaluation" / target, benchmark
        ).items()
    }


def against(values: dict[str, float], grpo: dict[str, float] | None, name: str) -> list[str]:
    """Paired test on the same problems of the same seeds."""
    if grpo is None or name == "grpo":
        return ["-"]
    result = paired_test(*align(grpo, values))
    return [f"{result.p_value:.2g}"]


def costs(root: Path, seeds: list[int], name: str) -> list[str]:
    """Injection, dead groups and tokens, means over seeds."""
    if name == "base":
        return ["-"] * 4
    first, last, dead, generated, trained = [], [], [], [], []
    for seed in seeds:
        frames = [
            read_frame(p, ROUNDS)
            for p in sorted((root / f"seed{seed}" / name).glob("artifacts/policy/*/rounds.parquet"))
        ]
        sampled = [f[f.rollouts > 0] for f in frames]
        rate = [x for f in sampled for x in f.injected_groups / f.prompts]
        dead += [x for f in sampled for x in f.dead_groups / f.prompts]
        first += rate[:10]
        last += rate[-10:]
        generated.append(sum(f.generated_tokens.sum() for f in frames))
        trained.append(sum(f.trained_tokens.sum() for f in frames))
    injected = f"{np.mean(first):.2f} / {np.mean(last):.2f}" if first else "no rollouts"
    return [
        injected,
        f"{np.mean(dead):.2f}" if dead else "-",
        f"{np.mean(generated):,.0f}",
        f"{np.mean(trained):,.0f}",
    ]


def main() -> None:
    """Run what is missing, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=Path("build/methods"))
    parser.add_argument("--benchmark", default="heldout")
    parser.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="NAME:KEY=VALUE,...",
        help="a further cell, e.g. gamma.8:gate.threshold.gamma=0.8",
    )
    options = parser.parse_args()
    cells: dict[str, dict[str, object]] = {m: {"method": m} for m in options.methods}
    for text in options.cell:
        name, _, pairs = text.partition(":")
        changes = dict(p.split("=", 1) for p in pairs.split(","))
        cells[name] = {k: YAML(typ="safe").load(v) for k, v in changes.items()}
    root = options.out.resolve()
    with ThreadPoolExecutor(options.workers) as pool:
        first = base(root, options.profile, options.seeds[0], None)
        list(pool.map(lambda s: base(root, options.profile, s, first), options.seeds[1:]))
        jobs = [(s, n) for s in options.seeds for n in cells]
        list(pool.map(lambda j: run(root, options.profile, j[0], j[1], cells[j[1]]), jobs))
    text = table(root, options.seeds, list(cells), options.benchmark)
    (root / "table.md").write_text(text + "\n")
    (root / "cells.json").write_text(json.dumps(cells, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
