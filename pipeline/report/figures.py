"""The figures of the report: which lines, which caption, and the same numbers as rows for CSV."""

from __future__ import annotations

from hapo_core.methods.entry import Teaching
from hapo_core.verdicts import VERDICTS
from pipeline.artifacts.tables import more_metrics
from pipeline.report.data import ReportData
from pipeline.report.figure import (
    Columns,
    Figure,
    Row,
    last,
    line_figure,
    note,
    phases,
    setting,
    shown,
    shown_percent,
    span,
)
from pipeline.show.charts import (
    Interval,
    Reference,
    Series,
    interval_chart,
    line_chart,
    stacked_chart,
)
from pipeline.show.series import Values, any_value, drawable, line, present
from pipeline.show.text import number, percent, tokens


def figures(data: ReportData) -> list[Figure]:
    """All figures, in the order in which the page shows them."""
    return [
        success(data),
        injection(data),
        threshold(data),
        groups(data),
        evaluation(data),
        length(data),
        verdicts(data),
        balance(data),
        gradient(data),
        entropy(data),
        *further(data),
    ]


def success(data: ReportData) -> Figure:
    """Success rate over rounds: training on-policy, held-out probe, the base as reference."""
    history, train, rollout = data.history, data.params.train, data.params.rollout
    rate, probe = history.values("success_rate"), history.values("probe_avg")
    low, high = history.values("probe_low"), history.values("probe_high")
    level = percent(data.params.evaluate.confidence)
    head = data.headline
    base, final = head.base, head.final
    lines = [
        line("training", history.rounds, rate, "c1", "thin", history.success_band),
        Series(
            "held-out",
            present(history.rounds, probe),
            "c3",
            "points",
            [
                (r, a, b)
                for r, a, b in zip(history.rounds, low, high, strict=True)
                if a is not None and b is not None
            ],
        ),
    ]
    if not any(v is not None for v in probe):
        end = history.rounds[-1]
        bar = [(end, final.low, final.high)]
        lines[1] = Series("final", [(end, final.avg)], "c3", "points", bar)
    lines = [s for s in lines if drawable(s)]
    caption = []
    if any_value(rate):
        caption.append(
            f"Training: share of right rollouts before any injection, "
            f"{data.params.train.prompts_per_round} problems a round, k = {rollout.group_size}, "
            f"temperature {rollout.temperature:g}; band: {level} over the round's groups."
        )
    else:
        caption.append("No on-policy rate: this method draws no rollouts.")
    if any_value(probe):
        n, k = history.values("probe_n"), history.values("probe_k")
        caption.append(
            f"Held-out probe on {train.probe_benchmark}: avg@{last(k)}, n = {last(n)}, "
            f"temperature {train.probe_temperature:g}; bars: {level} intervals over problems."
        )
    else:
        caption.append(
            f"Final: avg@{final.k} on {head.benchmark}, n = {final.n}, "
            f"temperature {setting(final.temperature)}; bar: {level} interval over problems."
        )
    caption.append(
        f"Dashed: starting policy on {head.benchmark}, avg@{base.k}, n = {base.n}, "
        f"temperature {setting(base.temperature)}, {level} interval."
    )
    references = [Reference(data.params.start, base.avg, base.low, base.high)]
    notes = [
        note(r, training=shown_percent(rate[i]), held_out=shown_percent(probe[i]))
        for i, r in enumerate(history.rounds)
    ]
    svg = line_chart(
        lines,
        title="Success rate over rounds",
        x_label="round",
        x_range=span(data),
        y_format=percent,
        hover=list(zip(history.rounds, notes, strict=True)),
        references=references,
        markers=phases(data),
    )
    bands = history.success_band
    rows: list[Row] = [
        {
            "round": r,
            "training": rate[i],
            "training_low": band[0] if (band := bands[i]) else None,
            "training_high": band[1] if band else None,
            "held_out": probe[i],
            "held_out_low": low[i],
            "held_out_high": high[i],
            "base": base.avg,
        }
        for i, r in enumerate(history.rounds)
    ]
    return Figure("success", "Success rate", " ".join(caption), svg, rows)


