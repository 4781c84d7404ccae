"""Hand-derived values of the comparators (METHOD 5, 6, 7); each test writes its derivation out."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import asked, continued, gate, group

from hapo_core.gate import Decision, ScheduledThreshold
from hapo_core.groups import Demonstrations, Request, Trace
from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods import BREAD, CHORD, GRPO, HPT, LUFFY, REAL, SRFT, PrefixRFT, ReLIFT
from hapo_core.methods.bread import BREADOptions
from hapo_core.methods.chord import CHORD_MU, CHORD_PHI, CHORDOptions
from hapo_core.methods.entry import Parts
from hapo_core.methods.hpt import HPTOptions
from hapo_core.methods.prefix_rft import PrefixRFTOptions
from hapo_core.methods.real import REALOptions, real_objective
from hapo_core.methods.real_weights import RealWeights, group_loss
from hapo_core.methods.relift import ReLIFTOptions
from hapo_core.methods.srft import SRFTOptions, srft_objective
from hapo_core.objective import (
    PAPER,
    Aggregation,
    Objective,
    Part,
    RowKind,
    TrainRow,
)
from hapo_core.rollout.protocol import Prompt

pytestmark = pytest.mark.usefixtures("one_thread")


def gradient(
    rows: list[TrainRow],
    logp: list[float],
    objective: Objective,
    entropies: list[float] | None = None,
    old: list[float] | None = None,
    max_tokens: int = 8,
) -> tuple[float, list[float]]:
    """(loss, d loss / d log p)."""
    x = torch.tensor(logp, requires_grad=True)
    parts = batch_loss(
        rows,
        row_scales(rows, objective.aggregation, max_tokens),
        x,
        objective,
        None if old is None else torch.tensor(old),
        None if entropies is None else torch.tensor(entropies),
    )
    parts.loss.backward()
    assert x.grad is not None
    return float(parts.loss.detach()), x.grad.tolist()


# --- SRFT ---


@pytest.mark.parametrize(("sign", "weight"), [(-1, 0.1839), (1, 1.3591)])
def test_srft_weights_at_entropy_one(sign: int, weight: float) -> None:
    """METHOD 7: .5 exp(-1) = .1839 on the trace, .1 exp(1) = .2718 on right rollouts, -1 on wrong
    ones; with the released sign .5 exp(1) = 1.3591. 4 tokens of rollouts and 1 of the trace's
    reinforcement row share a normaliser of 5; the NLL has its own, of 1 token."""
    objective = srft_objective(PAPER)
    method = SRFT(gate(), objective, 0, SRFTOptions(sft_entropy="minus" if sign < 0 else "plus"))
    (planned,) = method.plan([group([1.0, 0.0], trace=1)], 0)
    assert [r.part for r in planned.rows] == [Part.MAIN] * 3 + [Part.EXPERT]
    p = 0.3
    _, g = gradient(list(planned.rows), [math.log(p)] * 6, objective, [1.0] * 6)
    # Augmented rewards 1, 0, 1: mean 2/3, std sqrt(1/3), A* = (1/3) / .57735 = .57735.
    shaped = 0.57735 * 0.1 * p / (p + 0.1) ** 2
    expected = [-0.2718 / 5] * 2 + [1 / 5] * 2 + [-shaped / 5, -weight]
    assert g == pytest.approx(expected, abs=5e-5)  # the precision of METHOD 7


def test_srft_entropy_is_the_mean_of_the_row_and_has_no_gradient() -> None:
    """Entropies .5 and 1.5 have mean 1: both tokens weigh .1 e; other rows do not matter."""
    objective = srft_objective(PAPER)
    right = TrainRow((1,), (2, 3), RowKind.ON_POLICY, 0.1, entropy_exponent=1.0)
    wrong = TrainRow((1,), (2,), RowKind.ON_POLICY, -1.0)
    x = torch.tensor([0.5, 1.5, 9.0], requires_grad=True)
    logp = torch.full((3,), -1.0, requires_grad=True)
    batch_loss([right, wrong], [1.0, 1.0], logp, objective, None, x).loss.backward()
    assert logp.grad is not None and x.grad is None
    assert logp.grad.tolist() == pytest.approx([-0.27183, -0.27183, 1.0], abs=1e-5)
    with pytest.raises(ValueError, match="entropies"):
        batch_loss([right], [1.0], logp[:2], objective)


def test_srft_without_a_trace_keeps_its_rollouts() -> None:
    method = SRFT(gate(), PAPER, 0)
    (planned,) = method.plan([group([1.0, 0.0, None], trace=0)], 0)
    assert planned.decision is Decision.NO_TRACE
    assert [r.advantage for r in planned.rows] == [0.1, -1.0, 0.0]


# --- HPT ---


@pytest.mark.parametrize(("shared", "scales"), [(False, (1 / 10, 1 / 8)), (True, (1 / 18, 1 / 18))])
def test_hpt_switches_on_success(shared: bool, scales: tuple[float, float]) -> None:
    """S = 0: the trace of 10 tokens alone. S = 1: GRPO's 4 rows of 2 tokens. Normalisers: 10 and 8
    apart, or 18 together; the 8 dropped tokens of the failed group are nowhere."""
    groups = [group([0.0] * 4, "a"), group([1.0, 0.0, 0.0, 0.0], "b")]
    plans = HPT(gate(), PAPER, 0, HPTOptions(0, "shared" if shared else "separate")).plan(groups, 0)
    assert [len(p.rows) for p in plans] == [1, 4]
    assert plans[0].rows[0].response_ids == groups[0].trace.token_ids  # type: ignore[union-attr]
    assert plans[0].rows[0].kind is RowKind.SFT and plans[0].decision is Decision.INJECTED
    assert plans[1].rows == GRPO(gate(), PAPER, 0).plan(groups, 0)[1].rows
    found = row_scales([r for p in plans for r in p.rows], Aggregation.TOKEN_MEAN, 8)
    assert (found[0], found[1]) == pytest.approx(scales)


def test_hpt_threshold_and_missing_trace() -> None:
    groups = [group([1.0, 0.0], "a"), group([0.0, 0.0], "b", trace=0)]
    plans = HPT(gate(), PAPER, 0, HPTOptions(successes=1)).plan(groups, 0)
    assert [p.decision for p in plans] == [Decision.INJECTED, Decision.NO_TRACE]
    assert plans[1].dead(PAPER) and len(plans[1].rows) == 2


# --- ReLIFT ---


def test_relift_buffer_fills_empties_and_survives() -> None:
    """Buffer of 3. Round 0: a and b fail (c is solved, d has no trace): 2 wait. Round 1: b again
    (no second entry), e and f: 4 wait, a, b, e train, f stays. A process that starts from the
    waiting list goes on in the same way."""
    names = "abcdef"
    known: Demonstrations = {
        n: (g.prompt, g.trace)
        for n in names
        if (g := group([0.0], n)).trace is not None and n != "d"
    }
    failed, solved = [0.0, 0.0], [1.0, 0.0]
    first = [group(solved if n == "c" else failed, n, trace=0 if n == "d" else 10) for n in "abcd"]
    second = [group(failed, n) for n in "bef"]
    method = ReLIFT(gate(), PAPER, 0, known, ReLIFTOptions(3))
    plans = method.plan(first, 0)
    assert [p.rows for p in plans] == [p.rows for p in GRPO(gate(), PAPER, 0).plan(first, 0)]
    assert method.take_extras(0).rows == 0 and method.waiting == ["a", "b"]
    resumed = ReLIFT(gate(), PAPER, 0, known, ReLIFTOptions(3), method.waiting)
    for each in (method, resumed):
        each.plan(second, 1)
        (batch,) = each.take_extras(1).after
        assert [r.prompt_ids for r in batch] == [known[n][0].token_ids for n in "abe"]
        assert all(r.kind is RowKind.SFT for r in batch) and each.waiting == ["f"]
    released = ReLIFT(gate(), PAPER, 0, known, ReLIFTOptions(3, "newest", True))
    released.plan(first, 0)
    released.plan(second, 1)  # a, b, then b once more, e, f
    (batch,) = released.take_extras(1).after
    assert [r.prompt_ids for r in batch] == [known[n][0].token_ids for n in "feb"]
    assert released.waiting == ["a", "b"]


# --- CHORD ---


def chord(mix: ScheduledThreshold, phi: bool, rows: int = 2) -> CHORD:
    known: Demonstrations = {
        n: (Prompt(n, (1,)), Trace(n, (5 + i, 6), "")) for i, n in enumerate("abcd")
    }
    options = CHORDOptions("phi" if phi else "mu", mix.start, mix.end)
    return CHORD(gate(), PAPER, 0, known, options, rows)


def test_chord_schedules() -> None:
    """mu: .05 + .85 x (1 + cos(pi t / 200)) / 2, so .9, .475, .05, .05; phi: .1 throughout."""
    assert [CHORD_MU.at(t) for t in (0, 100, 200, 900)] == pytest.approx([0.9, 0.475, 0.05, 0.05])
    assert {CHORD_PHI.at(t) for t in (0, 1, 500)} == {0.1}


@pytest.mark.parametrize("phi", [False, True])
def test_chord_is_the_mixture_of_two_normalised_losses(phi: bool) -> None:
    """m = .475 at round 100. Rollouts: 4 tokens, A = +-.7071, weight .525 / 4. Experts: 4 tokens,
    weight .475 / 4, under phi times p (1 - p) = .5 x .5 and .9 x .1."""
    method = chord(CHORD_MU, phi)
    (planned,) = method.plan([group([1.0, 0.0])], 100)
    rows = [*planned.rows, *method.take_extras(100).beside]
    logp = [-1.0] * 4 + [math.log(0.5), math.log(0.9)] * 2
    loss, g = gradient(rows, logp, PAPER)
    weights = [0.25, 0.09] * 2 if phi else [1.0] * 4
    a = math.sqrt(0.5) / (1 + 1e-6 / math.sqrt(0.5))
    expected = [-a * 0.525 / 4] * 2 + [a * 0.525 / 4] * 2 + [-0.475 / 4 * w for w in weights]
    assert g == pytest.approx(expected, rel=1e-4)
    nll = -sum(w * x for w, x in zip(weights, logp[4:], strict=True)) / 4
    assert loss == pytest.approx(0.475 * nll, rel=1e-4)  # GRPO's loss is 0 at r = 1


def test_chord_walks_through_all_experts() -> None:
    """Two of four traces a round: two rounds see each once; another seed another order."""
    method = chord(CHORD_PHI, phi=True)
    seen = [r.response_ids[0] for t in (0, 1) for r in method.take_extras(t).beside]
    assert sorted(seen) == [5, 6, 7, 8]
    assert method.take_extras(0) == chord(CHORD_PHI, phi=True).take_extras(0)


# --- Prefix-RFT ---


def test_prefix_requests_and_lengths() -> None:
    """Round 0: low = high = .95, so 9 of 10 tokens. From the horizon on: uniform on [.05, .95)."""
    method = PrefixRFT(gate(), PAPER, 0)
    short = replace(asked("q"), trace=Trace("t", (7,), ""))
    bare = replace(asked("r"), trace=None)
    wanted = method.wants([asked("p"), short, bare], 8, 0)
    expected = [Request("p", 1, 9), Request("p", 7), Request("q", 8), Request("r", 8)]
    assert wanted == expected
    late = method.wants(
        [asked(f"p{i}", trace=1000) for i in range(2000)], 8, PrefixRFTOptions().horizon
    )
    shares = np.array([r.prefix for r in late if r.prefix]) / 1000
    assert shares.min() >= 0.05 and shares.max() < 0.95
    assert shares.mean() == pytest.approx(0.5, abs=4 * 0.9 / math.sqrt(12 * 2000))
    assert method.wants([group([0.0] * 7)], 8, 0) == []


def test_prefix_row_and_its_gradient() -> None:
    """Three failures and a right hybrid: mean .25, std .5, A = 1.5 and -.5. The hybrid has 5 prefix
    tokens and 3 of its own; of the prefix ceil(.2 x 5) = 1 trains, the one of highest entropy. The
    normaliser counts all: 3 x 2 + 8 = 14 tokens."""
    objective = replace(PAPER, prefix_share=0.2)
    g = continued(group([0.0] * 3), 5, [1.0])
    (planned,) = PrefixRFT(gate(), PAPER, 0).plan([g], 0)
    hybrid = planned.rows[-1]
    assert planned.decision is Decision.INJECTED and len(planned.rows) == 4
    assert hybrid.response_ids == (50, 51, 52, 53, 54, 10, 11, 12) and hybrid.prefix == 5
    entropies = [0.0] * 6 + [1.0, 2.0, 3.0, 2.0, 3.0] + [9.0] * 3
    _, found = gradient(list(planned.rows), [-1.0] * 14, objective, entropies)
    expected = [0.5 / 14] * 6 + [0, 0, -1.5 / 14, 0, 0] + [-1.5 / 14] * 3  # the earlier of equals
    assert found == pytest.approx(expected, rel=1e-5)
    shaped = PrefixRFT(gate(), PAPER, 0, PrefixRFTOptions(prefix_tokens="teacher")).plan([g], 0)
    _, other = gradient(list(shaped[0].rows), [math.log(0.1)] * 14, objective, entropies)
    expected[8] = -1.5 * 0.25 / 14  # METHOD 7: the slope of p / (p + .1) at p = .1
    assert other == pytest.approx(expected, rel=1e-5)


def test_prefix_tokens_have_no_sampler() -> None:
    """The mismatch is taken over the 3 tokens that the sampler drew."""
    g = continued(group([0.0, 1.0]), 5, [1.0])
    (planned,) = PrefixRFT(gate(), PAPER, 0).plan([g], 0)
    row = planned.rows[-1]
    parts = batch_loss([row], [1.0], torch.full((8,), -1.5), PAPER, None, torch.zeros(8))
    assert parts.metrics.total("mismatch_mean")[1] == 3
    assert parts.metrics.total("mismatch_max")[0] == 0.5


# --- BREAD ---


@pytest.mark.parametrize(
    ("shortest", "probes"),
    [(7, [5, 8, 7, 6]), (1, [5, 3, 2, 1]), (5, [5, 3, 4]), (10, [5, 8, 9])],
)
def test_bread_searches_the_shortest_prefix(shortest: int, probes: list[int]) -> None:
    """Trace of 10 tokens, K = 10: prefixes 1 .. 9, halved. The policy succeeds from `shortest` on;
    10 means from none."""
    method, g = BREAD(gate(), PAPER, 0, BREADOptions(10)), group([0.0] * 4)
    tried = []
    while wanted := method.wants([g], 4, 0):
        (request,) = wanted
        assert request.n == 4
        tried.append(request.prefix)
        g = continued(g, request.prefix, [1.0 if request.prefix >= shortest else 0.0] + [0.0] * 3)
    assert tried == probes
    (planned,) = method.plan([g], 0)
    if shortest == 10:
        assert planned.decision is Decision.CLOSED and planned.dead(PAPER)
        return
    assert planned.decision is Decision.INJECTED and len(planned.rows) == 4
    row = planned.rows[0]
    assert row.prompt_ids == (1, 2, *range(50, 50 + shortest)) and row.response_ids == (10, 11, 12)
    assert g.continuations[row.branch or 0].rollout.prefix == shortest
    # One success of 4: mean .25, std .5. Only the 4 x 3 branch tokens count.
    assert [r.advantage for r in planned.rows] == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-5)
    assert row_scales(planned.rows, Aggregation.TOKEN_MEAN, 8)[0] == 1 / 12


def test_bread_leaves_other_groups_alone() -> None:
    groups = [group([1.0, 0.0], "a"), group([0.0, 0.0], "b", trace=0), group([None, None], "c")]
    method = BREAD(gate(), PAPER, 0)
    assert method.wants(groups, 2, 0) == []
    assert [p.decision for p in method.plan(groups, 0)] == [
        Decision.CLOSED,
        Decision.NO_TRACE,
        Decision.UNKNOWN,
    ]


def test_head_starts_are_no_evidence_for_the_gate() -> None:
    """S and the posterior see the rollouts only: 0 of 4, whatever the continuations did."""
    g = continued(group([0.0] * 4), 5, [1.0] * 4)
    held = gate()
    (planned,) = BREAD(held, PAPER, 0).plan([g], 0)
    assert planned.reading is not None and planned.reading.confidence == 1 / 6


# --- REAL ---


@pytest.mark.parametrize(("right", "wrong"), [(1, 7), (3, 5), (0, 8), (8, 0)])
def test_real_at_score_zero(right: int, wrong: int) -> None:
    """METHOD 7: log(1 + M) + log(1 + P); weights 2 / (1 + P) if right, -2 / (1 + M) if wrong."""
    labels = [1.0] * right + [-1.0] * wrong
    loss, weights = group_loss(labels, [0.0] * 8, 0.5)
    assert loss == pytest.approx(math.log(1 + wrong) + math.log(1 + right))
    assert weights == pytest.approx([2 / (1 + right)] * right + [-2 / (1 + wrong)] * wrong)


def test_real_equals_the_gradient_of_its_formula() -> None:
    """Loss and gradient against the formula itself, after the policy has moved; two groups, one
    unknown reward, which takes no part."""
    groups = [group([1.0, 0.0, 0.0], "a"), group([1.0, None, 0.0], "b", tokens=3)]
    objective = real_objective(PAPER)
    rows = [r for p in REAL(gate(), PAPER, 0).plan(groups, 0) for r in p.rows]
    lengths = [len(r.response_ids) for r in rows]
    random = torch.Generator().manual_seed(0)
    old = torch.randn(sum(lengths), generator=random)
    now = (old + 0.5 * torch.randn(sum(lengths), generator=random)).requires_grad_()
    s = torch.stack([part.mean() for part in (now - old).split(lengths)])
    tau = 0.5
    by_hand = (
        torch.log(1 + (s[1] / tau).exp() + (s[2] / tau).exp())
        + torch.log(1 + (-s[0] / tau).exp())
        + torch.log(1 + (s[5] / tau).exp())
        + torch.log(1 + (-s[3] / tau).exp())
    ) / 2
    by_hand.backward()
    weighed = RealWeights(tau)(rows, s.detach().tolist())
    loss, found = gradient(weighed, now.detach().tolist(), objective, old=old.tolist())
    assert loss == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert now.grad is not None
    assert found == pytest.approx(now.grad.tolist(), rel=1e-4, abs=1e-7)
    assert not weighed[4].trains(objective)


def test_real_drops_groups_without_both_labels() -> None:
    """As its release: of (1, 0), (1, 1), (0, 0) and (1, ?) the first is all there is, and the mean
    is over it alone: log 2 + log 2 at s = 0, and a weight of 1 / tau / 2 = 1 on each row, spread
    over its 2 tokens. With `all` four groups count, and 1/4 of log 2 is added for each label
    that a further group has: (1, 1) and (0, 0) have one sum of two, log 3."""
    rewards: list[list[float | None]] = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, None]]
    groups = [group(r, f"p{i}") for i, r in enumerate(rewards)]
    objective = real_objective(PAPER)
    planned = REAL(gate(), PAPER, 0).plan(groups, 0)
    dropped = [p.decision is Decision.DISCARDED for p in planned]
    assert dropped == [False, True, True, True] == [p.dead(objective) for p in planned]
    for options, loss, slopes in (
        (REALOptions(), 2 * math.log(2), [-0.5, -0.5, 0.5, 0.5]),
        (
            REALOptions(groups="all"),
            (3 * math.log(2) + 2 * math.log(3)) / 4,
            [x / 4 for x in (-0.5, -0.5, 0.5, 0.5)]
            + [-1 / 12] * 4  # 1 / tau / 3 / 2 tokens / 4 groups
            + [1 / 12] * 4
            + [-1 / 8, -1 / 8, 0, 0],
        ),
    ):
        rows = [r for p in REAL(gate(), PAPER, 0, options).plan(groups, 0) for r in p.rows]
        weighed = RealWeights(0.5)(rows, [0.0] * len(rows))
        tokens = [-1.0] * sum(len(r.response_ids) for r in rows)
        found, slope = gradient(weighed, tokens, objective)
        assert found == pytest.approx(loss)
        assert slope == pytest.approx(slopes, abs=1e-7)


def test_real_does_not_overflow() -> None:
    loss, weights = group_loss([1.0, -1.0], [-1e4, 1e4], 0.5)
    assert loss == pytest.approx(4e4) and weights == pytest.approx([2.0, -2.0])


# --- a method of one's own ---


def test_the_example_of_the_guide_is_a_method() -> None:
    """docs/methods.md shows a whole method: with 1 of 4 right it is LUFFY, else GRPO."""
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    room: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + found.group(1), room)  # our own page
    entry = room["ENTRY"]
    groups = [group([1.0, 0.0, 0.0, 0.0], "a"), group([1.0, 1.0, 0.0, 0.0], "b")]
    half = entry.make(Parts(gate(), PAPER, 0, 2, 4), entry.options).plan(groups, 0)
    assert half[0] == LUFFY(gate(), PAPER, 0).plan(groups, 0)[0]
    assert half[1] == GRPO(gate(), PAPER, 0).plan(groups, 0)[1]
