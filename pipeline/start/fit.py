"""What somebody's files hold, found out before anything is written: columns, join, marks, golds.

Everything that curation or the start of training would refuse is refused here, with three examples
and what to set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from hapo_core.errors import DataError
from hapo_core.verify import Job, Verdict, VerifierPool
from pipeline.build.teacher import Teacher, needs_traces
from pipeline.build.verifier import verifier_settings
from pipeline.config import Rewards, TableSource
from pipeline.curate.check import boxed_as_is
from pipeline.curate.columns import first_named
from pipeline.curate.rules.golds import gold_faults, too_long
from pipeline.curate.sources.marks import BOX, HASHES, LAST_NUMBER, STATED, parse_mark
from pipeline.curate.sources.record import Faulty
from pipeline.curate.sources.table import find_adapter, open_table
from pipeline.curate.text import exact_key, normalise
from pipeline.start.columns import first_rows, guess_problems, guess_traces, short
from pipeline.start.refuse import (
    Problem,
    Same,
    listed,
    none_right,
    refuse_empty_solutions,
    refuse_few,
    refuse_lost,
    refuse_repeated,
    refuse_rows,
    refuse_two_golds,
    rows_of,
    settled,
    two_golds,
)

MOST = 20_000
"""Rows that are looked at, of problems and of solutions."""
GRADED = 60
"""Problems whose gold and solutions are put to the verifier."""
MARKS = (BOX, HASHES, STATED, LAST_NUMBER)
_GOLDS = (
    "name the column of the final answers (--columns answer=COLUMN,...); answers that are words "
    "are compared as they stand with --verifier exact"
)
_OWN = (
    "your function gets (gold, answer), both as text, and must find every gold equal to itself: "
    "try it on one; or name the column of the final answers (--columns answer=COLUMN,...)"
)
_USELESS = 0.5
_EXAMPLES = 3


@dataclass(frozen=True)
class Given:
    """What the command line names."""

    data: Path
    traces: Path | None = None
    method: str = "hapo"
    adapter: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    traces_columns: Mapping[str, str] = field(default_factory=dict)
    mark: str | None = None
    verifier: str = "math"


@dataclass(frozen=True)
class Fit:
    """The files as a source of params.yaml, and what was found in them.

    `right` of `graded` sampled traces are right as they stand in the source.
    """

    source: dict[str, object]
    problems: tuple[Problem, ...]
    joined_by: str | None
    right: int
    graded: int
    verifier: str
    notes: tuple[str, ...] = ()

    @property
    def taught(self) -> int:
        """Problems with a solution."""
        return sum(bool(p.traces) for p in self.problems)


def fit(given: Given) -> Fit:
    """Find out how the files are read.

    Raises:
        HapoError: they do not fit; says what is wrong, three examples, and what to set.
    """
    source = _source(given)
    problems, notes = _problems(TableSource.model_validate(source), given)
    problems, joined_by = _join(problems, source, given)
    problems, more = settled(problems, given.data)
    notes += more
    if needs_traces(given.method) and not any(p.traces for p in problems):
        raise DataError(
            f"method {given.method} learns from solutions, and the problems have none",
            where=str(given.data),
            remedy="--traces FILE, or a column of them: --columns trace=COLUMN,...; or "
            "--method grpo, which needs none",
        )
    notes += _check_golds(problems, given)
    mark, right, graded, teacher = _mark(problems, given)
    if graded and teacher.taught == 0 and needs_traces(given.method):
        raise none_right(graded, teacher, given.traces or given.data)
    if mark != BOX:
        source["mark"] = mark
    if mark == LAST_NUMBER and given.mark is None:
        notes += _unmarked(problems)
    if teacher.taught < graded:
        notes.append(f"of the sampled solutions {right} of {graded} are right: {teacher.why}")
    return Fit(source, tuple(problems), joined_by, right, graded, given.verifier, tuple(notes))


def _source(given: Given) -> dict[str, object]:
    """The source as params.yaml has it, without its mark."""
    rows = first_rows(given.data)
    source: dict[str, object] = {"kind": "table", "path": str(given.data.resolve())}
    if given.columns:
        source |= {"adapter": "generic", "columns": dict(given.columns)}
    elif given.adapter:
        source["adapter"] = given.adapter
        find_adapter("--adapter", TableSource.model_validate(source))
    else:
        source |= guess_problems(rows, given.data, given.traces is not None)
    if given.traces is None:
        return source
    if source["adapter"] != "generic":
        raise DataError(
            f"the problems are read by the adapter {source['adapter']!r}, which brings its own "
            "solutions; a second file is joined to named columns only",
            where=str(given.traces),
            remedy="leave --traces out, or name the columns: --columns problem=...,answer=..."
            + (
                "; or are the two files swapped?"
                if first_named(first_rows(given.traces), "answer")
                else ""
            ),
        )
    named = source.get("columns")
    columns = dict(named) if isinstance(named, dict) else {}
    loose = first_rows(given.traces)
    found = given.traces_columns or _trace_columns(given, rows, loose, columns)
    if "id" not in columns and "problem_id" in found:
        key = first_named(rows, "id")
        columns |= {"id": key} if key else {}
    return {
        **source,
        "columns": columns,
        "traces_path": str(given.traces.resolve()),
        "traces_columns": dict(found),
    }


def _trace_columns(
    given: Given, rows: Sequence[Mapping[str, object]], loose: Sequence[Mapping[str, object]],
    columns: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """By id where the first rows' ids meet, else by the problem's text."""
    assert given.traces is not None
    found = guess_traces(loose, given.traces, "id" in columns)
    if "problem_id" not in found or first_named(loose, "problem", (found["trace"],)) is None:
        return found
    ours = {str(row.get(columns["id"])) for row in rows}
    theirs = {str(row.get(found["problem_id"])) for row in loose}
    return found if ours & theirs else guess_traces(loose, given.traces, False)


def _problems(source: TableSource, given: Given) -> tuple[list[Problem], list[str]]:
    """The problems that can be read, and notes on rows that cannot.

    Raises:
        DataError: a row of the user's own file that curation would refuse, a problem with two
            answers, or too few problems.
    """
    path = given.data
    plain = source.model_copy(update={"traces_path": None, "traces_columns": {}})
    opened = open_table("mine", plain)
    found: list[Problem] = []
    faults: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    remedies: list[str] = []
    for record in islice(opened.records, MOST):
        fault, example = None, ""
        if isinstance(record, Faulty):
            fault, example = record.fault.reason, record.fault.detail or record.excerpt
            remedies += [record.fault.remedy] if record.fault.remedy else []
        else:
            parts = record.parts
            text, answer = normalise(parts.problem), normalise(parts.answer).strip()
            fault = "no problem text" if not text.strip() else None
            fault = fault or ("no answer" if not answer else None)
            example = text
            if fault is None and (fault := too_long(answer, given.verifier)):
                fault, example = f"the answer is {fault}", f"{len(answer):,}: {answer}"
            traces = tuple(t.text for t in parts.traces if not t.cut)
        if fault is None:
            lines = (record.where,) * len(traces)
            found.append(Problem(text, answer, parts.key, record.where, traces, lines))
            continue
        faults[fault] += 1
        kept = examples.setdefault(fault, [])
        if len(kept) < _EXAMPLES:
            kept.append(f"{record.where}: {short(example)}")
    if faults and opened.strict:
        refuse_rows(faults, examples, remedies, path)
    refuse_few(found, path, faults, examples)
    refuse_repeated(found, path)
    doubled = two_golds(found, _same_answers(given.verifier))
    if opened.strict:
        refuse_two_golds(doubled, path)
    notes = [f"{rows_of(n)} left out: {what}" for what, n in faults.items()]
    if doubled:
        notes.append(
            f"{rows_of(len(doubled), 'repeat')} a problem with another answer, the first row is "
            f"kept: "
            f"{doubled[0]}"
        )
    return found, notes


# --- solutions ------------------------------------------------------------------------------------


def _join(
    problems: list[Problem], source: Mapping[str, object], given: Given
) -> tuple[list[Problem], str | None]:
    """The problems with the solutions of the second file.

    Raises:
        DataError: no solution finds its problem (or, joined by id, some do not), with examples of
            both sides.
    """
    if given.traces is None:
        return problems, None
    table = TableSource.model_validate(dict(source))
    refuse_empty_solutions(table, MOST)
    opened = open_table("mine", table)
    assert opened.traces is not None
    by_id = {p.key: i for i, p in enumerate(problems) if p.key is not None}
    by_text = {exact_key(p.text): i for i, p in enumerate(problems)}
    found: dict[int, list[tuple[str, str]]] = {}
    lost, rows, by = [], 0, "text"
    for loose in islice(opened.traces, MOST):
        rows += 1
        by = "text" if loose.by_text else "id"
        key = exact_key(normalise(loose.key)) if loose.by_text else loose.key
        at = by_text.get(key) if isinstance(key, bytes) else by_id.get(key)
        if at is None:
            lost.append(f"{loose.where}: {short(loose.key, 60)!r}")
        else:
            found.setdefault(at, []).append((loose.trace.text, loose.where))
    if not rows:
        raise DataError("there is no solution", where=str(given.traces))
    if lost and len(problems) < MOST:
        refuse_lost(lost, rows, by, problems, given.traces)
    return [_with(p, found.get(i, ())) for i, p in enumerate(problems)], by


def _with(problem: Problem, more: Sequence[tuple[str, str]]) -> Problem:
    return replace(
        problem,
        traces=(*problem.traces, *(text for text, _ in more)),
        lines=(*problem.lines, *(where for _, where in more)),
    )


def _pool(verifier: str) -> VerifierPool:
    return VerifierPool(replace(verifier_settings(Rewards()), kind=verifier))


def _same_answers(verifier: str) -> Same:
    def same(pairs: Sequence[tuple[Problem, Problem]]) -> list[bool]:
        with _pool(verifier) as pool:
            asked = (Job("gold", a.answer, boxed_as_is(b.answer), kind=verifier) for a, b in pairs)
            return [found.verdict is Verdict.CORRECT for found in pool.verify(asked)]

    return same


def _check_golds(problems: Sequence[Problem], given: Given) -> list[str]:
    """Notes on golds that are no reference answers for the verifier.

    Raises:
        DataError: most of them are none.
    """
    some = list(spread(problems))
    with _pool(given.verifier) as pool:
        faults = gold_faults([p.answer for p in some], pool)
    found: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for problem, fault in zip(some, faults, strict=True):
        if fault is not None:
            found[fault] += 1
            examples.setdefault(fault, []).append(f"{problem.where}: {short(problem.answer)}")
    if not found:
        return []
    if found.total() <= _USELESS * len(some):
        return [
            f"{found.total()} of {len(some)} sampled answers are none that the verifier "
            f"{given.verifier!r} compares; curation leaves such problems out: "
            f"{next(iter(examples.values()))[0]}"
        ]
    raise DataError(
        f"{found.total()} of {len(some)} sampled answers are no reference answers for the verifier "
        f"{given.verifier!r}: every reward of theirs would be unknown"
        + listed(found, {fault: lines[:_EXAMPLES] for fault, lines in examples.items()}),
        where=str(given.data),
        remedy=_OWN if ":" in given.verifier else _GOLDS,
    )


def _mark(problems: Sequence[Problem], given: Given) -> tuple[str, int, int, Teacher]:
    """The mark by which most sampled solutions are right: (mark, right, sampled, teacher)."""
    asked = [(p, p.traces[0]) for p in spread([p for p in problems if p.traces])]
    if not asked:
        return given.mark or BOX, 0, 0, Teacher()
    best: tuple[str, int, int, Teacher] | None = None
    with _pool(given.verifier) as pool:
        for name in [given.mark] if given.mark else MARKS:
            mark = parse_mark(name, "--mark")
            texts = [mark.boxed(text) for _, text in asked]
            verdicts = pool.verify(
                Job("trace", p.answer, text, kind=given.verifier)
                for (p, _), text in zip(asked, texts, strict=True)
            )
            teacher = Teacher(len(asked))
            for (problem, text), found in zip(asked, verdicts, strict=True):
                if found.verdict is Verdict.CORRECT:
                    teacher.taught += 1
                else:
                    reason = f"verdict {found.verdict} ({found.detail})"
                    if "<think>" in text and "</think>" not in text:
                        reason = "a thought that is never closed"
                    wanted = f"{problem.lines[0]}, gold {short(problem.answer, 30)!r},"
                    teacher.refuse(reason, wanted, text)
            if best is None or teacher.taught > best[1]:
                best = (name, teacher.taught, len(asked), teacher)
            if best[1] == len(asked):
                break
    assert best is not None
    return best


def _unmarked(problems: Sequence[Problem]) -> list[str]:
    """A note on solutions without any mark: nothing in them says which number is the answer."""
    marks = [parse_mark(name, "--mark") for name in MARKS if name != LAST_NUMBER]
    bare, count = list[str](), 0
    for problem in problems:
        for text, line in zip(problem.traces, problem.lines, strict=True):
            count += 1
            if not any(mark.find(text) for mark in marks):
                bare.append(f"{line}, which ends {text.rstrip()[-30:]!r}")
    if not bare:
        return []
    return [
        f"{len(bare)} of {count} solutions mark no answer: their last number is taken for it, and "
        f"written in a box after them; the first: {bare[0]}; "
        + ("--mark box leaves them out" if len(bare) < count else "--mark PATTERN names a mark")
    ]


def spread(problems: Sequence[Problem], most: int = GRADED) -> Iterator[Problem]:
    """Problems from the whole file, evenly."""
    step = max(1, len(problems) // most)
    yield from islice(problems[::step], most)
