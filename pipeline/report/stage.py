"""Stage `report`: what the run did, for people (HTML, Markdown) and programs (JSON, CSV)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts import MANIFEST, atomic_write_json, atomic_write_text, remove
from pipeline.artifacts.places import DATA, EVALUATIONS, POLICIES, TIMINGS
from pipeline.config import load_params
from pipeline.dependencies.made import as_made
from pipeline.dependencies.provenance import PROVENANCE, begin
from pipeline.flows.observer import Observer
from pipeline.report.data import collect
from pipeline.report.figures import figures
from pipeline.report.page import figure_files, render_html, render_markdown, summary
from pipeline.report.tables import evaluation_table
from pipeline.report.words import verdict
from pipeline.show.pages import markdown_table

STAGE = "report"


def report(observer: Observer) -> Path:
    """Write `reports/` of the project in the working folder, as `write_report` does.

    Raises:
        HapoError: parameters, code or an artifact changed since the run began, or meanwhile.
    """
    made = begin(STAGE, load_params(), _read())
    return write_report(observer, unchanged=made.check)


def _read() -> list[Path]:
    """The artifacts that are there, and what was recorded of them."""
    folders = [DATA, *POLICIES.glob("*"), *EVALUATIONS.glob("*")]
    whole = [folder for folder in folders if (folder / MANIFEST).is_file()]
    return sorted([*whole, *PROVENANCE.glob("*.json"), *TIMINGS.glob("*.json")])


def write_report(
    observer: Observer, root: Path = Path(), unchanged: Callable[[], None] = lambda: None
) -> Path:
    """Write `reports/` from the artifacts below `root` and return the page's path.

    summary.json is written last: where it is there, the rest is complete. The report records no
    timing of its own: it reads artifacts/timings, and would change its own input.

    Args:
        unchanged: asked when all is drawn, before the first file is written.

    Raises:
        ConfigError: params.yaml is not valid.
        DataError: an artifact is missing (naming the stage to run) or not what it says it is.
    """
    made = as_made(load_params(root / "params.yaml"), root)
    data = observer.task("collect", collect, made.params, root, made.differs)
    drawn = observer.task("draw", figures, data)
    files, text, page = figure_files(drawn), render_markdown(data, drawn), render_html(data, drawn)
    numbers = summary(data)
    unchanged()
    reports = root / "reports"
    summary_path = reports / "summary.json"
    summary_path.unlink(missing_ok=True)
    _write_plots(reports / "plots", files)
    atomic_write_text(reports / "report.md", text)
    atomic_write_text(reports / "report.html", page)
    atomic_write_json(summary_path, numbers)
    observer.log(verdict(data))
    observer.markdown_artifact(
        "report", f"**{verdict(data)}**\n\n{markdown_table(evaluation_table(data))}\n"
    )
    return reports / "report.html"


def _write_plots(folder: Path, files: dict[str, str]) -> None:
    """Write the files, and remove all else: drawings of an earlier run, what others put there."""
    if folder.is_symlink():
        folder.unlink()
    for name, content in files.items():
        atomic_write_text(folder / name, content)
    for path in folder.iterdir():
        if path.name not in files:
            remove(path)
