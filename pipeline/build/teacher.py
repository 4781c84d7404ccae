"""Whether a method that learns from traces has any: asked in curation, in the dry run, at the start
of training, with one answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hapo_core.errors import DataError
from hapo_core.methods.entry import Teaching
from hapo_core.methods.registry import methods

ENOUGH = 0.5
"""Share of the training problems with a usable trace below which a run is warned about."""
EXAMPLES = 3
NONE_GIVEN = "the sources hold no trace"
_TAIL = 60
_REMEDIES = {
    "unparsed": "say how the solutions mark their answer: `mark: '####'`, `last_number` or a "
    "regular expression in the source (`hapo data peek SOURCE` proposes it)",
    "wrong": "compare golds and traces: `hapo data check SOURCE`; a `mark` may point at another "
    "number than the answer",
    "truncated": "close the traces' tags, or mend the `cut` column",
    "trace completeness": "close the traces' tags, or mend the `cut` column",
    "longer": "raise curate.max_trace_tokens and rollout.max_tokens",
    NONE_GIVEN: "name the solutions: `columns: {trace: THEIR_COLUMN}`, or `traces_path`",
}


@dataclass
class Teacher:
    """What was found. Counts are of training problems; `reasons` of traces that are not usable.

    `examples`: by reason up to three (trace or row, how its text ends).
    """

    problems: int = 0
    taught: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def refuse(self, reason: str, trace: str, text: str) -> None:
        """Count a trace that is not usable."""
        self.reasons[reason] += 1
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES:
            kept.append((trace, " ".join(text[-4 * _TAIL :].split())[-_TAIL:]))

    @property
    def lacking(self) -> bool:
        """Fewer than `ENOUGH` of the problems are taught."""
        return self.taught < ENOUGH * self.problems

    def __str__(self) -> str:
        return f"{self.taught} of {self.problems} training problems have a usable trace" + (
            "; " + self.why if self.lacking else ""
        )

    @property
    def why(self) -> str:
        """The reasons, the most frequent first, with examples of the first one."""
        ordered = self.reasons.most_common()
        if not ordered:
            return NONE_GIVEN if not self.taught else "the other problems have no trace"
        counts = ", ".join(f"{count} × {reason}" for reason, count in ordered[:4])
        shown = "; ".join(f"{name} ends {end!r}" for name, end in self.examples[ordered[0][0]])
        return f"{counts}: {shown}"

    @property
    def remedy(self) -> str:
        """What to set, for the most frequent reason."""
        first = self.reasons.most_common(1)[0][0] if self.reasons else NONE_GIVEN
        known = next((text for key, text in _REMEDIES.items() if key in first), None)
        own = known or "look at them: `hapo data check SOURCE`"
        without = ", ".join(name for name in methods() if not needs_traces(name))
        return f"{own}; or choose a method that needs no trace ({without})"


def needs_traces(method: str) -> bool:
    """Whether the method learns from traces."""
    return methods()[method].teaching is not Teaching.NEVER


def check_teacher(method: str, found: Teacher, where: str, warn: Callable[[str], None]) -> None:
    """Stop a method that learns from traces where there is none; warn where most problems lack one.

    Raises:
        DataError: no usable trace at all; it names what to set, with examples.
    """
    if not needs_traces(method) or not found.problems:
        return
    if not found.taught:
        raise DataError(
            f"method {method} learns from traces, and none of {found.problems} training problems "
            f"has a usable one: {found.why}",
            where=where,
            remedy=found.remedy,
        )
    if found.lacking:
        warn(f"method {method} learns from traces: {found}. Remedy: {found.remedy}")


def curated_teacher(data: Path, max_tokens: int | None = None) -> Teacher:
    """What the curated tables in `data` hold for a teacher.

    Args:
        max_tokens: the response budget of training; longer traces are not used.
    """
    # Not above: with them comes pandas, and `hapo train` asks for `needs_traces` alone.
    import pyarrow.compute as pc

    from pipeline.artifacts.tables import PROBLEMS, TRACES, read_table

    problems = read_table(data / "problems.parquet", PROBLEMS)
    train = set(problems.filter(pc.field("split") == "train")["problem_id"].to_pylist())
    found, taught = Teacher(len(train)), set[str]()
    traces = read_table(data / "traces.parquet", TRACES)
    names = ("problem_id", "usable", "note", "trace_id")
    columns = [traces[name].to_pylist() for name in names]
    sizes = pc.list_value_length(traces["token_ids"]).to_pylist()
    for row, (problem, usable, note, name) in enumerate(zip(*columns, strict=True)):
        if problem not in train:
            continue
        reason = note if not usable else ""
        if usable and max_tokens is not None and sizes[row] > max_tokens:
            reason = f"longer than rollout.max_tokens ({max_tokens})"
        if not reason:
            taught.add(problem)
        elif len(found.examples.get(reason, ())) < EXAMPLES:
            found.refuse(reason, name, traces["text"][row].as_py())
        else:
            found.reasons[reason] += 1
    found.taught = len(taught)
    return found
