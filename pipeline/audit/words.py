"""An audit in words and tables: the terminal's text and reports/audit.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from hapo_core.methods.entry import Teaching
from hapo_core.methods.registry import methods
from hapo_core.theory.outlook import (
    Future,
    Outlook,
)
from pipeline.audit.numbers import WINDOW, Audit, AuditRound, GradientRound
from pipeline.show.alarm import alarm_words
from pipeline.show.evaluation import aligned
from pipeline.show.pages import markdown_table
from pipeline.show.table import Table
from pipeline.show.text import NOTHING

SHOWN = 12
"""Rounds in the tables: spread over the run, the first and the last among them."""


class State(StrEnum):
    """The answer to "has the teacher left?"."""

    NEVER = "never_there"
    """No teacher was used, in groups or outside."""
    GONE = "gone"
    """It has left, and no later round can bring it back."""
    SILENT = "silent"
    """It entered no group in the last rounds, but still could."""
    PRESENT = "present"
    """It still enters groups, or trains beside them."""


@dataclass(frozen=True)
class Answer:
    """The state, and the sentences that say it; the first one is the answer itself."""

    state: State
    sentences: tuple[str, ...]


def answer(audit: Audit) -> Answer:
    """Has the teacher left?"""
    if audit.outlook is None:
        return _without_rule(audit)
    sentences = list(_gate_sentences(audit))
    late = [r.measured for r in audit.rounds[-WINDOW:] if r.measured is not None]
    if not any(r.measured is not None for r in audit.rounds):
        head = "There was none so far: no group with a usable trace and a known reward was sampled."
        return Answer(State.NEVER, (head, *sentences))
    if audit.outlook.future is Future.CLOSED:
        since = f" since round {audit.retired_from}" if audit.retired_from else ""
        head = f"Yes, for good: the gate cannot open any more{since}."
        if audit.alarm is not None and audit.alarm.shuts:
            head = f"Yes, for good: `gate.stop_loss` shut the gate after round {audit.alarm.round}."
        return Answer(State.GONE, (head, *sentences))
    if late and not any(late):
        head = f"Not for certain: no group was injected in the last {_rounds(len(late))}, but "
        return Answer(State.SILENT, (head + "one still could be.", *sentences))
    if not late:
        head = f"Not for certain: no group of the last {_rounds(WINDOW)} had a usable trace."
        return Answer(State.SILENT, (head, *sentences))
    share = _percent(sum(late) / len(late))
    head = f"No: in the last {_rounds(len(late))} the teacher entered {share} of the groups with "
    return Answer(State.PRESENT, (head + "a usable trace.", *sentences))


def _without_rule(audit: Audit) -> Answer:
    entry, last, done = methods()[audit.method], audit.last_outside, audit.rounds_done
    name, traces = entry.title, entry.teaching in (Teaching.OUTSIDE, Teaching.ALONE)
    if last is None and not traces:
        return Answer(State.NEVER, (f"There was none: {name} trains on its own rollouts alone.",))
    if entry.teaching is Teaching.FIRST and last is not None and last < done:
        head = f"Yes, for good: the supervised rounds ended with round {last} of {done}."
        return Answer(State.GONE, (head,))
    if last is None or done - last >= WINDOW:
        head = f"Not for certain: no trace was trained in the last {_rounds(WINDOW)}, but one still"
        return Answer(State.SILENT, (f"{head} could be: {entry.deed or name}.",))
    what = entry.deed or "the teacher's traces are all that it trains on"
    return Answer(State.PRESENT, (f"No: traces were trained in round {last} of {done}; {what}.",))


def _gate_sentences(audit: Audit) -> Iterator[str]:
    left = audit.residual
    if left is not None:
        yield (
            f"Residual injection probability of the newest policy: {_percent(left.probability)} "
            f"over prompts with a usable trace, at its mean success rate of "
            f"{_percent(left.population.mean)} (last {_rounds(WINDOW)}, exact for the fitted "
            "population)."
        )
    assert audit.outlook is not None
    if audit.alarm is not None:
        yield alarm_words(audit.alarm)
    if audit.alarm is None or not audit.alarm.shuts:
        yield _future(audit, audit.outlook)
    if audit.contradicted:
        yield (
            f"Attention: in {_rounds(len(audit.contradicted))}, first in round "
            f"{audit.contradicted[0]}, the injections are not those that the counts imply."
        )
    if any(not g.replayed for g in audit.gradients):
        yield "Attention: the stored groups do not give the stored decisions again."
    yield from _gradient_sentence(audit.gradients)


def _future(audit: Audit, view: Outlook) -> str:
    at = dict(audit.by_rate)
    if methods()[audit.method].teaching is not Teaching.GATED:
        return f"{methods()[audit.method].title} has no gate that closes: {_curve(at)}."
    floor = f"{view.closing_gamma:.3g}"
    match view.future:
        case Future.CLOSED:
            return f"gamma is at or below {floor}, the confidence of a group without a success."
        case Future.WILL_CLOSE:
            return (
                f"The schedule closes the gate in round {view.round} (gamma at or below {floor})."
            )
        case Future.MAY_CLOSE:
            return (
                "The adaptive threshold closes the gate for good once the mean success rate m_t "
                f"reaches {view.competence:.3g} (gamma <= {floor}); until then {_curve(at)}."
            )
        case Future.FADES:
            return (
                "Prompt evidence without forgetting: the probability tends to 0 with visits of a "
                "prompt whose success rate exceeds gamma, and is never exactly 0. A threshold "
                "that closes for good: " + _remedy(audit)
            )
        case Future.CANNOT:
            return (
                f"This gate cannot vanish: {_curve(at)}, in every round to come. A setting that "
                "would: " + _remedy(audit)
            )


def _curve(at: dict[float, float]) -> str:
    shown = [f"{at[mu]:.3f} at {mu:g}" for mu in (0.5, 0.8, 0.9, 0.95, 0.99) if mu in at]
    return "P(inject) by success rate is " + ", ".join(shown)


def _remedy(audit: Audit) -> str:
    start = next((r.gamma for r in audit.rounds if r.gamma is not None), 0.5)
    return (
        "gate: {evidence: group, statistic: mean, threshold: {kind: adaptive, gamma_start: "
        f"{start:.3g}}}}}, which withdraws with the policy's success rate and then never injects "
        "again (docs/consistency.md, 8)."
    )


def _gradient_sentence(gradients: Sequence[GradientRound]) -> Iterator[str]:
    if not gradients:
        return
    last = gradients[-1]
    if all(g.gap.equal for g in gradients):
        yield (
            f"The update is the on-policy one, bit for bit, on the groups of the last "
            f"{_rounds(len(gradients))}."
        )
        return
    yield (
        f"The update with the teacher against the one without, groups of round {last.round} under "
        f"the newest policy: cosine {_number(last.gap.cosine)}, norm ratio "
        f"{_number(last.gap.ratio)} ({last.injected} of {last.groups} groups injected)."
    )


# --- tables -------------------------------------------------------------------------------------


def tables(audit: Audit) -> Iterator[Table]:
    """The audit's tables; those without rows are left out."""
    if any(r.measured is not None for r in audit.rounds):
        yield Table(
            ("round", "success", "gamma", "measured", "implied", "exact", "95 % range", "forecast"),
            tuple(
                (
                    str(r.round),
                    _percent(r.success_rate),
                    _number(r.gamma),
                    _percent(r.measured),
                    _percent(r.implied),
                    _percent(r.exact),
                    NOTHING if r.low is None else f"{_percent(r.low)} to {_percent(r.high)}",
                    _percent(r.predicted),
                )
                for r in _spread(audit.rounds)
            ),
            title="Injection rate by round, over groups with a usable trace",
            note="implied: by the gate's rule from the round's counts. exact: the gate's exact "
            "probability for the success rates of the round (Beta fit to its counts), with the "
            "range that chance alone gives. forecast: the same from the five rounds before.",
            text_columns=0,
        )
    left = audit.residual
    if left is not None:
        yield Table(
            ("success rate", "prompts", "P(inject)"),
            (
                *(
                    (f"{b.low:g} to {b.high:g}", _percent(b.share), _percent(b.probability))
                    for b in left.bands
                ),
                ("all", "100.0 %", _percent(left.probability)),
            ),
            title="What the gate would still inject, by difficulty",
            note=f"Success probabilities of the prompts as Beta({left.population.alpha:.3g}, "
            f"{left.population.beta:.3g}), fitted to {left.population.groups} groups of the last "
            f"{_rounds(WINDOW)}. Prompts with a usable trace: {_percent(audit.trace_share)}.",
        )
    if audit.gradients:
        yield Table(
            ("round", "groups", "injected", "cosine", "norm ratio", "norm with", "norm without"),
            tuple(
                (
                    str(g.round),
                    str(g.groups),
                    str(g.injected),
                    "1 (same bits)" if g.gap.equal else _number(g.gap.cosine),
                    _number(g.gap.ratio),
                    _number(g.gap.with_norm),
                    _number(g.gap.without_norm),
                )
                for g in audit.gradients
            ),
            title="The update with the teacher against the on-policy one",
            note="Gradients of the newest policy on the stored groups of past rounds, before "
            "clipping, each the whole batch of its round.",
            text_columns=0,
        )


