"""A small SVG chart writer for the report: lines with bands, stacked areas, interval plots.

Colours are CSS classes (`c1` .. `c7`, defined in templates/figure.css for light and dark), so one
drawing serves both. Labels sit at the ends of their lines; values appear on hover (`<title>`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 480.0, 280.0
TOP, BOTTOM, LEFT = 12.0, 36.0, 46.0
LABEL_GAP = 14.0  # vertical distance of two end labels
CHAR = 7.4  # widest usual advance of the bold label font, in units of the view box
MAX_HOVER = 240  # hover columns per chart; longer runs share one between rounds

Format = Callable[[float], str]
Kind = Literal["line", "thin", "dashed", "points"]


@dataclass(frozen=True)
class Series:
    """One line. `points` may hold None (a gap); `band` are (x, low, high)."""

    label: str
    points: Sequence[tuple[float, float | None]]
    color: str
    kind: Kind = "line"
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Reference:
    """A horizontal line with an optional interval."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Marker:
    """A vertical line at x, e.g. where a phase begins."""

    x: float
    label: str


@dataclass(frozen=True)
class Frame:
    """The plot area and its two scales."""

    x_low: float
    x_high: float
    y_high: float
    right: float
    height: float = HEIGHT

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low or 1.0
        return LEFT + (value - self.x_low) / span * (WIDTH - self.right - LEFT)

    def y(self, value: float) -> float:
        bottom = self.height - BOTTOM
        return bottom - min(value, self.y_high) / self.y_high * (bottom - TOP)


def nice_ceiling(value: float, parts: int = 4) -> tuple[float, float]:
    """(end at or above `value`, step), the step being 1, 2, 2.5 or 5 times a power of ten."""
    if not value > 0 or not math.isfinite(value):
        return 1.0, 0.25
    raw = value / parts
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * 0.999)
    return step * math.ceil(value / step - 1e-9), step


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    x_range: tuple[float, float],
    y_format: Format,
    hover: Sequence[tuple[float, str]] = (),
    references: Sequence[Reference] = (),
    markers: Sequence[Marker] = (),
    y_high: float | None = None,
) -> str:
    """Lines over a common x axis that spans `x_range`; y starts at zero."""
    tops = [y for s in series for _, y in s.points if y is not None]
    tops += [high for s in series for _, _, high in s.band]
    tops += [r.high if r.high is not None else r.value for r in references]
    end, step = nice_ceiling(y_high if y_high is not None else max(tops, default=1.0))
    labels = [s.label for s in series] + [r.label for r in references]
    frame = Frame(*x_range, end, _right_margin(labels))
    body = [_y_axis(frame, step, y_format), _x_axis(frame, x_label)]
    body += [_marker(frame, m) for m in markers]
    body += [_reference(frame, r) for r in references]
    body += [_band(frame, s) for s in series if s.kind != "points"]
    body += [_series(frame, s, y_format) for s in series]
    body.append(_end_labels(frame, series, references))
    body.append(_hover(frame, hover))
    return _svg(title, body, frame.height)


def stacked_chart(
    layers: Sequence[tuple[str, str, Sequence[float]]],
    xs: Sequence[float],
    *,
    title: str,
    x_label: str,
    y_format: Format,
    hover: Sequence[tuple[float, str]] = (),
) -> str:
    """Columns on top of each other; `layers` are (label, colour class, one height per x)."""
    totals = [sum(column) for column in zip(*(heights for _, _, heights in layers), strict=True)]
    end, step = nice_ceiling(max(totals, default=1.0))
    half = 0.5
    frame = Frame(min(xs) - half, max(xs) + half, end, _right_margin([n for n, _, _ in layers]))
    body = [_y_axis(frame, step, y_format), _x_axis(frame, x_label, round(min(xs)), round(max(xs)))]
    floor = [0.0] * len(xs)
    ends: list[tuple[float, str, str]] = []
    for label, color, heights in layers:
        ceiling = [f + h for f, h in zip(floor, heights, strict=True)]
        upper = _steps(frame, xs, ceiling, half)
        lower = _steps(frame, xs, floor, half)[::-1]
        body.append(f'<path class="fill {color}" d="M{" L".join(upper + lower)}Z"/>')
        ends.append((frame.y((floor[-1] + ceiling[-1]) / 2), label, color))
        floor = ceiling
    body.append(_place_labels(frame, ends))
    body.append(_hover(frame, hover))
    return _svg(title, body, frame.height)


@dataclass(frozen=True)
class Interval:
    """One row of an interval plot."""

    group: str
    label: str
    value: float
    low: float
    high: float
    color: str


