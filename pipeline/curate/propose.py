"""What `hapo data peek` proposes: every adapter is tried on real rows, and the configuration that
reads most of them is written as YAML that `curate` takes unchanged.

Fixed adapters are tried as they are. For the generic one, columns are guessed by their names and
by what is in their cells, and marks by how many traces end in the row's own answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from hapo_core.errors import HapoError
from hapo_core.verify import extract_answer
from hapo_core.verify.math.fastpath import plain_number
from pipeline.config import TableSource
from pipeline.curate.intake import row_fault
from pipeline.curate.rules.golds import too_long
from pipeline.curate.sources.adapters import ADAPTERS, answer_text, key_text
from pipeline.curate.sources.generic import truth
from pipeline.curate.sources.marks import HASHES, LAST_NUMBER, STATED, parse_mark
from pipeline.curate.sources.record import Parts, Record, Row, RowFault
from pipeline.curate.sources.table import check_columns, find_adapter
from pipeline.curate.text import exact_key, normalise

_NAMES = {
    "problem": "problem question prompt instruction query input task exercise statement text",
    "answer": "answer final_answer gold gold_answer ground_truth expected expected_answer "
    "reference_answer correct_answer reference target result output",
    "trace": "trace solution response generation generations completion completions rationale "
    "reasoning cot explanation gold_solution solutions output target answer traces",
    "id": "id uid uuid unique_id problem_id question_id idx index key",
    "cut": "cut truncated",
    "label": "label correct is_correct",
}
"""Names of columns, the likeliest first."""
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
MARKS = (None, HASHES, STATED, LAST_NUMBER)
"""None is the box. The last is for traces whose answer is known from a column."""
_TRIED = 200
"""Rows on which guesses are compared."""
_REMEMBERED = 100_000
"""Problems whose answers are kept, to find another answer of the same one."""
_BESIDE = 20
"""Characters beside its answer from which a text is a solution."""


@dataclass
class Trial:
    """What one way of reading makes of the rows.

    `accepted` rows have a problem and an answer; `right` of the `traces` end in it, `boxed` end in
    any box; from `mended` rows an instruction was taken off, or the like. `doubts` are accepted
    rows that curation drops for their answer, by what is wrong; `golds` is the first row and
    answer of every problem.
    """

    source: TableSource
    rows: int = 0
    accepted: int = 0
    traces: int = 0
    right: int = 0
    boxed: int = 0
    mended: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    doubts: dict[str, list[str]] = field(default_factory=dict)
    golds: dict[bytes, tuple[int, str]] = field(default_factory=dict)

    @property
    def score(self) -> tuple[int, int, int]:
        """More is better: rows, right traces, fewer others."""
        return self.accepted, self.right, -self.traces

    def line(self) -> str:
        """`12 of 20 rows, 12 traces (11 end in the answer as written); 8 not: no boxed answer`."""
        traces = (
            f", {self.traces} traces ({self.right} end in the answer as written)"
            if self.traces
            else ""
        )
        if not self.accepted and len(self.faults) == 1:
            return f"0 of {self.rows} rows: {next(iter(self.faults))}"
        why = "; ".join(f"{n} not: {reason}" for reason, n in self.faults.most_common(3))
        return f"{self.accepted} of {self.rows} rows{traces}{'; ' + why if why else ''}"

    def doubt(self, parts: Parts) -> None:
        """Note an answer that is none, or not that of the same problem before."""
        if long := too_long(parts.answer, "math"):
            size = f"row {self.rows}: {len(parts.answer):,} characters"
            self.doubts.setdefault(f"answers are {long}", []).append(size)
        if len(self.golds) == _REMEMBERED:
            return
        key = exact_key(normalise(parts.problem))
        row, gold = self.golds.setdefault(key, (self.rows, parts.answer))
        if not (same_answer(gold, parts.answer) or exact_key(gold) == exact_key(parts.answer)):
            pair = f"row {row}: {gold:.30}, row {self.rows}: {parts.answer:.30}"
            self.doubts.setdefault("rows repeat a problem with another answer", []).append(pair)


def try_reading(source: TableSource, rows: Iterator[Row] | Sequence[Row]) -> Trial:
    """Read rows as `source` says; every row that curation would refuse is counted."""
    trial, keys = Trial(source), set[str]()
    try:
        adapter = find_adapter("peek", source)
    except HapoError as error:
        trial.faults[error.what] += 1
        return trial
    for row in rows:
        trial.rows += 1
        try:
            if trial.rows == 1 or adapter.strict:
                check_columns(row, adapter, ".jsonl", first=trial.rows == 1)
            parts = adapter.read(row)
        except RowFault as fault:
            trial.faults[fault.reason] += 1
            continue
        except HapoError as error:
            trial.faults[error.what.partition("; it has")[0]] += 1
            if trial.rows == 1 and not adapter.strict:  # curation stops at it
                trial.rows += sum(1 for _ in rows) if isinstance(rows, Iterator) else len(rows) - 1
                return trial
            continue
        found = row_fault(Record(parts, trial.rows, ""), strict=True)
        if found is None and parts.key is not None and not parts.lenient_key:
            found = ("duplicate id", "") if parts.key in keys else None
            keys.add(parts.key)
        if found is not None:
            trial.faults[found[0]] += 1
            continue
        trial.accepted += 1
        trial.doubt(parts)
        trial.traces += len(parts.traces)
        trial.mended += bool(parts.tolerated)
        ends = [extract_answer(t.text).answer for t in parts.traces]
        trial.boxed += sum(end is not None for end in ends)
        trial.right += sum(same_answer(end, parts.answer) for end in ends)
    return trial


def same_answer(one: str | None, other: str) -> bool:
    """Whether two answers are the same number or the same characters, blanks aside."""
    if one is None:
        return False
    numbers = plain_number(one), plain_number(other)
    if all(numbers):
        return numbers[0] == numbers[1]
    return "".join(one.split()) == "".join(other.split())


# --- guesses ------------------------------------------------------------------------------------


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
    named = {kind: named_like(rows, kind) for kind in _NAMES}
    texts = [c for c in columns_of(rows) if median_length(rows, c) > 0]
    problems = [c for c in named["problem"] if c in texts]
    answers = [c for c in named["answer"] if c not in problems[:1] and _answers(rows, c)]
    rest = [c for c in texts if c not in named["id"]]
    if not problems:  # names say nothing: the longest text with a question, the shortest beside it
        problems = sorted(rest, key=lambda c: (-_asks(rows, c), -median_length(rows, c)))[:2]
    solved = any(_solves(rows, c, m) for c in named["trace"] for m in (None, HASHES, STATED))
    if not answers and not named["answer"] and not solved:
        short = sorted(columns_of(rows), key=lambda c: median_length(rows, c))
        taken = {*problems[:1], *named["id"], *named["trace"]}
        answers = [c for c in short if c not in taken and _answers(rows, c)][:2]
    traces = named["trace"] or [c for c in rest if c not in problems[:1] and c not in answers]
    for problem in problems[:3]:
        for answer in answers[:3] or [None]:
            for trace in [*traces[:5], None]:
                if problem not in (answer, trace) and (trace != answer or trace is None):
                    yield from _marked(rows, problem, answer, trace, named)


def _marked(
    rows: Sequence[Row], problem: str, answer: str | None, trace: str | None,
    named: Mapping[str, Sequence[str]],
) -> Iterator[dict[str, object]]:  # fmt: skip
    if answer is None and trace is None:
        return
    columns = {"problem": problem, "answer": answer, "trace": trace}
    ids = [c for c in named["id"] if c not in columns.values()]
    columns["id"] = next((c for c in ids if _is_id(rows, c)), None)
    for flag in ("cut", "label") if trace else ():
        columns[flag] = next((c for c in named[flag] if _is_flag(rows, c)), None)
    kept = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    for mark in MARKS if trace else (None,):
        if answer is not None or (mark != LAST_NUMBER and _solves(rows, str(trace), mark)):
            yield {"columns": kept, "mark": mark}


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns of all rows, in order."""
    return list(dict.fromkeys(str(name) for row in rows for name in row))


