"""The page and its Markdown twin, from one context; summary.json beside them."""

from __future__ import annotations

import io
from dataclasses import asdict
from functools import partial
from typing import Any

from markupsafe import Markup
from ruamel.yaml import YAML

from hapo_core.stats.benchmark import PairedResult
from pipeline.artifacts.tables import more_metrics
from pipeline.config import Params
from pipeline.report.curation import curation_tables
from pipeline.report.data import History, Measurement, ReportData
from pipeline.report.figure import Figure
from pipeline.report.tables import (
    cost_table,
    evaluation_table,
    hash_table,
    method_line,
    tiles,
    title,
    training_table,
)
from pipeline.report.visits import graduation_table
from pipeline.report.words import headline_sentences, notes, teacher_sentence, verdict
from pipeline.show.alarm import alarm_words
from pipeline.show.charts import standalone
from pipeline.show.pages import (
    fenced,
    keep_spaces,
    markdown_table,
    page_environment,
    page_styles,
    style_sheet,
)
from pipeline.show.table import Table


def render_html(data: ReportData, figures: list[Figure]) -> str:
    """One self-contained page: style and drawings inline, nothing fetched, no script."""
    return _page("report.html.j2", _context(data, figures))


def render_against(title: str, tables: list[Table], figures: list[Figure]) -> str:
    """The page of two runs side by side (pipeline.compare.two_runs), as self-contained."""
    return _page("against.html.j2", {"title": title, "tables": tables, "figures": figures})


def _page(template: str, context: dict[str, Any]) -> str:
    environment = page_environment(autoescape=True)
    environment.filters["nbsp"] = keep_spaces
    environment.filters["svg"] = Markup
    return environment.get_template(template).render(**context, styles=page_styles())


def render_markdown(data: ReportData, figures: list[Figure]) -> str:
    """The same as Markdown; figures are the files of `figure_files`."""
    environment = page_environment(autoescape=False)
    environment.filters["table"] = markdown_table
    environment.filters["fenced"] = partial(fenced, language="yaml")
    return environment.get_template("report.md.j2").render(**_context(data, figures))


def figure_files(figures: list[Figure]) -> dict[str, str]:
    """File name -> content of the drawings (svg) and their numbers (csv)."""
    style = style_sheet("figure.css")
    files = {f"{f.key}.csv": f.csv() for f in figures}
    files |= {f"{f.key}.svg": standalone(f.svg, style) for f in figures if f.svg is not None}
    return files


def summary(data: ReportData) -> dict[str, Any]:
    """The report for programs; shares in [0, 1], null where there is no such value."""
    history, params = data.history, data.params
    outcome = {
        item.benchmark: {
            "outcome": item.outcome,
            **(_paired(item.paired) if item.paired is not None else {}),
        }
        for item in data.comparisons
    }
    cold = {"start": params.start} if params.cold_start else {}
    return {
        **cold,
        "method": params.method,
        "profile": params.profile,
        "seed": params.seed,
        "rounds": len(history),
        "verdict": verdict(data),
        "notes": [note.text for note in notes(data)],
        "base": {item.benchmark: _measured(item.base) for item in data.comparisons},
        "final": {item.benchmark: _measured(item.final) for item in data.comparisons},
        "difference": outcome,
        "confidence": params.evaluate.confidence,
        "success_rate": history.values("success_rate"),
        "probe": history.values("probe_avg"),
        "injection_rate": history.share("injected_groups"),
        "injection_rate_predicted": history.prediction.rate,
        "dead_group_rate": history.share("dead_groups"),
        "gamma": history.values("gamma"),
        "retired_from": history.prediction.retired_from,
        **_visits(history),
        "tokens": {
            "generated": history.total("generated_tokens"),
            "trained": history.total("trained_tokens"),
        },
        "wall_s": {stage.stage: stage.wall_s for stage in data.stages},
        "hashes": {item.artifact: item.sha256 for item in data.fingerprints},
    }


def _visits(history: History) -> dict[str, Any]:
    """What visits of prompts say, where there is anything."""
    found: dict[str, Any] = {}
    if history.graduation is not None:
        found["graduation"] = {
            "counts": history.graduation.counts,
            "solved": history.graduation.solved,
            "lost": history.graduation.lost,
        }
    if history.help is not None:
        found["help"] = asdict(history.help)
    if history.alarm is not None:
        found["alarm"] = {**asdict(history.alarm), "sentence": alarm_words(history.alarm)}
    return found


def _context(data: ReportData, figures: list[Figure]) -> dict[str, Any]:
    return {
        "title": title(data.params),
        "method": method_line(data.params),
        "outcome": headline_sentences(data),
        "teacher": teacher_sentence(data),
        "notes": notes(data),
        "tiles": tiles(data),
        "figures": {figure.key: figure for figure in figures},
        "further": [f for f in figures if f.key in more_metrics(data.history.frame.columns)],
        "evaluation": evaluation_table(data),
        "training": training_table(data),
        "graduation": graduation_table(data.history.graduation),
        "cost": cost_table(data),
        "curation": curation_tables(data.curation),
        "hashes": hash_table(data),
        "configuration": configuration(data.params),
    }


def configuration(params: Params) -> str:
    """params.yaml as it was understood, defaults included; loggers decide nothing in a report."""
    sink = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(params.model_dump(mode="json", exclude={"loggers"}), sink)
    return sink.getvalue()


def _measured(m: Measurement) -> dict[str, Any]:
    return {
        "avg": m.avg,
        "n": m.n,
        "k": m.k,
        "ci": [m.low, m.high],
        "pass_k": m.pass_k,
        "maj_k": m.maj_k,
        "temperature": m.temperature,
        "max_tokens": m.max_tokens,
        "truncated_share": m.truncated_share,
        "unparsed_share": m.unparsed_share,
    }


def _paired(result: PairedResult) -> dict[str, Any]:
    return {"difference": result.difference, "ci": list(result.ci), "p_value": result.p_value}