def interval_chart(rows: Sequence[Interval], *, title: str, value_format: Format) -> str:
    """Points with horizontal intervals, one row each, grouped; x starts at zero."""
    end, step = nice_ceiling(max((r.high for r in rows), default=1.0), parts=5)
    left, right, row_height, head = 52.0, 66.0, 24.0, 22.0
    width = WIDTH - left - right
    body: list[str] = []
    y, group = 4.0, None
    placed: list[str] = []
    for row in rows:
        if row.group != group:
            y += head
            group = row.group
            placed.append(f'<text class="t strong" x="4" y="{_n(y - 4)}">{escape(group)}</text>')
        middle = y + row_height / 2
        x0, x1, x = (left + v / end * width for v in (row.low, row.high, row.value))
        note = f"{row.group}, {row.label}: {value_format(row.value)}"
        note += f" [{value_format(row.low)}, {value_format(row.high)}]"
        placed.append(
            f'<g class="{row.color}"><title>{escape(note)}</title>'
            f'<path class="error wide" d="M{_n(x0)} {_n(middle)}H{_n(x1)}"/>'
            f'<circle class="mark" cx="{_n(x)}" cy="{_n(middle)}" r="5"/>'
            f'<text class="lab end" x="{_n(left - 8)}" y="{_n(middle + 4)}">{escape(row.label)}'
            f'</text><text class="lab" x="{_n(max(x1, x + 5) + 7)}" y="{_n(middle + 4)}">'
            f"{escape(value_format(row.value))}</text></g>"
        )
        y += row_height
    bottom = y + 6
    for i in range(round(end / step) + 1):
        x = left + i * step / end * width
        body.append(f'<path class="grid" d="M{_n(x)} 8V{_n(bottom)}"/>')
        label = escape(value_format(i * step))
        body.append(f'<text class="t mid" x="{_n(x)}" y="{_n(bottom + 15)}">{label}</text>')
    return _svg(title, body + placed, bottom + 22)


def _svg(title: str, body: Sequence[str], height: float) -> str:
    inner = "\n".join(part for part in body if part)
    return (
        f'<svg class="figure" viewBox="0 0 {_n(WIDTH)} {_n(height)}" role="img" '
        f'aria-label="{escape(title, quote=True)}" xmlns="http://www.w3.org/2000/svg">\n'
        f"{inner}\n</svg>"
    )


def standalone(svg: str, style: str) -> str:
    """The same drawing as a file of its own, with its style inside."""
    head, rest = svg.split(">", 1)
    size = 'width="640" style="background:var(--paper)"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head} {size}><style>{style}</style>{rest}\n'


def _n(value: float) -> str:
    text = f"{value:.1f}"
    return text.removesuffix(".0")


def _right_margin(labels: Sequence[str]) -> float:
    longest = max((len(label) for label in labels), default=0)
    return min(150.0, 12.0 + CHAR * longest)  # 12: also room for half of the last tick's label


def _y_axis(frame: Frame, step: float, y_format: Format) -> str:
    parts = []
    for i in range(round(frame.y_high / step) + 1):
        y = frame.y(i * step)
        kind = "base" if i == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{_n(LEFT)} {_n(y)}H{_n(WIDTH - frame.right)}"/>')
        text = escape(y_format(i * step))
        parts.append(f'<text class="t end" x="{_n(LEFT - 6)}" y="{_n(y + 4)}">{text}</text>')
    return "".join(parts)


def _x_axis(frame: Frame, label: str, low: float | None = None, high: float | None = None) -> str:
    first = frame.x_low if low is None else low
    last = frame.x_high if high is None else high
    _, step = nice_ceiling(last - first, parts=5)
    step = max(1.0, math.ceil(step))
    ticks = [first]
    ticks += [t for t in _multiples(step, first, last) if t - first >= step * 0.6]
    if last - ticks[-1] >= step * 0.6:
        ticks.append(last)
    y = frame.height - BOTTOM + 16
    parts = [
        f'<text class="t mid" x="{_n(frame.x(t))}" y="{_n(y)}">{round(t)}</text>' for t in ticks
    ]
    middle = (frame.x(frame.x_low) + frame.x(frame.x_high)) / 2
    parts.append(f'<text class="t mid" x="{_n(middle)}" y="{_n(y + 16)}">{escape(label)}</text>')
    return "".join(parts)


def _multiples(step: float, first: float, last: float) -> list[float]:
    begin = math.ceil(first / step)
    return [i * step for i in range(begin, math.floor(last / step) + 1)]


def _marker(frame: Frame, marker: Marker) -> str:
    x = frame.x(marker.x)
    return (
        f'<path class="rule" d="M{_n(x)} {_n(TOP)}V{_n(frame.height - BOTTOM)}"/>'
        f'<text class="t" x="{_n(x + 5)}" y="{_n(TOP + 10)}">{escape(marker.label)}</text>'
    )


