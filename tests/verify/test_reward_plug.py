"""Rewards chosen by the source: several in one run, one of one's own, and reasoning-gym's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hapo_core.errors import ConfigError, HapoError
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings
from pipeline.artifacts.tables import BENCHMARK, GENERATIONS, PROBLEMS, ROLLOUTS, read_frame
from pipeline.base.stage import build_base
from pipeline.config import Params, parse_params
from pipeline.curate.stage import curate
from pipeline.evaluate.stage import evaluate_policy
from pipeline.flows.observer import Observer
from pipeline.train.segment import train_segment

PARAMS = {
    "profile": "gym",
    "seed": 3,
    "method": "grpo",
    "curate": {
        "sources": {"sums": {"kind": "gym", "task": "basic_arithmetic", "count": 6}},
        "benchmarks": {"held_out": {"kind": "gym", "task": "basic_arithmetic", "count": 3}},
        "max_trace_tokens": 12,
        "decontaminate_ngram": 0,
    },
    "base": {
        "kind": "tiny", "hidden_size": 16, "layers": 1, "heads": 1, "steps": 1, "batch_size": 2,
        "learning_rate": 0.001, "slip_probability": 0.5,
    },
    "gate": {"threshold": {"kind": "constant", "gamma": 0.3}},
    "rollout": {"max_tokens": 12, "group_size": 2},
    "update": {"learning_rate": 0.001},
    "train": {"prompts_per_round": 2},
    "segments": {"1": {"prev": "base", "rounds": 1}},
    "evaluate": {"benchmarks": {"held_out": {"k": 2, "max_tokens": 12}}},
    "targets": {"base": {"policy": "base"}, "final": {"policy": "1"}},
}  # fmt: skip


def double(gold: str, answer: str) -> tuple[Verdict, str]:
    """A reward of one's own: right is twice the gold."""
    return (Verdict.CORRECT if answer == str(2 * int(gold)) else Verdict.WRONG), "double"


@pytest.mark.slow
def test_one_pool_serves_jobs_of_several_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    own = "test_reward_plug:double"
    jobs = [
        Job("", "x+1", r"\boxed{1+x}"),
        Job("", "5", r"\boxed{10}", kind=own),
        Job("", "x+1", r"\boxed{1+x}", kind="exact"),
        Job("", "x+1", r"\boxed{x+2}", kind="math"),
        Job("", "5", r"\boxed{5}", kind=own),
        Job("", "ab", r"\boxed{ab}", kind="exact"),
    ]
    with VerifierPool(VerifierSettings(workers=1, timeout_seconds=30)) as pool:
        for _ in range(2):  # the second time from pools that are there
            found = pool.verify(iter(jobs))
            assert [f.verdict.value for f in found] == [
                *("correct", "correct", "wrong", "wrong", "wrong", "correct"),
            ]
    with pytest.raises(HapoError, match="closed"):
        pool.verify(jobs)


def test_the_names_of_rewards_are_checked() -> None:
    for section in ({"rewards": {"verifier": "proof"}}, {"seed": 3}):
        raw = json.loads(json.dumps(PARAMS | section))
        if "rewards" not in section:
            raw["curate"]["sources"]["sums"]["reward"] = "no reward"
        with pytest.raises(ConfigError, match=r"rewards\.verifier|sums\.gym\.reward"):
            parse_params(raw)


def gym_params() -> Params:
    pytest.importorskip("reasoning_gym", reason="the extra hapo[reasoning-gym] is not installed")
    return parse_params(json.loads(json.dumps(PARAMS)))


def test_reasoning_gym_scores_its_own_tasks() -> None:
    gym_params()
    from hapo_core.verify.gym import create, entry_gold, grade

    # a puzzle with many right answers: the scorer knows them, a comparison would not
    entry = create("countdown", size=1, seed=5)[0]
    gold, expression = entry_gold("countdown", entry), entry["metadata"]["expression"]
    assert grade(gold, expression)[0] is Verdict.CORRECT
    assert grade(gold, f"0 + ({expression})")[0] is Verdict.WRONG
    assert grade(gold, f"({expression})")[0] is Verdict.CORRECT
    assert grade(gold, gold)[0] is Verdict.WRONG
    assert grade("5", "5")[0] is Verdict.BAD_GOLD
    with pytest.raises(ConfigError, match="cannot make"):
        create("no_such_task", size=1, seed=1)


@pytest.mark.slow
def test_a_reasoning_gym_task_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = gym_params()
    monkeypatch.chdir(tmp_path)
    facts = curate(params, Observer("curate"))
    assert facts["problems"] == 6
    problems = read_frame(Path("artifacts/data/problems.parquet"), PROBLEMS)
    held_out = read_frame(Path("artifacts/data/benchmarks/held_out.parquet"), BENCHMARK)
    assert set(problems.reward) == set(held_out.reward) == {"reasoning_gym"}
    assert not set(problems.problem) & set(held_out.problem)
    account = json.loads(Path("artifacts/data/curation.json").read_text())
    assert account["benchmarks"]["held_out"]["gold_against_gold"]["correct"] == 3
    build_base(params, Observer("base"))
    train_segment(params, "1", Observer("train@1"))
    rollouts = read_frame(Path("artifacts/policy/1/rollouts/round-00001.parquet"), ROLLOUTS)
    assert len(rollouts) == 4
    assert set(rollouts.verdict) <= {"correct", "wrong", "unparsed", "truncated"}
    evaluate_policy(params, "final", Observer("evaluate@final"))
    folder = Path("artifacts/evaluation/final")
    assert len(read_frame(folder / "held_out.parquet", GENERATIONS)) == 6
