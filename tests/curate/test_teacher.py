"""A method that learns from traces has some, or stops; the report says what was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from curate_support import byte_tokenizer, params_for
from report_run import SMALL, make_run

from hapo_core.errors import DataError
from hapo_core.theory.outlook import Future, Outlook
from pipeline.audit.numbers import Audit, AuditRound
from pipeline.audit.words import State, answer
from pipeline.build.teacher import check_teacher, curated_teacher
from pipeline.config import ChainsSource, TableSource, load_params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.report.data import collect
from pipeline.report.figure import why_empty
from pipeline.report.figures import injection
from pipeline.report.words import verdict

HELD_OUT = ChainsSource(kind="chains", count=5, min_steps=2, max_steps=3)
TEACHERS = ("hapo", "luffy", "sft", "sft_then_rl", "srft", "hpt", "relift", "chord", "prefix_rft",
            "bread")  # fmt: skip


def curated(tmp_path: Path, method: str, ends: list[str], **source: object) -> Path:
    rows = [
        {"problem": f"How much is {i} plus {i + 1}?", "answer": str(2 * i + 1)} | (
            {"trace": f"Adding them. {end.format(2 * i + 1)}"} if end else {"trace": None})
        for i, end in enumerate(ends, start=100)
    ]  # fmt: skip
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = TableSource.model_validate({"kind": "table", "path": str(path), **source})
    params = params_for(
        {"mine": table}, {"held": HELD_OUT}, "exact", method=method, near_duplicates=0.0
    )
    curate(params, Observer("curate"), tmp_path / "data", byte_tokenizer())
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("method", TEACHERS)
def test_no_usable_trace_stops_curation_with_examples_and_a_remedy(
    tmp_path: Path, method: str
) -> None:
    with pytest.raises(DataError, match="none of 6 training problems") as caught:
        curated(tmp_path, method, ["The answer is {}."] * 6)
    assert "6 × trace verification: verdict unparsed" in caught.value.what
    assert caught.value.what.count("The answer is") == 3
    assert "mark:" in (caught.value.remedy or "") and not (tmp_path / "data").exists()


def test_the_remedy_works(tmp_path: Path) -> None:
    curated(tmp_path, "hapo", ["The answer is {}."] * 6, mark=r"answer is (\d+)")
    assert curated_teacher(tmp_path / "data").taught == 6


def test_no_trace_at_all_names_the_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the sources hold no trace") as caught:
        curated(tmp_path, "luffy", [""] * 4)
    assert "columns: {trace:" in (caught.value.remedy or "")


@pytest.mark.parametrize("method", ["grpo", "real"])
def test_methods_without_a_teacher_do_not_ask(tmp_path: Path, method: str) -> None:
    data = curated(tmp_path, method, ["The answer is {}."] * 6)
    found = curated_teacher(data)
    assert (found.problems, found.taught) == (6, 0)
    # what starts training asks again: the method may have changed since
    with pytest.raises(DataError, match="method hapo learns from traces"):
        check_teacher("hapo", found, "artifacts/data", print)


@pytest.mark.parametrize(("boxed", "warned"), [(2, True), (3, False), (6, False)])
def test_less_than_half_is_a_warning(
    tmp_path: Path, boxed: int, warned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = [r"\boxed{{{}}}"] * boxed + ["It is {}."] * (6 - boxed)
    curated(tmp_path, "hapo", ends)
    shown = "".join(capsys.readouterr())
    assert (f"{boxed} of 6 training problems have a usable trace" in shown) is warned
    assert ("It is 2" in shown) is warned


def test_a_response_budget_below_the_traces_counts(tmp_path: Path) -> None:
    found = curated_teacher(curated(tmp_path, "hapo", [r"\boxed{{{}}}"] * 4), max_tokens=5)
    assert found.taught == 0 and "raise" in found.remedy
    assert list(found.reasons) == ["longer than rollout.max_tokens (5)"]


# --- the report ---------------------------------------------------------------------------------


def untaught(tmp_path: Path, method: str, **changes: object):  # type: ignore[no-untyped-def]
    make_run(tmp_path, replace(SMALL, method=method))
    data = collect(load_params(tmp_path / "params.yaml"), tmp_path)
    frame: pd.DataFrame = data.history.frame.copy()
    frame["no_trace_groups"] = frame["prompts"] // 2
    frame["injected_groups"] = 0
    for name, value in changes.items():
        frame[name] = value
    nothing = [None] * len(frame)
    prediction = replace(data.history.prediction, measured=nothing)
    return replace(data, history=replace(data.history, frame=frame, prediction=prediction))


def test_a_missing_trace_is_no_gate_that_stayed_shut(tmp_path: Path) -> None:
    data = untaught(tmp_path, "hapo")
    assert "The gate opened in 50 % of groups, but none" in verdict(data)
    assert "no sampled group had a usable trace" in injection(data).caption


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ({"closed": 12, "solved": 4}, "The gate never opened"),
        ({"solved": 16}, "Every group was solved, so none called for a teacher"),
        ({"solved": 12, "unknown": 4}, "Every group was solved, so none called for a teacher"),
        ({"unknown": 16}, "No rollout had a known reward"),
        ({"refused": 4, "closed": 12}, "opened in 25 % of groups, and their traces surprise"),
        ({"held_out": 4, "closed": 12}, "opened in 25 % of groups, and `gate.holdout` left all"),
    ],
)
def test_why_no_group_was_injected(tmp_path: Path, decisions: dict[str, int], words: str) -> None:
    data = untaught(tmp_path, "hapo", no_trace_groups=0)
    data = replace(data, history=replace(data.history, decisions=decisions))
    assert words in verdict(data) and "these updates are GRPO's" in verdict(data)
    assert ("never opened" in verdict(data)) is (words == "The gate never opened")
    unread = "no rollout had a known reward" in injection(data).caption
    assert unread is (set(decisions) == {"unknown"})


def test_rollouts_are_not_without_rollouts(tmp_path: Path) -> None:
    assert "without rollouts" not in injection(untaught(tmp_path, "hapo")).caption
    assert "without rollouts" in injection(untaught(tmp_path, "hapo", rollouts=0)).caption


def test_an_audit_of_groups_without_traces_counts_none() -> None:
    rule = Outlook(Future.CANNOT, 0.1)
    lost = AuditRound(1, 0.5, 0.3, None, None, None, None, None, None)
    seen = replace(lost, measured=0.25)
    base = Audit("hapo", 1, None, (), None, (), rule, None, (), None, None, ())
    assert answer(replace(base, rounds=(lost,))).state is State.NEVER
    assert "no group with a usable trace" in answer(replace(base, rounds=(lost,))).sentences[0]
    later = answer(replace(base, rounds=(seen, *[lost] * 30)))
    assert later.state is State.SILENT and "had a usable trace" in later.sentences[0]
    assert answer(replace(base, rounds=(seen,))).state is State.PRESENT


@pytest.mark.parametrize("method", ["hapo", "luffy", "chord", "relift", "bread"])
def test_no_usable_trace_is_said_whatever_the_method(tmp_path: Path, method: str) -> None:
    data = untaught(tmp_path, method)
    data = replace(data, curation={**data.curation, "result": {"problems_with_usable_trace": 0}})
    text = verdict(data)
    assert "There was no teacher: no problem has a usable trace" in text
    assert "by design" not in text and "never opened" not in text


def test_nothing_trained_is_not_no_such_value(tmp_path: Path) -> None:
    data = untaught(tmp_path, "hapo", trained_tokens=0)
    assert "nothing was trained" in why_empty(data, "grad_norm")
    data = untaught(tmp_path, "hapo", extra_rows=0)
    assert "no trace was among what was trained" in why_empty(data, "teacher_balance")
    data = untaught(tmp_path, "hapo", extra_rows=0, rollouts=0)
    assert "no on-policy token was trained" in why_empty(data, "teacher_balance")
    data = untaught(tmp_path, "grpo")
    for key in ("teacher_balance", "threshold", "anything_else"):
        assert why_empty(data, key) == "Not recorded: this method has no such value."
    data = untaught(tmp_path, "grpo", trained_tokens=0)
    assert "no such value" in why_empty(data, "teacher_balance")
    assert "tables of the rounds hold" in why_empty(untaught(tmp_path, "grpo"), "grad_norm")
    assert "no rollouts" in why_empty(untaught(tmp_path, "hapo", rollouts=0), "length")
