"""The comparison as a page (HTML, Markdown) and as summary.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hapo_core.stats.seeds import ENOUGH, SIGN_FLIPS_FROM
from pipeline.artifacts import atomic_write_json, atomic_write_text
from pipeline.compare.summary import ENDS, Curve, Row, row_json
from pipeline.show.charts import Interval, Series, interval_chart, line_chart
from pipeline.show.pages import fenced, markdown_table, page_environment, page_styles
from pipeline.show.table import Table
from pipeline.show.text import NOTHING, duration, percent, tokens

_BESIDE = 14
"""Characters of a label beside a curve."""
UNIT = 1000.0
"""Tokens on the axis of a learning curve are in thousands."""


@dataclass(frozen=True)
class Drawing:
    """One small chart."""

    title: str
    svg: str


@dataclass(frozen=True)
class Comparison:
    """All that the page says. `rows`: by benchmark, the headline first; `facts`: the settings."""

    rows: dict[str, list[Row]]
    references: tuple[str, ...]
    seeds: tuple[int, ...]
    facts: dict[str, Any]
    missing: tuple[str, ...]
    """Cells that are not finished."""
    command: str


def write_page(found: Comparison, out: Path) -> Path:
    """Write comparison.html, comparison.md, then summary.json into `out`.

    Returns:
        The HTML page.
    """
    tables = [
        table
        for name in found.rows
        for table in (score_table(found, name), *against_tables(found, name))
    ]
    head = next(iter(found.rows.values()))
    context = {
        "title": f"Methods side by side: {found.facts['profile']}, {found.facts['budget']}",
        "found": found,
        "notes": notes(found),
        "tables": tables,
        "costs": cost_table(head),
    }
    environment = page_environment(autoescape=True)
    environment.filters["svg"] = Markup
    html = environment.get_template("comparison.html.j2").render(
        **context, styles=page_styles(), ranking=ranking(found), panels=panels(found)
    )
    environment = page_environment(autoescape=False)
    environment.filters |= {"table": markdown_table, "fenced": fenced}
    atomic_write_text(
        out / "comparison.md", environment.get_template("comparison.md.j2").render(**context)
    )
    atomic_write_text(out / "comparison.html", html)
    atomic_write_json(out / "summary.json", comparison_json(found))
    return out / "comparison.html"


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison for programs; shares in [0, 1]."""
    return {
        **found.facts,
        "seeds": list(found.seeds),
        "references": list(found.references),
        "missing": list(found.missing),
        "command": found.command,
        "benchmarks": {name: [row_json(r) for r in rows] for name, rows in found.rows.items()},
    }


# --- words and tables ---------------------------------------------------------------------------


def notes(found: Comparison) -> list[str]:
    """What a reader should know before quoting the table."""
    head = next(iter(found.rows.values()))[1:]
    said = []
    if found.missing:
        said.append(f"Not finished, and so not in the tables: {', '.join(found.missing)}.")
    said.append(_highest(next(iter(found.rows)), head))
    silent = [r.label for r in head if r.generated == 0]
    if silent:
        said.append(
            f"No rollouts are drawn by: {', '.join(silent)}. At equal rounds or generated tokens "
            "this costs less than the others; both token axes are shown."
        )
    said.append(_unit(found))
    if restless := _restless(head):
        said.append(
            "From seed to seed these differ by more than one seed's interval is wide: the run "
            "matters more than the problems, and the pooled interval is too narrow for a claim "
            f"about the method (largest less smallest, points): {restless}."
        )
    return said


def _highest(benchmark: str, rows: Sequence[Row]) -> str:
    """Who leads; nobody where all are equal."""
    best = max(r.avg for r in rows)
    leaders = [r.label for r in rows if r.avg == best]
    if len(leaders) == len(rows) > 1:
        return f"On {benchmark} all settings have the same mean ({percent(best)}): none is best."
    return f"Highest mean on {benchmark}: {', '.join(leaders)} ({percent(best)})."


