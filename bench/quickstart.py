"""The quickstart and its rivals, seed by seed: the tables of docs/quickstart.md.

    python bench/quickstart.py [RUNS]

RUNS is the `runs.csv` of the comparison that bench/quickstart.yaml names; bench/quickstart.csv by
default, which is that file of the runs in the docs. Seeds are the unit: intervals and p are those
of `hapo_core.stats.seeds`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from harm import points, share

from hapo_core.stats.seeds import seed_test

TABLE = Path(__file__).with_suffix(".csv")
SETTINGS = ("hapo", "sft", "grpo")
BENCHMARKS = ("heldout", "short")


def by_seed(frame: pd.DataFrame, column: str) -> dict[int, float]:
    """Seed -> share."""
    return {int(s): float(v) / 100 for s, v in zip(frame.seed, frame[column], strict=True)}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="?", type=Path, default=TABLE)
    frame = pd.read_csv(parser.parse_args().runs)
    of = {str(name): part for name, part in frame.groupby("setting")}
    columns = "setting | seeds | held out | short | teacher in groups; last round"
    print(f"| {columns} | generated | trained |")
    print("|---|---|---|---|---|---|---|")
    start = of["hapo"]
    scores = " | ".join(share(start[f"{name}_base"]) for name in BENCHMARKS)
    print(f"| start | {len(start)} | {scores} | | | |")
    for label in (s for s in SETTINGS if s in of):
        part = of[label]
        last = part.last_injection.dropna().astype(int).tolist()
        rounds = f"; {min(last)} to {max(last)}" if last else ""
        used = f"{part.injected.mean():.1f} %{rounds}"
        scores = " | ".join(share(part[name]) for name in BENCHMARKS)
        cost = " | ".join(f"{part[c].mean() / 1000:,.0f} k" for c in ("generated", "trained"))
        print(f"| {label} | {len(part)} | {scores} | {used} | {cost} |")
    print("\n| difference, paired by seed | points [95 %] | p |\n|---|---|---|")
    for name in BENCHMARKS:
        ours = by_seed(of["hapo"], name)
        theirs = {o: by_seed(of[o], name) for o in ("grpo", "sft") if o in of}
        theirs["start"] = by_seed(of["hapo"], f"{name}_base")
        for other, scores_of in theirs.items():
            test = seed_test(ours, scores_of)
            assert test is not None
            p = "too few seeds" if test.p is None else f"{test.p:.3f}"
            print(f"| {name}: hapo − {other} | {points(test)} | {p} |")


if __name__ == "__main__":
    main()
