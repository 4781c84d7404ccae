"""Which column of a file of generations is what, and what its cells mean."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hapo_core.errors import ConfigError, DataError
from hapo_core.verify import extract_answer
from pipeline.config.nearest import did_you_mean
from pipeline.curate.sources.cells import answer_text, is_list, key_text
from pipeline.curate.sources.files import LocatedRow
from pipeline.curate.sources.record import Row, RowFault

DEFAULTS: dict[str, tuple[str, ...]] = {
    "response": ("response", "generation", "completion", "model_output", "output.completion",
                 "output", "responses", "generations", "completions", "resps", "text"),
    "gold": ("gold", "gold_answer", "ground_truth", "reward_model.ground_truth", "answer",
             "reference", "reference_answer", "target"),
    "id": ("problem_id", "prompt_id", "question_id", "unique_id", "doc_id", "id", "idx", "index"),
    "label": ("label", "correct", "is_correct", "reward", "exact_match"),
    "truncated": ("truncated", "cut", "finish", "finish_reason", "stop_reason"),
    "problem": ("problem", "question", "prompt", "doc.problem", "doc.question", "input"),
}  # fmt: skip
"""Column names that are tried, in this order, for what no option names."""
NONE = "none"
"""`--label none`: the column with a known name is left alone."""

_TRUE = ("true", "1", "1.0", "yes", "correct", "right")
_FALSE = ("false", "0", "0.0", "no", "wrong", "incorrect", "-1", "-1.0")
_CUT = {"length": True, "max_tokens": True, "stop": False, "eos": False, "eos_token": False,
        "end_turn": False, "stop_sequence": False}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """The columns in use; None where the file has none for it."""

    response: str
    gold: str | None
    id: str | None
    label: str | None
    truncated: str | None
    problem: str | None
    threshold: float | None = None

    def line(self) -> str:
        """For print: response=generation, gold=gold, ..."""
        named = {"response": self.response, "gold": self.gold, "id": self.id}
        named |= {"label": self.label, "truncated": self.truncated}
        return ", ".join(f"{name}={column}" for name, column in named.items() if column)


@dataclass(frozen=True)
class Sample:
    """One generation of the file.

    `problem_id` is None where the file has no ids; `where` names file and row.
    """

    row: int
    problem_id: str | None
    problem: str
    gold: str | None
    response: str
    truncated: bool
    label: bool | None
    where: str


def all_columns(rows: Iterable[Row], options: argparse.Namespace) -> Row:
    """The first row with all columns of interest that later rows have and it lacks (as None):
    lines of JSON may differ, and what the first one leaves out is not lost for the others."""
    first: dict[str, object] = {}
    asked = [str(value) for name in DEFAULTS if (value := getattr(options, name, None))]
    wanted = {c for candidates in DEFAULTS.values() for c in candidates} | set(asked)
    for number, row in enumerate(rows):
        if number == 0:
            first = dict(row)
            wanted = {c for c in wanted if not _has(first, c)}
        found = {c for c in wanted if _has(row, c)}
        first |= dict.fromkeys(found)
        wanted -= found
        if not wanted:
            break
    return first


def find_columns(row: Row, options: argparse.Namespace, where: str, own_gold: bool) -> Columns:
    """The columns of a file: those of the options, else those with known names.

    Args:
        row: its first row, with the columns of the others (`all_columns`).
        own_gold: whether the file must hold the golds.

    Raises:
        DataError: a column that is not there, by option or for want of a known name.
    """
    found: dict[str, str | None] = {}
    for name, candidates in DEFAULTS.items():
        asked = getattr(options, name, None)
        if asked == NONE and name != "response":
            found[name] = None
            continue
        if asked is not None and not _has(row, asked):
            raise DataError(
                f"the file has no column {asked!r}" + did_you_mean(asked, list(map(str, row))),
                where=where,
                remedy=f"--{name} names one of: {', '.join(map(str, row))}",
            )
        found[name] = asked or next((c for c in candidates if _has(row, c)), None)
    for name in ("response", *(("gold",) if own_gold else ())):
        if found[name] is None:
            remedy = f"--{name} COLUMN names it" + (
                "; or --benchmark NAME takes the golds from there" if name == "gold" else ""
            )
            raise DataError(
                f"no column is known to be the {name}; the file has {', '.join(map(str, row))}",
                where=where,
                remedy=remedy,
            )
    assert found["response"] is not None
    if options.label_threshold is not None and found["label"] is None:
        raise ConfigError("--label-threshold needs a label column", remedy="--label COLUMN")
    return Columns(**{**found, "threshold": options.label_threshold})


def samples(located: LocatedRow, number: int, columns: Columns) -> Iterator[Sample]:
    """The generations of one row, one or several.

    Raises:
        DataError: a cell of another kind than its column should have, with place and remedy.
    """
    row, where, _ = located
    if not _has(row, columns.response):
        raise DataError(
            f"the row has no column {columns.response!r}; it has {', '.join(map(str, row))}",
            where=where,
            remedy="every row needs it; an empty generation is an empty text",
        )
    try:
        responses = _responses(_cell(row, columns.response), columns.response)
        labels = _beside(_cell(row, columns.label), len(responses), "label")
        cuts = _beside(_cell(row, columns.truncated), len(responses), "truncated")
        gold = _gold(_cell(row, columns.gold), columns.gold or "gold")
        key = key_text(_cell(row, columns.id))
        problem = _asked(_cell(row, columns.problem))
        if columns.id is not None and key is None:
            raise RowFault(f"the row has no id in column {columns.id!r}")
        for name, value in (("gold", gold), ("id", key)):
            if value is not None and "\0" in value:
                raise RowFault(f"the {name} holds a null byte", f"{value!r:.80}")
        for response, label, cut in zip(responses, labels, cuts, strict=True):
            yield Sample(
                row=number,
                problem_id=key,
                problem=problem,
                gold=gold,
                response=response,
                truncated=_cut(cut),
                label=_label(label, columns.threshold),
                where=where,
            )
    except RowFault as fault:
        raise DataError(
            str(fault), where=where, remedy="mend the row, or name another column (see --help)"
        ) from fault


def _asked(value: object) -> str:
    """The text of a problem; of a chat what was said in it, without the system's part."""
    if isinstance(value, str):
        return value
    said = [m for m in value if isinstance(m, Mapping)] if is_list(value) else []
    texts = [m.get("content") for m in said if m.get("role") != "system"]
    return "\n".join(text for text in texts if isinstance(text, str))


