"""A figure of the report, and the parts that all line figures share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hapo_core.methods.entry import Teaching
from pipeline.report.data import History, ReportData
from pipeline.show.charts import Kind, Marker, Series, line_chart
from pipeline.show.series import Values, drawable, line
from pipeline.show.text import number, percent

Row = dict[str, object]
Columns = dict[str, tuple[Values, str, Kind | Literal["area"]]]
"""Label -> (values, colour class, kind of line); an area is filled, so that another line may run on
its edge and both are seen."""


OF_ROLLOUTS = ("groups", "length", "threshold")
"""Figures of what was sampled; the other ones that may be empty are of the update."""
OF_ON_POLICY = ("entropy", "teacher_balance")
"""Figures of the update that need a trained token of a rollout."""


@dataclass(frozen=True)
class Figure:
    """One drawing. `svg` is None where there is nothing to draw; the caption then says why."""

    key: str
    title: str
    caption: str
    svg: str | None
    rows: list[Row]

    def csv(self) -> str:
        """The numbers of the drawing, empty cells for nulls."""
        sink = io.StringIO()
        names = list(self.rows[0]) if self.rows else ["round"]
        writer = csv.DictWriter(sink, fieldnames=names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return sink.getvalue()


def line_figure(
    data: ReportData,
    key: str,
    title: str,
    caption: str,
    columns: Columns,
    form: Callable[[float], str],
    top: float | None = None,
) -> Figure:
    """A figure of some columns over rounds; without any value it says that there is none."""
    history = data.history
    rows: list[Row] = [
        {"round": r, **{n.replace(" ", "_"): v[i] for n, (v, _, _) in columns.items()}}
        for i, r in enumerate(history.rounds)
    ]
    lines = [_line(n, history.rounds, *column) for n, column in columns.items()]
    lines = [s for s in lines if drawable(s)]
    if len(columns) == 1:  # the title says what the one line is
        lines = [replace(s, label="") for s in lines]
    if not lines:
        return Figure(key, title, why_empty(data, key), None, rows)
    texts = {
        name: [None if v is None else form(v) for v in column[0]]
        for name, column in columns.items()
    }
    notes = [
        note(r, **{name.replace(" ", "_"): text[i] for name, text in texts.items()})
        for i, r in enumerate(history.rounds)
    ]
    svg = line_chart(
        lines,
        title=f"{title} over rounds",
        x_label="round",
        x_range=span(data),
        y_format=form,
        hover=list(zip(history.rounds, notes, strict=True)),
        markers=phases(data),
        y_high=top,
    )
    return Figure(key, title, caption, svg, rows)


def _line(
    name: str, rounds: Sequence[int], values: Values, color: str, kind: Kind | Literal["area"]
) -> Series:
    if kind != "area":
        return line(name, rounds, values, color, kind)
    under = [None if v is None else (0.0, v) for v in values]
    return line(name, rounds, values, color, "line", under)


def why_empty(data: ReportData, key: str) -> str:
    """Why a figure is empty: nothing was sampled, nothing was trained, no trace was among what was
    trained, or the method has no such value."""
    history, entry = data.history, data.params.entry
    if key in OF_ROLLOUTS and not any(history.sampled):
        return "Not recorded: no rollouts were drawn."
    if key == "threshold" and entry.teaching is not Teaching.GATED:
        return "Not recorded: this method has no such value."
    if key == "teacher_balance" and entry.teaching is Teaching.NEVER:
        return "Not recorded: this method has no such value."
    if key not in (*OF_ROLLOUTS, "threshold") and history.total("trained_tokens") == 0:
        return "Not recorded: nothing was trained, no row of any round had a gradient."
    if key in OF_ON_POLICY and not any(history.sampled):
        return "Not recorded: no rollouts were drawn, so no on-policy token was trained."
    if key == "teacher_balance" and not _taught(history):
        return "Not recorded: no trace was among what was trained."
    if key in (*OF_ROLLOUTS, "grad_norm", "threshold"):
        return "Not recorded: the tables of the rounds hold no such value."
    return "Not recorded: this method has no such value."


def _taught(history: History) -> bool:
    """Whether a trace was trained: in a group, beside the groups, or in a supervised round."""
    extra = history.frame["extra_rows"].fillna(0)
    supervised = any(not sampled for sampled in history.sampled)
    return history.total("injected_groups") > 0 or bool((extra > 0).any()) or supervised


def span(data: ReportData) -> tuple[float, float]:
    """First and last round."""
    return float(data.history.rounds[0]), float(data.history.rounds[-1])


def phases(data: ReportData) -> list[Marker]:
    """Where reinforcement begins after supervised rounds."""
    kinds = data.history.frame["phase"].tolist()
    return [
        Marker(data.history.rounds[i], "RL begins")
        for i in range(1, len(kinds))
        if kinds[i] == "rl" and kinds[i - 1] == "sft"
    ]


def note(round_number: int, **values: str | None) -> str:
    """What appears on hover; nulls are left out."""
    parts = [f"{name.replace('_', ' ')} {text}" for name, text in values.items() if text]
    return f"round {round_number}: " + (", ".join(parts) or "nothing measured")


def shown_percent(value: float | None) -> str | None:
    """A share for `note`."""
    return None if value is None else percent(value)


def shown(value: float | None) -> str | None:
    """A number for `note`."""
    return None if value is None else number(value)


def setting(value: float | None) -> str:
    """A parameter in a caption."""
    return "not recorded" if value is None else f"{value:g}"


def last(values: Values) -> int:
    """The last value that is there, as a count."""
    return round([v for v in values if v is not None][-1])
