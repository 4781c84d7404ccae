"""The report: right numbers, honest words, a page that stands alone and fits a phone."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_run import PROMPTS, SMALL, STORIES, make_run

from hapo_core.errors import DataError
from pipeline.artifacts import atomic_write_json, read_json
from pipeline.artifacts.tables import ROUNDS, read_frame, write_table
from pipeline.config import load_params
from pipeline.flows.observer import Observer
from pipeline.report.data import collect
from pipeline.report.figures import figures
from pipeline.report.page import render_html, render_markdown
from pipeline.report.stage import write_report
from pipeline.show.pages import fenced, markdown_table
from pipeline.show.table import Table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished report per method."""
    found = {}
    for name, story in STORIES.items():
        root = tmp_path_factory.mktemp(name)
        make_run(root, story)
        write_report(Observer("report"), root)
        found[name] = root
    return found


def summary_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "reports" / "summary.json").read_text())
    return found


# --- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", STORIES)
def test_summary_holds_the_numbers_of_the_tables(runs: dict[str, Path], method: str) -> None:
    root, story = runs[method], STORIES[method]
    found = summary_of(root)
    rounds = [
        row
        for name in ("1", "2")
        for row in read_frame(
            root / "artifacts" / "policy" / name / "rounds.parquet", ROUNDS
        ).to_dict("records")
    ]
    metrics = read_json(root / "artifacts" / "evaluation" / "final" / "metrics.json")
    assert (found["method"], found["profile"], found["seed"]) == (method, "quickstart", 7)
    assert found["rounds"] == sum(story.segments) == len(rounds)
    for name in ("chains6", "short"):
        for key in ("avg", "n", "k", "ci"):
            assert found["final"][name][key] == metrics["benchmarks"][name][key]
    sampled = [bool(r["rollouts"]) for r in rounds]
    for key, column in (
        ("injection_rate", "injected_groups"),
        ("dead_group_rate", "dead_groups"),
    ):
        wanted = [r[column] / PROMPTS if s else None for r, s in zip(rounds, sampled, strict=True)]
        assert found[key] == wanted
    assert found["tokens"] == {
        "generated": sum(r["generated_tokens"] for r in rounds),
        "trained": sum(r["trained_tokens"] for r in rounds),
    }
    assert set(found["wall_s"]) == {
        "curate", "base", "train@1", "train@2", "evaluate@base", "evaluate@final",
    }  # fmt: skip
    assert found["verdict"]


@pytest.mark.parametrize("method", STORIES)
def test_page_stands_alone(runs: dict[str, Path], method: str) -> None:
    page = (runs[method] / "reports" / "report.html").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<link|<img|<iframe|\ssrc=|@import|url\(", page)
    words = re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)
    assert not re.search(r"\bNone\b(?! right)|\bnan\b|\binf\b", words)
    Balanced().check(page)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    for drawing in drawings:
        ET.fromstring(drawing)
    assert len(drawings) >= (9 if method == "hapo" else 3)