def named_like(rows: Sequence[Row], kind: str) -> list[str]:
    """Columns whose names are usual for this field, the likeliest first."""
    by_name = {re.sub(r"\W+", "_", c.strip().lower()): c for c in reversed(columns_of(rows))}
    return [by_name[name] for name in _NAMES[kind].split() if name in by_name]


def median_length(rows: Sequence[Row], column: str) -> float:
    """Characters of a column's texts, numbers included; 0 for anything else."""
    cells = [row.get(column) for row in rows if row.get(column) not in (None, "")]
    lengths = [
        len(str(c)) for c in cells if isinstance(c, str | int | float) and not isinstance(c, bool)
    ]
    return median(lengths) if lengths and 2 * len(lengths) > len(cells) else 0


def _asks(rows: Sequence[Row], column: str) -> float:
    return sum("?" in str(row.get(column)) for row in rows) / len(rows)


def _answers(rows: Sequence[Row], column: str) -> bool:
    """Whether most cells are answers, and no solutions that mark one."""
    good = 0
    for row in rows:
        try:
            text = answer_text(row.get(column), column)
        except RowFault:
            continue
        good += bool(text.strip()) and not any(
            _marks_within(text, m) for m in (None, HASHES, STATED)
        )
    return 2 * good > len(rows)


