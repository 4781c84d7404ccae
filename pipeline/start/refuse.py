"""What `hapo train` says of rows that it cannot use: how many, the lines of three, what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.build.teacher import Teacher
from pipeline.config import TableSource
from pipeline.curate.rules.gradable import says_none
from pipeline.curate.sources.table import open_rows
from pipeline.curate.text import exact_key
from pipeline.start.columns import short

FEWEST = 20
"""Problems that a run needs at the least: some are held out."""
_EXAMPLES = 3


@dataclass(frozen=True)
class Problem:
    """A problem that can be trained on; `lines` says where each trace stands."""

    text: str
    answer: str
    key: str | None
    where: str
    traces: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


def listed(faults: Counter[str], examples: Mapping[str, Sequence[str]]) -> str:
    """The most frequent faults, each with the rows that are shown of it."""
    return "".join(
        f"\n  {count} × {what}" + "".join(f"\n    {line}" for line in examples[what])
        for what, count in faults.most_common(_EXAMPLES)
    )


def rows_of(count: int, verb: str = "") -> str:
    """`1 row repeats`, `2 rows repeat`."""
    words = f"{count} row" + ("" if count == 1 else "s")
    return words + (f" {verb}{'s' if count == 1 else ''}" if verb else "")


def first_of(lines: Sequence[str]) -> str:
    """The first of many, a line each."""
    return "".join(f"\n  {line}" for line in lines[:_EXAMPLES])


def refuse_rows(
    faults: Counter[str], examples: Mapping[str, Sequence[str]], remedies: Iterable[str], path: Path
) -> None:
    """Rows that curation would refuse.

    Args:
        remedies: what the faults themselves say beyond mending the row.
    """
    own = "; ".join(dict.fromkeys(remedies))
    raise DataError(
        f"{rows_of(faults.total())} cannot be used" + listed(faults, examples),
        where=str(path),
        remedy=(own or "mend or remove these rows")
        + "; or take the column that is meant: --columns problem=COLUMN,answer=COLUMN",
    )


def refuse_repeated(problems: Sequence[Problem], path: Path) -> None:
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
            f"{len(twice)} ids stand in several rows" + first_of(twice),
            where=str(path),
            remedy="make the ids unique; or leave them out, and solutions are joined by the "
            "problem's text: --columns problem=COLUMN,answer=COLUMN",
        )


Same = Callable[[Sequence[tuple[Problem, Problem]]], Sequence[bool]]
"""Whether the answers of each pair are the same for the verifier."""


def two_golds(problems: Sequence[Problem], same: Same) -> list[str]:
    """Problems that stand twice with different answers, a line each.

    Curation keeps the first row and drops the others: which answer is right nobody has said.
    """
    seen: dict[bytes, Problem] = {}
    pairs = []
    for problem in problems:
        first = seen.setdefault(exact_key(problem.text), problem)
        if first is not problem and exact_key(first.answer) != exact_key(problem.answer):
            pairs.append((first, problem))
    return [
        f"{first.where} says {short(first.answer, 30)!r}, {other.where} says "
        f"{short(other.answer, 30)!r}: {short(other.text, 60)}"
        for (first, other), equal in zip(pairs, same(pairs) if pairs else (), strict=True)
        if not equal
    ]


def refuse_few(
    problems: Sequence[Problem],
    path: Path,
    faults: Counter[str],
    examples: Mapping[str, Sequence[str]],
) -> None:
    """Raises DataError where there are fewer than FEWEST; `faults` are those of rows not read."""
    if len(problems) < FEWEST:
        raise DataError(
            f"{len(problems)} problems can be read, and a run needs {FEWEST} at the least: some "
            "are held out to measure it" + listed(faults, examples),
            where=str(path),
            remedy="another adapter (`hapo data adapters`), or the columns by name: --columns "
            "problem=COLUMN,answer=COLUMN"
            if faults
            else "give more problems",
        )


def settled(problems: Sequence[Problem], path: Path) -> tuple[list[Problem], list[str]]:
    """The problems that curation will keep of those that were read, and notes on the others.

    Raises:
        DataError: too few are left.
    """
    kept, again = _once(problems)
    notes = []
    if again:
        notes.append(f"{rows_of(len(again), 'repeat')} a problem, the first is kept: {again[0]}")
    found = [p for p in kept if not says_none(p.answer)]
    lost = [f"{p.where}, {p.answer!r}" for p in kept if says_none(p.answer)]
    if lost:
        notes.append(f"{rows_of(len(lost))} left out, whose answer says that it is none: {lost[0]}")
    refuse_few(found, path, Counter(), {})
    return found, notes


def _once(problems: Sequence[Problem]) -> tuple[list[Problem], list[str]]:
    """Every problem once, with the solutions of all its rows, as curation keeps it; and where the
    others stand."""
    kept: dict[bytes, Problem] = {}
    again = []
    for problem in problems:
        key = exact_key(problem.text)
        first = kept.setdefault(key, problem)
        if first is problem:
            continue
        again.append(f"{problem.where} is {first.where}")
        if exact_key(first.answer) == exact_key(problem.answer):
            traces, lines = first.traces + problem.traces, first.lines + problem.lines
            kept[key] = replace(first, traces=traces, lines=lines)
    return list(kept.values()), again


def none_right(sampled: int, found: Teacher, path: Path) -> DataError:
    """No sampled solution is right: why, with three of them."""
    reason = found.reasons.most_common(1)[0][0]
    remedy = (
        "say how they mark their answer: --mark box, '####', last_number, or a regular expression "
        "with one group: 'answer is (.+)'"
    )
    if "wrong" in reason:
        remedy = (
            "look whether each solution stands beside its own problem, and whether the column of "
            "answers is the right one: --columns problem=COLUMN,answer=COLUMN; a solution that "
            "marks its answer otherwise: --mark PATTERN"
        )
    elif "thought" in reason:
        remedy = "close the thought (</think>) in every solution, or take the tag out"
    counts = ", ".join(f"{count} × {what}" for what, count in found.reasons.most_common(3))
    lines = [f"{where} ends {end!r}" for where, end in found.examples[reason]]
    return DataError(
        f"none of {sampled} sampled solutions is right as it stands: {counts}" + first_of(lines),
        where=str(path),
        remedy=remedy,
    )


def refuse_two_golds(lines: Sequence[str], path: Path) -> None:
    """Raises DataError where there are any."""
    if lines:
        raise DataError(
            f"{rows_of(len(lines), 'repeat')} a problem with another answer" + first_of(lines),
            where=str(path),
            remedy="keep one row of each such problem, the one with the right answer",
        )


def refuse_empty_solutions(source: TableSource, most: int) -> None:
    """Solutions without text, all of them with their lines; curation stops at the first.

    Raises:
        DataError: there is one.
    """
    assert source.traces_path is not None
    column = source.traces_columns.get("trace", "trace")
    rows, _, _ = open_rows(source.model_copy(update={"path": source.traces_path, "hub": None}))
    count, empty = 0, list[str]()
    for row, where, _ in islice(rows, most):
        count += 1
        if column in row and _is_empty(row[column]):
            empty.append(where)
    if empty:
        lines = ", ".join(where.rpartition("/")[2] for where in empty[:12])
        more = f" and {len(empty) - 12} more" if len(empty) > 12 else ""
        raise DataError(
            f"{len(empty)} of {count} solutions are empty (column {column!r}): {lines}{more}",
            where=source.traces_path,
            remedy="remove these rows: a problem may stand without a solution; or name the column "
            "that is meant: --traces-columns trace=COLUMN,...",
        )


def _is_empty(cell: object) -> bool:
    if isinstance(cell, list | tuple):
        return all(_is_empty(item) for item in cell)
    return cell is None or cell != cell or (isinstance(cell, str) and not cell.strip())


def refuse_lost(
    lost: Sequence[str], rows: int, by: str, problems: Sequence[Problem], path: Path
) -> None:
    """Solutions that find no problem, with examples of both sides."""
    have = [short(str(p.key if by == "id" else p.text), 60) for p in problems[:_EXAMPLES]]
    raise DataError(
        f"{len(lost)} of {rows} solutions find no problem, joined by {by}"
        + first_of(lost)
        + f"\n  the problems have {', '.join(map(repr, have))}, ...",
        where=str(path),
        remedy="name what joins them: --traces-columns trace=COLUMN,problem_id=COLUMN with "
        "--columns id=COLUMN,..., or by the problem's text: --traces-columns "
        "trace=COLUMN,problem=COLUMN; remove solutions of other problems",
    )
