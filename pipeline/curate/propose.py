"""What `hapo data peek` proposes: every adapter is tried on real rows, and the configuration that
reads most of them is taken (`source_yaml` writes it).

Fixed adapters are tried as they are. For the generic one, columns are guessed by their names and
by what is in their cells (`columns`), and marks by how many traces end in the row's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.config import TableSource
from pipeline.curate.columns import (
    MARKS,
    NAMES,
    asks,
    columns_of,
    holds_answers,
    holds_solutions,
    is_flag,
    is_id,
    median_length,
    named,
)
from pipeline.curate.sources.adapters import ADAPTERS
from pipeline.curate.sources.marks import HASHES, LAST_NUMBER, STATED
from pipeline.curate.sources.record import Row
from pipeline.curate.trial import Trial, try_reading

_SIGNATURES = {
    "math": {"type", "level", "solution"},
    "math500": {"unique_id", "subject", "level"},
    "minerva": {"idx", "type", "solution"},
    "openr1_220k": {"generations"},
    "openr1_46k": {"reward_model", "target"},
    "verl": {"reward_model"},
    "big_math": {"reward_model", "llama8b_solve_rate"},
    "numinamath_1.5": {"question_type"},
    "olympiadbench": {"final_answer", "subfield"},
}
"""Columns by which a data set is known; `gsm8k` is known by its ####."""
_TRIED = 200
"""Rows on which guesses are compared."""


def propose(
    source: TableSource,
    sample: Sequence[Row],
    again: Callable[[], Iterator[Row]],
    apart: bool = False,
) -> tuple[Trial | None, list[tuple[str, Trial]]]:
    """(the best way to read the source, every adapter with what it makes of the sample).

    Args:
        source: where the rows are; its adapter, columns and mark are not looked at.
        sample: its first rows.
        again: all rows that the proposal is checked on, from the first.
        apart: traces stand in a file of their own, which only the generic adapter joins.

    Returns:
        None in place of the best where nothing reads a row.
    """
    bare = source.model_copy(
        update={"adapter": "generic", "columns": {}, "mark": None, "strict": None}
    )
    fixed = [
        (name, try_reading(bare.model_copy(update={"adapter": name}), sample)) for name in ADAPTERS
    ]
    few = sample[:_TRIED]
    guess = _best_guess([try_reading(bare.model_copy(update=g), few) for g in _guesses(few)])
    own = None
    if guess is not None and guess.accepted:
        own = _without_what_fails(try_reading(guess.source, again()), again)
        own = own if own.accepted else None
    trials = [*fixed, ("generic", own or Trial(bare, len(sample)))]
    known = None if apart and own is not None else _known(fixed, sample, own)
    best = try_reading(known.source, again()) if known is not None else own
    return best, trials


def _best_guess(trials: Sequence[Trial]) -> Trial | None:
    """The best one; another mark than the box only where most traces have no box."""
    boxed = {_column_key(t) for t in trials if t.source.mark is None and 2 * t.boxed > t.traces}
    kept = [t for t in trials if t.source.mark is None or _column_key(t) not in boxed]
    kept = [t for t in kept if t.source.mark is None or 2 * t.right > t.traces]
    return max(kept, key=lambda t: t.score, default=None)


def _column_key(trial: Trial) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(trial.source.columns.items()))


def _known(
    fixed: Sequence[tuple[str, Trial]], sample: Sequence[Row], own: Trial | None
) -> Trial | None:
    """The fixed adapter that is better than the generic one, or as good and made for these rows."""
    columns = {name for row in sample[:_TRIED] for name in row}
    best: Trial | None = None
    ranked = (False, 0, 0)
    for name, trial in fixed:
        if not trial.accepted:
            continue
        signed = name == "gsm8k" or _SIGNATURES.get(name, {""}) <= columns
        signed = signed or 2 * trial.mended > trial.accepted
        reads = own is None or _share(trial) >= _share(own)
        as_good = own is None or _right(trial) >= 0.9 * _right(own)
        lossy = own is not None and bool(own.faults)
        if (signed or own is None or lossy) and reads and as_good:
            rank = (signed, *trial.score[:2])
            best, ranked = (trial, rank) if rank > ranked else (best, ranked)
    return best


def _share(trial: Trial) -> float:
    return trial.accepted / max(trial.rows, 1)


def _right(trial: Trial) -> float:
    return trial.right / max(trial.rows, 1)


def _without_what_fails(trial: Trial, again: Callable[[], Iterator[Row]]) -> Trial:
    """The proposal without ids that repeat; rows that still fail are dropped and counted."""
    if trial.faults["duplicate id"] or trial.faults["the id is neither text nor integer"]:
        columns = {k: v for k, v in trial.source.columns.items() if k != "id"}
        trial = try_reading(trial.source.model_copy(update={"columns": columns}), again())
    if trial.faults:  # rows that fail are dropped and counted, which a first row may not be
        trial = try_reading(trial.source.model_copy(update={"strict": False}), again())
    return trial


def _guesses(rows: Sequence[Row]) -> Iterator[dict[str, object]]:
    """Columns and marks to try for the generic adapter."""
    by_kind = {kind: named(rows, kind) for kind in NAMES}
    texts = [c for c in columns_of(rows) if median_length(rows, c) > 0]
    problems = [c for c in by_kind["problem"] if c in texts]
    answers = [c for c in by_kind["answer"] if c not in problems[:1] and holds_answers(rows, c)]
    rest = [c for c in texts if c not in by_kind["id"]]
    if not problems:  # names say nothing: the longest text with a question, the shortest beside it
        problems = sorted(rest, key=lambda c: (-asks(rows, c), -median_length(rows, c)))[:2]
    solved = any(
        holds_solutions(rows, c, m) for c in by_kind["trace"] for m in (None, HASHES, STATED)
    )
    other = [c for c in by_kind["answer"] if c not in by_kind["label"]]
    if not answers and not other and not solved:
        short = sorted(columns_of(rows), key=lambda c: median_length(rows, c))
        taken = {*problems[:1], *by_kind["id"], *by_kind["trace"]}
        answers = [c for c in short if c not in taken and holds_answers(rows, c)][:2]
    traces = by_kind["trace"] or [c for c in rest if c not in problems[:1] and c not in answers]
    tried: list[str | None] = [*answers[:3]] or [None]
    for problem in problems[:3]:
        for answer in tried:
            for trace in [*traces[:5], None]:
                if problem not in (answer, trace) and (trace != answer or trace is None):
                    yield from _marked(rows, problem, answer, trace, by_kind)


def _marked(
    rows: Sequence[Row], problem: str, answer: str | None, trace: str | None,
    by_kind: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, object]]:  # fmt: skip
    if answer is None and trace is None:
        return
    columns = {"problem": problem, "answer": answer, "trace": trace}
    ids = [c for c in by_kind["id"] if c not in columns.values()]
    columns["id"] = next((c for c in ids if is_id(rows, c)), None)
    for flag in ("cut", "label") if trace else ():
        columns[flag] = next((c for c in by_kind[flag] if c != answer and is_flag(rows, c)), None)
    kept = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    for mark in MARKS if trace else (None,):
        if answer is not None or (mark != LAST_NUMBER and holds_solutions(rows, str(trace), mark)):
            yield {"columns": kept, "mark": mark}