def _solves(rows: Sequence[Row], column: str, mark: str | None) -> bool:
    """Whether most cells are solutions with a marked answer and text beside it."""
    cells = [row.get(column) for row in rows]
    texts = [str(c[0]) if isinstance(c, list) and c else c for c in cells]
    found = sum(isinstance(t, str) and _marks_within(t, mark) for t in texts)
    return 2 * found > len(rows)


def _marks_within(text: str, mark: str | None) -> bool:
    answer = parse_mark(mark or "box", "peek").find(text)
    return bool(answer) and len(text) >= len(answer) + _BESIDE


def _is_id(rows: Sequence[Row], column: str) -> bool:
    try:
        keys = [key_text(row.get(column)) for row in rows]
    except RowFault:
        return False
    return None not in keys and len(set(keys)) == len(keys)


def _is_flag(rows: Sequence[Row], column: str) -> bool:
    return all(truth(row.get(column)) is not None or row.get(column) is None for row in rows)


# --- YAML ---------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z_/.~][\w/.@~-]*")
_RESERVED = {"yes", "no", "on", "off", "true", "false", "null", "y", "n", "~", ".nan", ".inf"}


def as_yaml(name: str, source: TableSource) -> list[str]:
    """`curate.sources.NAME` as lines of params.yaml."""
    lines = ["curate:", "  sources:", f"    {source_name(name)}:", "      kind: table"]
    if source.adapter != "generic":
        lines.append(f"      adapter: {source.adapter}")
    for option in ("path", "hub", "revision", "config", "mark", "traces_path"):
        value = getattr(source, option)
        if value is not None:
            lines.append(f"      {option}: {_scalar(value)}")
    if source.hub is not None:
        lines.append(f"      split: {_scalar(source.split)}")
    for option in ("columns", "traces_columns"):
        pairs = getattr(source, option)
        if pairs:
            inside = ", ".join(f"{ours}: {_scalar(theirs)}" for ours, theirs in pairs.items())
            lines.append(f"      {option}: {{{inside}}}")
    if source.strict is not None:
        lines.append(f"      strict: {str(source.strict).lower()} # rows that fail are counted")
    return lines


def _scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) and text.lower() not in _RESERVED:
        return text
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + text.encode("unicode_escape").decode("ascii").replace('"', '\\"') + '"'


def source_name(text: str) -> str:
    """A name for the source: its file's or dataset's, in letters that a name may have."""
    stem = re.split(r"[\\/]", text.rstrip("/\\"))[-1].partition(".")[0]
    bare = re.sub(r"[^a-z0-9_]+", "_", stem.lower()).strip("_")
    return bare if bare and bare[0].isalpha() else f"own_{bare}".rstrip("_")