@pytest.mark.parametrize("method", STORIES)
def test_markdown_and_plots_lie_beside_it(runs: dict[str, Path], method: str) -> None:
    reports = runs[method] / "reports"
    text = (reports / "report.md").read_text(encoding="utf-8")
    assert summary_of(runs[method])["verdict"] in text.replace("**", "")
    for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        ET.fromstring((reports / target).read_text(encoding="utf-8"))
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line[:1] == "|"]
    assert widths and min(widths) >= 3
    if method == "hapo":  # a number of its own, on no axis in percent
        assert "gamma" in (reports / "plots" / "threshold.csv").read_text(encoding="utf-8")
        assert "gamma" not in re.sub(
            "<title>.*?</title>", "", (reports / "plots" / "injection.svg").read_text("utf-8")
        )
    for name, columns in (
        ("success", {"round", "training", "held_out", "base"}),
        ("injection", {"round", "measured", "predicted", "gamma"}),
        ("groups", {"round", "dead", "none_right", "all_right"}),
    ):
        with (reports / "plots" / f"{name}.csv").open(encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
        assert len(rows) == 16 and columns <= set(rows[0])


def test_every_rate_says_how_it_was_measured(runs: dict[str, Path]) -> None:
    page = (runs["hapo"] / "reports" / "report.html").read_text(encoding="utf-8")
    page = page.replace("\u00a0", " ")  # a number and its unit stay on one line
    captions = dict(
        re.findall(r'<figure id="(\w+)">.*?<figcaption>(.*?)</figcaption>', page, flags=re.S)
    )
    for key in ("success", "injection"):
        assert "k = 8" in captions[key] and "temperature 1" in captions[key]
    for word in ("n = 60", "avg@4", "temperature 0.6", "95 %"):
        assert word in captions["success"]
    assert "n = 60" in page.split('id="evaluation"')[1].split("</svg>")[0]
    assert "temperature 0.6" in captions["evaluation"] and "95 %" in captions["evaluation"]


def test_sft_says_what_it_cannot_show(runs: dict[str, Path]) -> None:
    found = summary_of(runs["sft"])
    assert found["injection_rate"] == [None] * 16
    assert "no rollouts" in found["verdict"]
    page = (runs["sft"] / "reports" / "report.html").read_text(encoding="utf-8")
    assert "no group to inject into" in page and "this method draws no rollouts" in page


def test_same_inputs_same_bytes_and_stale_drawings_go(tmp_path: Path) -> None:
    make_run(tmp_path, replace(SMALL, segments=(3,)))
    write_report(Observer("report"), tmp_path)
    reports = tmp_path / "reports"
    before = {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()}
    (reports / "plots" / "of_another_method.svg").write_text("<svg/>")
    (reports / "plots" / "planted").mkdir()
    (reports / "plots" / "planted" / "file").write_text("x")
    (reports / "plots" / "link").symlink_to("/etc")
    write_report(Observer("report"), tmp_path)
    assert before == {p: p.read_bytes() for p in reports.rglob("*") if p.is_file()}
    assert not (tmp_path / "artifacts" / "timings" / "report.json").exists()


def test_names_are_escaped(tmp_path: Path) -> None:
    """Whatever a text holds that no pattern restricts: here as if a name could hold it."""
    make_run(tmp_path, replace(SMALL, segments=(2,)))
    params = load_params(tmp_path / "params.yaml").model_copy(update={"profile": "<b>&|x"})
    data = collect(params, tmp_path)
    drawn = figures(data)
    page = render_html(data, drawn)
    assert "&lt;b&gt;&amp;|x" in page and "<b>&|x" not in page
    text = render_markdown(data, drawn)
    prose, _, rest = text.partition("```yaml\n")
    prose += rest.partition("\n```\n")[2]
    assert "&lt;b>&" in prose and not re.search(r"<[A-Za-z/!?]", prose)


@pytest.mark.parametrize(
    "name",
    [
        "<img src=x onerror=alert(1)>",
        "</td><script>",
        "<!-- x",
        "a|b\nc",
        "![x](http://example.org/seen.png)",
        "[x](javascript:alert)",
        "![x][y]",
        "<http://example.org>",
    ],
)
def test_a_markdown_table_holds_no_html_and_no_link(name: str) -> None:
    text = markdown_table(Table(("name", "p"), ((name, "< 0.05"),)))
    assert not re.search(r"<[A-Za-z/!?]|\][(\[]", text)
    assert text.count("\n") == 2 and "< 0.05" in text


def test_a_fence_is_longer_than_those_inside() -> None:
    assert fenced("a: |\n  ```\n  <b>\n", "yaml") == "````yaml\na: |\n  ```\n  <b>\n````"


class Balanced(HTMLParser):
    """Fails on tags that do not close in order."""

    void = frozenset({"meta"})

    def check(self, page: str) -> None:
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# --- what is missing or foreign -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/curation.json", "curate"),
        ("policy/2/rounds.parquet", "train@2"),
        ("policy/1/groups", "train@1"),
        ("evaluation/base/metrics.json", "evaluate@base"),
        ("evaluation/final/metrics.json", "evaluate@final"),
    ],
)
def test_a_missing_artifact_names_the_stage(
    runs: dict[str, Path], tmp_path: Path, path: str, stage: str
) -> None:
    shutil.copytree(runs["hapo"], tmp_path / "run")
    victim = tmp_path / "run" / "artifacts" / path
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    with pytest.raises(DataError) as caught:
        write_report(Observer("report"), tmp_path / "run")
    assert Path(path).name in str(caught.value) and f"dvc repro {stage}`" in str(caught.value)
    assert (tmp_path / "run" / "reports" / "report.html").exists()


