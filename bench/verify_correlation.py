"""How far errors of a verifier go together inside a group: rho of `gate.correlation`.

    python bench/verify_correlation.py [--golds 400] [--workers 1]

An error is a verdict against a known outcome. A group is what shares a gold, as the rollouts of
one prompt do. Three kinds of known outcomes:

- `rollouts`: the 14 groups of 8 of r1distill_rollouts_primerl, with the source's label;
- `cases`: rows of cases.jsonl that share source and gold, with the outcome given there;
- `respelled` and `mutated`: golds of the real files written otherwise (right) or changed (wrong).

rho is the intraclass correlation of the errors (one-way analysis of variance, groups of unequal
size), with the range between the 2.5 % and 97.5 % quantiles of 500 bootstraps over groups.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings
from hapo_core.verify.properties import mutate, respell

sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[1] / "tests" / "verify"))
from verify_golds import DATA, golds

Groups = Mapping[object, list[tuple[Job, bool]]]
"""A group's jobs, each with whether its answer is right."""


def correlation(groups: list[np.ndarray]) -> float | None:
    """Intraclass correlation of 0/1 errors, one array a group; None where all are alike."""
    groups = [g for g in groups if g.size > 1]
    sizes = np.array([g.size for g in groups], dtype=float)
    if len(groups) < 2:
        return None
    total, k = sizes.sum(), len(groups)
    mean = sum(g.sum() for g in groups) / total
    between = sum(g.size * (g.mean() - mean) ** 2 for g in groups) / (k - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (total - k)
    size = (total - (sizes**2).sum() / total) / (k - 1)
    below = between + (size - 1) * within
    return float((between - within) / below) if below > 0 else None


def interval(groups: list[np.ndarray]) -> tuple[float, float] | None:
    """Central 95 % of bootstraps over groups."""
    rng = np.random.default_rng(0)
    picks = (rng.integers(0, len(groups), len(groups)) for _ in range(500))
    found = [r for p in picks if (r := correlation([groups[i] for i in p])) is not None]
    if not found:
        return None
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def known(most: int) -> Iterator[tuple[str, Groups]]:
    """The kinds of groups."""
    rollouts: dict[object, list[tuple[Job, bool]]] = defaultdict(list)
    path = DATA / "traces" / "r1distill_rollouts_primerl.jsonl"
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        rollouts[row["group"]].append((Job("", row["gold"], row["generation"]), row["label"]))
    yield "rollouts", rollouts
    cases: dict[object, list[tuple[Job, bool]]] = defaultdict(list)
    path = DATA / "verifier" / "cases.jsonl"
    for row in map(json.loads, path.read_text("utf-8").splitlines()):
        job = Job("", f"${row['gold']}$", f"\\boxed{{{row['pred']}}}")
        cases[row["source"], row["gold"]].append((job, row["expected"]))
    yield "cases", {k: g for k, g in cases.items() if len(g) > 1}
    sample = list(dict.fromkeys(gold for _, gold in golds() if gold.strip()))
    sample = [sample[i * len(sample) // most] for i in range(most)]
    for name, make, right in (("respelled", respell, True), ("mutated", mutate, False)):
        yield (
            name,
            {g: [(Job("", g, f"\\boxed{{{v.text}}}"), right) for v in make(g)] for g in sample},
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golds", type=int, default=400)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    kinds = list(known(options.golds))
    print("| outcomes | verifier | groups | answers | errors | rho | 95 % |")
    print("|---|---|---|---|---|---|---|")
    for verifier in ("math", "math_verify", "exact"):
        with VerifierPool(VerifierSettings(workers=options.workers, kind=verifier)) as pool:
            for name, groups in kinds:
                asked = [(key, job, right) for key, g in groups.items() for job, right in g]
                verdicts = pool.verify(job for _, job, _ in asked)
                errors: dict[object, list[float]] = defaultdict(list)
                for (key, _, right), found in zip(asked, verdicts, strict=True):
                    errors[key].append(float((found.verdict is Verdict.CORRECT) != right))
                arrays = [np.array(e) for e in errors.values()]
                rho, span = correlation(arrays), interval(arrays)
                wrong = int(sum(a.sum() for a in arrays))
                shown = "-" if rho is None else f"{rho:.2f}"
                spread = "-" if span is None else f"{span[0]:.2f} to {span[1]:.2f}"
                line = (name, verifier, len(arrays), len(asked), wrong, shown, spread)
                print("| " + " | ".join(map(str, line)) + " |", flush=True)


if __name__ == "__main__":
    main()
