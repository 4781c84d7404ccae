"""What the tests of `hapo compare` promise when runs differ: type I error and coverage, simulated.

    python bench/seeds.py [--trials 1000]

Two equal methods (or one, for coverage) are run with several seeds on 128 held-out problems,
8 samples each. A problem has its difficulty, a run a deviation of its own in logits: 0, .1 or .3.
Printed: how often each test finds a difference at 5 % where there is none, and how often each 95 %
interval of a method's mean holds the method's true mean.
"""

from __future__ import annotations

import argparse

import numpy as np

from hapo_core.stats.intervals import mean_interval, paired_test
from hapo_core.stats.seeds import seed_interval, seed_test

PROBLEMS, K, SPREAD, MEAN = 128, 8, 1.5, 0.5
SEEDS, DEVIATIONS, DRAWS = (2, 3, 6, 12), (0.0, 0.1, 0.3), 400


def runs(
    rng: np.random.Generator, difficulty: np.ndarray, seeds: int, deviation: float
) -> np.ndarray:
    """Scores [seed, problem] of one method's runs."""
    logits = difficulty[None, :] + rng.normal(0.0, deviation, (seeds, 1))
    return rng.binomial(K, 1 / (1 + np.exp(-logits))) / K


def true_mean(difficulty: np.ndarray, deviation: float) -> float:
    """The method's mean over runs on these problems, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    p = 1 / (1 + np.exp(-(difficulty[:, None] + deviation * nodes[None, :])))
    return float((p @ weights / weights.sum()).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(7)
    print(
        "| deviation of runs | seeds | type I, problems pooled | type I, by seed | "
        "coverage, problems pooled | coverage, by seed |"
    )
    print("|---|---|---|---|---|---|")
    for deviation in DEVIATIONS:
        for seeds in SEEDS:
            counts = np.zeros(4)
            for trial in range(trials):
                difficulty = rng.normal(MEAN, SPREAD, PROBLEMS)
                a, b = (runs(rng, difficulty, seeds, deviation) for _ in range(2))
                pooled = paired_test(a.mean(0), b.mean(0), 0.95, DRAWS, trial, "simulated")
                by_seed = seed_test(dict(enumerate(a.mean(1))), dict(enumerate(b.mean(1))))
                truth = true_mean(difficulty, deviation)
                low, high = mean_interval(a.mean(0))
                over_runs = seed_interval(list(a.mean(1)))
                counts += [
                    pooled.p_value < 0.05,
                    by_seed is not None and by_seed.p is not None and by_seed.p < 0.05,
                    low <= truth <= high,
                    over_runs is not None and over_runs[0] <= truth <= over_runs[1],
                ]
            shares = [f"{c / trials:.3f}" for c in counts]
            if seeds < 3:
                shares[1] = shares[3] = "not claimed"
            print(f"| {deviation:g} | {seeds} | {' | '.join(shares)} |", flush=True)


if __name__ == "__main__":
    main()
