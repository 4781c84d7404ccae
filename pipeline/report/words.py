"""The report in words: the verdict, the notes beside it, and how numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapo_core.methods.entry import Teaching
from hapo_core.verdicts import UNKNOWN
from pipeline.build.teacher import needs_traces
from pipeline.report.data import Comparison, ReportData
from pipeline.report.injection_rates import cannot_vanish
from pipeline.show.alarm import alarm_words
from pipeline.show.text import p_value, percent, percent_interval, points

WINDOW = 10  # rounds at either end that the verdict compares
UNKNOWN_LIMIT, CUT_LIMIT, DEAD_LIMIT, TRACE_LIMIT = 0.01, 0.10, 0.50, 0.01


@dataclass(frozen=True)
class Note:
    """One remark; `warn` asks for attention, `info` is context."""

    kind: Literal["warn", "info"]
    text: str


# --- the verdict --------------------------------------------------------------------------------


def verdict(data: ReportData) -> str:
    """One or two sentences that say what happened, from the numbers alone."""
    return f"{headline_sentences(data)} {teacher_sentence(data)}"


def headline_sentences(data: ReportData) -> str:
    """What training did to the first benchmark, and to every other one that fell."""
    said = [outcome_sentence(data, data.headline)]
    fallen = [item for item in data.comparisons[1:] if item.outcome == "lower"]
    if fallen:
        parts = [
            f"{item.benchmark} from {percent(item.base.avg)} to {percent(item.final.avg)}"
            for item in fallen
        ]
        said.append(f"Forgotten: {', '.join(parts)}.")
    return " ".join(said)


def _measure(comparison: Comparison) -> str:
    return f"avg@{comparison.base.k} on the held-out benchmark {comparison.benchmark}"


def outcome_sentence(data: ReportData, item: Comparison) -> str:
    """What training did to the score on one benchmark, with intervals."""
    name, rounds = data.params.entry.title, _count(len(data.history), "round")
    base = percent_interval(item.base.avg, item.base.low, item.base.high)
    final = percent_interval(item.final.avg, item.final.low, item.final.high)
    if item.outcome == "unclear":
        if item.base.avg == item.final.avg:
            return f"{name} did not change {_measure(item)} in {rounds}: {base}, then {final}."
        return (
            f"{name} made no clear difference to {_measure(item)} in {rounds}: "
            f"{base} before, {final} after{_why_unclear(item)}."
        )
    verb = "raised" if item.outcome == "higher" else "lowered"
    tail = ""
    if item.outcome == "lower":
        tail = " – the trained policy is worse than the one it started from"
    elif item.overlap:
        tail = " (the intervals overlap, but problem by problem the difference is clear)"
    return f"{name} {verb} {_measure(item)} from {base} to {final} in {rounds}{tail}."


def _why_unclear(item: Comparison) -> str:
    if item.paired is None:
        return " (the intervals overlap)"
    low, high = item.paired.ci
    difference = points(item.paired.difference, low, high)
    return f" (difference {difference} points, {p_value(item.paired.p_value)})"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def ends(data: ReportData) -> tuple[int, float | None, float | None]:
    """Window length, and the injected share of groups in the first and last such window."""
    sampled = sum(data.history.sampled)
    window = min(WINDOW, max(1, sampled // 2))
    share = data.history.pooled_share
    first = share("injected_groups", slice(0, window))
    return window, first, share("injected_groups", slice(-window, None))


def teacher_sentence(data: ReportData) -> str:
    """What became of the teacher."""
    entry, sampled = data.params.entry, sum(data.history.sampled)
    if needs_traces(data.params.method) and untaught(data):
        return f"There was no teacher: no problem has a usable trace{_untaught_tail(data)}."
    if sampled == 0:
        return (
            "It learned from the teacher's traces alone: no rollouts were drawn in training, so "
            "there is no gate and no injection to report."
        )
    if entry.teaching is Teaching.GATED:
        return _gate_story(data)
    return (entry.sentence or _USUAL[entry.teaching]).format(
        share=percent(data.history.pooled_share("injected_groups", slice(None))),
        supervised=_count(len(data.history) - sampled, "supervised round"),
        sampled=sampled,
        deed=entry.deed,
    )


_USUAL = {
    Teaching.NEVER: "No teacher was used.",
    Teaching.GROUPS: "The teacher entered {share} of all groups, by design: {deed}.",
    Teaching.OUTSIDE: "The teacher entered no group of rollouts, by design: {deed}.",
    Teaching.FIRST: "The teacher taught in {supervised}; {sampled} more ran without it.",
    Teaching.ALONE: "It learned from the teacher's traces alone.",
}
"""What is said of the teacher, for entries without a sentence of their own."""


def untaught(data: ReportData) -> bool:
    """Whether curation found no usable trace at all."""
    usable: int | None = data.curation.get("result", {}).get("problems_with_usable_trace")
    return usable == 0


def _untaught_tail(data: ReportData) -> str:
    if not any(data.history.sampled):
        return ", and nothing was trained" if not data.history.total("trained_tokens") else ""
    lacking = data.history.pooled_share("no_trace_groups", slice(None))
    if not lacking:
        return ""
    return f"; it was called for in {percent(lacking)} of groups and could not come"


def _gate_story(data: ReportData) -> str:
    window, first, last = ends(data)
    if (alarm := data.history.alarm) is not None and alarm.shuts:
        share = percent(data.history.pooled_share("injected_groups", slice(None)))
        return f"The teacher was injected into {share} of all groups. {alarm_words(alarm)}"
    if data.history.total("injected_groups") == 0:
        return f"{_why_never(data)}: the teacher was not used once, so these updates are GRPO's."
    if sum(data.history.sampled) < 2:
        return f"The teacher was injected into {percent(first)} of groups."
    rounds = "round" if window == 1 else f"{window} rounds"
    deed = "scored the rollouts of" if data.params.distils else "was injected into"
    told = (
        f"the teacher {deed} {percent(first)} of groups in the first {rounds} "
        f"and {percent(last)} in the last {rounds}."
    )
    if not closed(first, last):
        if cannot_vanish(data.params):
            return (
                f"The gate did not close: {told} A constant threshold on the evidence of one "
                "group cannot close for good: the chance of injection is zero only at a success "
                "rate of 1."
            )
        return f"The gate did not close: {told}"
    retired = data.history.prediction.retired_from
    if retired is not None and last == 0:
        return f"{told[0].upper()}{told[1:-1]}; from round {retired} on the gate could not open."
    return f"{told[0].upper()}{told[1:]}"


def _why_never(data: ReportData) -> str:
    """Why no group was injected: an open gate without a trace is no gate that stayed shut."""
    history, decided = data.history, data.history.decisions
    lacking = history.pooled_share("no_trace_groups", slice(None))
    if lacking:
        return (
            f"The gate opened in {percent(lacking)} of groups, but none of their problems has a "
            "usable trace"
        )
    groups = sum(decided.values())
    if decided.get("held_out"):
        share = percent(decided["held_out"] / groups)
        return f"The gate opened in {share} of groups, and `gate.holdout` left all of them out"
    if decided.get("refused"):
        share = percent(decided["refused"] / groups)
        return f"The gate opened in {share} of groups, and their traces surprise too much to enter"
    if groups and decided.get("unknown") == groups:
        return "No rollout had a known reward, so the gate had nothing to read"
    if groups and decided.get("solved", 0) + decided.get("unknown", 0) == groups:
        return "Every group was solved, so none called for a teacher"
    return "The gate never opened"


def closed(first: float | None, last: float | None) -> bool:
    """The teacher withdrew: it is in less than half of the groups, and in half as many as at
    the start."""
    return first is not None and last is not None and last < 0.5 and last <= 0.5 * first


# --- notes --------------------------------------------------------------------------------------


def notes(data: ReportData) -> list[Note]:
    """What a reader should know before quoting the verdict."""
    found = [Note("warn", text) for text in data.differs]
    found += _training_notes(data) + _gate_notes(data)
    for item in data.comparisons:
        found += _evaluation_notes(item)
    for item in data.comparisons[1:]:
        kind: Literal["warn", "info"] = "warn" if item.outcome == "lower" else "info"
        found.append(Note(kind, outcome_sentence(data, item)))
    confidence = percent(data.params.evaluate.confidence)
    text = f"One seed ({data.params.seed}). The {confidence} intervals cover the choice of "
    text += "problems; another training run may differ by more."
    return [*found, Note("info", text)]


def _training_notes(data: ReportData) -> list[Note]:
    found, history = [], data.history
    dead = history.pooled_share("dead_groups", slice(None))
    if dead is not None and dead > DEAD_LIMIT:
        text = f"{percent(dead)} of all groups were dead: their rewards were all equal, so they "
        found.append(Note("warn", text + "gave no gradient."))
    if history.alarm is not None and not history.alarm.shuts:
        found.append(Note("warn", alarm_words(history.alarm)))
    if history.help is not None and history.help.ci is not None and history.help.ci[1] < 0:
        text = "Help does harm: at their next visit prompts that the teacher was injected into "
        text += "are solved less often than those that were held out."
        found.append(Note("warn", text))
    lacking = history.pooled_share("no_trace_groups", slice(None))
    if lacking is not None and lacking > TRACE_LIMIT:
        text = f"In {percent(lacking)} of groups the teacher should have entered, but the problem "
        found.append(Note("warn", text + "has no usable trace; they stayed on-policy."))
    if refused := history.decisions.get("refused"):
        text = (
            f"In {percent(refused / sum(history.decisions.values()))} of groups the gate opened, "
        )
        text += "but the trace surprises the policy more than `gate.max_surprise` allows; they "
        found.append(Note("info", text + "stayed on-policy."))
    verdicts = sum(history.total(f"verdict_{v}") for v in UNKNOWN)
    rollouts = history.total("rollouts")
    if rollouts and verdicts / rollouts > UNKNOWN_LIMIT:
        text = f"{percent(verdicts / rollouts)} of rollouts could not be graded "
        found.append(Note("warn", text + "(timeout, bad gold or error) and did not train."))
    cut = history.total("verdict_truncated")
    if rollouts and cut / rollouts > CUT_LIMIT:
        text = f"{percent(cut / rollouts)} of rollouts hit the limit of "
        text += f"{data.params.rollout.max_tokens} tokens and count as failures."
        found.append(Note("warn", text))
    return found


def _gate_notes(data: ReportData) -> list[Note]:
    prediction = data.history.prediction
    if data.params.gate.statistic != "thompson" and prediction.contradicted:
        at = data.history.rounds[prediction.contradicted[0]]
        text = f"The gate's decisions contradict its own rule, first in round {at}: the share of "
        return [Note("warn", text + "injected groups is not the one that the counts imply.")]
    _, first, last = ends(data)
    if cannot_vanish(data.params) and closed(first, last):
        text = "A constant threshold on the evidence of one group never closes for good: the "
        text += "chance of injection falls as the policy improves, but is zero only at a success "
        return [Note("info", text + "rate of 1.")]
    return []


def _evaluation_notes(item: Comparison) -> list[Note]:
    found = []
    pair = (item.base, item.final)
    cut = [m.truncated_share for m in pair]
    if max(pooled(cut), default=0) > CUT_LIMIT:
        text = f"{item.benchmark}: {percent(cut[0])} (start) and {percent(cut[1])} (final) of "
        text += f"responses hit the limit of {item.final.max_tokens} tokens."
        found.append(Note("warn", text))
    silent = [m.unparsed_share for m in pair]
    if max(pooled(silent), default=0) > CUT_LIMIT:
        text = (
            f"{item.benchmark}: {percent(silent[0])} (start) and {percent(silent[1])} (final) of "
        )
        found.append(Note("warn", text + "responses had no readable answer."))
    if any(m.unknown for m in pair):
        text = f"{item.benchmark}: {item.base.unknown} (start) and {item.final.unknown} (final) of "
        text += f"{item.base.n * item.base.k} responses could not be graded and count as not right."
        found.append(Note("warn", text))
    return found


def pooled(values: list[float | None]) -> list[float]:
    """The values that are there."""
    return [v for v in values if v is not None]