def _reference(frame: Frame, ref: Reference) -> str:
    x0, x1, y = LEFT, WIDTH - frame.right, frame.y(ref.value)
    band = ""
    if ref.low is not None and ref.high is not None:
        top, bottom = frame.y(ref.high), frame.y(ref.low)
        band = (
            f'<rect class="band c5" x="{_n(x0)}" y="{_n(top)}" width="{_n(x1 - x0)}" '
            f'height="{_n(max(bottom - top, 0.5))}"/>'
        )
    return f'{band}<path class="line dashed c5" d="M{_n(x0)} {_n(y)}H{_n(x1)}"/>'


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """Consecutive points between gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _series(frame: Frame, series: Series, y_format: Format) -> str:
    shape = {"line": "line", "thin": "line thin", "dashed": "line dashed", "points": "line thin"}
    parts = []
    for run in _runs(series.points):
        if len(run) == 1 and series.kind != "points":
            x, y = run[0]
            parts.append(_dot(frame, x, y, 2.5))
            continue
        path = " L".join(f"{_n(frame.x(x))} {_n(frame.y(y))}" for x, y in run)
        parts.append(f'<path class="{shape[series.kind]}" d="M{path}"/>')
    if series.kind == "points":
        bars = {x: (low, high) for x, low, high in series.band}
        parts += [
            _point(frame, series.label, x, y, bars.get(x), y_format)
            for run in _runs(series.points)
            for x, y in run
        ]
    return f'<g class="{series.color}">{"".join(parts)}</g>'


def _dot(frame: Frame, x: float, y: float, radius: float) -> str:
    return f'<circle class="mark" cx="{_n(frame.x(x))}" cy="{_n(frame.y(y))}" r="{_n(radius)}"/>'


def _point(
    frame: Frame, label: str, x: float, y: float, bar: tuple[float, float] | None, form: Format
) -> str:
    if bar is None:
        return _dot(frame, x, y, 3.5)
    low, high = frame.y(bar[0]), frame.y(bar[1])
    path = f'<path class="error" d="M{_n(frame.x(x))} {_n(low)}V{_n(high)}"/>'
    return path + _dot(frame, x, y, 3.5)


def _band(frame: Frame, series: Series) -> str:
    if len(series.band) < 2:
        return ""
    upper = [f"{_n(frame.x(x))} {_n(frame.y(high))}" for x, _, high in series.band]
    lower = [f"{_n(frame.x(x))} {_n(frame.y(low))}" for x, low, _ in reversed(series.band)]
    return f'<path class="band {series.color}" d="M{" L".join(upper + lower)}Z"/>'


def _end_labels(frame: Frame, series: Sequence[Series], references: Sequence[Reference]) -> str:
    ends = []
    for s in series:
        last = [y for _, y in s.points if y is not None]
        if last and s.label:
            ends.append((frame.y(last[-1]), s.label, s.color))
    ends += [(frame.y(r.value), r.label, "c5") for r in references]
    return _place_labels(frame, ends)


def _place_labels(frame: Frame, ends: list[tuple[float, str, str]]) -> str:
    """Labels right of the plot at their heights, pushed apart where they would collide."""
    bottom = frame.height - BOTTOM
    ordered = sorted(ends)
    spots: list[float] = []
    for wanted, _, _ in ordered:
        floor = spots[-1] if spots else TOP - LABEL_GAP + 4
        spots.append(max(wanted, floor + LABEL_GAP))
    excess = (spots[-1] - bottom) if spots else 0.0
    for i in range(len(spots) - 1, -1, -1):
        limit = bottom if i == len(spots) - 1 else spots[i + 1] - LABEL_GAP
        spots[i] = min(spots[i], limit) if excess > 0 else spots[i]
    x = WIDTH - frame.right + 7
    return "".join(
        f'<text class="lab {color}" x="{_n(x)}" y="{_n(spot + 4)}">{escape(label)}</text>'
        for (_, label, color), spot in zip(ordered, spots, strict=True)
    )


def _steps(frame: Frame, xs: Sequence[float], heights: Sequence[float], half: float) -> list[str]:
    points = []
    for x, height in zip(xs, heights, strict=True):
        y = _n(frame.y(height))
        points += [f"{_n(frame.x(x - half))} {y}", f"{_n(frame.x(x + half))} {y}"]
    return points


def _hover(frame: Frame, notes: Sequence[tuple[float, str]]) -> str:
    stride = max(1, math.ceil(len(notes) / MAX_HOVER))
    kept = notes[::stride]
    width = (WIDTH - frame.right - LEFT) / max(len(kept) - 1, 1)
    height = _n(frame.height - BOTTOM - TOP)
    return "".join(
        f'<rect class="hit" x="{_n(frame.x(x) - width / 2)}" y="{_n(TOP)}" width="{_n(width)}" '
        f'height="{height}"><title>{escape(note)}</title></rect>'
        for x, note in kept
    )
