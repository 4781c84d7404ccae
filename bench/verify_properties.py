"""Mutations that are accepted and respellings that are not, by kind, over all golds.

    python bench/verify_properties.py [--limit 1000] [--workers 1] [--show FILE] [--only KIND]

Prints one line a kind: how many pairs, how many went against the property, how many were
`unparsed` or unknown. `--show` writes every pair that went against it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from hapo_core.verdicts import UNKNOWN
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))
from verify_golds import sample


def main() -> None:
    """Grade the sample and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    against: list[dict[str, str]] = []
    totals: Counter[tuple[str, str]] = Counter()
    print("| property | kind | pairs | against | unparsed | unknown |\n|---|---|---|---|---|---|")
    with VerifierPool(VerifierSettings(workers=options.workers)) as pool:
        for (group, kind), pairs in sample(options.limit).items():
            if options.only not in f"{group} {kind}":
                continue
            verdicts = pool.verify(Job("", g, f"\\boxed{{{a}}}") for g, a in pairs)
            bad = [
                {"group": group, "kind": kind, "gold": g, "answer": a,
                 "verdict": v.verdict, "detail": v.detail}
                for (g, a), v in zip(pairs, verdicts, strict=True)
                if (v.verdict is Verdict.CORRECT) == (group == "mutation")
            ]  # fmt: skip
            against += bad
            count = Counter(v.verdict for v in verdicts)
            unknown = sum(count[v] for v in UNKNOWN)
            totals[group, "pairs"] += len(pairs)
            totals[group, "against"] += len(bad)
            line = (group, kind, len(pairs), len(bad), count[Verdict.UNPARSED], unknown)
            print("| " + " | ".join(map(str, line)) + " |", flush=True)
    for group in ("mutation", "respelling"):
        pairs_, bad_ = totals[group, "pairs"], totals[group, "against"]
        print(f"{group}: {bad_} of {pairs_} against ({100 * bad_ / max(pairs_, 1):.3f} %)")
    if options.show:
        options.show.write_text("".join(json.dumps(b) + "\n" for b in against), "utf-8")


if __name__ == "__main__":
    main()