def injection(data: ReportData) -> Figure:
    """How often the teacher entered: measured, predicted, and the gate's threshold."""
    history, entry = data.history, data.params.entry
    share, prediction = history.share("injected_groups"), history.prediction
    gated = entry.teaching is Teaching.GATED
    measured = prediction.measured if gated else share
    gamma: Values = history.values("gamma") if gated else [None] * len(history)
    rows: list[Row] = [
        {
            "round": r,
            "measured": measured[i],
            "predicted": prediction.rate[i],
            "predicted_low": band[0] if (band := prediction.band[i]) else None,
            "predicted_high": band[1] if band else None,
            "gamma": gamma[i],
            "share_of_all_groups": share[i],
        }
        for i, r in enumerate(history.rounds)
    ]
    title = "Teacher injection"
    if not any_value(measured):
        caption = "Nothing to show: without rollouts there is no group to inject into."
        if any(history.sampled):
            caption = "Nothing to show: no sampled group had a usable trace to inject."
            groups = sum(history.decisions.values())
            if groups and history.decisions.get("unknown") == groups:
                caption = "Nothing to show: no rollout had a known reward, so no gate was read."
        return Figure("injection", title, caption, None, rows)
    if not entry.enters_groups:
        caption = "Nothing to show: the teacher enters no group of rollouts under this method."
        return Figure("injection", title, caption, None, rows)
    lines = [
        line("predicted", history.rounds, prediction.rate, "c1", "dashed", prediction.band),
        line("measured", history.rounds, measured, "c2", "line"),
    ]
    notes = [
        note(
            r,
            measured=shown_percent(measured[i]),
            predicted=shown_percent(prediction.rate[i]),
            gamma=shown(gamma[i]),
        )
        for i, r in enumerate(history.rounds)
    ]
    svg = line_chart(
        [s for s in lines if drawable(s)],
        title="Share of groups into which the teacher was injected, over rounds",
        x_label="round",
        x_range=span(data),
        y_format=percent,
        hover=list(zip(history.rounds, notes, strict=True)),
        y_high=1.0,
    )
    return Figure("injection", title, _injection_caption(data, gated), svg, rows)


def _injection_caption(data: ReportData, gated: bool) -> str:
    n = data.params.rollout.group_size
    text = f"Measured: share of a round's {data.params.train.prompts_per_round} groups "
    text += f"(k = {n}, temperature {data.params.rollout.temperature:g}) that got the trace."
    if not gated:
        return text + " This method has no gate, so there is nothing to predict."
    text += " Predicted: the gate's exact probability, for success rates as in the five rounds "
    text += "before (beta-binomial fit), never this one; band: central 95 % of the share that "
    text += "chance alone gives."
    if data.history.total("no_trace_groups"):
        text += " Both are over groups with a usable trace."
    return text


def threshold(data: ReportData) -> Figure:
    """The gate's threshold: a number between 0 and 1, and no share of anything."""
    history = data.history
    gated = data.params.entry.teaching is Teaching.GATED
    gamma: Values = history.values("gamma") if gated else [None] * len(history)
    title = "The gate's threshold"
    if not any_value(gamma):
        return Figure("threshold", title, "Nothing to show: this method has no gate.", None, [])
    caption = (
        f"Gamma: the teacher enters a group whose confidence ({data.params.gate.statistic} of the "
        "policy's success on the problem, 0 to 1) is below it."
    )
    columns: Columns = {"gamma": (gamma, "c4", "line")}
    return line_figure(data, "threshold", title, caption, columns, number, top=1.0)


def groups(data: ReportData) -> Figure:
    """Groups that are dead, failed or solved."""
    share = data.history.share
    columns: Columns = {
        "dead": (share("dead_groups"), "c4", "area"),
        "none right": (share("failed_groups"), "c6", "dashed"),
        "all right": (share("solved_groups"), "c3", "dashed"),
    }
    caption = (
        f"Share of a round's {data.params.train.prompts_per_round} groups (k = "
        f"{data.params.rollout.group_size}). None right, all right: the policy's own rollouts, "
        "before injection. Dead (filled): after the gate had its say, no row of the group learns "
        "from a reward or from the teacher."
    )
    return line_figure(data, "groups", "Groups without signal", caption, columns, percent, top=1.0)


def length(data: ReportData) -> Figure:
    """Mean response length."""
    limit = data.params.rollout.max_tokens
    values = data.history.values("mean_response_tokens")
    caption = (
        f"Mean tokens of a rollout, end mark included, prompt not. The limit is {limit} tokens."
    )
    columns: Columns = {"length": (values, "c1", "line")}
    return line_figure(data, "length", "Response length", caption, columns, tokens)


