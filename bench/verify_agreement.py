"""Agreement with the pairs of other projects, and golds against themselves.

    python bench/verify_agreement.py           # cases.jsonl by source; --verifier KIND
    python bench/verify_agreement.py --golds   # every gold of the shared data as its own answer

One line a source, then the sum. Rows that are a convention are counted apart; `--golds` names up to
three golds of each source that are not `correct`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))
from test_verify_cases import CONVENTIONS
from verify_golds import DATA, golds


def pairs(kind: str) -> None:
    """The table of cases.jsonl."""
    lines = (DATA / "verifier" / "cases.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    asked = [Job(r["id"], f"${r['gold']}$", rf"\boxed{{{r['pred']}}}") for r in rows]
    with VerifierPool(VerifierSettings(workers=1, kind=kind)) as pool:
        verdicts = [v.verdict for v in pool.verify(asked)]
    count: dict[str, Counter[str]] = defaultdict(Counter)
    for row, verdict in zip(rows, verdicts, strict=True):
        source = row["source"].split(":")[0]
        right = verdict is Verdict.CORRECT
        if CONVENTIONS & set(row.get("tags") or []):
            count["(conventions)"].update(rows=1, agree=int(right == row["expected"]))
            continue
        for name in (source, "**all**"):
            facts = {
                "rows": True,
                "agree": right == row["expected"],
                "negative": not row["expected"],
                "accepted": right and not row["expected"],
                "refused": row["expected"] and not right,
                "unparsed": verdict is Verdict.UNPARSED,
                "bad_gold": verdict is Verdict.BAD_GOLD,
            }
            count[name].update({fact: int(holds) for fact, holds in facts.items()})
    print("| source | rows | agree | % | false positives | false negatives | unparsed | bad_gold |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sorted(count, key=lambda n: (n == "**all**", n)):
        c = count[name]
        share = f"{100 * c['agree'] / c['rows']:.1f}"
        cells = (c["accepted"], c["refused"], c["unparsed"], c["bad_gold"])
        print(
            f"| {name} | {c['rows']} | {c['agree']} | {share} | "
            + " | ".join(map(str, cells))
            + " |"
        )
    print(f"{count['**all**']['negative']} of them are wrong answers")


def themselves() -> None:
    """Every gold of every row, boxed, against itself."""
    rows = list(golds())
    with VerifierPool(VerifierSettings(workers=1)) as pool:
        verdicts = pool.verify(Job("", gold, rf"\boxed{{{gold}}}") for _, gold in rows)
    total: Counter[str] = Counter(source for source, _ in rows)
    bad: dict[str, list[str]] = defaultdict(list)
    for (source, gold), found in zip(rows, verdicts, strict=True):
        if found.verdict is not Verdict.CORRECT:
            bad[source].append(f"{gold[:50]!r} ({found.verdict})")
    for source in total:
        shown = "; ".join(bad[source][:3])
        print(f"{source}: {total[source]} golds, {len(bad[source])} not correct {shown}")
    print(f"all: {len(rows)} golds, {sum(map(len, bad.values()))} not correct")


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golds", action="store_true")
    parser.add_argument("--verifier", default="math")
    options = parser.parse_args()
    if options.golds:
        themselves()
    else:
        pairs(options.verifier)


if __name__ == "__main__":
    main()