def _unit(found: Comparison) -> str:
    """What the two kinds of tests speak of, and whether there are seeds enough."""
    n = len(found.seeds)
    said = (
        "Tests over problems, seeds pooled, speak of these runs only. Claims about settings are "
        "in the columns by seed: the run is the unit, p corrected for the number of settings (Holm)"
    )
    if n < ENOUGH:
        return f"{said}; with {n} seed{'s' if n > 1 else ''} there is not enough for any."
    if n < SIGN_FLIPS_FROM:
        return (
            f"{said}; with {n} seeds by a t test, which believes in normal deviations between runs "
            f"(an exact test needs {SIGN_FLIPS_FROM})."
        )
    return f"{said}, by an exact sign-flip test over {n} seeds."


def _restless(rows: Sequence[Row]) -> str:
    """The settings whose seeds lie further apart than the interval over problems explains."""
    found = []
    for r in rows:
        apart = max(r.per_seed.values()) - min(r.per_seed.values())
        if apart > (r.ci[1] - r.ci[0]) * len(r.per_seed) ** 0.5:  # about one seed's own
            found.append(f"{r.label} {100 * apart:.1f}")
    return ", ".join(found)


def score_table(found: Comparison, benchmark: str) -> Table:
    """avg@k per seed and pooled."""
    cells = [
        (
            r.label,
            *(_points(r.per_seed.get(s)) for s in found.seeds),
            _interval(r),
            _bounds(r.seed_ci),
        )
        for r in found.rows[benchmark]
    ]
    protocol = found.facts["protocols"][benchmark]
    return Table(
        ("setting", *(f"seed {s}" for s in found.seeds), "all [95 %]", "by seed [95 %]"),
        tuple(cells),
        title=f"{benchmark}: avg@{protocol['k']} in percent",
        note=f"{protocol['n']} problems a seed, temperature {protocol['temperature']:g}, at most "
        f"{protocol['max_tokens']} tokens. By seed: 95 % of Student over runs.",
    )


def against_tables(found: Comparison, benchmark: str) -> list[Table]:
    """The paired tests, a table for each reference: with all of them beside the scores a table
    is wider than a page."""
    rows = found.rows[benchmark]
    tables = []
    for name in found.references:
        tested = [r for r in rows if name in r.against]
        if not tested:
            continue
        cells = [
            (
                r.label,
                *_test(r.against[name].difference, r.against[name].p_value),
                *_seed_cells(r, name),
            )
            for r in tested
        ]
        tables.append(
            Table(
                (
                    "setting",
                    f"− {name}",
                    "p, these runs",
                    "by seed [95 %]",
                    "p, settings",
                    "detectable",
                ),
                tuple(cells),
                title=f"{benchmark}: difference from {name}",
                note="In points; p: two-sided paired sign-flip test over problems. By seed: 95 % "
                "of Student over runs; p of settings: corrected for the number of them; "
                "detectable: what this many seeds of this spread find four times in five.",
            )
        )
    return tables


def cost_table(rows: Sequence[Row]) -> Table:
    """Teacher, dead groups, tokens and time, means over seeds."""
    return Table(
        (
            "setting",
            "rounds",
            "injected",
            "outside",
            "balance",
            "dead",
            "generated",
            "trained",
            "training time",
        ),
        tuple(
            (
                r.label,
                NOTHING if r.rounds is None else f"{r.rounds:.0f}",
                _first_last(r.injected, percent),
                _first_last(r.outside, "{:.3g}".format),
                _first_last(r.balance, "{:.2g}".format),
                percent(r.dead),
                tokens(r.generated),
                tokens(r.trained),
                duration(r.wall_s),
            )
            for r in rows[1:]
        ),
        title="Teacher and cost, means over seeds",
        note=f"Injected: share of groups that the teacher entered, first → last {ENDS} sampled "
        "rounds. Outside: traces trained outside of groups, a round. Balance: gradient weight of "
        "teacher tokens over that of on-policy ones. Dead: groups without a gradient. Time: of "
        "the training stages when they ran; cells that ran side by side slow each other down.",
    )