def balance(data: ReportData) -> Figure:
    """Teacher's share of the gradient."""
    columns: Columns = {"balance": (data.history.values("teacher_balance"), "c2", "line")}
    caption = (
        "Sum of absolute gradient weights on teacher tokens over the sum on on-policy tokens. "
        "At 1 both pull equally hard; 0 without a teacher."
    )
    return line_figure(data, "teacher_balance", "Teacher balance", caption, columns, number)


def gradient(data: ReportData) -> Figure:
    """Gradient norm before clipping."""
    columns: Columns = {"norm": (data.history.values("grad_norm"), "c1", "line")}
    limit = data.params.update.max_grad_norm
    caption = f"Norm before clipping at {limit:g}, mean over the round's optimizer steps."
    return line_figure(data, "grad_norm", "Gradient norm", caption, columns, number)


def entropy(data: ReportData) -> Figure:
    """Entropy of the policy on its own tokens."""
    columns: Columns = {"entropy": (data.history.values("entropy"), "c1", "line")}
    caption = "Mean entropy in nats per trained on-policy token."
    return line_figure(data, "entropy", "Entropy", caption, columns, number)


def further(data: ReportData) -> list[Figure]:
    """A figure for every metric of the update that no other figure knows."""
    found = []
    for name in more_metrics(data.history.frame.columns):
        columns: Columns = {name: (data.history.values(name), "c2", "line")}
        title = name.replace("_", " ").capitalize()
        caption = f"{title}: of each round's update."
        found.append(line_figure(data, name, title, caption, columns, number))
    return found


def verdicts(data: ReportData) -> Figure:
    """What the verifier said, stacked."""
    history = data.history
    counts = {v: history.frame[f"verdict_{v}"].tolist() for v in VERDICTS}
    rows: list[Row] = [
        {"round": r, **{v: counts[v][i] for v in VERDICTS}} for i, r in enumerate(history.rounds)
    ]
    colors = dict(zip(VERDICTS, ("c3", "c5", "c6", "c4", "c2", "c1", "c7"), strict=True))
    names = {"bad_gold": "bad gold"}
    layers = [(names.get(v, v), colors[v], counts[v]) for v in VERDICTS if sum(counts[v])]
    title = "Verdicts on rollouts"
    if not layers:
        caption = "Nothing to show: this method draws no rollouts."
        return Figure("verdicts", title, caption, None, rows)
    caption = "Rollouts of a round by verdict, before injection."
    silent = [names.get(v, v) for v in VERDICTS if not sum(counts[v])]
    if silent:
        caption += f" Never seen: {', '.join(silent)}."
    notes = [
        (float(r), note(r, **{n.replace(" ", "_"): str(c[i]) for n, _, c in layers}))
        for i, r in enumerate(history.rounds)
    ]
    svg = stacked_chart(
        layers,
        history.rounds,
        title="Verdict counts per round",
        x_label="round",
        y_format=tokens,
        hover=notes,
    )
    return Figure("verdicts", title, caption, svg, rows)


def evaluation(data: ReportData) -> Figure:
    """Start against final on every benchmark."""
    bars, rows = [], list[Row]()
    for item in data.comparisons:
        for label, m, color in (("start", item.base, "c5"), ("final", item.final, "c3")):
            group = f"{item.benchmark}, avg@{m.k}, n = {m.n}"
            bars.append(Interval(group, label, m.avg, m.low, m.high, color))
            rows.append(
                {
                    "benchmark": item.benchmark, "policy": label, "avg": m.avg,
                    "low": m.low, "high": m.high, "n": m.n, "k": m.k,
                }
            )  # fmt: skip
    m = data.headline.final
    level = percent(data.params.evaluate.confidence)
    caption = f"Mean over problems of the share of right responses, with {level} "
    caption += f"intervals over problems; temperature {setting(m.temperature)}"
    same = {(c.final.temperature, c.final.max_tokens) for c in data.comparisons}
    caption += (
        f", at most {m.max_tokens} tokens." if len(same) == 1 else " and others: see the table."
    )
    svg = interval_chart(
        bars, title="Evaluation of the start and the final policy", value_format=percent
    )
    return Figure("evaluation", "Start against final", caption, svg, rows)
