"""The stage as a whole: sources in, checked tables and an account out."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from curate_support import byte_tokenizer, mine, params_for, rule, run, walk

from hapo_core.errors import DataError, HapoError
from hapo_core.tasks.tiny import tiny_tokenizer
from pipeline.artifacts.tables import BENCHMARK, DROPPED, PROBLEMS, TRACES, read_frame
from pipeline.config import ChainsSource, TableSource
from pipeline.curate.rules.traces import check_known
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.train.trainset import load_trainset

CHAINS = ChainsSource(kind="chains", count=60, min_steps=3, max_steps=5)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


# --- the quickstart source ----------------------------------------------------------------------


def test_chains_become_problems_traces_and_a_disjoint_benchmark() -> None:
    folder, account = run({"chains": CHAINS}, verifier="math", validation_share=0.1)
    problems = read_frame(folder / "problems.parquet", PROBLEMS)
    traces = read_frame(folder / "traces.parquet", TRACES)
    held_out = read_frame(folder / "benchmarks" / "held_out.parquet", BENCHMARK)
    assert len(problems) == 60 and len(traces) == 60 and len(held_out) == 20
    assert not set(problems.problem) & set(held_out.problem)
    assert (problems.split == "validation").sum() == 6
    assert problems.problem_id.is_unique and problems.problem_id.str.startswith("chains/").all()
    assert traces.usable.all() and (traces["rank"] == 0).all() and (traces.note == "").all()
    assert set(traces.problem_id) == set(problems.problem_id)
    tokenizer = tiny_tokenizer()
    first, trace = problems.iloc[0], traces.iloc[0]
    assert tokenizer.decode(list(first.prompt_ids)) == f"<s>{first.problem}\n"
    assert tokenizer.decode(list(trace.token_ids)) == trace.text + "</s>"
    assert account["benchmarks"]["held_out"]["gold_against_solution"]["correct"] == 20
    assert all(not r["taken"] for r in account["rules"])


def test_equal_inputs_give_equal_bytes() -> None:
    first = hashes(run({"chains": CHAINS}, "one/data", validation_share=0.1)[0])
    second = hashes(run({"chains": CHAINS}, "two/data", validation_share=0.1)[0])
    assert first == second and "problems.parquet" in first


# --- the account of every row -------------------------------------------------------------------


def test_every_row_is_accounted_for() -> None:
    rows: list[dict[str, object]] = [
        {"problem": walk(3, 4), "answer": "12", "trace": ["so \\boxed{12}", "\\boxed{12}"]},
        {"problem": walk(3, 5), "answer": "15", "trace": "<think>never closed \\boxed{15}"},
        {"problem": walk(3, 6), "answer": "18", "trace": "it is \\boxed{17}"},
        {"problem": walk(3, 7), "answer": "21", "trace": "it is 21"},
        {"problem": walk(3, 8), "answer": "24", "trace": "word " * 300 + "\\boxed{24}"},
        {"problem": walk(3, 9), "answer": "27"},
        {"problem": walk(3, 4) + " ", "answer": "12", "trace": "thus \\boxed{12}"},
        {"problem": walk(3, 4), "answer": "13", "trace": "thus \\boxed{13}"},
        {"problem": "Prove that 1 < 2.", "answer": "true"},
        {"problem": "Who is it? " + walk(4, 4), "answer": "\\text{The one who walks every day}"},
        {"problem": walk(5, 5) + " x" * 900, "answer": "25"},
        {"problem": walk(6, 5) + "<|im_end|>", "answer": "30"},
    ]
    folder, account = run(
        {"mine": mine(rows)},
        verifier="math",
        max_prompt_tokens=800,
        max_trace_tokens=400,
        near_duplicates=0.0,
    )
    problems = read_frame(folder / "problems.parquet", PROBLEMS)
    traces = read_frame(folder / "traces.parquet", TRACES)
    dropped = read_frame(folder / "dropped.parquet", DROPPED)
    assert len(problems) + len(dropped) == len(rows)
    assert dict(zip(dropped["row"], dropped["rule"], strict=True)) == {
        7: "exact duplicates",
        8: "exact duplicates",
        9: "not gradable by rule",
        10: "gold",
        11: "prompt length",
        12: "prompt length",
    }
    walked = traces.set_index("text").note.to_dict()
    assert walked["so \\boxed{12}"] == walked["thus \\boxed{12}"] == ""  # merged from row 7
    assert walked["it is \\boxed{17}"] == "trace verification: verdict wrong"
    assert walked["it is 21"] == "trace verification: verdict unparsed"
    assert walked["<think>never closed \\boxed{15}"] == "trace verification: verdict truncated"
    assert walked["word " * 300 + "\\boxed{24}"] == "trace length: longer than the response budget"
    assert "thus \\boxed{13}" not in walked
    best = traces[traces["rank"] == 0]
    assert list(best.text) == ["\\boxed{12}"]
    assert set(traces[~traces.usable]["rank"]) == {-1}
    assert rule(account, "gold")["taken"] == {"verdict bad_gold": 1}
    assert rule(account, "trace choice")["noted"] == {"kept behind the shortest one": 2}
    assert account["result"]["problems_with_usable_trace"] == 1
    for one, following in zip(account["rules"][2:8], account["rules"][3:9], strict=True):
        assert one["rows_out"] == following["rows_in"], following["rule"]


def test_require_trace_drops_and_counts_the_rest() -> None:
    rows: list[dict[str, object]] = [
        {"problem": walk(3, 4), "answer": "12", "trace": "\\boxed{12}"},
        {"problem": walk(3, 5), "answer": "15", "trace": "\\boxed{16}"},
    ]
    folder, account = run({"mine": mine(rows)}, require_trace=True)
    assert len(read_frame(folder / "problems.parquet", PROBLEMS)) == 1
    assert len(read_frame(folder / "traces.parquet", TRACES)) == 1
    assert rule(account, "usable trace")["taken"] == {"no usable trace": 1}
    only_bad = mine(rows[1:], "bad.jsonl")
    with pytest.raises(DataError, match="no problem has a usable trace"):
        run({"mine": only_bad}, require_trace=True)


def test_trace_choice_first_keeps_the_order_of_the_source() -> None:
    rows: list[dict[str, object]] = [
        {"problem": walk(3, 4), "answer": "12", "trace": ["so it is \\boxed{12}", "\\boxed{12}"]}
    ]
    folder, _ = run({"mine": mine(rows)}, trace_choice="first")
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces[traces["rank"] == 0].text) == ["so it is \\boxed{12}"]
    folder, _ = run({"mine": mine(rows)}, trace_choice="all")
    (loaded,) = load_trainset(folder).traces.values()
    assert [t.text for t in loaded] == ["so it is \\boxed{12}", "\\boxed{12}"]


def test_a_repeated_trace_is_set_aside() -> None:
    rows: list[dict[str, object]] = [
        {"problem": walk(3, 4), "answer": "12", "trace": ["\\boxed{12}", "\\boxed{12}"]}
    ]
    folder, _ = run({"mine": mine(rows)})
    traces = read_frame(folder / "traces.parquet", TRACES)
    assert list(traces.note) == ["", "trace repeats: the text of an earlier trace"]


def test_source_labels_are_compared_not_believed() -> None:
    rows: list[dict[str, object]] = [
        {"problem": walk(3, 4), "answer": "12", "trace": "\\boxed{12.0}", "label": False},
        {"problem": walk(3, 5), "answer": "15", "trace": "\\boxed{16}", "label": True},
    ]
    columns = {"problem": "problem", "answer": "answer", "trace": "trace", "label": "label"}
    _, account = run({"mine": mine(rows, columns=columns)}, verifier="math")
    assert account["traces"]["source_labels"] == {
        "source right, wrong here": 1,
        "source wrong, correct here": 1,
    }
    assert len(account["traces"]["label_disagreements"]) == 2


def test_a_benchmark_problem_in_the_training_file_is_listed() -> None:
    test = mine([{"problem": walk(7, 8), "answer": "56"}], "test.jsonl")
    train = mine([{"problem": walk(7, 8), "answer": "56"}, {"problem": walk(7, 9), "answer": "63"}])
    params = params_for({"mine": train}, {"exam": test}, "exact", near_duplicates=0.0)
    curate(params, Observer("curate"), Path("artifacts/data"), byte_tokenizer())
    account = json.loads(Path("artifacts/data/curation.json").read_text())
    assert [(h["benchmark"], h["how"]) for h in account["contamination"]] == [("exam", "exact")]


# --- interruption -------------------------------------------------------------------------------

_SLOW = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from curate_support import byte_tokenizer, params_for
from pipeline.config import ChainsSource, TableSource
from pipeline.curate.stage import curate
from pipeline.curate.rules.traces import check_known
from pipeline.flows.observer import Observer
if __name__ == "__main__":
    held = ChainsSource(kind="chains", count=20, min_steps=3, max_steps=5)
    source = TableSource(kind="table", path="mine.jsonl")
    params = params_for({"mine": source}, {"held_out": held}, "exact", near_duplicates=0.0)
    curate(params, Observer("curate"), Path("artifacts/data"), byte_tokenizer())
"""


