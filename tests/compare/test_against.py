"""`hapo report --against`: two runs on one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report_run import SMALL, make_run

from hapo_core.errors import ConfigError, DataError
from pipeline.compare.two_runs import Side, find_side, paired, tables, write
from pipeline.flows.observer import Observer
from pipeline.report.stage import write_report


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    """Two runs whose final policies were measured on the same problems."""
    found = []
    for name, story in (("one", SMALL), ("two", replace(SMALL, method="grpo", seed=8))):
        root = tmp_path_factory.mktemp(name) / name
        make_run(root, story)
        write_report(Observer("report"), root)
        found.append(find_side(str(root)))
    return found[0], found[1]


def test_the_page_holds_both(sides: tuple[Side, Side], tmp_path: Path) -> None:
    page = write(*sides, tables(*sides), tmp_path)
    html, text = page.read_text(), page.with_suffix(".md").read_text()
    assert page.name == "two-against-one.html"
    for content in (html, text):
        assert "method" in content and "grpo" in content and "hapo" in content
    assert html.count("<svg") >= 2 and "http://" not in html.replace("http://www.w3.org", "")


def test_configuration_differences_and_nothing_else(sides: tuple[Side, Side]) -> None:
    _, configuration, cost = tables(*sides)
    keys = {row[0] for row in configuration.rows}
    assert {"method", "seed"} <= keys and "rollout.group_size" not in keys
    assert any(row[0] == "wall time" for row in cost.rows)
    (same,) = tables(sides[0], sides[0])[1].rows
    assert same[0] == "nothing differs"


def test_paired_or_the_reason(sides: tuple[Side, Side]) -> None:
    found, reasons = paired(*sides)
    names = set(sides[0].summary["final"])
    assert set(found) | set(reasons) == names
    evaluation = tables(*sides)[0]
    assert {row[0] for row in evaluation.rows} == names
    assert all(len(row[-1]) > 3 for row in evaluation.rows)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    with pytest.raises(DataError, match="no report yet"):
        find_side(str(tmp_path))
    with pytest.raises(ConfigError, match="no run 'nothing'"):
        find_side("nothing", Path(__file__).parents[2])
