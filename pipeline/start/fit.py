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
from pipeline.curate.check import Limits, Sample, check_data
from pipeline.curate.columns import first_named
from pipeline.curate.sources.marks import BOX, HASHES, LAST_NUMBER, STATED, parse_mark
from pipeline.curate.sources.record import Faulty
from pipeline.curate.sources.table import open_table
from pipeline.curate.text import exact_key, normalise
from pipeline.start.columns import first_rows, guess_problems, guess_traces, short

MOST = 20_000
"""Rows that are looked at, of problems and of solutions."""
GRADED = 60
"""Problems whose gold and solutions are put to the verifier."""
FEWEST = 20
"""Problems that a run needs at the least: some are held out."""
MARKS = (BOX, HASHES, STATED, LAST_NUMBER)
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
class Problem:
    """A problem that can be trained on."""

    text: str
    answer: str
    key: str | None
    where: str
    traces: tuple[str, ...] = ()


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
    problems, notes = _problems(TableSource.model_validate(source), given.data)
    problems, joined_by = _join(problems, source, given)
    if needs_traces(given.method) and not any(p.traces for p in problems):
        raise DataError(
            f"method {given.method} learns from solutions, and the problems have none",
            where=str(given.data),
            remedy="--traces FILE, or a column of them: --columns trace=COLUMN,...; or "
            "--method grpo, which needs none",
        )
    _check_golds(problems, given)
    mark, right, graded, teacher = _mark(problems, given)
    if graded and teacher.taught == 0 and needs_traces(given.method):
        raise DataError(
            f"none of {graded} sampled solutions is right as it stands: {teacher.why}",
            where=str(given.traces or given.data),
            remedy="say how they mark their answer: --mark box, '####', last_number, or a "
            "regular expression with one group: 'answer is (.+)'; or compare golds and solutions",
        )
    if mark != BOX:
        source["mark"] = mark
    if teacher.lacking and graded:
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
    else:
        source |= guess_problems(rows, given.data, given.traces is not None)
    if given.traces is None:
        return source
    if source["adapter"] != "generic":
        raise DataError(
            f"the problems are read by the adapter {source['adapter']!r}, which brings its own "
            "solutions; a second file is joined to named columns only",
            where=str(given.traces),
            remedy="leave --traces out, or name the columns: --columns problem=...,answer=...",
        )
    columns = dict(source["columns"]) if isinstance(source.get("columns"), dict) else {}
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


def _problems(source: TableSource, path: Path) -> tuple[list[Problem], list[str]]:
    """The problems that can be read, and notes on rows that cannot.

    Raises:
        DataError: a row of the user's own file that curation would refuse, or too few problems.
    """
    plain = source.model_copy(update={"traces_path": None, "traces_columns": {}})
    opened = open_table("mine", plain)
    found: list[Problem] = []
    faults: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for record in islice(opened.records, MOST):
        fault, example = None, ""
        if isinstance(record, Faulty):
            fault, example = record.fault.reason, record.fault.detail or record.excerpt
        else:
            parts = record.parts
            text, answer = normalise(parts.problem), normalise(parts.answer).strip()
            fault = "no problem text" if not text.strip() else None
            fault = fault or ("no answer" if not answer else None)
            example = text
            traces = tuple(t.text for t in parts.traces if not t.cut)
        if fault is None:
            found.append(Problem(text, answer, parts.key, record.where, traces))
            continue
        faults[fault] += 1
        kept = examples.setdefault(fault, [])
        if len(kept) < _EXAMPLES:
            kept.append(f"{record.where}: {short(example)}")
    if faults and opened.strict:
        _refuse_rows(faults, examples, path)
    if len(found) < FEWEST:
        raise DataError(
            f"{len(found)} problems can be read, and a run needs {FEWEST} at the least: some are "
            "held out to measure it" + _listed(faults, examples),
            where=str(path),
            remedy="give more problems",
        )
    _refuse_repeated(found, path)
    return found, [f"{n} rows are left out: {what}" for what, n in faults.items()]


def _refuse_rows(faults: Counter[str], examples: Mapping[str, list[str]], path: Path) -> None:
    raise DataError(
        f"{faults.total()} rows cannot be used" + _listed(faults, examples),
        where=str(path),
        remedy="mend or remove these rows; or take the column that is meant: "
        "--columns problem=COLUMN,answer=COLUMN",
    )


