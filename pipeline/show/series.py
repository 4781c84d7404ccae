"""Series of a chart, with gaps where nothing was measured."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.show.charts import Kind, Series

Values = list[float | None]
"""One value a round; None where nothing was measured."""


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
