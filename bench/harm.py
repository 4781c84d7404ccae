"""Does the guard do harm, and does it prevent any: the runs of bench/harm.yaml, seed by seed.

    python bench/harm.py                       # the tables, from bench/harm.csv
    python bench/harm.py --collect PROJECT     # adds the finished cells of `hapo compare` there

bench/harm.csv has a line for every finished run: scores in percent (avg@8, temperature .6, 128
held-out and 64 short problems), groups injected, the last round with an injection, the round in
which the alarm spoke, tokens, and the project's commit. Seeds are the unit: intervals and p are
those of `hapo_core.stats.seeds`, for differences of runs with equal seeds (equal problems, equal
starting policy).
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from hapo_core.stats.seeds import SeedTest, seed_interval, seed_test

HERE = Path(__file__).parent
TABLE, CELLS = HERE / "harm.csv", HERE / "harm.yaml"
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


def collect(project: Path) -> list[dict[str, object]]:
    """The finished cells of a project in which `hapo compare --cells bench/harm.yaml` runs."""
    from pipeline.compare import drive
    from pipeline.compare.cells import Budget, read_plain
    from pipeline.compare.queue import Queue

    options = SimpleNamespace(
        methods=[], cells=[CELLS], cell=[], set=["compute.threads=1"], seeds=range(10, 16)
    )
    raw = read_plain(project / "params.yaml")
    cells = drive._cells(options, project, raw, Budget("rounds", 45))  # type: ignore[arg-type]
    head = ["git", "-C", str(project), "rev-parse", "--short", "HEAD~1"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    rows: list[dict[str, object]] = []
    for run in drive._results(project, Queue(project), cells):
        policies = [("final", run.label)]
        if not any(r["setting"] == "base" and r["seed"] == run.seed for r in rows):
            policies.insert(0, ("base", "base"))
        for target, label in policies:
            mean = {
                name: round(100 * float(np.mean(list(run.scores[target, name].values()))), 3)
                for name in ("heldout", "short")
            }
            rows.append({"setting": label, "seed": run.seed, **mean, "commit": commit})
        rows[-1] |= of_rounds(run.rounds)
    return rows


def of_rounds(rounds: pd.DataFrame) -> dict[str, object]:
    """What the rounds' table says of teacher and cost."""
    injected = rounds[rounds.injected_groups > 0]["round"]
    spoke = rounds[rounds["alarm"] > 0]["round"] if "alarm" in rounds else injected[:0]
    share = 100 * rounds.injected_groups.sum() / rounds.prompts.sum()
    return {
        "injected": round(float(share), 2),
        "last_injection": int(injected.max()) if len(injected) else "",
        "alarm": int(spoke.min()) if len(spoke) else "",
        "generated": int(rounds.generated_tokens.sum()),
        "trained": int(rounds.trained_tokens.sum()),
    }


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
    parser.add_argument("--collect", type=Path, metavar="PROJECT")
    args = parser.parse_args()
    if args.collect:
        merged(collect(args.collect.resolve()))
    frame = pd.read_csv(TABLE)
    of = {
        (str(label), name): {int(s): v / 100 for s, v in zip(part.seed, part[name], strict=True)}
        for label, part in frame.groupby("setting")
        for name in ("heldout", "short")
    }
    print("| setting | seeds | held out [95 %, by seed] | short | injected | alarm, rounds |")
    print("|---|---|---|---|---|---|")
    for label in sorted(frame.setting.unique(), key=lambda n: order({"setting": n})):
        part, scores = frame[frame.setting == label], of[label, "heldout"]
        ci = seed_interval(list(scores.values()))
        bounds = "" if ci is None else f" [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]"
        spoke = part.alarm.dropna().astype(int).tolist()
        guarded = label.endswith("guarded")
        alarm = f"{len(spoke)} of {len(part)}" + (f": {sorted(set(spoke))}" if spoke else "")
        used = "–" if part.injected.isna().all() else f"{part.injected.mean():.0f} %"
        print(
            f"| {label} | {len(part)} | {part.heldout.mean():.1f}{bounds} "
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
