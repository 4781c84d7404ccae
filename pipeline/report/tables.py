"""The tables of the report as text cells, for HTML and Markdown alike."""

from __future__ import annotations

from dataclasses import dataclass

from hapo_core.methods.entry import Teaching
from pipeline.artifacts import human_bytes
from pipeline.config import ConstantThreshold, Params, ScheduledThreshold, Threshold
from pipeline.report.costs import StageCost
from pipeline.report.data import Comparison, Measurement, ReportData
from pipeline.report.visits import help_words
from pipeline.report.words import ends
from pipeline.show.table import Table
from pipeline.show.text import (
    NOTHING,
    duration,
    number,
    p_value,
    percent,
    percent_interval,
    points,
    tokens,
)


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    detail: str


# --- headline -----------------------------------------------------------------------------------


def tiles(data: ReportData) -> list[Tile]:
    """Four numbers: success, teacher, dead groups, cost."""
    head, history = data.headline, data.history
    base, final = head.base, head.final
    window, first, last = ends(data)
    share = history.pooled_share
    dead = (share("dead_groups", slice(0, window)), share("dead_groups", slice(-window, None)))
    span = f"first → last {window} rounds" if window > 1 else "first → last round"
    none = "no rollouts in training"
    intervals = f"{_bracket(base)} → {_bracket(final)} %, n = {base.n}"
    return [
        Tile(f"avg@{base.k}, {head.benchmark}", _arrow(base.avg, final.avg), intervals),
        Tile("groups with the teacher", _arrow(first, last), span if first is not None else none),
        Tile("dead groups", _arrow(*dead), span if dead[0] is not None else none),
        Tile("wall time", *_cost_tile(data)),
    ]


def _arrow(before: float | None, after: float | None) -> str:
    return NOTHING if before is None else f"{percent(before)} → {percent(after)}"


def _bracket(m: Measurement) -> str:
    return percent_interval(m.avg, m.low, m.high).split(" % ", 1)[1]


def _cost_tile(data: ReportData) -> tuple[str, str]:
    generated = tokens(data.history.total("generated_tokens"))
    trained = tokens(data.history.total("trained_tokens"))
    return duration(wall_seconds(data)), f"{generated} tokens generated, {trained} trained"


def wall_seconds(data: ReportData) -> float | None:
    """Seconds of all stages with a recorded time; None if there are none."""
    known = [s.wall_s for s in data.stages if s.wall_s is not None]
    return sum(known) if known else None


def method_line(params: Params) -> str:
    """The method's settings in one line."""
    parts = [f"{params.rollout.group_size} rollouts × {params.train.prompts_per_round} problems"]
    if params.entry.teaching is Teaching.GATED:
        gate = params.gate
        statistic: str = gate.statistic
        if gate.quantile is not None:
            statistic += f" {gate.quantile:g}"
        forget = f", forgetting {gate.forgetting:g}" if gate.forgetting != 1 else ""
        parts.append(
            f"gate: {gate.evidence} evidence{forget}, {statistic}, {_threshold(gate.threshold)}"
        )
        if gate.stop_loss is not None:
            parts.append(f"alarm: {gate.stop_loss.action}")
        if gate.max_surprise is not None:
            parts.append(f"traces at most {gate.max_surprise:g} nats a token above own rollouts")
    if params.distils:
        parts.append(f"teacher: scores rollouts, weight {params.teacher.distill.weight:g}")
    elif params.entry.replaces:
        parts.append(f"teacher: {params.teacher.weight} × {params.teacher.shape}")
    if params.entry.teaching is Teaching.ALONE:
        parts = [f"{params.train.prompts_per_round} traces a round"]
    parts.append(f"objective: {params.objective.preset}")
    parts.append(f"learning rate {params.update.learning_rate:g}")
    return " · ".join(parts)


def _threshold(threshold: Threshold) -> str:
    if isinstance(threshold, ConstantThreshold):
        return f"constant threshold {threshold.gamma:g}"
    if isinstance(threshold, ScheduledThreshold):
        return (
            f"{threshold.kind} threshold {threshold.gamma_start:g} → {threshold.gamma_end:g} "
            f"in {threshold.horizon} rounds"
        )
    return f"adaptive threshold from {threshold.gamma_start:g}, kappa {threshold.kappa:g}"


# --- evaluation ---------------------------------------------------------------------------------


def evaluation_table(data: ReportData) -> Table:
    """Both policies on every benchmark, with the protocol beside every number."""
    level = percent(data.params.evaluate.confidence)
    headers = (
        "benchmark", "policy", f"avg@k [{level}], %", "difference", "p", "pass@k / maj@k",
        "n", "k", "temp.", "max tokens", "truncated", "unparsed", "ungraded", "tokens",
    )  # fmt: skip
    rows, fallen = [], []
    for item in data.comparisons:
        rows.append(_evaluation_row(item, "start", item.base, ("", "")))
        fallen += [len(rows)] if item.outcome == "lower" else []
        rows.append(_evaluation_row(item, "final", item.final, _difference(item)))
    note = (
        f"avg@k: mean over problems of the share of right responses; {level} interval "
        "over problems. Difference: final minus start in points, paired over problems; "
        "p: two-sided sign-flip test. maj@k: majority vote. Ungraded responses count as not "
        "correct. Tokens: mean length of a response."
    )
    top_p = sorted({c.final.top_p for c in data.comparisons if c.final.top_p is not None})
    if top_p:
        note += f" Top-p {', '.join(number(p) for p in top_p)}."
    if any(item.paired is None for item in data.comparisons):
        note += " Without a paired difference: the generations of one policy are not there."
    return Table(headers, tuple(rows), note=note, text_columns=2, fallen=tuple(fallen))


