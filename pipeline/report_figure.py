"""A figure of the report, and the parts that all line figures share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.report_data import ReportData, Values
from pipeline.report_svg import Kind, Marker, Series, line_chart
from pipeline.report_text import number, percent

Row = dict[str, object]
Columns = dict[str, tuple[Values, str, Kind]]
"""Label -> (values, colour class, kind of line)."""


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
    lines = [line(n, history.rounds, v, color, kind) for n, (v, color, kind) in columns.items()]
    lines = [s for s in lines if drawable(s)]
    if len(columns) == 1:  # the title says what the one line is
        lines = [replace(s, label="") for s in lines]
    if not lines:
        return Figure(key, title, "Not recorded: this method has no such value.", None, rows)
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


def line(
    label: str,
    rounds: Sequence[int],
    values: Values,
    color: str,
    kind: Kind,
    band: Sequence[tuple[float, float] | None] = (),
) -> Series:
    """A series over rounds, gaps kept; `band`: (low, high) per round, or nothing at all."""
    pairs = zip(rounds, band, strict=True) if band else ()
    around = [(float(r), *b) for r, b in pairs if b is not None]
    points = [(float(r), v) for r, v in zip(rounds, values, strict=True)]
    return Series(label, points, color, kind, around)


def present(rounds: Sequence[int], values: Values) -> list[tuple[float, float | None]]:
    """The points that have a value, so that a line joins them across rounds without one."""
    return [(float(r), v) for r, v in zip(rounds, values, strict=True) if v is not None]


def drawable(series: Series) -> bool:
    """Whether there is any point to draw."""
    return any(y is not None for _, y in series.points)


def any_value(values: Values) -> bool:
    """Whether not all are null."""
    return any(v is not None for v in values)


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
