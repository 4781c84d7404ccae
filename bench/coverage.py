"""How often intervals of a mean score hold the true mean: `python bench/coverage.py [worlds]`.

Prints the table of docs/evaluation.md: for each mean, number of problems and samples a problem the
least coverage, over five ways in which problems may differ, of `mean_interval` and of the
percentile bootstrap over problems, and the mean width. `--rare` takes another way instead: half of
the mean comes from rare problems that are always solved, of which a small benchmark has none.
"""

from __future__ import annotations

import sys

import numpy as np

from hapo_core.stats.intervals import mean_interval

MEANS = (0.016, 0.05, 0.2, 0.5)
PROBLEMS = (30, 60, 120, 500)
SAMPLES = (1, 4, 32)
KINDS = ("same", "beta 0.3", "beta 1", "beta 5", "blind")
DRAWS = 400


def rates(rng: np.random.Generator, kind: str, mean: float, n: int) -> np.ndarray:
    """Success rates of n problems, float [n]."""
    name, _, spread = kind.partition(" ")
    if name == "beta":
        return rng.beta(mean * float(spread), (1 - mean) * float(spread), n)
    if name == "same":
        return np.full(n, mean)
    if name == "rare":
        half = mean / 2
        return np.where(rng.random(n) < half, 1.0, half / (1 - half))
    able = 0.25 if mean <= 0.2 else 0.8
    return np.where(rng.random(n) < able, mean / able, 0.0)


def percentile(rng: np.random.Generator, scores: np.ndarray) -> tuple[float, float]:
    """The percentile bootstrap interval, 95 %."""
    picks = rng.integers(len(scores), size=(DRAWS, len(scores)))
    low, high = np.quantile(scores[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main(worlds: int, kinds: tuple[str, ...]) -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print("| mean | problems | samples | least coverage | width | bootstrap: least | width |")
    print("|---|---|---|---|---|---|---|")
    for mean in MEANS:
        for n in PROBLEMS:
            for k in SAMPLES:
                least, widths = np.ones(2), np.zeros(2)
                for kind in kinds:
                    hits = np.zeros(2)
                    for _ in range(worlds):
                        scores = rng.binomial(k, rates(rng, kind, mean, n)) / k
                        found = np.array([mean_interval(scores), percentile(rng, scores)])
                        hits += (found[:, 0] <= mean) & (mean <= found[:, 1])
                        widths += (found[:, 1] - found[:, 0]) / (worlds * len(kinds))
                    least = np.minimum(least, hits / worlds)
                ours, old = (f"{a:.3f} | {w:.3f}" for a, w in zip(least, widths, strict=True))
                print(f"| {mean:g} | {n} | {k} | {ours} | {old} |", flush=True)


if __name__ == "__main__":
    rare = "--rare" in sys.argv
    numbers = [int(a) for a in sys.argv[1:] if a != "--rare"]
    main(numbers[0] if numbers else 1000, ("rare",) if rare else KINDS)
