"""Verdicts per second of wall time and of processor time, on the real files.

    python bench/verify_speed.py [--workers 2] [--repeat 3]

Short answers are MATH-500 golds: half as they are in another spelling, half with a digit changed;
long traces are generations of R1 and Sky-T1. The pool is started before the clock; every
repetition uses a fresh pool, so nothing is answered from its memo. Processor time covers this
process and its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from hapo_core.verify import Job, VerifierPool, VerifierSettings

DATA = Path(os.environ.get("HAPO_SHARED_DATA", Path(__file__).parents[2] / "shared/data"))
TRACES = ("skyt1_math500", "r1distill_math_thoughtanchors", "r1distill_rollouts_primerl")


def _rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def respelled(gold: str, number: int) -> str:
    """An answer for a gold: the same in other words, or with its first digit changed."""
    if number % 2:
        return re.sub(r"\d", lambda m: str((int(m.group()) + 1) % 10), gold, count=1) + " "
    return gold.replace("\\frac", "\\dfrac").replace("(", "\\left( ").replace(")", " \\right)")


def workloads() -> dict[str, list[Job]]:
    """Named lists of jobs."""
    golds = [r["answer"] for r in _rows(DATA / "bench/math500.jsonl")]
    short = [Job("", g, f"So it is $\\boxed{{{respelled(g, i)}}}$.") for i, g in enumerate(golds)]
    plain = re.compile(r"-?[\d,.]+")
    formulas = [job for job, gold in zip(short, golds, strict=True) if not plain.fullmatch(gold)]
    long = [
        Job("", str(r["gold"]), r["generation"], bool(r.get("truncated")))
        for name in TRACES
        for r in _rows(DATA / f"traces/{name}.jsonl")
    ]
    return {"short answers": short, "short formulas": formulas, "long traces": long}


def _cpu(pids: Iterable[int]) -> float:
    """User and system seconds of this process and of running workers."""
    total = sum(os.times()[:4])
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(jobs: list[Job], workers: int) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    with VerifierPool(VerifierSettings(workers=workers)) as pool:
        pool.verify(Job("", f"x+{i}", f"\\boxed{{{i}+x}}") for i in range(8 * workers))
        pids = [p for process in pool._processes for p in process.pids()]
        start, busy = time.monotonic(), _cpu(pids)
        pool.verify(jobs)
        return time.monotonic() - start, _cpu(pids) - busy


def main() -> None:
    """Print one line a workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, jobs in workloads().items():
        runs = [measure(jobs, options.workers) for _ in range(options.repeat)]
        wall, cpu = min(w for w, _ in runs), min(c for _, c in runs)
        print(
            f"{name}: {len(jobs)} jobs, {len(jobs) / wall:,.0f}/s of wall time, "
            f"{len(jobs) / cpu:,.0f} per processor second"
        )


if __name__ == "__main__":
    main()
