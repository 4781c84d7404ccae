"""Does the guard do harm, and does it prevent any: the runs of bench/harm.yaml, seed by seed.

    python bench/harm.py                       # the tables, from bench/harm.csv
    python bench/harm.py --collect reports/harm/runs.csv COMMIT     # adds what `hapo compare` wrote

bench/harm.csv has a line for every finished run: scores in percent (avg@8, temperature .6, 128
held-out and 64 short problems), groups injected, the last round with an injection, the round in
which the alarm spoke, tokens, and the project's commit. Seeds are the unit: intervals and p are
those of `hapo_core.stats.seeds`, for differences of runs with equal seeds (equal problems, equal
starting policy).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from hapo_core.stats.seeds import SeedTest, seed_interval, seed_test

HERE = Path(__file__).parent
TABLE = HERE / "harm.csv"
COLUMNS = ["setting", "seed", "heldout", "short", "injected", "last_injection", "alarm"]
COLUMNS += ["generated", "trained", "commit"]
WORLDS = {  # what stands beside the guarded run: without a teacher, and without the guard
    "a clean trace for every prompt": ("guarded", "grpo", "hapo"),
    "a trace for one prompt in four": ("few-guarded", "grpo", "few-hapo"),
    "two steps a line (`style`)": ("style-guarded", "grpo", "style-hapo"),
    "a weak teacher": ("weak-guarded", "weak-grpo", "weak-hapo"),
}
WISH = -2.0
"""Points that the lower bound should lie above (docs/method.md, section 9)."""


def collect(runs: Path, commit: str) -> list[dict[str, object]]:
    """The finished runs of a comparison's runs.csv, the base of each seed before them."""
    frame = pd.read_csv(runs, dtype=str, keep_default_na=False)
    rows: list[dict[str, object]] = []
    for seed, part in frame.groupby("seed", sort=False):
        first = part.iloc[0]
        scores = {name: first[f"{name}_base"] for name in ("heldout", "short")}
        rows.append({"setting": "base", "seed": int(str(seed)), **scores, "commit": commit})
        for run in part.to_dict("records"):
            rows.append({c: run[c] for c in COLUMNS[:-1]} | {"commit": commit})
    return rows


def merged(new: list[dict[str, object]]) -> None:
    """Write the table: what it had, with `new` in the place of equal runs."""
    known: dict[tuple[str, int], dict[str, object]] = {}
    if TABLE.is_file():
        with TABLE.open(newline="") as source:
            known = {(r["setting"], int(r["seed"])): dict(r) for r in csv.DictReader(source)}
    known |= {(str(r["setting"]), int(str(r["seed"]))): r for r in new}
    with TABLE.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(known.values(), key=lambda r: (int(str(r["seed"])), order(r))))


def order(row: Mapping[str, object]) -> int:
    """Of settings, as bench/harm.yaml lists them."""
    names = ["base", *(n for world in WORLDS.values() for n in (world[1], world[2], world[0]))]
    return names.index(str(row["setting"]))


def share(values: pd.Series) -> str:
    """A mean over seeds with its interval, in percent."""
    ci = seed_interval(list(values / 100))
    bounds = "" if ci is None else f" [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]"
    return f"{values.mean():.1f}{bounds}"


def points(test: SeedTest | None) -> str:
    """A difference with its interval, in points."""
    if test is None:
        return "–"
    ci = "too few" if test.ci is None else f"{100 * test.ci[0]:+.1f}, {100 * test.ci[1]:+.1f}"
    return f"{100 * test.difference:+.1f} [{ci}]"


def above(test: SeedTest | None) -> str:
    """Whether the lower bound lies above the wish."""
    if test is None or test.ci is None:
        return "too few seeds"
    return "yes" if 100 * test.ci[0] > WISH else "no"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs=2, metavar=("RUNS", "COMMIT"))
    args = parser.parse_args()
    if args.collect:
        merged(collect(Path(args.collect[0]), args.collect[1]))
    frame = pd.read_csv(TABLE)
    of = {
        (str(label), name): {int(s): v / 100 for s, v in zip(part.seed, part[name], strict=True)}
        for label, part in frame.groupby("setting")
        for name in ("heldout", "short")
    }
    print("| setting | seeds | held out [95 %, by seed] | short | injected | alarm, rounds |")
    print("|---|---|---|---|---|---|")
    for label in sorted(frame.setting.unique(), key=lambda n: order({"setting": n})):
        part = frame[frame.setting == label]
        spoke = part.alarm.dropna().astype(int).tolist()
        guarded = label.endswith("guarded")
        alarm = f"{len(spoke)} of {len(part)}" + (f": {sorted(set(spoke))}" if spoke else "")
        used = "–" if part.injected.isna().all() else f"{part.injected.mean():.0f} %"
        print(
            f"| {label} | {len(part)} | {share(part.heldout)} "
            f"| {part.short.mean():.1f} | {used} | {alarm if guarded else '–'} |"
        )
    for name in ("heldout", "short"):
        print(f"\n{name}: differences in points, paired by seed [95 %]; wish: above {WISH:g}")
        print("\n| world | guarded − GRPO | guarded − unguarded | lower bounds above the wish |")
        print("|---|---|---|---|")
        for world, (guarded, grpo, plain) in WORLDS.items():
            tests = [
                seed_test(of.get((guarded, name), {}), of.get((other, name), {}))
                for other in (grpo, plain)
            ]
            held = [above(test) for test in tests]
            print(f"| {world} | {points(tests[0])} | {points(tests[1])} | {', '.join(held)} |")


if __name__ == "__main__":
    main()
