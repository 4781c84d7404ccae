"""`hapo audit`: what is left of a gate, exactly, and the audit of real tiny runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import made_groups, tiny_policy
from tiny_segment import PROMPTS, SIZE, here, params_of, start, trained

from hapo_core.distributed import ALONE
from hapo_core.errors import DataError, HapoError
from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    ScheduledThreshold,
    Shape,
    Statistic,
)
from hapo_core.graded import graded
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods import GRPO, HAPO, HPT
from hapo_core.methods.entry import every_group, up_to
from hapo_core.objective import PAPER
from hapo_core.policy import load_policy, response_logprobs
from hapo_core.theory.gradient_gap import gradient_gap, without_teacher
from hapo_core.theory.injection_probability import (
    GroupColumns,
    check_rounds,
    injection_probability,
    residual_injection_probability,
)
from hapo_core.theory.outlook import Future, closing_gamma, outlook, replaying_gate, residual
from hapo_core.theory.population import Population
from hapo_core.update import Updater, UpdateSpec
from pipeline import cli
from pipeline.artifacts import write_manifest
from pipeline.artifacts.tensors import write_shards
from pipeline.audit.numbers import Audit, audit_run
from pipeline.audit.words import State, answer, as_json, render_markdown, render_text
from pipeline.flows.observer import Observer
from pipeline.train.segment import Segment, train_segment

__all__ = ["here", "start"]  # fixtures


# --- what is left -------------------------------------------------------------------------------


def test_bands_add_up_to_the_residual() -> None:
    population = Population(1.3, 0.6, 40)
    for gamma in (0.15, 0.5, 0.8):
        left = residual(population, 8, gamma)
        assert left.probability == pytest.approx(
            residual_injection_probability(population, 8, gamma)
        )
        assert sum(b.share for b in left.bands) == pytest.approx(1)
        parts = sum(b.share * (b.probability or 0.0) for b in left.bands)
        assert parts == pytest.approx(left.probability)


def test_a_band_is_the_mean_of_the_exact_probability_over_it() -> None:
    """Against numerical integration of P(inject | mu) over the Beta density of the band."""
    population = Population(2.0, 1.5, 40)
    band = residual(population, 8, 0.8, edges=(0.0, 0.9, 1.0)).bands[1]
    mu = np.linspace(0.9, 1.0, 200_001)
    density = mu ** (population.alpha - 1) * (1 - mu) ** (population.beta - 1)
    expected = (injection_probability(mu, 8, 0.8) * density).sum() / density.sum()
    assert band.probability == pytest.approx(expected, abs=1e-4)
    assert 0 < band.probability < injection_probability(0.9, 8, 0.8)


def test_prompts_with_evidence_are_weighed_one_by_one() -> None:
    population = Population(1.0, 1.0, 40)
    solved, failed = (41.0, 1.0), (1.0, 41.0)
    each = [residual(population, 8, 0.5, evidence=held).probability for held in (solved, failed)]
    both = residual(population, 8, 0.5, evidence=([solved[0], failed[0]], [solved[1], failed[1]]))
    assert each[0] < 1e-3 and each[1] > 0.99
    assert both.probability == pytest.approx(sum(each) / 2)


CONSTANT = GateSpec(ConstantThreshold(0.8))


@pytest.mark.parametrize(
    ("spec", "gamma", "future"),
    [
        (CONSTANT, 0.8, Future.CANNOT),
        (replace(CONSTANT, threshold=ConstantThreshold(0.1)), 0.1, Future.CLOSED),
        (replace(CONSTANT, evidence=Evidence.PROMPT), 0.8, Future.FADES),
        (replace(CONSTANT, evidence=Evidence.PROMPT, forgetting=0.9), 0.8, Future.CANNOT),
        (GateSpec(AdaptiveThreshold(0.5)), 0.3, Future.MAY_CLOSE),
        (GateSpec(AdaptiveThreshold(0.5)), 0.1, Future.CLOSED),
        (GateSpec(AdaptiveThreshold(0.5), statistic=Statistic.THOMPSON), 0.01, Future.CANNOT),
        (GateSpec(ScheduledThreshold(Shape.LINEAR, 0.8, 0.05, 100)), 0.4, Future.WILL_CLOSE),
        (GateSpec(ScheduledThreshold(Shape.LINEAR, 0.8, 0.05, 100)), 0.08, Future.CLOSED),
        (GateSpec(ScheduledThreshold(Shape.LINEAR, 0.8, 0.2, 100)), 0.2, Future.CANNOT),
    ],
)
def test_what_can_become_of_a_gate(spec: GateSpec, gamma: float, future: Future) -> None:
    assert outlook(spec, 8, gamma).future is future


def test_when_a_gate_closes() -> None:
    """docs/consistency.md, 8: .5 and kappa 1 retire the teacher at m = .8."""
    assert outlook(GateSpec(AdaptiveThreshold(0.5)), 8, 0.3).competence == pytest.approx(0.8)
    schedule = ScheduledThreshold(Shape.LINEAR, 0.8, 0.05, 100)
    view = outlook(GateSpec(schedule), 8, 0.4)
    assert view.round is not None and schedule.at(view.round - 1) <= 0.1 < schedule.at(
        view.round - 2
    )
    forgetting = GateSpec(ConstantThreshold(0.5), Evidence.PROMPT, forgetting=0.5)
    assert closing_gamma(forgetting, 8) == pytest.approx(1 / 18)


def test_a_replaying_gate_reads_what_the_gate_read() -> None:
    spec = GateSpec(
        AdaptiveThreshold(0.6), Evidence.PROMPT, Statistic.THOMPSON, prior_a=0.7, forgetting=0.83
    )
    gate, rng = Gate(spec, 5), np.random.default_rng(0)
    for t in range(6):
        counts = {f"p{i}": int(rng.integers(0, 9)) for i in range(4)}
        gamma = gate.begin_round(t, sum(counts.values()) / 32)
        first = {i: gate.observe(i, s, 8, t) for i, s in counts.items()}
        before = {i: (r.prior_a, r.prior_b) for i, r in first.items()}
        again = replaying_gate(spec, 5, gamma, before)
        again.begin_round(t, None)
        assert {i: again.observe(i, s, 8, t) for i, s in counts.items()} == first


# --- gradients ----------------------------------------------------------------------------------


def test_gradient_is_that_of_the_loss_and_leaves_the_policy_alone() -> None:
    model, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 3, 4], 4)
    planned = HAPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(groups, 0)
    weights = [p.detach().clone() for p in model.parameters()]
    updater = Updater(model, UpdateSpec(1e-3, micro_batch_tokens=100_000))
    found = updater.gradient(planned, PAPER, 40)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters()) and not updater.optimizer.state

    rows = [r for p in planned for r in p.rows]
    logp, _ = response_logprobs(model, [(r.prompt_ids, r.response_ids) for r in rows])
    loss = batch_loss(rows, row_scales(rows, PAPER.aggregation, 40), logp, PAPER).loss
    loss.backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert found is not None and torch.allclose(found, expected, atol=1e-7)


def test_without_the_teacher_hapo_is_grpo_and_a_closed_gate_shows_no_gap() -> None:
    model, tokenizer = tiny_policy()
    updater = Updater(model, UpdateSpec(1e-3))
    groups = made_groups(tokenizer, [0, 3, 5, 0], 8)
    alone = [without_teacher(g) for g in groups]

    def plan(gamma: float, shown: list[Any]) -> Any:
        return HAPO(Gate(GateSpec(ConstantThreshold(gamma)), 0), PAPER, 0).plan(shown, 0)

    on_policy = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(groups, 0)
    ours, theirs = (updater.gradient(p, PAPER, 40) for p in (plan(0.5, alone), on_policy))
    assert ours is not None and theirs is not None and torch.equal(ours, theirs)
    shut = gradient_gap(updater, plan(0.05, groups), plan(0.05, alone), PAPER, 40)
    assert shut.equal and shut.cosine == pytest.approx(1) and shut.ratio == 1
    gap = gradient_gap(updater, plan(0.5, groups), plan(0.5, alone), PAPER, 40)
    assert not gap.equal and gap.cosine is not None and gap.cosine < 0.999
    failed = made_groups(tokenizer, [0, 0], 8)
    dead = gradient_gap(
        updater, plan(0.5, failed), plan(0.5, [without_teacher(g) for g in failed]), PAPER, 40
    )
    assert (dead.cosine, dead.ratio, dead.without_norm) == (None, None, 0.0) and dead.with_norm > 0


# --- real runs ----------------------------------------------------------------------------------


def audited(params: Any, groups: int = 2 * PROMPTS) -> tuple[Audit, str]:
    """The audit of the working folder, and all that it says; both forms must be whole."""
    audit = audit_run(params, Path(), groups)
    text = render_text(audit)
    json.dumps(as_json(audit), allow_nan=False)
    assert render_markdown(audit).startswith("# Has the teacher left?")
    return audit, text


def test_a_constant_gate_on_a_real_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = params_of("hapo")
    _, groups, _ = trained("hapo")
    audit, text = audited(params)
    assert answer(audit).state is State.PRESENT and "cannot vanish" in text
    assert "threshold: {kind: adaptive, gamma_start: 0.5}" in text
    injected = groups.decision == "injected"
    for row in audit.rounds:
        share = injected[groups["round"] == row.round].mean()
        assert row.measured == row.implied == pytest.approx(share)
        assert row.exact is not None and row.low is not None and row.high is not None
        assert row.low <= share <= row.high  # 6 groups: the range is wide
    assert [g.round for g in audit.gradients] == [1, 2] and all(g.replayed for g in audit.gradients)
    assert sum(g.injected for g in audit.gradients) == injected.sum() > 0
    assert audit.gradients[-1].gap.cosine is not None and not audit.gradients[-1].gap.equal
    (here / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))
    (here / "dvc.yaml").touch()
    (here / ".dvc").mkdir()
    assert cli.main(["audit", "--groups", "6"]) == 0
    assert "Residual injection probability" in capsys.readouterr().out
    (here / "reports").rename(here / "kept")
    (here / "reports").touch()
    assert cli.main(["audit", "--groups", "0"]) == 2  # only to be read: the numbers come first
    (here / "reports").unlink()
    (here / "kept").rename(here / "reports")
    assert "Residual injection probability" in capsys.readouterr().out
    stored = json.loads((here / "reports/audit.json").read_text())
    assert stored["answer"] == "present" and len(stored["gradients"]) == 1
    assert stored["residual"]["probability"] == audit.residual.probability > 0


def test_a_gate_that_retired_gives_the_on_policy_update_to_the_bit(here: Path) -> None:
    """Open in the first round, at gamma <= 1 / (SIZE + 2) from the second on."""
    fall = {"kind": "linear", "gamma_start": 0.5, "gamma_end": 0.1, "horizon": 1}
    gate = {"threshold": fall}
    params = params_of("hapo", gate=gate)
    trained("hapo", gate=gate)
    audit, text = audited(params, PROMPTS)
    assert audit.outlook is not None and audit.outlook.future is Future.CLOSED
    assert answer(audit).state is State.GONE and "Yes, for good" in text
    assert audit.residual is not None and audit.residual.probability == 0
    assert audit.retired_from == 2 and [g.gap.equal for g in audit.gradients] == [True]
    assert "bit for bit" in text
    whole, text = audited(params)
    assert [g.gap.equal for g in whole.gradients] == [False, True] and "bit for bit" not in text


def test_a_running_segment_is_read_at_its_last_checkpoint(here: Path) -> None:
    params = params_of("hapo")
    segment = Segment(params, "1", Observer("train@1"))
    try:
        segment.round(0)
        audit, text = audited(params)
        segment.round(1)
        segment.publish()
    finally:
        segment.close()
    assert audit.running == "1" and audit.rounds_done == 1 and "unfinished" in text
    assert len(audit.gradients) == 1 and audit.gradients[0].groups == PROMPTS
    whole, _ = audited(params)
    assert whole.running is None and whole.rounds[0] == audit.rounds[0]


@pytest.mark.parametrize(
    ("method", "state"),
    [
        ("luffy", State.PRESENT),
        ("srft", State.PRESENT),
        ("hpt", State.PRESENT),
        ("prefix_rft", State.PRESENT),
        ("bread", State.PRESENT),
        ("chord", State.PRESENT),
        ("grpo", State.NEVER),
        ("sft_then_rl", State.GONE),
    ],
)
def test_other_methods_are_audited_too(here: Path, method: str, state: State) -> None:
    _, groups, _ = trained(method)
    audit, text = audited(params_of(method))
    assert answer(audit).state is state and text
    assert all(g.replayed for g in audit.gradients) and audit.gradients
    taught = method in ("luffy", "srft", "hpt", "prefix_rft", "bread", "chord")
    assert any(not g.gap.equal for g in audit.gradients) == taught
    failed = (groups.successes == 0).mean()
    if method in ("hpt", "bread"):
        assert np.mean([r.implied for r in audit.rounds]) == pytest.approx(failed)
    if method == "luffy":
        assert audit.residual is not None and "no gate that closes" in text
        assert all(r.measured == 1 for r in audit.rounds)


def test_a_teacher_in_every_group_is_also_in_solved_ones() -> None:
    """LUFFY replaces at S = N too: the residual is 1, whatever the policy can do (it was .37 for
    prompts of which two thirds are solved), and counts with solved groups contradict nothing."""
    rule = every_group(GateSpec(ConstantThreshold(0.3)), None, 8)
    able = Population(4.0, 0.3, 40)
    left = residual(able, 8, 1.0, rule)
    assert left.probability == pytest.approx(1)
    assert [b.probability for b in left.bands] == pytest.approx([1] * 6)
    assert residual_injection_probability(able, 8, 1.0, rule) == pytest.approx(1)
    assert injection_probability([0.0, 0.5, 1.0], 8, 1.0, rule) == pytest.approx([1, 1, 1])
    plain = GateSpec(ConstantThreshold(1.0))
    assert residual(able, 8, 1.0, plain).probability < 0.5


def test_a_rule_on_s_is_read_where_verdicts_are_unknown() -> None:
    """HPT imitates at S <= k whatever is known: with 0 right of 2 known ones c = 1/4 lies above the
    threshold of whole groups, .15, and the round was called contradictory."""
    planned = HPT(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0)
    _, tokenizer = tiny_policy()
    known: list[list[float | None]] = [[0, 0] + [None] * 6, [1, 0] + [None] * 6, [1] * 8, [0] * 8]
    groups = [
        replace(g, samples=graded(g.rollouts, rewards))
        for g, rewards in zip(made_groups(tokenizer, [0] * 4), known, strict=True)
    ]
    deeds = [p.decision.value for p in planned.plan(groups, 0)]
    columns = GroupColumns(
        round=np.ones(4, dtype=np.int64),
        successes=np.array([g.successes for g in groups]),
        known=np.array([g.known for g in groups]),
        prior_a=np.ones(4),
        prior_b=np.ones(4),
        gamma=np.full(4, 0.15),
        decision=np.array(deeds, dtype=object),
    )
    (check,) = check_rounds(columns, up_to(0, 8))
    assert deeds.count("injected") == 2 and check.measured == check.implied == 0.5


def test_gradients_that_do_not_fit_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained("hapo")
    monkeypatch.setattr("pipeline.audit.policy.memory", lambda device: 1000)
    with pytest.raises(HapoError, match="at the least, and there are") as told:
        audited(params_of("hapo"))
    assert "--groups 0" in str(told.value)
    audit, _ = audited(params_of("hapo"), groups=0)
    assert audit.gradients == ()


def test_a_sharded_segment_is_audited_while_it_runs(here: Path) -> None:
    """Its resume points hold `weights/` in the place of `model/`; with one process nothing is
    sharded, so the newest one is rewritten as two processes leave it."""
    params = params_of("hapo")
    segment = Segment(params, "1", Observer("train@1"))
    try:
        segment.round(0)
        whole, _ = audited(params)
        (state,) = Path(".hapo/scratch").glob("train@1-*/states/round-*")
        model, _ = load_policy(state / "model")
        write_shards(dict(model.named_parameters()), state / "weights", ALONE)
        shutil.rmtree(state / "model")
        (state / "manifest.json").unlink()
        write_manifest(state, "training-state", {})
        parts, _ = audited(params)
    finally:
        segment.close()
    assert parts.gradients == whole.gradients and parts.gradients


def test_another_configuration_is_refused(here: Path) -> None:
    with pytest.raises(DataError, match="no round"):
        audit_run(params_of("hapo"), Path(), 0)
    train_segment(params_of("grpo"), "1", Observer("train@1"))
    with pytest.raises(DataError, match="trained with method grpo"):
        audit_run(params_of("hapo"), Path(), 0)


def test_size_of_groups_is_that_of_the_fixture() -> None:
    """The closing threshold that the linear schedule above reaches."""
    assert 0.1 < closing_gamma(CONSTANT, SIZE) == pytest.approx(1 / 6)