@pytest.mark.slow
def test_kill_9_leaves_the_old_artifact_and_a_second_run_the_same_bytes() -> None:
    rows: list[dict[str, object]] = [
        {
            "problem": walk(a, b),
            "answer": str(a * b),
            "trace": "word " * 60 + f"\\boxed{{{a * b}}}",
        }
        for a in range(10, 30)
        for b in range(10, 30)
    ]
    source = mine(rows)
    before = hashes(run({"mine": source}, near_duplicates=0.0)[0])
    Path("slow.py").write_text(_SLOW)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "slow.py", str(Path(__file__).parents[1] / "support")]
    victim = subprocess.Popen(command, env=env, start_new_session=True)
    spool = Path(".hapo/scratch")
    deadline = time.monotonic() + 60
    while not list(spool.glob("curate-*/data/spool/raw.arrow")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    assert hashes(Path("artifacts/data")) == before
    subprocess.run(command, env={**env, "PYTHONHASHSEED": "12345"}, check=True, timeout=120)
    assert hashes(Path("artifacts/data")) == before
    assert not list(spool.glob("curate-*"))


def test_timings_are_kept_apart(tmp_path: Path) -> None:
    run({"chains": CHAINS})
    timing = json.loads((tmp_path / "artifacts/timings/curate.json").read_text())
    assert timing["stage"] == "curate" and timing["rows_per_second"] > 0
    assert {"read sources", "grade traces"} <= set(timing["parts"])
    assert "wall" not in (tmp_path / "artifacts/data/curation.json").read_text()
    assert isinstance(pd.read_parquet(tmp_path / "artifacts/data/traces.parquet"), pd.DataFrame)


def test_a_benchmark_of_unreadable_golds_stops_the_run(tmp_path: Path) -> None:
    rows = [{"problem": f"What holds for {i}?", "answer": "It is never less than the sum."}
            for i in range(4)]  # fmt: skip
    path = tmp_path / "bench.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    params = params_for({"chains": CHAINS}, {"own": TableSource(kind="table", path=str(path))})
    with pytest.raises(HapoError, match="4 of 4 golds of the benchmark 'own' have no known"):
        curate(params, Observer("curate"), tmp_path / "data", byte_tokenizer())


def test_too_many_unknown_verdicts_stop_the_run() -> None:
    check_known({"correct": 95, "timeout": 3, "error": 2}, 0.05, "traces")
    with pytest.raises(HapoError, match=r"6 of 100 traces .*4 timeout, 2 error"):
        check_known({"correct": 94, "timeout": 4, "error": 2}, 0.05, "traces")
