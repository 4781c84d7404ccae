"""What people see of a segment on its page in the UI: a table that grows, then a short report.

Only shows: nothing here is an artifact of the run, and without a server nothing happens.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hapo_core.verdicts import UNKNOWN
from pipeline.artifacts.tables import more_metrics, whole
from pipeline.flows.observer import Fact, Observer
from pipeline.show.charts import line_chart, standalone
from pipeline.show.series import line
from pipeline.show.text import NOTHING, percent

Row = Mapping[str, object]
Columns = Sequence[tuple[str, str, str]]
"""(label, key of `RoundsPage.lines`, colour class)."""
MOST_ROWS = 500
"""Of the table on the page; a longer segment shows its last ones (rounds.parquet has all)."""
_STYLE = Path(__file__).parent / "templates" / "figure.css"


class RoundsPage:
    """The rounds of a segment, as they come.

    Args:
        observer: the stage's.
        segment: its name.
        earlier: rows of rounds that an interrupted run of the segment finished (`tables.ROUNDS`).
    """

    def __init__(self, observer: Observer, segment: str, earlier: Iterable[Row] = ()) -> None:
        self._observer, self._segment = observer, segment
        self._rows: list[Row] = list(earlier)
        self._table: list[dict[str, object]] = [round_line(row) for row in self._rows]

    def add(self, row: Row, seconds: float) -> None:
        """Show a round: its row of the ROUNDS table, and how long it took."""
        self._rows.append(row)
        self._table.append(round_line(row, seconds))
        self._send()

    def close(self) -> None:
        """Show the whole table and the segment's report."""
        self._send(last=True)
        self._observer.markdown_artifact(f"segment-{self._segment}", self.report())

    def _send(self, *, last: bool = False) -> None:
        shown = self._table[-MOST_ROWS:]
        words = f"Rounds of segment {self._segment}"
        if len(shown) < len(self._table):
            words += f", the last {MOST_ROWS} of {len(self._table)}"
        key = f"rounds-{self._segment}"
        self._observer.growing_table(key, shown, words, last=last)

    def report(self) -> str:
        """Markdown: what the segment did, with two drawings as data URIs."""
        first, end = (whole(self._rows[i], "round") for i in (0, -1))
        lines = [
            f"# Segment {self._segment}: rounds {first} to {end}",
            "",
            "| | first fifth | last fifth |",
            "|---|---:|---:|",
        ]
        part = max(len(self._rows) // 5, 1)
        for label, key, _ in (*_SUCCESS, *_GROUPS):
            values = self._line(key)
            early, late = _mean(values[:part]), _mean(values[-part:])
            if early is not None or late is not None:
                lines.append(f"| {label} | {percent(early, 1)} | {percent(late, 1)} |")
        for name in more_metrics(key for row in self._rows for key in row):
            values = self._line(name)
            ends = (_number(_mean(part_of)) for part_of in (values[:part], values[-part:]))
            lines.append(f"| {name} | " + " | ".join(ends) + " |")
        lines += ["", self._figure("Success rate", _SUCCESS)]
        lines += ["", self._figure("Groups", _GROUPS), ""]
        return "\n".join(lines)

    def _figure(self, title: str, columns: Columns) -> str:
        rounds = [whole(row, "round") for row in self._rows]
        series = [
            line(name, rounds, self._line(key), color, "line") for name, key, color in columns
        ]
        series = [s for s in series if any(y is not None for _, y in s.points)]
        if not series:
            return f"{title}: nothing was measured."
        svg = line_chart(
            series,
            title=f"{title} over rounds",
            x_label="round",
            x_range=(rounds[0], rounds[-1]),
            y_format=lambda share: f"{100 * share:.3g} %",
            y_high=1.0 if columns is _GROUPS else None,
        )
        drawing = standalone(svg, _STYLE.read_text(encoding="utf-8"))
        data = base64.b64encode(drawing.encode()).decode()
        return f"**{title}**\n\n![{title}](data:image/svg+xml;base64,{data})"

    def _line(self, key: str) -> list[float | None]:
        return [_value(row, key) for row in self._rows]


_SUCCESS: Columns = (("training", "success_rate", "c1"), ("probe", "probe_avg", "c2"))
_GROUPS: Columns = (("injected", "injected_groups", "c3"), ("dead", "dead_groups", "c5"))


def round_line(row: Row, seconds: float | None = None) -> dict[str, object]:
    """A round as a line of the page's table; a dash where there is no value."""
    tokens = whole(row, "generated_tokens")
    unknown = sum(whole(row, f"verdict_{name}") for name in UNKNOWN)
    speed = tokens / seconds if seconds and tokens else None
    return {
        "round": row["round"],
        "success": percent(_value(row, "success_rate"), 1),
        "probe": percent(_value(row, "probe_avg"), 1),
        "injected": percent(_value(row, "injected_groups"), 1),
        "dead": percent(_value(row, "dead_groups"), 1),
        "tokens/s": NOTHING if speed is None else f"{speed:,.0f}",
        "correct": row["verdict_correct"],
        "wrong": row["verdict_wrong"],
        "unparsed": row["verdict_unparsed"],
        "truncated": row["verdict_truncated"],
        "unknown": unknown,
        **{name: _number(_value(row, name)) for name in more_metrics(row)},
    }


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a round that are worth a curve, by name; shares in [0, 1], nulls left out."""
    found: dict[str, Fact] = {
        "success": _value(row, "success_rate"),
        "probe": _value(row, "probe_avg"),
        "injected": _value(row, "injected_groups"),
        "dead": _value(row, "dead_groups"),
    }
    for key in (
        "gamma",
        "loss",
        "grad_norm",
        "entropy",
        "learning_rate",
        "mean_response_tokens",
        "generated_tokens",
        "trained_tokens",
        "teacher_balance",
        "mismatch_mean",
        "mismatch_max",
        *more_metrics(row),
    ):
        found[key] = _value(row, key)
    return {name: value for name, value in found.items() if isinstance(value, float)}


def _value(row: Row, key: str) -> float | None:
    """A number of the row; counts of groups as a share of the round's groups."""
    value = row.get(key)
    if value is None:
        return None
    if not key.endswith("_groups"):
        return float(str(value))
    return float(str(value)) / whole(row, "prompts") if row["rollouts"] else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4g}"