def render_text(audit: Audit) -> str:
    """For the terminal."""
    lines = [_title(audit), "", *answer(audit).sentences, *audit.differs]
    for table in tables(audit):
        lines += ["", table.title, *aligned([table.headers, *table.rows])]
    return "\n".join(lines)


def render_markdown(audit: Audit) -> str:
    """reports/audit.md."""
    said = (*answer(audit).sentences, *audit.differs)
    lines = [f"# {_title(audit)}", "", f"**{said[0]}**", "", *(f"- {s}" for s in said[1:]), ""]
    for table in tables(audit):
        lines += [f"## {table.title}", "", markdown_table(table), "", table.note, ""]
    return "\n".join(lines)


def _title(audit: Audit) -> str:
    state = f", segment {audit.running} unfinished" if audit.running else ""
    name = methods()[audit.method].title
    return f"Has the teacher left? {name}, {_rounds(audit.rounds_done)}{state}"


def _spread(rounds: Sequence[AuditRound]) -> list[AuditRound]:
    if len(rounds) <= SHOWN:
        return list(rounds)
    last = len(rounds) - 1
    return [rounds[round(i * last / (SHOWN - 1))] for i in range(SHOWN)]


def _rounds(count: int) -> str:
    return f"{count} round" if count == 1 else f"{count} rounds"


def _percent(share: float | None) -> str:
    if share is None:
        return NOTHING
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit for programs; shares in [0, 1], null where there is no such value."""

    plain = asdict(audit)
    for row, entry in zip(audit.gradients, plain["gradients"], strict=True):
        entry["gap"]["ratio"] = row.gap.ratio
    verdict = answer(audit)
    return {"answer": verdict.state.value, "sentences": list(verdict.sentences), **plain}
