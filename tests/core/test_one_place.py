"""The guides' promises: one new file is a method everywhere, one new line is a metric everywhere.

A copy of the code gets the file of docs/methods.md and the line below; nothing else is edited.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
from conftest import REPO
from tiny_segment import PARAMS

METRIC = '    metrics.max("longest_row", float(lengths.max()))\n'
"""Beside the others, where `hapo_core.loss.batch_loss` computes them."""

SCRIPT = """
import json, sys
from pathlib import Path
from pipeline.audit.numbers import audit_run
from pipeline.audit.words import answer
from pipeline.base.stage import build_base
from pipeline.compare.cells import VARIANTS
from pipeline.config import load_params, parse_params
from pipeline.curate.stage import curate
from pipeline.evaluate.stage import evaluate_policy
from pipeline.flows.observer import Observer
from pipeline.report.stage import write_report
from pipeline.artifacts.tables import ROUNDS, read_frame
from pipeline.show.rounds_page import RoundsPage, round_line, scalars
from pipeline.train.segment import train_segment
from hapo_core.errors import ConfigError
from hapo_core.methods.registry import methods

params = load_params(Path("params.yaml"))
wrong = []
for key, value in (("share", 2.0), ("shere", 0.5), ("share", "half")):
    raw = json.loads(Path("params.yaml").read_text())
    raw["teacher"]["half"] = {key: value}
    try:
        parse_params(raw)
    except ConfigError as error:
        wrong.append(str(error))
curate(params, Observer("curate"))
build_base(params, Observer("base"))
train_segment(params, "1", Observer("train@1"))
for target in ("base", "final"):
    evaluate_policy(params, target, Observer("evaluate"))
write_report(Observer("report"), Path())
audit = audit_run(params, Path(), 4)
rounds = read_frame(Path("artifacts/policy/1/rounds.parquet"), ROUNDS)
rows = rounds.to_dict("records")
page = RoundsPage(Observer("train@1"), "1", rows)
told = {
    "longest": [float(x) for x in rounds["longest_row"]],
    "curve": scalars(rows[-1])["longest_row"],
    "line": round_line(rows[-1])["longest_row"],
    "page": page.report(),
    "figure": Path("reports/plots/longest_row.csv").read_text(),
    "title": params.entry.title,
    "options": params.method_options.share,
    "refused": wrong,
    "variants": VARIANTS["half"],
    "report": Path("reports/report.md").read_text(),
    "html": Path("reports/report.html").read_text(),
    "audit": " ".join(answer(audit).sentences),
    "contradicted": audit.contradicted,
    "listed": list(methods()),
}
Path("told.json").write_text(json.dumps(told))
"""


def example() -> str:
    """The file that docs/methods.md shows: the first Python block of "Add a method"."""
    guide = (REPO / "docs" / "methods.md").read_text(encoding="utf-8")
    part = guide.split("## Add a method", 1)[1]
    found = re.search(r"```python\n(.*?)```", part, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a copy of the code with the one new file says of a run of it."""
    root = tmp_path_factory.mktemp("new_method")
    for room in ("hapo_core", "pipeline"):
        shutil.copytree(REPO / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data").symlink_to(REPO / "data")
    (root / "hapo_core" / "methods" / "half.py").write_text(example(), encoding="utf-8")
    loss = root / "hapo_core" / "loss.py"
    before, mark, after = loss.read_text(encoding="utf-8").partition("    metrics = Metrics()\n")
    assert mark
    loss.write_text(before + mark + METRIC + after, encoding="utf-8")
    raw = {**PARAMS, "method": "half", "teacher": {"half": {"share": 0.5}}}
    (root / "params.yaml").write_text(json.dumps(raw), encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(root)}
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=root, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    answer: dict[str, Any] = json.loads((root / "told.json").read_text())
    return answer


def test_it_is_validated(told: dict[str, Any]) -> None:
    assert told["title"] == "Half" and told["options"] == 0.5 and "half" in told["listed"]
    assert told["variants"] == {"method": "half"}
    assert len(told["refused"]) == 3
    assert "teacher.half.share" in told["refused"][0]
    assert "share" in told["refused"][1]  # the nearest valid name
    assert "teacher.half.share" in told["refused"][2]


def test_it_is_reported_and_audited(told: dict[str, Any]) -> None:
    """The audit predicts with the file's own rule, and the run obeys it."""
    assert re.search(
        r"The teacher entered [\d.]+ ?% of all groups, by design: Half lets", told["report"]
    )
    assert "Half has no gate that closes" in told["audit"]
    assert told["contradicted"] == []


def test_one_line_is_a_metric_everywhere(told: dict[str, Any]) -> None:
    """Table, curves of the loggers, rounds page, segment report and the run's report show it."""
    assert len(told["longest"]) == 2 and 1 <= told["longest"][-1] <= 24
    assert told["curve"] == told["longest"][-1]
    assert float(told["line"]) == told["longest"][-1]
    assert "| longest_row | " in told["page"]
    assert told["figure"].splitlines()[0].startswith("round,longest_row")
    for page in (told["html"], told["report"]):
        assert "Longest row" in page and "Longest row: of each round" in page
