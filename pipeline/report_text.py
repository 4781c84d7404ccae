"""The report in words: the verdict, the notes beside it, and how numbers are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.report_data import Comparison, ReportData
from pipeline.report_injection import cannot_vanish

NAMES = {
    "hapo": "HAPO",
    "grpo": "GRPO",
    "luffy": "LUFFY",
    "sft": "SFT",
    "sft_then_rl": "SFT-then-RL",
    "srft": "SRFT",
    "hpt": "HPT",
    "relift": "ReLIFT",
    "chord": "CHORD",
    "prefix_rft": "Prefix-RFT",
    "bread": "BREAD",
    "real": "REAL",
}
ENTERS = {
    "srft": "SRFT adds the trace to every group that has one",
    "hpt": "HPT imitates the trace where the policy fails",
    "prefix_rft": "Prefix-RFT gives one response of every group a head start",
    "bread": "BREAD branches from the trace where the policy fails",
}
OUTSIDE = {
    "relift": "ReLIFT imitates the traces of failed problems in separate steps",
    "chord": "CHORD imitates a batch of traces beside the groups",
}
"""Methods without a gate: what the teacher does in groups, and outside of them."""
WINDOW = 10  # rounds at either end that the verdict compares
NOTHING = "–"
UNKNOWN_LIMIT, CUT_LIMIT, DEAD_LIMIT, TRACE_LIMIT = 0.01, 0.10, 0.50, 0.01


@dataclass(frozen=True)
class Note:
    """One remark; `warn` asks for attention, `info` is context."""

    kind: Literal["warn", "info"]
    text: str


# --- numbers ------------------------------------------------------------------------------------


def percent(value: float | None, decimals: int | None = None) -> str:
    """4.1 % for 0.041, 48 % for 0.48; a dash for None."""
    if value is None:
        return NOTHING
    if decimals is None:
        decimals = 1 if 0 < abs(value) < 0.0995 else 0
    return f"{_minus(100 * value, decimals)} %"


def percent_interval(value: float, low: float, high: float, decimals: int | None = None) -> str:
    """4.1 % [3.2, 5.0]: all three with the decimals that the value needs."""
    if decimals is None:
        decimals = 1 if value < 0.0995 or high - low < 0.02 else 0
    inner = ", ".join(_minus(100 * v, decimals) for v in (low, high))
    return f"{percent(value, decimals)} [{inner}]"


def points(value: float, low: float, high: float) -> str:
    """A difference in percentage points: +43.9 [+40.1, +47.6]."""
    signed = [_minus(100 * v, 1, sign=True) for v in (value, low, high)]
    return f"{signed[0]} [{signed[1]}, {signed[2]}]"


def p_value(value: float) -> str:
    """p = 0.042, p < 0.001."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _minus(value: float, decimals: int, sign: bool = False) -> str:
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """A short number: 0.0123, 1.25, 318, 12,345."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def tokens(value: float | None) -> str:
    """950, 12.3 k, 4.56 M."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def duration(seconds: float | None) -> str:
    """8.2 s, 4 min 05 s, 2 h 10 min."""
    if seconds is None:
        return NOTHING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


# --- the verdict --------------------------------------------------------------------------------


def verdict(data: ReportData) -> str:
    """One or two sentences that say what happened, from the numbers alone."""
    return f"{outcome_sentence(data, data.headline)} {teacher_sentence(data)}"


def _measure(comparison: Comparison) -> str:
    return f"avg@{comparison.base.k} on the held-out benchmark {comparison.benchmark}"


def outcome_sentence(data: ReportData, item: Comparison) -> str:
    """What training did to the score on one benchmark, with intervals."""
    name, rounds = NAMES[data.params.method], _count(len(data.history), "round")
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
    method, sampled = data.params.method, sum(data.history.sampled)
    if method == "sft" or sampled == 0:
        return (
            "It learned from the teacher's traces alone: no rollouts were drawn in training, so "
            "there is no gate and no injection to report."
        )
    if method in ("grpo", "real"):
        return "No teacher was used."
    if method in OUTSIDE:
        return f"The teacher entered no group of rollouts, by design: {OUTSIDE[method]}."
    if method in ENTERS:
        share = data.history.pooled_share("injected_groups", slice(None))
        return f"The teacher entered {percent(share)} of all groups, by design: {ENTERS[method]}."
    if method == "sft_then_rl":
        supervised = _count(len(data.history) - sampled, "supervised round")
        return f"The teacher taught in {supervised}, then GRPO ran without it for {sampled}."
    if method == "luffy":
        share = data.history.pooled_share("injected_groups", slice(None))
        return f"The teacher was in {percent(share)} of all groups, by design: LUFFY has no gate."
    return _gate_story(data)


def _gate_story(data: ReportData) -> str:
    window, first, last = ends(data)
    if data.history.total("injected_groups") == 0:
        return "The gate never opened: the teacher was not used once, so these updates are GRPO's."
    if sum(data.history.sampled) < 2:
        return f"The teacher was injected into {percent(first)} of groups."
    rounds = "round" if window == 1 else f"{window} rounds"
    told = (
        f"the teacher was injected into {percent(first)} of groups in the first {rounds} "
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


def closed(first: float | None, last: float | None) -> bool:
    """The teacher withdrew: it is in less than half of the groups, and in half as many as at
    the start."""
    return first is not None and last is not None and last < 0.5 and last <= 0.5 * first


# --- notes --------------------------------------------------------------------------------------


def notes(data: ReportData) -> list[Note]:
    """What a reader should know before quoting the verdict."""
    found = _training_notes(data) + _gate_notes(data)
    for item in data.comparisons:
        found += _evaluation_notes(item)
    for item in data.comparisons[1:]:
        found.append(Note("info", outcome_sentence(data, item)))
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
    lacking = history.pooled_share("no_trace_groups", slice(None))
    if lacking is not None and lacking > TRACE_LIMIT:
        text = f"In {percent(lacking)} of groups the teacher should have entered, but the problem "
        found.append(Note("warn", text + "has no usable trace; they stayed on-policy."))
    verdicts = sum(history.total(f"verdict_{v}") for v in ("timeout", "bad_gold", "error"))
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