def _has(row: Row, path: str) -> bool:
    value: object = row
    for key in [path] if path in row else path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return False
        value = value[key]
    return True


def _cell(row: Row, path: str | None) -> object:
    if path is None:
        return None
    value: object = row
    for key in [path] if path in row else path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _responses(value: object, name: str) -> list[str]:
    """One text, a chat, or a list of these, nested as lm-eval's `resps` are."""
    if value is None:
        raise RowFault(f"column {name!r} is empty (null)")
    if isinstance(value, str):
        return [value]
    if not is_list(value) or not value:
        raise RowFault(
            f"column {name!r} is no generation", f"{type(value).__name__}: {value!r:.80}"
        )
    if isinstance(value[0], Mapping):
        return [_chat(value, name)]
    return [text for item in value for text in _responses(item, name)]


def _chat(value: Sequence[object], name: str) -> str:
    """The last message of the assistant."""
    said = [
        m.get("content") for m in value if isinstance(m, Mapping) and m.get("role") == "assistant"
    ]
    if not said or not isinstance(said[-1], str):
        raise RowFault(
            f"column {name!r} is no generation", f"{type(value).__name__}: {value!r:.80}"
        )
    return said[-1]


def _gold(value: object, name: str) -> str | None:
    """The reference answer; of a whole solution that ends `#### 18` what stands behind the mark."""
    if value is None:
        return None
    gold = answer_text(value, name)
    return (extract_answer(gold, "####").answer or gold) if "####" in gold else gold


def _beside(value: object, count: int, name: str) -> list[object]:
    values = list(value) if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise RowFault(
            f"{name!r} has another length than the generations", f"{len(values)}, {count}"
        )
    return values


def _label(value: object, threshold: float | None) -> bool | None:
    if value is None or value == "" or value != value:  # NaN: an empty cell
        return None
    if threshold is not None:
        try:
            return float(str(value)) > threshold
        except ValueError as error:
            raise RowFault("the label is no number", repr(value)) from error
    text = str(value).casefold()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise RowFault("the label is neither right nor wrong (--label-threshold?)", repr(value))


def _cut(value: object) -> bool:
    if value is None or value == "" or value != value:
        return False
    text = str(value).casefold()
    if text in _CUT:
        return _CUT[text]
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise RowFault("whether the generation was cut is not clear (--truncated?)", repr(value))
