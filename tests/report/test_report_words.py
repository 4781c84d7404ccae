"""The report in words and lines: verdicts, notes, numbers, the parts of its drawings."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from report_run import SMALL, STORIES, Story, make_run

from hapo_core.alarm import AlarmState, Spoken
from pipeline.artifacts import atomic_write_json, read_json, write_manifest
from pipeline.artifacts.tables import GROUPS, read_frame, write_table
from pipeline.config import load_params
from pipeline.config.method import StopLoss
from pipeline.flows.observer import Observer
from pipeline.report.curation import curation_tables
from pipeline.report.data import ReportData, _alarm, collect
from pipeline.report.page import summary
from pipeline.report.stage import write_report
from pipeline.report.tables import evaluation_table
from pipeline.report.words import closed, notes, verdict
from pipeline.show.charts import Series, line_chart, nice_ceiling
from pipeline.show.text import duration, p_value, percent, percent_interval, points, tokens


def data_of(root: Path, story: Story) -> ReportData:
    make_run(root, story)
    return collect(load_params(root / "params.yaml"), root)


def test_verdict_of_a_gate_that_closes(tmp_path: Path) -> None:
    text = verdict(data_of(tmp_path, SMALL))
    assert re.search(
        r"HAPO raised avg@4 on the held-out benchmark chains6 from .* to .* in 16", text
    )
    assert re.search(
        r"injected into [\d.]+ % of groups in the first 8 rounds and [\d.]+ % in", text
    )


def test_an_alarm_stands_in_the_verdict_or_in_the_notes(tmp_path: Path) -> None:
    """From the last segment's counters; what only speaks is a note, and the gate's story stays."""
    whole = data_of(tmp_path, SMALL)
    params = load_params(tmp_path / "params.yaml")
    for shuts in (True, False):
        gate = params.gate.model_copy(update={"stop_loss": StopLoss(surprise=0.5)})
        spoken = Spoken("surprise", 4, 0.75, 0.001, 0.025, "", shuts)
        counters = tmp_path / "artifacts/policy/2/state/counters.json"
        atomic_write_json(counters, {"alarm": AlarmState(spoken=spoken).as_json()})
        assert _alarm(params, counters.parents[1]) is None  # without the key nothing is read
        alarmed = params.model_copy(update={"gate": gate})
        found = _alarm(alarmed, counters.parents[1])
        assert found == spoken
        data = replace(whole, params=alarmed, history=replace(whole.history, alarm=found))
        said = "Alarm in round 4: traces surprise the policy by 0.75 nats"
        assert (said in verdict(data)) == shuts
        assert any(said in n.text for n in notes(data)) != shuts
        assert summary(data)["alarm"]["round"] == 4


def test_every_other_benchmark_that_fell_stands_in_the_headline(tmp_path: Path) -> None:
    """By the paired test; one that only lies lower is not named."""
    data = data_of(tmp_path, SMALL)
    first, second = data.comparisons
    assert first.outcome == second.outcome == "higher" and "Forgotten" not in verdict(data)
    assert second.paired is not None
    swapped = replace(second, base=second.final, final=second.base)
    for ci, p, named in (((-0.5, -0.3), 0.001, True), ((-0.5, 0.1), 0.2, False)):
        fell = replace(swapped, paired=replace(second.paired, difference=-0.4, ci=ci, p_value=p))
        told = replace(data, comparisons=(first, fell))
        base, final = percent(fell.base.avg), percent(fell.final.avg)
        assert (f"Forgotten: short from {base} to {final}." in verdict(told)) == named
        kinds = {n.kind for n in notes(told) if "benchmark short" in n.text}
        assert kinds == {"warn" if named else "info"}


def test_verdicts_of_the_other_methods(tmp_path: Path) -> None:
    others = {n: story for n, story in STORIES.items() if n != "hapo"}
    said = {n: verdict(data_of(tmp_path / n, story)) for n, story in others.items()}
    assert "no clear difference" in said["grpo"] or "did not change" in said["grpo"]
    assert "No teacher was used" in said["grpo"]
    assert "by design" in said["luffy"] and "100 %" in said["luffy"]
    assert "5 supervised rounds, then GRPO ran without it for 11" in said["sft_then_rl"]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("real", "No teacher was used"),
        ("chord", "entered no group of rollouts, by design: CHORD imitates a batch"),
        ("relift", "ReLIFT imitates the traces of failed problems"),
        ("bread", "of all groups, by design: BREAD branches"),
    ],
)
def test_verdicts_of_the_comparators(tmp_path: Path, method: str, words: str) -> None:
    text = verdict(data_of(tmp_path, replace(SMALL, method=method, problems=20, samples=2)))
    assert words in text and "gate" not in text


def test_a_worse_policy_is_called_worse(tmp_path: Path) -> None:
    data = data_of(tmp_path, replace(SMALL, method="grpo", held_out=(0.4, 0.1)))
    assert data.headline.outcome == "lower"
    assert "lowered" in verdict(data) and "worse than the one it started from" in verdict(data)
    assert evaluation_table(data).fallen == (1, 3)  # the rows of the trained policy
    assert any(n.kind == "warn" and "benchmark short" in n.text for n in notes(data))
    page = write_report(Observer("report"), tmp_path).read_text()
    assert page.count('<tr class="fell">') == 2 and ".fell td { color: var(--bad)" in page


def test_an_unchanged_policy_is_called_unchanged(tmp_path: Path) -> None:
    make_run(tmp_path, replace(SMALL, method="grpo"))
    folder = tmp_path / "artifacts" / "evaluation"
    shutil.copytree(folder / "base", folder / "final", dirs_exist_ok=True)
    metrics = read_json(folder / "final" / "metrics.json") | {"policy": "2"}
    atomic_write_json(folder / "final" / "metrics.json", metrics)
    write_manifest(folder / "final", "evaluation", {})
    data = collect(load_params(tmp_path / "params.yaml"), tmp_path)
    assert data.headline.outcome == "unclear" and "did not change" in verdict(data)


def test_a_constant_threshold_on_group_evidence_cannot_vanish(tmp_path: Path) -> None:
    data = data_of(tmp_path, replace(SMALL, threshold="constant", gamma=0.8, end=0.3))
    assert "The gate did not close" in verdict(data)
    assert "constant threshold on the evidence of one group cannot close for good" in verdict(data)


def test_a_gate_that_never_opens_is_grpo(tmp_path: Path) -> None:
    story = replace(SMALL, threshold="constant", gamma=0.11, start=0.97, end=0.98)
    data = data_of(tmp_path, story)
    assert data.history.total("injected_groups") == 0
    assert "never opened" in verdict(data) and "GRPO's" in verdict(data)


def test_a_retired_teacher_has_a_date_and_was_predicted(tmp_path: Path) -> None:
    data = data_of(tmp_path, Story(problems=40, samples=2, segments=(50,)))
    prediction = data.history.prediction
    retired = prediction.retired_from
    assert retired is not None
    assert f"from round {retired} on the gate could not open" in verdict(data)
    assert set(data.history.share("injected_groups")[retired - 1 :]) == {0.0}
    assert prediction.rate[0] is None and not prediction.contradicted
    pairs = [
        (band, rate)
        for band, rate in zip(prediction.band, prediction.measured, strict=True)
        if band is not None and rate is not None
    ]
    inside = sum(low <= rate <= high for (low, high), rate in pairs)
    assert len(pairs) == 49 and inside >= 0.75 * len(pairs)


def test_overlap_with_a_clear_pairing_is_said(tmp_path: Path) -> None:
    data = data_of(tmp_path, SMALL)
    item = data.headline
    assert item.paired is not None and item.outcome == "higher"
    wide = replace(item, base=replace(item.base, high=0.9), final=replace(item.final, low=0.01))
    close = replace(data, comparisons=(wide,))
    assert "the intervals overlap, but problem by problem" in verdict(close)
    alone = replace(data, comparisons=(replace(wide, paired=None),))
    assert alone.headline.outcome == "unclear" and "the intervals overlap" in verdict(alone)


def test_without_generations_there_is_no_paired_difference(tmp_path: Path) -> None:
    data = data_of(tmp_path, replace(SMALL, generations=False, probe=False, segments=(2,)))
    assert [item.paired for item in data.comparisons] == [None, None]
    write_report(Observer("report"), tmp_path)
    page = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
    assert "Without a paired difference" in page


def test_notes_warn_of_dead_groups_and_of_one_seed(tmp_path: Path) -> None:
    said = notes(data_of(tmp_path, STORIES["grpo"]))
    assert any(n.kind == "warn" and "groups were dead" in n.text for n in said)
    assert said[-1].text.startswith("One seed (7)")


def test_a_gate_that_breaks_its_rule_is_found(tmp_path: Path) -> None:
    make_run(tmp_path, replace(SMALL, segments=(4,)))
    path = tmp_path / "artifacts" / "policy" / "1" / "groups" / "round-00003.parquet"
    rows = read_frame(path, GROUPS).to_dict("records")
    rows[0]["decision"] = "closed" if rows[0]["decision"] == "injected" else "injected"
    write_table(rows, GROUPS, path)
    manifest = read_json(path.parents[1] / "manifest.json")
    write_manifest(path.parents[1], manifest["kind"], manifest["facts"])
    data = collect(load_params(tmp_path / "params.yaml"), tmp_path)
    assert any("contradict" in note.text and "round 3" in note.text for note in notes(data))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.041, "4.1 %"), (0.48, "48 %"), (0.0, "0 %"), (1.0, "100 %"), (None, "–"), (0.0999, "10 %")],
)
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_numbers_as_people_write_them() -> None:
    assert percent_interval(0.041, 0.032, 0.05) == "4.1 % [3.2, 5.0]"
    assert percent_interval(0.48, 0.45, 0.51) == "48 % [45, 51]"
    assert percent_interval(0.482, 0.479, 0.485) == "48.2 % [47.9, 48.5]"
    assert points(-0.013, -0.0274, -0.0001) == "−1.3 [−2.7, 0.0]"
    assert p_value(0.0004) == "p < 0.001" and p_value(0.0747) == "p = 0.075"
    assert [duration(s) for s in (8.21, 59.97, 245, 7800)] == [
        "8.2 s", "1 min 00 s", "4 min 05 s", "2 h 10 min",
    ]  # fmt: skip
    assert [tokens(t) for t in (950, 12_340, 4_560_000)] == ["950", "12.3 k", "4.56 M"]
    assert closed(0.7, 0.06) and not closed(1.0, 0.6) and not closed(0.4, 0.3)
    assert not closed(None, None)


# --- drawing ------------------------------------------------------------------------------------


def test_axis_ends_are_round_numbers() -> None:
    assert nice_ceiling(0.75) == (0.8, 0.2)
    assert nice_ceiling(1.0) == (1.0, 0.25)
    assert nice_ceiling(59, parts=5) == (60.0, 20.0)
    assert nice_ceiling(0.0) == (1.0, 0.25) == nice_ceiling(float("nan"))


def test_gaps_break_lines_and_labels_keep_apart() -> None:
    a = Series("a", [(1, 0.5), (2, None), (3, 0.5), (4, 0.5)], "c1")
    b = Series("b", [(1, 0.4), (4, 0.5)], "c2")
    svg = line_chart([a, b], title="t", x_label="round", x_range=(1, 4), y_format=percent)
    group = ET.fromstring(svg).findall("{*}g")[0]
    assert [child.tag.split("}")[1] for child in group] == ["circle", "path"]
    labels = [e for e in ET.fromstring(svg).iter() if e.get("class", "").startswith("lab ")]
    heights = sorted(float(e.get("y", "0")) for e in labels)
    assert heights[1] - heights[0] >= 14


def test_curation_account_of_any_shape() -> None:
    assert curation_tables({}) == []
    account = {"result": {"problems": 3, "share": None}, "extra": [1, 2], "rules": "none"}
    titles = [table.title for table in curation_tables(account)]
    assert titles == ["result", "extra"]
    rule = {"rule": "length", "unit": "problems", "rows_in": 9, "rows_out": 7, "taken": {"long": 2}}
    table = curation_tables({"rules": [rule]})[0]
    assert table.rows == (("length", "problems", "long: 2", "–", "9", "7"),)
