"""`hapo report --against X`: two runs side by side, each a DVC revision, an experiment or a folder.

What differs in the configuration, the final policies on every benchmark (paired problem by problem
where both kept their generations of the same problems), the curves, and the cost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hapo_core.errors import ConfigError, DataError, HapoError
from pipeline.artifacts import atomic_write_text, read_json
from pipeline.artifacts.places import EVALUATIONS, SUMMARY, expanded
from pipeline.artifacts.revisions import fetch
from pipeline.config import PARAMS
from pipeline.config.yaml import read_yaml_file
from pipeline.dependencies.lock import GRAPH, place_of
from pipeline.dependencies.provenance import PROVENANCE
from pipeline.dependencies.values import flat

if TYPE_CHECKING:
    from hapo_core.stats.benchmark import PairedResult
    from pipeline.dependencies.made import AsMade
    from pipeline.report.figure import Figure
    from pipeline.show.table import Table

EVALUATION = EVALUATIONS / "final"
WORKSPACE = "workspace"


@dataclass(frozen=True)
class Side:
    """One of the two runs: `root` holds its summary, configuration and evaluation."""

    name: str
    root: Path

    @property
    def summary(self) -> dict[str, Any]:
        return dict(read_json(self.root / SUMMARY))

    @property
    def params(self) -> dict[str, Any]:
        """As params.yaml has them, flat: `gate.threshold.gamma` -> value."""
        return flat(read_yaml_file(self.root / PARAMS))

    @property
    def made(self) -> AsMade | None:
        """What its results were made with; None where that is not recorded."""
        from pipeline.config import load_params
        from pipeline.dependencies.made import as_made

        try:
            found = as_made(load_params(self.root / PARAMS), self.root)
        except ConfigError:  # the params.yaml of another version
            return None
        return found if found.recorded else None


def find_side(name: str, root: Path = Path()) -> Side:
    """A folder with a project, `workspace`, or a revision: commit, branch, tag, experiment.

    Raises:
        ConfigError: there is no such folder or revision.
        DataError: it has no report, or the report is not in DVC's cache.
    """
    folder = root if name == WORKSPACE else expanded(name)
    if (folder / PARAMS).is_file():
        if not (folder / SUMMARY).is_file():
            raise DataError(
                "this run has no report yet", where=str(folder / SUMMARY), remedy="`hapo run`"
            )
        return Side(name, folder)
    home = fetch(name, (PARAMS, SUMMARY, EVALUATION), root)
    for recorded in (PROVENANCE, place_of(GRAPH)):
        with suppress(DataError):  # made by an older version
            fetch(name, (recorded,), root)
    return Side(name, home)


# --- what the page says -------------------------------------------------------------------------


def paired(a: Side, b: Side) -> tuple[dict[str, PairedResult], dict[str, str]]:
    """Per benchmark the paired test b - a, or why there is none."""
    from pipeline.compare.pair import pair

    found: dict[str, PairedResult] = {}
    reasons: dict[str, str] = {}
    if a.root.resolve() == b.root.resolve():
        return {}, dict.fromkeys(a.summary["final"], "the same run")
    names = [set(side.summary["final"]) for side in (a, b)]
    for name in sorted(names[0] & names[1]):
        try:
            found |= pair(a.root / EVALUATION, b.root / EVALUATION, [name])
        except HapoError as error:
            reasons[name] = str(error).splitlines()[0]
    for name in sorted(names[0] ^ names[1]):
        reasons[name] = "only one of the two has this benchmark"
    return found, reasons


def tables(a: Side, b: Side) -> list[Table]:
    """Evaluation, configuration, cost."""
    from pipeline.show.table import Table
    from pipeline.show.text import duration, p_value, percent_interval, points, tokens

    one, two = a.summary, b.summary
    tests, reasons = paired(a, b)
    rows = []
    for name in [*one["final"], *(n for n in two["final"] if n not in one["final"])]:
        cells = [_measured(side["final"].get(name), percent_interval) for side in (one, two)]
        if name in tests:
            t = tests[name]
            last = f"{points(t.difference, *t.ci)}, {p_value(t.p_value)}, n = {t.n}"
        else:
            last = reasons[name]
        rows.append((name, *cells, last))
    headers = ("final policy on", a.name, b.name, f"{b.name} - {a.name}, points")
    evaluation = Table(
        headers,
        tuple(rows),
        "Evaluation",
        "avg@k with its interval over problems; difference: paired bootstrap interval and "
        "sign-flip test over the same problems.",
        last="text",
    )
    left, right, title, note = _settings(a, b)
    differing = [k for k in sorted(left.keys() | right.keys()) if left.get(k) != right.get(k)]
    settings = tuple((k, _value(left, k), _value(right, k)) for k in differing)
    if not settings:
        settings = (("nothing differs", "", ""),)
    configuration = Table(("parameter", a.name, b.name), settings, title, note, last="text")
    cost = (
        ("rounds", str(one["rounds"]), str(two["rounds"])),
        *(
            (f"tokens {kind}", tokens(one["tokens"][kind]), tokens(two["tokens"][kind]))
            for kind in ("generated", "trained")
        ),
        ("wall time", *(duration(_wall(s)) for s in (one, two))),
        ("injected groups, last round", *(_last(s["injection_rate"]) for s in (one, two))),
    )
    return [evaluation, configuration, Table(("cost", a.name, b.name), cost, "Cost")]


def _settings(a: Side, b: Side) -> tuple[dict[str, Any], dict[str, Any], str, str]:
    """(parameters of a, of b, title, note): what both were made with, where both recorded it."""
    made = [side.made for side in (a, b)]
    notes = [
        f"{side.name}: {text}"
        for side, one in zip((a, b), made, strict=True)
        for text in (one.differs if one is not None else ())
    ]
    if made[0] is None or made[1] is None:
        note = "What the runs were made with is not recorded for both: their params.yaml is read."
        return a.params, b.params, "What differs in params.yaml", note
    dumps = [flat(one.params.model_dump(mode="json", exclude={"loggers"})) for one in made if one]
    return dumps[0], dumps[1], "What differs in what they were made with", " ".join(notes)


def _measured(entry: Mapping[str, Any] | None, form: Any) -> str:
    return form(entry["avg"], *entry["ci"]) if entry and entry.get("avg") is not None else "-"


def _value(params: Mapping[str, Any], key: str) -> str:
    return str(params[key]) if key in params else "(default)"


def _wall(summary: Mapping[str, Any]) -> float | None:
    known = [s for s in summary["wall_s"].values() if s is not None]
    return sum(known) if known else None


def _last(values: list[float | None]) -> str:
    from pipeline.show.text import percent

    known = [v for v in values if v is not None]
    return percent(known[-1] if known else None)


def curves(a: Side, b: Side) -> list[Figure]:
    """Training success, held-out probe and injection over rounds, one line a run."""
    from pipeline.report.figure import Figure
    from pipeline.show.charts import line_chart
    from pipeline.show.series import drawable, line
    from pipeline.show.text import percent

    wanted = (
        ("success", "Training success rate", "success_rate", "line"),
        ("probe", "Held-out success rate (probe)", "probe", "points"),
        ("injected", "Groups with the teacher", "injection_rate", "line"),
    )
    figures = []
    for key, title, column, kind in wanted:
        lines, longest = [], 1
        for side, color in ((a, "c1"), (b, "c3")):
            values = side.summary[column]
            longest = max(longest, len(values))
            rounds = list(range(1, len(values) + 1))
            lines.append(line(side.name, rounds, values, color, kind))  # type: ignore[arg-type]
        lines = [s for s in lines if drawable(s)]
        svg = None
        if lines:
            svg = line_chart(
                lines,
                title=f"{title} over rounds",
                x_label="round",
                x_range=(1.0, float(longest)),
                y_format=percent,
            )
        figures.append(Figure(key, title, f"{a.name} and {b.name}.", svg, []))
    return figures


def write(a: Side, b: Side, found: list[Table], folder: Path) -> Path:
    """Write the page of `tables` and `curves`, and its Markdown; returns the page's path."""
    from pipeline.report.page import render_against
    from pipeline.show.pages import markdown_table

    name = f"{_slug(b.name)}-against-{_slug(a.name)}"
    title = f"{b.name} against {a.name}"
    text = f"# {title}\n\n"
    text += "\n".join(f"## {t.title}\n\n{markdown_table(t)}\n" for t in found)
    atomic_write_text(folder / f"{name}.md", text)
    page = folder / f"{name}.html"
    atomic_write_text(page, render_against(title, found, curves(a, b)))
    return page


def _slug(name: str) -> str:
    return (
        re.sub(r"[^\w.-]+", "-", Path(name).name if os.sep in name else name).strip("-.") or "run"
    )