def _first_last(ends: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return NOTHING if ends is None else " → ".join(show(x) for x in ends)


def _points(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _interval(r: Row) -> str:
    return f"{100 * r.avg:.1f} [{100 * r.ci[0]:.1f}, {100 * r.ci[1]:.1f}]"


def _seed_cells(row: Row, reference: str) -> list[str]:
    """Interval, corrected p and smallest detectable difference of the test over seeds."""
    test = row.by_seed.get(reference)
    if test is None:
        return [NOTHING] * 3
    if test.p is None or test.detectable is None:
        return ["not enough seeds", NOTHING, NOTHING]
    return [
        _bounds(test.ci, "+.1f"),
        _p(row.corrected[reference]),
        f"{100 * test.detectable:.1f}",
    ]


def _bounds(ci: tuple[float, float] | None, shape: str = ".1f") -> str:
    return NOTHING if ci is None else f"[{100 * ci[0]:{shape}}, {100 * ci[1]:{shape}}]"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _test(difference: float, p: float) -> list[str]:
    return [f"{100 * difference:+.1f}", _p(p)]


# --- drawings -----------------------------------------------------------------------------------


def ranking(found: Comparison) -> str:
    """All settings of the headline benchmark with their intervals."""
    name, rows = next(iter(found.rows.items()))
    beside = (rows[0].label, *found.references)
    bars = [Interval(r.label, "", r.avg, *r.ci, "c5" if r.label in beside else "c3") for r in rows]
    return interval_chart(bars, title=f"avg on {name}, 95 % over problems", value_format=percent)


def panels(found: Comparison) -> dict[str, list[Drawing]]:
    """Per setting: learning against both token counts, and injected and dead groups by round.

    The first reference stands in every panel as a thin line; panels of a kind share their axes.
    """
    rows = [r for r in next(iter(found.rows.values())) if r.curve is not None]
    curves = {r.label: r.curve for r in rows if r.curve is not None}
    lead = next((name for name in found.references if name in curves), None)
    ends = {
        axis: max(max(getattr(c, axis)) for c in curves.values()) / UNIT or 1.0
        for axis in ("generated", "trained")
    }
    found_panels = {}
    for label, curve in curves.items():
        beside = curves[lead] if lead is not None and lead != label else None
        found_panels[label] = [
            *(
                d
                for axis in ("generated", "trained")
                if (d := _learning(label, curve, lead or "", beside, axis, ends[axis])) is not None
            ),
            *([d] if (d := _teacher(curve)) is not None else []),
        ]
    return found_panels


def _learning(
    label: str, curve: Curve, lead: str, beside: Curve | None, axis: str, end: float
) -> Drawing | None:
    lines = [_probe(label, curve, axis, "c3", "points")]
    if beside is not None:
        lines.insert(0, _probe(lead, beside, axis, "c5", "thin"))
    lines = [s for s in lines if s.points]
    if not lines or not _probe(label, curve, axis, "c3", "points").points:
        return None
    svg = line_chart(
        lines,
        title=f"Held-out probe against {axis} tokens",
        x_label=f"{axis} tokens, thousands",
        x_range=(0.0, end),
        y_format=percent,
        y_high=1.0,
    )
    return Drawing(f"Probe against {axis} tokens", svg)


def _brief(label: str) -> str:
    """A label that has room beside a curve on a phone; the heading has the whole."""
    return label if len(label) <= _BESIDE else f"{label[: _BESIDE - 1]}…"


def _probe(label: str, curve: Curve, axis: str, color: str, kind: Any) -> Series:
    xs = getattr(curve, axis)
    points = [(x / UNIT, y) for x, y in zip(xs, curve.probe, strict=True) if y is not None]
    return Series(_brief(label), points, color, kind)


def _teacher(curve: Curve) -> Drawing | None:
    lines = [
        Series(label, list(zip(map(float, curve.rounds), values, strict=True)), color)
        for label, values, color in (("injected", curve.injected, "c2"), ("dead", curve.dead, "c4"))
        if any(v is not None for v in values)
    ]
    if not lines:
        return None
    svg = line_chart(
        lines,
        title="Share of groups, by round",
        x_label="round",
        x_range=(float(curve.rounds[0]), float(max(curve.rounds[-1], curve.rounds[0] + 1))),
        y_format=percent,
        y_high=1.0,
    )
    return Drawing("Groups: injected, dead", svg)
