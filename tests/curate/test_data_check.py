"""`hapo data check`: a verifier and golds that do not fit are found before anything trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from curate_support import byte_tokenizer, params_for

from hapo_core.errors import DataError
from hapo_core.verify import VerifierPool, VerifierSettings
from pipeline import cli
from pipeline.config import ChainsSource, TableSource
from pipeline.curate.check import EXAMPLES, Limits, Sample, check_data, check_verifier, spread
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer

GOLDS = ["72", r"\frac{3}{4}", "x + 5", "1234"]
OWN = """
from hapo_core.verify import Verdict
def all_right(gold, answer): return Verdict.CORRECT, "own"
def all_wrong(gold, answer): return Verdict.WRONG, "own"
def plain(gold, answer):
    same = gold.replace(" ", "") == answer.replace(" ", "")
    return (Verdict.CORRECT if same else Verdict.WRONG), "own"
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "own_rewards.py").write_text(OWN)


def rows(path: Path, *given: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def check(kind: str, golds: list[str]):  # type: ignore[no-untyped-def]
    with VerifierPool(VerifierSettings(kind)) as pool:
        return check_data([Sample(f"row {i}", g, kind) for i, g in enumerate(golds)], pool)


def test_a_verifier_that_accepts_everything_is_found() -> None:
    found = check("own_rewards:all_right", GOLDS)
    assert found.mutated.trials > 20 and found.mutated.share == 1
    assert all(len(v) <= EXAMPLES for v in found.mutated.examples.values())
    assert any("wrong answers are accepted" in p for p in found.problems)


def test_a_verifier_that_refuses_everything_is_found() -> None:
    found = check("own_rewards:all_wrong", GOLDS)
    assert found.golds.bad == len(GOLDS) and not found.mutated.trials
    assert any("no reference answers" in p for p in found.problems)


def test_a_verifier_of_texts_refuses_other_spellings() -> None:
    found = check("own_rewards:plain", GOLDS)
    assert found.golds.bad == 0 and found.mutated.bad == 0 and found.respelled.share > 0.3
    assert any("another spelling" in p for p in found.problems)


def test_the_verifier_of_mathematics_knows_spellings() -> None:
    found = check("math", GOLDS)
    assert found.golds.bad == 0 and found.respelled.share < 0.15
    assert "digit-first" not in found.mutated.faults and "negated" not in found.mutated.faults


def test_curation_stops_where_any_answer_is_right() -> None:
    path = rows(Path("mine.jsonl"), *({"problem": f"Find the number {g}.", "answer": g}
                                      for g in GOLDS))  # fmt: skip
    table = TableSource(kind="table", path=str(path), reward="own_rewards:all_right")
    held = ChainsSource(kind="chains", count=3, min_steps=2, max_steps=3)
    params = params_for({"mine": table}, {"held": held}, "exact")
    with pytest.raises(DataError, match="the verifier accepts"):
        curate(params, Observer("curate"), Path("data"), byte_tokenizer())


def test_few_accepted_mutations_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with VerifierPool(VerifierSettings("own_rewards:plain")) as pool:
        check_verifier([Sample("row 1", g, "own_rewards:plain") for g in GOLDS], pool, said.append)
    assert len(said) == 1 and "data check on 4 problems" in said[0]


def test_the_command_fits_one_screen_and_its_status_follows_limits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given: list[dict[str, object]] = [
        {"problem": f"Find {i}.", "answer": str(i), "trace": f"So it is {i}."}
        for i in range(100, 120)
    ]
    path = rows(Path("mine.jsonl"), *given, {"problem": "Without answer", "answer": ""})
    words = ["data", "check", str(path), "--reward", "own_rewards:plain", "--max-respelled", "1"]
    assert cli.main(words) == 1
    out = capsys.readouterr().out
    assert "20 of 20 (100 %, the limit is 50 %) traces are not right" in out
    assert "1 problem without answer: " in out and "20 of 20 unparsed" not in out
    assert "20 unparsed (no mark, or nothing in it that can be compared): row 1: gold 100" in out
    assert "golds against themselves       20 distinct" in out and "--mark last_number" in out
    assert len(out.splitlines()) <= 40
    assert cli.main([*words, "--mark", "last_number"]) == 0
    assert cli.main([*words, "--mark", "last_number", "--max-rows", "0"]) == 1
    assert cli.main([*words, "--columns", "problem"]) == 2


def test_traces_of_other_rows_ask_for_the_column_and_not_for_a_mark() -> None:
    samples = [
        Sample(f"row {i}", str(i), "exact", (rf"It is \boxed{{{i + 1}}}.",)) for i in range(5)
    ]
    with VerifierPool(VerifierSettings("exact")) as pool:
        found = check_data(samples, pool)
    (told,) = [p for p in found.problems if "traces" in p]
    assert "5 of 5" in told and "another answer" in told and "mark" not in told


def test_no_rows_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(Path("mine.jsonl"), {"problem": "Without answer", "answer": ""})
    assert cli.main(["data", "check", str(path), "--reward", "exact"]) == 1
    assert "no gold could be read" in capsys.readouterr().out


def test_a_spread_sample_covers_all() -> None:
    items = [Sample(str(i), "1", "exact") for i in range(10)]
    assert [s.where for s in spread(items, 3)] == ["0", "3", "6"] and spread(items, 10) == items
    assert Limits() == Limits(rows=0.05, golds=0.1, respelled=0.02, mutated=0.005, traces=0.5)