def test_optional_artifacts_may_be_missing(runs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(runs["hapo"], root)
    shutil.rmtree(root / "artifacts" / "timings")
    (root / "artifacts" / "policy" / "base" / "base_log.parquet").unlink()
    for manifest in root.rglob("manifest.json"):
        manifest.unlink()
    write_report(Observer("report"), root)
    assert set(summary_of(root)["wall_s"].values()) == {None}
    assert "Not recorded: curate" in (root / "reports" / "report.md").read_text(encoding="utf-8")


def test_rounds_of_another_run_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(runs["hapo"], root)
    policy = root / "artifacts" / "policy"
    shutil.copy(policy / "1" / "rounds.parquet", policy / "2" / "rounds.parquet")
    with pytest.raises(DataError, match="do not follow each other"):
        collect(load_params(root / "params.yaml"), root)
    rows = read_frame(policy / "1" / "rounds.parquet", ROUNDS).head(3).to_dict("records")
    for row in rows:
        row.update({k: None for k, v in row.items() if v != v})
    write_table(rows, ROUNDS, policy / "1" / "rounds.parquet")
    with pytest.raises(DataError, match="segment 1 has 3 rounds, the configuration says 8"):
        collect(load_params(root / "params.yaml"), root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "1"}, "policy '1' was evaluated"),
        ({"benchmarks": {}}, "was not evaluated"),
        ({"benchmarks": {"chains6": {"avg": 0.1}, "short": {}}}, "lacks avg, n, k or ci"),
    ],
)
def test_foreign_metrics_are_refused(
    runs: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = tmp_path / "run"
    shutil.copytree(runs["hapo"], root)
    path = root / "artifacts" / "evaluation" / "final" / "metrics.json"
    atomic_write_json(path, read_json(path) | change)
    with pytest.raises(DataError, match=message):
        collect(load_params(root / "params.yaml"), root)


def test_another_protocol_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(runs["hapo"], root)
    path = root / "artifacts" / "evaluation" / "base" / "metrics.json"
    content = read_json(path)
    content["benchmarks"]["short"]["temperature"] = 1.0
    atomic_write_json(path, content)
    with pytest.raises(DataError, match="measured differently"):
        collect(load_params(root / "params.yaml"), root)


def test_the_module_fails_in_words(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.report"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "no configuration" in done.stderr and "Traceback" not in done.stderr


# --- in a browser -------------------------------------------------------------------------------

PROBE = """<script>
document.querySelectorAll("details").forEach(d => { d.open = true; });
const tops = [...document.querySelectorAll("svg.figure")].map(s => s.getBoundingClientRect());
const texts = [...document.querySelectorAll("svg.figure text")].map(t => t.getBoundingClientRect());
document.body.dataset.probe = JSON.stringify({
  wide: document.documentElement.scrollWidth, view: window.innerWidth,
  drawings: tops.length, flat: tops.filter(r => r.width < 200 || r.height < 60).length,
  outside: texts.filter(r => r.right > window.innerWidth || r.left < 0).length,
  cut: [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.trim().slice(0, 60)),
  ink: getComputedStyle(document.body).color,
  paper: getComputedStyle(document.body).backgroundColor,
});
</script></body>"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
@pytest.mark.parametrize("method", ["hapo", "sft"])
def test_page_in_a_browser(
    runs: dict[str, Path], tmp_path: Path, method: str, width: int, dark: bool
) -> None:
    browser = next(
        (b for n in ("chromium", "chromium-browser", "google-chrome") if (b := shutil.which(n))),
        None,
    )
    if browser is None:
        pytest.skip("no Chromium on this machine: the page is not looked at in a browser")
    page = (runs[method] / "reports" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE), encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1400", "--dump-dom",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    seen = re.search(r"data-probe=\"([^\"]+)\"", done.stdout)
    assert seen, done.stderr[-500:]
    found = json.loads(seen.group(1).replace("&quot;", '"'))
    assert found["wide"] <= found["view"], "the page scrolls sideways"
    assert found["cut"] == [], "a table is wider than the page"
    assert found["flat"] == 0 and found["outside"] == 0
    assert found["drawings"] >= (9 if method == "hapo" else 3)
    lightness = {k: sum(map(int, re.findall(r"\d+", found[k])[:3])) for k in ("ink", "paper")}
    assert (lightness["ink"] > lightness["paper"]) is dark
