"""`hapo compare`: the matrix, real DVC experiments on made-up runs, and the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, STAGES, Project, eventually, long
from dvc.utils.hydra import apply_overrides
from made_results import made_result
from report_run import SMALL, params_of
from ruamel.yaml import YAML

from hapo_core.errors import ConfigError, DataError, HapoError
from hapo_core.stats.pooling import pooled_scores
from pipeline.compare.cells import (
    VARIANTS,
    Budget,
    named_settings,
    overrides,
    parse_changes,
    plan,
    read_plain,
)
from pipeline.compare.page import Comparison, notes, write_page
from pipeline.compare.queue import Queue
from pipeline.compare.summary import rows_of
from pipeline.config.method import OFF

RAW: dict[str, Any] = json.loads(json.dumps(params_of(SMALL)))


# --- the matrix ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rounds"),
    [("rounds=8", [8]), ("rounds=20", [8, 8, 4]), ("rounds=3", [3]), ("rounds=16", [8, 8])],
)
def test_a_budget_of_rounds_keeps_the_size_of_segments(text: str, rounds: list[int]) -> None:
    cell = plan(RAW, {"grpo": VARIANTS["grpo"]}, [0], Budget.parse(text), "")[0]
    assert [s.rounds for s in cell.params.segments.values()] == rounds
    assert cell.params.targets["final"].policy == str(len(rounds))


def test_a_budget_of_tokens_ends_a_segment_and_leaves_sft_its_rounds() -> None:
    settings = {name: VARIANTS[name] for name in ("hapo", "sft", "gspo")}
    hapo, sft, gspo = plan(RAW, settings, [0], Budget.parse("generated=4e5"), "")
    for cell in (hapo, gspo):
        assert cell.params.segments["1"].generated == 400_000
        assert cell.params.segments["1"].rounds == 20 * 16
    assert sft.params.segments["1"].generated is None and sft.params.segments["1"].rounds == 16
    assert (gspo.params.method, gspo.params.objective.preset) == ("grpo", "gspo")
    trained = plan(RAW, settings, [0], Budget.parse("trained=1000"), "")[1]
    assert trained.params.segments["1"].trained == 1000


@pytest.mark.parametrize("text", ["rounds", "rounds=0", "rounds=2.5", "hours=3", "rounds=many"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no budget"):
        Budget.parse(text)


def test_names_change_with_what_decides_the_result() -> None:
    def name(raw: Any = RAW, seed: int = 0, code: str = "a", **changes: object) -> str:
        return plan(raw, {"x": {"method": "hapo", **changes}}, [seed], None, code)[0].name

    other = {**RAW, "seed": 99, "method": "grpo"}  # what every cell sets itself
    assert name() == name() == name(other)
    assert len({name(), name(code="b"), name(seed=1), name(**{"teacher.shape": "prob"})}) == 4


def test_settings_are_checked_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="did you mean 'luffy'"):
        named_settings(["lufy"], [], [])
    with pytest.raises(ConfigError, match="twice"):
        named_settings(["grpo"], [], ["grpo:method=hapo"])
    with pytest.raises(ConfigError, match="nothing to compare"):
        named_settings([], [], [])
    with pytest.raises(ConfigError, match=r"gate\.threshhold"):
        plan(RAW, {"x": {"gate.threshhold": 1}}, [0], None, "")
    assert parse_changes("a.b={kind: constant, gamma: 0.8},c=[1, 2],d=off") == {
        "a.b": {"kind": "constant", "gamma": 0.8},
        "c": [1, 2],
        "d": "off",
    }
    assert parse_changes("gate={evidence: prompt, threshold: {kind: constant, gamma: 1}},b=2") == {
        "gate": {"evidence": "prompt", "threshold": {"kind": "constant", "gamma": 1}},
        "b": 2,
    }


def test_what_is_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\{kind: constant' is no YAML"):
        parse_changes("gate.threshold={kind: constant")
    (tmp_path / "cells.yaml").write_text("a: {b: 1\n")
    with pytest.raises(ConfigError, match=r"cells\.yaml"):
        named_settings([], [tmp_path / "cells.yaml"], [])
    with pytest.raises(ConfigError, match="No such file"):
        named_settings([], [tmp_path / "none.yaml"], [])


def test_only_the_last_segment_may_have_a_budget() -> None:
    raw = json.loads(json.dumps(RAW))
    raw["segments"]["1"]["generated"] = 100
    with pytest.raises(ConfigError, match=r"segments\.1\.generated"):
        plan(raw, {"x": {}}, [0], None, "")


def test_overrides_name_every_difference_once() -> None:
    base = {"a": {"b": 1, "c": "x"}, "d": {}, "e": [1.0]}
    wanted = {"a": {"b": 1.0, "f": {"g": None}}, "d": {"h": True}, "e": [1.0, 2.5]}
    assert sorted(overrides(base, wanted)) == sorted(
        ["~a.c", "a.b=1.0", "+a.f.g=null", "+d.h=true", "e=[1.0,2.5]"]
    )
    assert overrides(RAW, json.loads(json.dumps(RAW))) == []


def applied_by_dvc(base: Path, wanted: dict[str, Any], folder: Path) -> Any:
    """params.yaml as DVC leaves it after the overrides that turn `base` into `wanted`."""
    target = folder / "params.yaml"
    shutil.copyfile(base, target)
    if settings := overrides(read_plain(base), wanted):
        apply_overrides(target, settings)
    return read_plain(target)


def test_dvc_turns_the_profile_into_every_shipped_cell(tmp_path: Path) -> None:
    profile = REPO / "params" / "quickstart.yaml"
    settings = named_settings(list(VARIANTS), [], []) | {
        f"ablation-{label}": changes
        for label, changes in named_settings([], [REPO / "bench/ablation.yaml"], []).items()
    }
    for cell in plan(read_plain(profile), settings, [1], Budget.parse("rounds=50"), ""):
        assert applied_by_dvc(profile, cell.raw, tmp_path) == cell.raw, cell.label


def test_dvc_gets_mappings_texts_and_lists_as_they_are(tmp_path: Path) -> None:
    profile = tmp_path / "base.yaml"
    profile.write_text("a: 1\nb: {c: x, d: {e: 2}}\n")
    wanted = {
        "a": {"now": "a mapping", "with": {"deep": [1, 2.5, None, True, "1"]}},
        "b": {"d": {}, "f": {"7": 'say "hi", {no} [list] = $x\\', "g": [{"h": "i j"}]}},
    }
    assert applied_by_dvc(profile, wanted, tmp_path) == wanted


def test_the_guard_of_the_profile_stays_with_methods_that_ask_the_gate() -> None:
    """A cell that names it itself is refused, as `hapo run` refuses it."""
    raw = read_plain(REPO / "params" / "quickstart.yaml")
    assert raw["gate"]["holdout"] and raw["gate"]["stop_loss"]
    hapo, grpo, sft = plan(raw, named_settings(["hapo", "grpo", "sft"], [], []), [0], None, "")
    assert hapo.raw["gate"] == raw["gate"]
    assert not grpo.params.gate.guard
    assert not sft.params.gate.guard
    assert grpo.raw["gate"] == {k: v for k, v in raw["gate"].items() if k not in OFF}
    for key, value in (("gate.holdout", 0.2), ("gate.stop_loss.surprise", 1.0)):
        with pytest.raises(ConfigError, match="method grpo does not ask the gate"):
            plan(raw, {"grpo": {"method": "grpo", key: value}}, [0], None, "")


def test_the_shipped_ablation_is_valid_on_its_profile() -> None:
    raw = read_plain(REPO / "params" / "clean-traces.yaml")
    settings = named_settings([], [REPO / "bench" / "ablation.yaml"], [])
    cells = plan(raw, settings, [0], Budget.parse("rounds=45"), "")
    assert len({c.name for c in cells}) == len(cells) == len(settings) > 20
    plain = next(c for c in cells if c.label == "hapo")
    assert overrides(raw, plain.raw) == []  # the same stages as `hapo run`: nothing runs twice
    every = plan(raw, named_settings(list(VARIANTS), [], []), [0], Budget.parse("rounds=45"), "")
    assert len(every) == len(VARIANTS) == 17


# --- the statistic ------------------------------------------------------------------------------


def test_seeds_with_the_same_problems_are_one_sample_of_problems() -> None:
    one, two = {"p": 1.0, "q": 0.0}, {"p": 0.0, "q": 0.0}
    assert pooled_scores({0: one, 1: two}, {0: "s", 1: "s"}) == {"s:p": 0.5, "s:q": 0.0}
    assert len(pooled_scores({0: one, 1: two}, {0: "s", 1: "t"})) == 4
    with pytest.raises(DataError, match="different problems"):
        pooled_scores({0: one, 1: {"p": 1.0}}, {0: "s", 1: "s"})


def test_rows_hold_pooled_intervals_tests_costs_and_curves() -> None:
    levels = {"grpo": 0.2, "hapo": 0.5}
    results = [
        made_result(label, seed, level, [8] * 10 + [2] * 10)
        for label, level in levels.items()
        for seed in (0, 1)
    ]
    base, grpo, hapo = rows_of(results, "held", ["grpo", "sft_then_rl"])
    assert base.label == "base" and base.against == {} and base.generated is None
    assert hapo.against["grpo"].n == 80 and hapo.against["grpo"].difference == pytest.approx(0.3)
    assert hapo.against["grpo"].p_value < 0.001 and grpo.against == {}
    assert hapo.ci[0] < hapo.avg < hapo.ci[1] and hapo.per_seed.keys() == {0, 1}
    assert hapo.injected == pytest.approx((0.8, 0.2)) and hapo.dead == pytest.approx(0.5)
    assert hapo.outside == pytest.approx((2.0, 1.8)) and hapo.balance == pytest.approx((0.5, 0.5))
    assert (hapo.generated, hapo.trained, hapo.wall_s, hapo.rounds) == (2000, 1000, 2.0, 20)
    assert hapo.curve is not None and hapo.curve.generated[-1] == 2000
    assert hapo.curve.probe[-1] == 0.5 and hapo.curve.probe[0] is None


def test_the_page_warns_where_seeds_differ_more_than_problems() -> None:
    levels = {("grpo", 0): 0.2, ("grpo", 1): 0.6, ("hapo", 0): 0.5, ("hapo", 1): 0.5}
    results = [made_result(label, seed, level, [8]) for (label, seed), level in levels.items()]
    rows = {"held": rows_of(results, "held", ["grpo"])}
    said = " ".join(notes(Comparison(rows, ("grpo",), (0, 1), {}, (), "")))
    apart = max(rows["held"][1].per_seed.values()) - min(rows["held"][1].per_seed.values())
    assert apart > 0.35 and f"points): grpo {100 * apart:.1f}." in said


def test_tables_fit_a_page_and_labels_a_phone(tmp_path: Path) -> None:
    """Scores, and a table for each reference: beside one another they were 1,461 pixels wide."""
    long = "a_setting_with_quite_a_long_name"
    results = [made_result(x, s, 0.3, [8] * 3) for x in ("grpo", "luffy", long) for s in (0, 1, 2)]
    rows = {"held": rows_of(results, "held", ["grpo", "luffy"])}
    protocol = {"k": 2, "n": 40, "temperature": 0.6, "max_tokens": 48}
    facts = {"profile": "p", "budget": "b", "protocols": {"held": protocol}}
    page = Comparison(rows, ("grpo", "luffy"), (0, 1, 2), facts, (), "hapo compare")
    text = write_page(page, tmp_path).read_text()
    assert [text.count(f"difference from {x}") for x in ("grpo", "luffy")] == [1, 1]
    heads = re.findall(r"<thead>(.*?)</thead>", text, re.S)
    assert max(head.count("<th ") for head in heads[:3]) <= 7
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.S)[1:])
    assert long not in drawn and "a_setting_wit…" in drawn


# --- real experiments ---------------------------------------------------------------------------


@pytest.fixture
def matrix(project_template: Path, tmp_path: Path, forks: dict[str, str]) -> Project:
    """A project whose stand-ins write real tables."""
    path = tmp_path / "project"
    shutil.copytree(project_template, path, symlinks=True)
    shutil.copy(REPO / "tests" / "support" / "table_stage.py", path / "pipeline" / "toy_stage.py")
    shutil.copy(REPO / "tests" / "support" / "report_run.py", path / "pipeline" / "report_run.py")
    for stage in STAGES:  # as in conftest, but for the imports that the copies need
        body = f'from pipeline.toy_stage import main\n\nmain("{stage}")\n'
        (path / "pipeline" / f"{stage}.py").write_text(body)
    with (path / "params.yaml").open("w") as sink:
        sections = {"objective": {}, "rewards": {}, "compute": {}}  # DVC wants every section
        YAML().dump({**params_of(SMALL), **sections}, sink)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["add", "."], ["commit", "-qm", "stand-ins"]):
        subprocess.run([*git, *words], cwd=path, check=True)
    env = {"TOY_LOG": str(tmp_path / "ran"), "TOY_FAIL_FILE": str(tmp_path / "no")}
    return Project(path, env, forks)


def ran(project: Project) -> list[str]:
    """The stages that ran since the last question."""
    log = Path(project.env["TOY_LOG"])
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines


def compare(project: Project, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """`hapo compare` with one seed and six rounds; several cells of several processes take time."""
    return project.hapo("compare", "--seeds", "7", "--budget", "rounds=6", *words, check=check)


@pytest.mark.slow
def test_a_matrix_runs_once_and_shares_what_is_equal(matrix: Project) -> None:
    before = (matrix.path / "params.yaml").read_text()
    flag = Path(matrix.env["TOY_FAIL_FILE"])
    flag.write_text("train@1 hapo")
    done = compare(matrix, "--methods", "grpo", "hapo", check=False)
    assert done.returncode == 1 and "failed: hapo-s7" in done.stdout
    first = ran(matrix)
    assert sorted(x.split()[0] for x in first if "grpo" in x) == sorted(
        ["curate", "base", "train@1", "evaluate@base", "evaluate@final"]
    )
    flag.unlink()
    done = compare(matrix, "--methods", "grpo", "hapo")
    again = ran(matrix)  # curation, base and its evaluation are those of grpo's cell
    assert sorted(x.split()[0] for x in again) == ["evaluate@final", "train@1"]
    assert "hapo" in done.stdout and "finished 2/2" in done.stdout
    out = matrix.path / "reports/comparison"
    found = json.loads((out / "summary.json").read_text())
    base, grpo, hapo = found["benchmarks"]["chains6"]
    assert [base["label"], grpo["label"], hapo["label"]] == ["base", "grpo", "hapo"]
    assert hapo["avg"] > grpo["avg"] > base["avg"] and hapo["rounds"] == 6
    assert hapo["against"]["grpo"]["n"] == 20 and hapo["wall_s"] == 1.5
    assert found["missing"] == [] and found["budget"] == "6 rounds"
    html = (out / "comparison.html").read_text()
    assert html.count("<svg") >= 3 and "http" not in html.replace("http://www.w3.org", "")
    assert "| hapo |" in (out / "comparison.md").read_text()

    cleaned = matrix.hapo("clean").stdout
    assert ".hapo/revisions  copies that `hapo report` and `hapo compare` made" in cleaned
    assert not (matrix.path / ".hapo/revisions").exists()
    compare(matrix, "--methods", "grpo", "hapo")  # copies them once more
    assert ran(matrix) == [] and found == json.loads((out / "summary.json").read_text())
    assert (matrix.path / "params.yaml").read_text() == before
    shown = subprocess.run(
        ["git", "status", "--porcelain"], cwd=matrix.path, capture_output=True, text=True
    )
    assert shown.stdout == ""
    stored = Queue(matrix.path).finished()
    commit = next(sha for name, sha in stored.items() if name.startswith("hapo-s7"))
    text = subprocess.run(
        ["git", "show", f"{commit}:params.yaml"], cwd=matrix.path, capture_output=True, text=True
    ).stdout
    raw = YAML(typ="safe").load(before)
    cell = plan(raw, {"hapo": VARIANTS["hapo"]}, [7], Budget("rounds", 6), "")[0]
    assert YAML(typ="safe").load(text) == cell.raw


@long
def test_a_killed_worker_costs_one_segment(matrix: Project) -> None:
    """kill -9 of DVC's worker and of the stage: the same command finishes the matrix."""
    words = ("--cell", "weak:method=hapo,gate.threshold={kind: constant, gamma: 0.3}")
    matrix.env["TOY_SECONDS"] = "600"
    compare(matrix, *words, "--detach")
    log = Path(matrix.env["TOY_LOG"])
    eventually(lambda: log.exists() and "train@1" in log.read_text())
    for pid in _processes(matrix.path):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: not _processes(matrix.path))
    ran(matrix)
    matrix.env["TOY_SECONDS"] = "0"
    done = compare(matrix, *words)
    assert "finished 1/1" in done.stdout, done.stdout + done.stderr
    assert next(x.split()[0] for x in ran(matrix)) == "train@1"


