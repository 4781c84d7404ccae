"""Benchmarks: every row is kept, and what is odd about one is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hapo_core.errors import DataError
from hapo_core.verify import Job, Verdict, VerifierPool, extract_answer
from pipeline.artifacts.tables import BENCHMARK, write_table
from pipeline.curate.account import excerpt
from pipeline.curate.prompts import Ids, PromptMaker
from pipeline.curate.rules.golds import gold_faults
from pipeline.curate.sources.record import Faulty, Opened, Record
from pipeline.curate.text import content_id, normalise, unicode_fault


@dataclass(slots=True)
class BenchmarkRow:
    """One benchmark problem; `solutions` are the source's reference solutions."""

    problem_id: str
    problem: str
    answer: str
    solutions: tuple[str, ...]
    prompt_ids: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.int32))


@dataclass
class Benchmark:
    """A benchmark with its checks (see `checks`)."""

    name: str
    rows: list[BenchmarkRow]
    facts: dict[str, object]
    checks: dict[str, object] = field(default_factory=dict)
    reward: str = "math"

    def gold_verdicts(self) -> dict[str, int]:
        """How many golds the verifier can use, and how many it cannot."""
        against: Any = self.checks["gold_against_gold"]
        return {
            Verdict.CORRECT.value: against["correct"],
            Verdict.BAD_GOLD.value: against["graded"] - against["correct"],
        }


def read_benchmark(
    name: str, opened: Opened, maker: PromptMaker, pool: VerifierPool, reward: str = "math"
) -> Benchmark:
    """Read, tokenise and check a benchmark. Rows are never dropped: an average over fewer
    problems would be another benchmark.

    Raises:
        DataError: a row without problem or answer, or no rows.
    """
    rows, used = read_rows(name, opened)
    for row, ids in zip(rows, maker.prompts([r.problem for r in rows]), strict=True):
        row.prompt_ids = ids
    benchmark = Benchmark(name, rows, opened.facts, reward=reward)
    repeated = {k: n for k, n in used.items() if n > 1}
    benchmark.checks = {
        "rows": len(rows),
        "repeated_problems": repeated,
        "longest_prompt_tokens": max(len(r.prompt_ids) for r in rows),
        "gold_against_gold": _against_gold(rows, pool, reward),
        "gold_against_solution": _against_solutions(rows, pool, reward),
    }
    return benchmark


def read_rows(name: str, opened: Opened) -> tuple[list[BenchmarkRow], dict[str, int]]:
    """The rows without their tokens, and how often each problem's id is there.

    Raises:
        DataError: as `read_benchmark`.
    """
    rows: list[BenchmarkRow] = []
    used: dict[str, int] = {}
    for record in opened.records:
        row = _row(name, record)
        used[row.problem_id] = used.get(row.problem_id, 0) + 1
        if used[row.problem_id] > 1:
            _refuse_double(row, record, opened.strict)
            row.problem_id += f".{used[row.problem_id]}"
        rows.append(row)
    if not rows:
        raise DataError("the benchmark holds no rows", where=f"curate.benchmarks.{name}")
    return rows, used


def _row(name: str, record: Record | Faulty) -> BenchmarkRow:
    if isinstance(record, Faulty):
        raise DataError(
            f"benchmark row without what it needs: {record.fault}",
            where=record.where,
            remedy="benchmarks are measured whole: mend the row or choose another adapter",
        )
    parts = record.parts
    problem, answer = normalise(parts.problem), normalise(parts.answer)
    fault = unicode_fault(problem + answer)
    if not problem or not answer or fault:
        missing = fault or ("no problem text" if not problem else "no answer")
        raise DataError(
            f"benchmark row unusable: {missing}",
            where=record.where,
            remedy="benchmarks are measured whole: mend the row",
        )
    solutions = tuple(t.text for t in parts.traces)
    key = parts.key or content_id(problem)
    # A curated table, read again, has the name in its ids already.
    problem_id = key if key.startswith(f"{name}/") else f"{name}/{key}"
    return BenchmarkRow(problem_id, problem, answer, solutions)


def _refuse_double(row: BenchmarkRow, record: Record | Faulty, strict: bool) -> None:
    """A file of one's own must not use an id twice; public ones repeat problems, and are told."""
    if strict and isinstance(record, Record) and record.parts.key is not None:
        raise DataError(
            f"the id {record.parts.key!r} is used twice",
            where=record.where,
            remedy="give every problem an id of its own, or name no id column",
        )


def _against_gold(rows: list[BenchmarkRow], pool: VerifierPool, reward: str) -> dict[str, object]:
    """Every gold against itself and against a probe; what cannot be graded is listed."""
    faults = gold_faults([r.answer for r in rows], pool, [reward] * len(rows))
    exceptions = [
        {"problem_id": r.problem_id, "gold": excerpt(r.answer), "verdict": fault}
        for r, fault in zip(rows, faults, strict=True)
        if fault
    ]
    return {"graded": len(rows), "correct": len(rows) - len(exceptions), "exceptions": exceptions}


def _against_solutions(
    rows: list[BenchmarkRow], pool: VerifierPool, reward: str
) -> dict[str, object]:
    """Every reference solution that marks an answer, graded against the gold."""
    what: list[tuple[str, str]] = []
    jobs: list[Job] = []
    unmarked = 0
    for row in rows:
        for text in row.solutions:
            if extract_answer(text).answer is None:
                unmarked += 1
                continue
            what.append((row.problem_id, row.answer))
            jobs.append(Job(row.problem_id, row.answer, text, kind=reward))
    exceptions = [
        {
            "problem_id": problem_id,
            "gold": excerpt(gold),
            "extracted": excerpt(found.extracted or ""),
            "verdict": found.verdict.value,
        }
        for (problem_id, gold), found in zip(what, pool.verify(jobs), strict=True)
        if found.verdict is not Verdict.CORRECT
    ]
    return {
        "graded": len(jobs),
        "correct": len(jobs) - len(exceptions),
        "exceptions": exceptions,
        "without_mark": unmarked,
    }


def benchmark_rows(benchmark: Benchmark) -> list[dict[str, object]]:
    """Rows of the table `BENCHMARK`."""
    return [
        {
            "problem_id": r.problem_id,
            "problem": r.problem,
            "answer": r.answer,
            "source": benchmark.name,
            "reward": benchmark.reward,
            "prompt_ids": r.prompt_ids,
        }
        for r in benchmark.rows
    ]


def write_benchmark(benchmark: Benchmark, folder: Path) -> None:
    """Write `folder/NAME.parquet`."""
    write_table(benchmark_rows(benchmark), BENCHMARK, folder / f"{benchmark.name}.parquet")
