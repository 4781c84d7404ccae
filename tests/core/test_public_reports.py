"""Bug reports of other trainers, tried on ours (the table is in docs/testing.md)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny import made_groups, tiny_policy

from hapo_core.advantage import AdvantageKind, group_advantages
from hapo_core.errors import HapoError
from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.methods import GRPO
from hapo_core.objective import PAPER, Aggregation, Objective
from hapo_core.rollout import Finish
from hapo_core.update import Updater, UpdateSpec
from hapo_core.verify import Job, VerifierPool, VerifierSettings

LONG = r"\frac{" + "+".join(f"x^{{{k}}}" for k in range(2, 40)) + "}{2}"
GRADED = {
    "OpenRLHF/OpenRLHF#1285, fbox": ("42", r"So \fbox{42}", "correct"),
    "OpenRLHF/OpenRLHF#1285, braces": (r"\frac{1}{2}", r"\fbox{\frac{1}{2}}", "correct"),
    "tinker-cookbook#903, the last box": ("7", r"First \boxed{5}. No: \boxed{7}.", "correct"),
    "tinker-cookbook#903, the other way": ("5", r"First \boxed{5}. No: \boxed{7}.", "wrong"),
    "NVIDIA-NeMo/Gym#1844, text": ("E", r"\boxed{\text{E}}", "correct"),
    "NVIDIA-NeMo/Gym#1844, the option": ("E", r"\boxed{E: A polygenic risk score}", "correct"),
    "verl-project/verl#7440, a long box": (LONG, rf"Thus \boxed{{{LONG}}}", "correct"),
    "THUDM/slime#543, after a word": ("5", r"Answer: \boxed{5}", "correct"),
    "NVIDIA-NeMo/RL#3635, one character": ("137", r"\boxed{1}", "wrong"),
}
SILENT = ("I don't know.", "", "</think>", r"\boxed{ }")


@pytest.fixture(autouse=True, scope="module")
def _one_thread(one_thread: None) -> None:
    """Tiny tensors."""


def test_what_other_verifiers_got_wrong() -> None:
    jobs = [Job("", gold, text) for gold, text, _ in GRADED.values()]
    with VerifierPool(VerifierSettings()) as pool:
        found = [v.verdict.value for v in pool.verify(jobs)]
    assert dict(zip(GRADED, found, strict=True)) == {k: v[2] for k, v in GRADED.items()}


def test_one_verdict_a_response_also_where_nothing_can_be_read() -> None:
    """NVIDIA-NeMo/RL#3635 and #3058: two scores for an unreadable response moved all later ones."""
    jobs = [Job("", "137", text) for text in (*SILENT, r"\boxed{137}", *SILENT, r"\boxed{1}")]
    with VerifierPool(VerifierSettings()) as pool:
        found = [v.verdict.value for v in pool.verify(jobs)]
    assert found == ["unparsed"] * 4 + ["correct"] + ["unparsed"] * 4 + ["wrong"]


@pytest.mark.parametrize("kind", AdvantageKind)
def test_groups_of_one_have_no_advantage(kind: AdvantageKind) -> None:
    """ruc-datalab/DeepAnalyze#116: the deviation of one reward is NaN; also one known of many."""
    assert group_advantages([1.0], kind) == [0.0]
    assert group_advantages([None, 1.0, None], kind) == [0.0] * 3
    assert group_advantages([None, None], kind) == [0.0] * 2


@pytest.mark.parametrize("kind", AdvantageKind)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused(kind: AdvantageKind, bad: float) -> None:
    """modelscope/ms-swift#8123, huggingface/trl#5775: one NaN made a batch's advantages NaN."""
    with pytest.raises(HapoError, match="not a finite number"):
        group_advantages([1.0, bad, 0.0], kind)


def _step(
    successes: list[int], objective: Objective, finish: Finish = Finish.STOP
) -> tuple[float | None, dict[str, torch.Tensor]]:
    """Loss of one update of the tiny policy, and its weights afterwards."""
    model, tokenizer = tiny_policy()
    groups = []
    for group in made_groups(tokenizer, successes):
        ended = [replace(s, rollout=replace(s.rollout, finish=finish)) for s in group.samples]
        groups.append(replace(group, samples=tuple(ended)))
    method = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), objective, 0)
    metrics = Updater(model, UpdateSpec(1e-3)).update(method.plan(groups, 0), objective, 64, 1e-3)
    return metrics["loss"], model.state_dict()


def test_the_kinds_of_mean_differ() -> None:
    """akaszubski/autonomous-dev#413: a token mean that was the mean over sequences again."""
    losses = {kind: _step([1, 5], replace(PAPER, aggregation=kind))[0] for kind in Aggregation}
    assert len(set(losses.values())) == len(losses)


def test_dead_groups_pull_at_nothing() -> None:
    """huggingface/trl#5588: groups of one reward trained a KL term. Ours has none by default."""
    before = tiny_policy()[0].state_dict()
    loss, after = _step([0, 8, 0], PAPER)
    assert loss is None
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_length_is_that_of_the_tokens_whatever_the_end() -> None:
    """huggingface/trl#6369 and #3476: cut responses left the sum and stayed in its divisor."""
    (lost, stopped), (losing, cut) = (_step([1, 5], PAPER, f) for f in (Finish.STOP, Finish.LENGTH))
    assert lost == losing
    assert all(torch.equal(stopped[name], cut[name]) for name in stopped)