def _listed(faults: Counter[str], examples: Mapping[str, list[str]]) -> str:
    return "".join(
        f"\n  {count} × {what}" + "".join(f"\n    {line}" for line in examples[what])
        for what, count in faults.most_common(_EXAMPLES)
    )


def _refuse_repeated(problems: Sequence[Problem], path: Path) -> None:
    """Ids are there to be unique; curation stops at the first that is not."""
    seen: dict[str, Problem] = {}
    twice = []
    for problem in problems:
        if problem.key is None:
            continue
        first = seen.setdefault(problem.key, problem)
        if first is not problem:
            twice.append(f"{problem.key!r}: {first.where} and {problem.where}")
    if twice:
        raise DataError(
            f"{len(twice)} ids stand in several rows"
            + "".join(f"\n  {line}" for line in twice[:_EXAMPLES]),
            where=str(path),
            remedy="make the ids unique; or leave them out, and solutions are joined by the "
            "problem's text: --columns problem=COLUMN,answer=COLUMN",
        )


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
    opened = open_table("mine", TableSource.model_validate(dict(source)))
    assert opened.traces is not None
    by_id = {p.key: i for i, p in enumerate(problems) if p.key is not None}
    by_text = {exact_key(p.text): i for i, p in enumerate(problems)}
    found: dict[int, list[str]] = {}
    lost, rows, by = [], 0, "text"
    for loose in islice(opened.traces, MOST):
        rows += 1
        by = "text" if loose.by_text else "id"
        key = exact_key(normalise(loose.key)) if loose.by_text else loose.key
        at = by_text.get(key) if isinstance(key, bytes) else by_id.get(key)
        if at is None:
            lost.append(f"{loose.where}: {short(loose.key, 60)!r}")
        else:
            found.setdefault(at, []).append(loose.trace.text)
    if not rows:
        raise DataError("there is no solution", where=str(given.traces))
    if lost and len(problems) < MOST:
        _refuse_lost(lost, rows, by, problems, given.traces)
    return [replace(p, traces=(*p.traces, *found.get(i, ()))) for i, p in enumerate(problems)], by


def _refuse_lost(
    lost: Sequence[str], rows: int, by: str, problems: Sequence[Problem], path: Path
) -> None:
    have = [short(str(p.key if by == "id" else p.text), 60) for p in problems[:_EXAMPLES]]
    raise DataError(
        f"{len(lost)} of {rows} solutions find no problem, joined by {by}"
        + "".join(f"\n  {line}" for line in lost[:_EXAMPLES])
        + f"\n  the problems have {', '.join(map(repr, have))}, ...",
        where=str(path),
        remedy="name what joins them: --traces-columns trace=COLUMN,problem_id=COLUMN with "
        "--columns id=COLUMN,..., or by the problem's text: --traces-columns "
        "trace=COLUMN,problem=COLUMN; remove solutions of other problems",
    )


def _pool(verifier: str) -> VerifierPool:
    return VerifierPool(replace(verifier_settings(Rewards()), kind=verifier))


def _check_golds(problems: Sequence[Problem], given: Given) -> None:
    """Raises DataError where most golds are no reference answers for the verifier."""
    samples = [Sample(p.where, p.answer, given.verifier) for p in spread(problems)]
    with _pool(given.verifier) as pool:
        checked = check_data(samples, pool, Limits(respelled=1.0, mutated=1.0))
    golds = checked.golds
    if golds.share <= _USELESS:
        return
    shown = "".join(
        f"\n  {n} × {fault}" + "".join(f"\n    {line}" for line in golds.examples[fault])
        for fault, n in golds.faults.most_common(2)
    )
    raise DataError(
        f"{golds.bad} of {golds.trials} sampled answers are no reference answers for the verifier "
        f"{given.verifier!r}: every reward of theirs would be unknown{shown}",
        where=str(given.data),
        remedy="name the column of the final answers (--columns answer=COLUMN,...); answers that "
        "are words are compared as they stand with --verifier exact",
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
                    reason = f"verdict {found.verdict}"
                    wanted = f"{problem.where}, gold {short(problem.answer, 30)!r},"
                    teacher.refuse(reason, wanted, text)
            if best is None or teacher.taught > best[1]:
                best = (name, teacher.taught, len(asked), teacher)
            if best[1] == len(asked):
                break
    assert best is not None
    return best


def spread(problems: Sequence[Problem], most: int = GRADED) -> Iterator[Problem]:
    """Problems from the whole file, evenly."""
    step = max(1, len(problems) // most)
    yield from islice(problems[::step], most)