def _difference(item: Comparison) -> tuple[str, str]:
    if item.paired is None:
        return NOTHING, NOTHING
    shown = p_value(item.paired.p_value).removeprefix("p ").removeprefix("= ")
    return points(item.paired.difference, *item.paired.ci), shown


def _evaluation_row(
    item: Comparison, label: str, m: Measurement, difference: tuple[str, str]
) -> tuple[str, ...]:
    return (
        item.benchmark,
        label,
        percent_interval(m.avg, m.low, m.high, 1).replace(" %", "", 1),
        *difference,
        f"{percent(m.pass_k, 1)} / {percent(m.maj_k, 1)}",
        str(m.n),
        str(m.k),
        number(m.temperature),
        NOTHING if m.max_tokens is None else str(m.max_tokens),
        percent(m.truncated_share, 1),
        percent(m.unparsed_share, 1),
        str(m.unknown),
        number(m.mean_tokens),
    )


# --- training and cost --------------------------------------------------------------------------


def training_table(data: ReportData) -> Table:
    """Sums and ends of the run that no figure shows."""
    history = data.history
    window, first, last = ends(data)
    rows = [
        ("rounds", f"{len(history)} ({sum(history.sampled)} with rollouts)"),
        ("rollouts", f"{history.total('rollouts'):,}"),
        ("tokens generated in training", f"{history.total('generated_tokens'):,}"),
        ("tokens through forward and backward", f"{history.total('trained_tokens'):,}"),
    ]
    if first is not None:
        overall = history.pooled_share("injected_groups", slice(None))
        rows += [
            ("groups with the teacher, whole run", percent(overall, 1)),
            (f"… first {window} / last {window} rounds", f"{percent(first)} / {percent(last)}"),
            (
                "dead groups, whole run",
                percent(history.pooled_share("dead_groups", slice(None)), 1),
            ),
            ("groups lacking a usable trace", f"{history.total('no_trace_groups'):,}"),
        ]
    if history.help is not None:
        rows.append(("success at the next visit, helped less held out", help_words(history.help)))
    mismatch = [v for v in history.values("mismatch_max") if v is not None]
    if mismatch:
        mean = [v for v in history.values("mismatch_mean") if v is not None]
        text = f"mean {number(sum(mean) / max(len(mean), 1))}, max {number(max(mismatch))}"
        rows.append(("sampler against trainer, |Δ log p|", text))
    if data.base_loss:
        step, loss = data.base_loss[-1]
        begin = data.base_loss[0][1]
        text = f"{number(begin)} → {number(loss)} in {step:,} steps"
        rows.append(("loss while the starting policy was built", text))
    return Table(("", ""), tuple(rows))


def cost_table(data: ReportData) -> Table:
    """Wall time, tokens, memory and the parts of every stage."""
    headers = ("stage", "wall time", "generated", "trained", "generated/s", "peak memory", "parts")
    lacking = [s.stage for s in data.stages if s.wall_s is None]
    note = "Wall times are those of the machine that ran the stage; a stage taken from the cache "
    note += "keeps the time of its last run. Generated/s: tokens per second of rollout, where that "
    note += "part was timed, else of the whole stage. Parts can overlap."
    if lacking:
        note += f" Not recorded: {', '.join(lacking)}."
    total = ("all", duration(wall_seconds(data)), *("" for _ in headers[2:]))
    rows = (*(_cost_row(stage) for stage in data.stages), total)
    return Table(headers, rows, note=note, last="text")


def _cost_row(stage: StageCost) -> tuple[str, ...]:
    parts = sorted(stage.parts.items(), key=lambda part: -part[1])
    sampling = stage.parts.get("rollout", stage.wall_s)
    speed = stage.generated / sampling if stage.generated and sampling else None
    return (
        stage.stage,
        duration(stage.wall_s),
        tokens(stage.generated),
        tokens(stage.trained),
        tokens(speed),
        NOTHING if stage.peak_rss_mb is None else human_bytes(stage.peak_rss_mb * 1e6),
        ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 0.05),
    )


# --- hashes ---------------------------------------------------------------------------------------


def hash_table(data: ReportData) -> Table:
    """What identifies data and checkpoints."""
    rows = []
    for item in data.fingerprints:
        detail = f"{item.files} files, {human_bytes(item.size)}"
        rows.append((item.artifact, detail, item.sha256))
        rows += [(f"– {name}", "", digest) for name, digest in item.main]
    note = "sha256 of the artifact's manifest.json, which lists the sha256 of each of its files."
    return Table(
        ("artifact", "content", "sha256"), tuple(rows), note=note, text_columns=2, last="code"
    )


def title(params: Params) -> str:
    """The page's title."""
    return f"{params.entry.title} · {params.profile} · seed {params.seed}"
