"""Facts about the real files in shared/data, reproduced or corrected (issue 3)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from curate_support import byte_tokenizer, params_for, shared_data

from hapo_core.errors import DataError
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings, extract_answer
from pipeline.artifacts.tables import TRACES, read_frame
from pipeline.config import ChainsSource, Source, TableSource
from pipeline.curate.benchmarks import Benchmark, BenchmarkRow
from pipeline.curate.rules.contamination import Index
from pipeline.curate.rules.gradable import ungradable
from pipeline.curate.sources.record import Faulty, Record
from pipeline.curate.sources.table import open_table
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer

BENCHMARKS = {
    "aime24": "aime",
    "aime25": "aime",
    "amc23": "amc23",
    "math500": "math500",
    "olympiadbench": "olympiadbench",
    "minerva_math": "minerva",
    "gsm8k_test": "gsm8k",
}
HELD_OUT = ChainsSource(kind="chains", count=5, min_steps=3, max_steps=5)


def source(name: str, adapter: str, **settings: object) -> TableSource:
    return TableSource.model_validate(
        {"kind": "table", "adapter": adapter, "path": str(shared_data() / name), **settings}
    )


def read(name: str, adapter: str) -> tuple[list[Record], Counter[str]]:
    found: list[Record] = []
    faults: Counter[str] = Counter()
    for record in open_table("real", source(name, adapter)).records:
        if isinstance(record, Faulty):
            faults[record.fault.reason] += 1
        else:
            found.append(record)
    return found, faults


def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, Source], **settings: object
) -> tuple[Path, dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    params = params_for(sources, {"held_out": HELD_OUT}, **settings)
    curate(params, Observer("curate"), Path("artifacts/data"), byte_tokenizer())
    folder = tmp_path / "artifacts/data"
    return folder, json.loads((folder / "curation.json").read_text())


@pytest.mark.parametrize(
    ("name", "adapter", "rows", "faults"),
    [
        ("train/gsm8k_train.jsonl", "gsm8k", 7473, {}),
        ("train/math_train.parquet", "math", 7496, {"the box in the solution is empty": 2}),
        (
            "train/numina_cot_2k.jsonl",
            "numinamath_cot",
            1926,
            {"no boxed answer in the solution": 53, "the box in the solution is empty": 21},
        ),
        ("train/bigmath_5k.parquet", "big_math", 5000, {}),
        ("bench/aime24.jsonl", "aime", 30, {}),
        ("bench/aime25.jsonl", "aime", 30, {}),
        ("bench/amc23.jsonl", "amc23", 40, {}),
        ("bench/math500.jsonl", "math500", 500, {}),
        ("bench/olympiadbench.jsonl", "olympiadbench", 675, {}),
        ("bench/minerva_math.jsonl", "minerva", 272, {}),
        ("bench/gsm8k_test.jsonl", "gsm8k", 1319, {}),
    ],
)
def test_adapters_read_every_row(
    name: str, adapter: str, rows: int, faults: dict[str, int]
) -> None:
    found, missing = read(name, adapter)
    assert len(found) == rows and dict(missing) == faults
    assert all(r.parts.problem.strip() for r in found)
    unanswered = sum(not r.parts.answer.strip() for r in found)
    assert unanswered == (1 if adapter == "big_math" else 0)
    if adapter == "gsm8k":
        assert all(
            extract_answer(t.text).answer == r.parts.answer and "<<" not in t.text
            for r in found
            for t in r.parts.traces
        )
    if name.startswith("bench/a"):
        assert all(r.parts.answer.lstrip("-").isdigit() for r in found)
        assert not any("reason step by step" in r.parts.problem for r in found)


def test_math_answers_that_hold_one_of_several_boxes() -> None:
    """Nine MATH rows ask for all values and name one in `answer`; one solution hedges."""
    found, _ = read("train/math_train.parquet", "math")
    mended = {r.parts.answer for r in found if r.parts.tolerated}
    assert len(mended) == 9 and {"12, 18", "1, 9", r"30^\circ, 150^\circ"} <= mended
    with VerifierPool(VerifierSettings(timeout_seconds=20)) as pool:
        verdicts = pool.verify(Job("", r.parts.answer, r.parts.traces[0].text) for r in found)
    wrong = [
        (r.parts.answer, v.extracted)
        for r, v in zip(found, verdicts, strict=True)
        if v.verdict is not Verdict.CORRECT
    ]
    assert wrong == [("(-5, 1)", "(-5, 7), (-5, 1)")]  # "enter only one of the foci"


def test_what_no_rule_can_grade() -> None:
    counts = {
        name: Counter(
            reason
            for r in read(f"train/{name}", adapter)[0]
            if (reason := ungradable(r.parts.problem, r.parts.answer))
        )
        for name, adapter in [
            ("gsm8k_train.jsonl", "gsm8k"),
            ("math_train.parquet", "math"),
            ("numina_cot_2k.jsonl", "numinamath_cot"),
        ]
    }
    assert counts["gsm8k_train.jsonl"] == {}
    assert counts["math_train.parquet"] == {"multiple choice": 131}
    assert counts["numina_cot_2k.jsonl"] == {
        "multiple choice": 460,
        "proof": 79,
        "several parts": 60,
    }


def test_math_train_against_the_benchmarks() -> None:
    """The one "exact overlap" with MATH-500 differs in a sign; OlympiadBench has two true ones."""
    benchmarks = {}
    for name, adapter in BENCHMARKS.items():
        found, _ = read(f"bench/{name}.jsonl", adapter)
        rows = [
            BenchmarkRow(f"{name}/{r.row}", r.parts.problem, r.parts.answer, "box", ())
            for r in found
        ]
        benchmarks[name] = Benchmark(name, rows, {})
    index = Index(benchmarks, 13)
    hits = [
        (h.benchmark, h.how, r.parts.problem)
        for r in read("train/math_train.parquet", "math")[0]
        for h in index.hits(r.parts.problem)
        if h.coverage >= 0.5
    ]
    counts = Counter((benchmark, how) for benchmark, how, _ in hits)
    assert counts["olympiadbench", "exact"] == 2
    assert counts["math500", "exact"] == 0
    same = [p for b, how, p in hits if (b, how) == ("math500", "same words")]
    assert any("z^4 - z^2 + 1 = 0" in p for p in same)  # the test asks for z^4 + z^2 + 1
    assert counts["math500", "13 words"] >= 50
    assert not any(b in ("aime24", "aime25", "amc23") for b, _, _ in hits)


def test_thought_anchors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "problem": "problem",
        "answer": "gold",
        "trace": "generation",
        "cut": "truncated",
        "label": "label",
    }
    traces = source("traces/r1distill_math_thoughtanchors.jsonl", "generic", columns=columns)
    folder, account = run(tmp_path, monkeypatch, {"anchors": traces})
    table = read_frame(folder / "traces.parquet", TRACES)
    facts = account["sources"]["anchors"]
    assert (facts["rows"], facts["traces"], facts["traces_cut"]) == (153, 153, 9)
    assert len(table) == 148  # five traces belong to multiple-choice problems, two of them cut
    assert account["traces"]["verdicts"]["truncated"] == 7
    labels = account["traces"]["source_labels"]
    assert labels["source wrong, correct here"] >= 16  # units, blanks, degrees
    assert labels["source wrong, truncated here"] == 7
    assert labels["source wrong, wrong here"] == 2
    assert not any(what.startswith("source right, wrong") for what in labels)
    assert set(table[table.verdict != "correct"].usable) == {False}


def test_sky_t1_traces_that_never_close_are_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"problem": "problem", "answer": "gold", "trace": "generation", "id": "id"}
    sky = source("traces/skyt1_math500.jsonl", "generic", columns=columns, limit=97)
    folder, _ = run(tmp_path, monkeypatch, {"sky": sky}, near_duplicates=0.0)
    table = read_frame(folder / "traces.parquet", TRACES)
    opened = table.text.str.contains("<|begin_of_solution|>", regex=False)
    closed = table.text.str.contains("<|end_of_solution|>", regex=False)
    assert not table[opened & ~closed].usable.any() and (opened & ~closed).sum() == 2
    assert table[closed & (table.verdict == "correct")].usable.all()


def test_a_real_file_with_a_row_without_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {"problem": "problem", "answer": "gold", "trace": "generation", "id": "id"}
    sky = source("traces/skyt1_math500.jsonl", "generic", columns=columns)
    with pytest.raises(DataError, match="problem without answer") as caught:
        run(tmp_path, monkeypatch, {"sky": sky})
    assert str(caught.value.where).endswith("skyt1_math500.jsonl line 98")


@pytest.mark.slow
def test_gsm8k_solutions_are_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gsm = source("train/gsm8k_train.jsonl", "gsm8k", limit=300)
    folder, account = run(tmp_path, monkeypatch, {"gsm8k": gsm}, validation_share=0.1)
    table = read_frame(folder / "traces.parquet", TRACES)
    assert len(table) == 300 and table.usable.all() and (table["rank"] == 0).all()
    assert account["result"]["validation"] == 30