@long
def test_the_second_worker_joins_the_first(matrix: Project) -> None:
    """The cells after the first run side by side: DVC counts the workers that are there too."""
    command = [sys.executable, "-m", "pipeline.cli", "compare", "--seeds", "7", "--jobs", "2"]
    compare(matrix, "--methods", "grpo")
    matrix.env["TOY_SECONDS"] = "600"
    words = ["--budget", "rounds=6", "--methods", "grpo", "hapo", "luffy"]
    with subprocess.Popen([*command, *words], cwd=matrix.path, env=matrix.environment()) as waiting:
        try:
            eventually(lambda: Queue(matrix.path).state().workers == 1)
            eventually(lambda: len(Queue(matrix.path).state().named("Running")) == 2)
        finally:
            for pid in [waiting.pid, *_processes(matrix.path)]:
                os.kill(pid, signal.SIGKILL)


def _processes(root: Path) -> list[int]:
    """Processes that work in the project or below."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                here = (entry / "cwd").readlink()
            except OSError:
                continue
            if here.is_relative_to(root) and (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_workers_that_cannot_start_are_said_instead_of_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC starts them by the name `dvc` and says nothing where there is none."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/bin-of-nobody")
    with pytest.raises(HapoError, match="no program `dvc`"):
        Queue(tmp_path).start(1)
