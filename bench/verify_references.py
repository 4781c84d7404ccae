"""Golds of the benchmarks against the reference solutions that come with them.

    python bench/verify_references.py [--show FILE]

The reference solution is graded like a response, by its mark (`\\boxed{}`; GSM8K: `####`), against
the gold of its row. One line a benchmark; a solution without a mark is counted apart, and then
graded once more with `require_box` off. `--show` writes every row that is not `correct`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from hapo_core.verdicts import UNKNOWN
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings
from hapo_core.verify.extract import joined_boxes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "verify"))
from verify_golds import DATA

NAMES = ("math500", "olympiadbench", "minerva_math", "aime24", "gsm8k_test")


def jobs(name: str) -> Iterator[Job]:
    """(row, gold, reference solution) of every row that has both."""
    for row, line in enumerate((DATA / "bench" / f"{name}.jsonl").read_text("utf-8").splitlines()):
        entry = json.loads(line)
        key = f"{name}:{row + 1}"
        if name == "gsm8k_test":
            gold = entry["answer"].rpartition("####")[2].strip()
            yield Job(key, gold, entry["answer"], mark="####")
        elif name == "olympiadbench":
            yield Job(key, entry["final_answer"][0], "\n".join(entry["solution"]))
        elif name == "minerva_math":
            yield Job(key, joined_boxes(entry["solution"]) or "", entry["solution"])
        else:
            yield Job(key, re.sub(r"\.0$", "", str(entry["answer"])), entry["solution"])


def main() -> None:
    """Grade every benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", type=Path)
    options = parser.parse_args()
    shown: list[dict[str, str | None]] = []
    print("| benchmark | rows | with a mark | correct | wrong | unparsed | unknown |"
          " correct of those without a mark |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name in NAMES:
        rows = list(jobs(name))
        with VerifierPool(VerifierSettings(workers=1)) as pool:
            graded = list(zip(rows, pool.verify(rows), strict=True))
        marked = [(job, v) for job, v in graded if v.extracted is not None]
        bare = [job for job, v in graded if v.extracted is None]
        with VerifierPool(VerifierSettings(workers=1, require_box=False)) as pool:
            stated = Counter(v.verdict for v in pool.verify(bare))
        count = Counter(v.verdict for _, v in marked)
        unknown = sum(count[v] for v in UNKNOWN)
        cells = (name, len(rows), len(marked), count[Verdict.CORRECT], count[Verdict.WRONG],
                 count[Verdict.UNPARSED], unknown,
                 f"{stated[Verdict.CORRECT]} of {len(bare)}")  # fmt: skip
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        shown += [
            {"row": j.key, "gold": j.gold, "answer": v.extracted,
             "verdict": v.verdict, "detail": v.detail}
            for j, v in marked if v.verdict is not Verdict.CORRECT
        ]  # fmt: skip
    if options.show:
        options.show.write_text("".join(json.dumps(line) + "\n" for line in shown), "utf-8")


if __name__ == "__main__":
    main()
