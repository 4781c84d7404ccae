"""Numbers that were once silently wrong: dropout, entropy, teacher balance."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from hapo_core.errors import ConfigError, HapoError
from hapo_core.loss import batch_loss
from hapo_core.modes import ready_to_train
from hapo_core.objective import (
    Mismatch,
    Objective,
    RatioLevel,
    RowKind,
    Surrogate,
    TeacherShape,
    TeacherWeight,
    TrainRow,
)
from hapo_core.policy import response_logprobs
from hapo_core.rollout.transformers_engine import sample_tokens
from hapo_core.update import Updater, UpdateSpec


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    )


def opt():
    sizes = {"vocab_size": 64, "hidden_size": 16, "ffn_dim": 32, "word_embed_proj_dim": 16}
    more = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    return OPTForCausalLM(OPTConfig(**sizes, **more, layerdrop=0.5))


def falcon():
    """Its layers take the rates from the configuration."""
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return FalconForCausalLM(FalconConfig(**sizes, hidden_dropout=0.5, attention_dropout=0.5))


def falcon_sequential():
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    rates = {"hidden_dropout": 0.5, "attention_dropout": 0.5}
    return FalconForCausalLM(FalconConfig(**sizes, **rates, parallel_attn=False, alibi=True))


def bloom():
    sizes = {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 2}
    return BloomForCausalLM(BloomConfig(**sizes, hidden_dropout=0.5, attention_dropout=0.5))


def mixtral():
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 4}
    noise = {"router_jitter_noise": 0.5, "attention_dropout": 0.5}
    return MixtralForCausalLM(MixtralConfig(**sizes, **heads, **noise))


MAKERS = [gpt2, opt, falcon, falcon_sequential, bloom, mixtral]


@pytest.mark.parametrize("make", MAKERS)
def test_the_very_first_pass_computes_activations_again(make):
    """Nobody has looked at the model's head before: the look leaves every module's mode alone."""
    model = make()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    ready_to_train(model)
    logp, _ = response_logprobs(model, [((3, 4, 5), (6, 7, 8, 9))])
    passes = []
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.register_forward_pre_hook(lambda *_: passes.append(1))
    logp.sum().backward()
    assert passes


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_has_no_dropout(make, recompute):
    torch.manual_seed(0)
    model = make()
    given = [((3, 4, 5), (6, 7, 8, 9))]
    still, _ = response_logprobs(model.eval(), given)
    if recompute:
        model.gradient_checkpointing_enable()
    ready_to_train(model)
    moving, _ = response_logprobs(model, given)
    torch.testing.assert_close(moving, still, atol=1e-6, rtol=0)
    trained = list(model.parameters())
    first = torch.autograd.grad(moving.sum(), trained, allow_unused=True)  # None: unused experts
    again, _ = response_logprobs(model, given)
    second = torch.autograd.grad(again.sum(), trained, allow_unused=True)
    moved = [(a, b) for a, b in zip(first, second, strict=True) if a is not None]
    assert len(moved) > len(trained) / 2
    assert all(torch.equal(a, b) for a, b in moved)
    assert any(m.training for m in model.modules()) is recompute


def test_a_failed_pass_leaves_the_mode_as_it_was():
    model = gpt2()
    model.gradient_checkpointing_enable()
    ready_to_train(model)
    before = [m.training for m in model.modules()]
    layer = model.transformer.h[1]
    with pytest.raises(TypeError):
        layer(None)
    assert [m.training for m in model.modules()] == before and any(before)
    for _ in range(2):  # once only
        ready_to_train(model)
    assert len(layer._forward_pre_hooks) == 1


def test_an_update_of_gpt2_draws_nothing():
    """GPT-2 has dropout .1: the weights after an update may not depend on torch's seed."""
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = gpt2()
        assert model.config.resid_pdrop > 0
        torch.manual_seed(seed)
        rows = (TrainRow((3, 4), (5, 6, 7), RowKind.SFT), TrainRow((3,), (8, 9), RowKind.SFT))
        updater = Updater(model, UpdateSpec(1e-2))
        for _ in range(2):
            updater.supervise(rows, Objective(), 8, 1e-2)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])


# --- metrics ---


def hybrid(advantage: float = 1.0, **choices: object) -> TrainRow:
    """Three tokens of the teacher's, two of the policy's own."""
    return TrainRow((1,), (2, 3, 4, 5, 6), RowKind.ON_POLICY, advantage, prefix=3, **choices)


def test_entropy_is_the_mean_over_the_policys_own_tokens():
    entropies = torch.tensor([1.0, 2.0, 3.0, 3.5, 4.0, 2.5])
    rows = [hybrid(), TrainRow((1,), (2,), RowKind.ON_POLICY)]
    logp = torch.full((6,), -1.0, requires_grad=True)
    parts = batch_loss(rows, [0.1, 0.1], logp, Objective(), None, entropies)
    assert parts.metrics.result()["entropy"] == pytest.approx((3.5 + 4.0 + 2.5) / 3)


def test_entropy_of_an_update_is_that_of_the_model():
    """Through the updater: of a uniform model every token has ln(vocabulary) nats."""
    model = gpt2()
    for p in model.parameters():
        torch.nn.init.zeros_(p)
    plan = [hybrid(), TrainRow((1,), (7, 8), RowKind.ON_POLICY, -1.0)]
    found = Updater(model, UpdateSpec(1e-3)).supervise(plan, Objective(), 8, 1e-3)
    assert found["entropy"] == pytest.approx(math.log(64), rel=1e-5)


CLIPPED = Objective(clip=(0.2, 0.2))
SEQUENCE = replace(CLIPPED, ratio_level=RatioLevel.SEQUENCE)
BALANCED = [
    CLIPPED,
    replace(CLIPPED, clip=None),
    replace(CLIPPED, prefix_share=0.4),
    SEQUENCE,
    replace(SEQUENCE, prefix_share=0.4),
    replace(CLIPPED, surrogate=Surrogate.LOG),
    replace(CLIPPED, mismatch=Mismatch.TOKEN_TRUNCATE),
    replace(CLIPPED, mismatch=Mismatch.SEQUENCE_MASK),
    replace(CLIPPED, teacher_weight=TeacherWeight.NONE, teacher_shape=TeacherShape.LOG),
]


@pytest.mark.parametrize("objective", BALANCED)
@pytest.mark.parametrize("prefix_kind", [RowKind.ON_POLICY, RowKind.TEACHER])
@pytest.mark.parametrize("seed", range(4))
def test_balance_is_that_of_the_gradient(objective, prefix_kind, seed):
    """Sum of |d loss / d log p| over the teacher's tokens, over that of the policy's: autograd's,
    with ratios on both sides of the clip."""
    if prefix_kind is RowKind.TEACHER and objective.ratio_level is RatioLevel.SEQUENCE:
        return  # Prefix-RFT has no ratio of whole sequences: the configuration refuses it
    draw = torch.Generator().manual_seed(seed)
    sampled = tuple((-torch.rand(4, generator=draw) - 0.2).tolist())
    rows = [
        hybrid(1.3, prefix_kind=prefix_kind, confidence=0.25, sampler_logprobs=sampled[:2]),
        TrainRow((1,), (2, 3, 4, 5), RowKind.ON_POLICY, -0.7, sampler_logprobs=sampled),
        TrainRow((1,), (2, 3), RowKind.TEACHER, 0.9, confidence=0.25),
        TrainRow((1,), (2, 3, 4), RowKind.SFT, phi=True),
        TrainRow((1,), (6, 7, 8), RowKind.ON_POLICY, 0.4),
    ]
    lengths = [len(r.response_ids) for r in rows]
    logp = (-2 * torch.rand(sum(lengths), generator=draw)).requires_grad_()
    old = logp.detach() + 0.4 * torch.randn(sum(lengths), generator=draw)
    entropies = 1 + torch.rand(sum(lengths), generator=draw)
    parts = batch_loss(rows, [0.05, 0.1, 0.15, 0.2, 0.25], logp, objective, old, entropies)
    parts.loss.backward()
    size = logp.grad.abs()
    first, second, third, fourth, last = size.split(lengths)
    taught, own = parts.metrics.total("teacher_balance")
    assert taught == pytest.approx(float(first[:3].sum() + third.sum() + fourth.sum()), rel=1e-5)
    assert own == pytest.approx(float(first[3:].sum() + second.sum() + last.sum()), rel=1e-5)


def test_clipped_tokens_pull_nothing():
    """r = 1.5 with A > 0 has no slope, and did count as 1; r = .5 has the slope .5."""
    rows = [TrainRow((1,), (2, 3), RowKind.ON_POLICY), TrainRow((1,), (4,), RowKind.SFT)]
    logp = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    old = logp.detach() - torch.tensor([1.5, 0.5, 1.0]).log()
    parts = batch_loss(rows, [1.0, 1.0], logp, CLIPPED, old)
    assert parts.metrics.total("teacher_balance") == pytest.approx((1.0, 0.5))


# --- a prefix with the teacher's objective ---


@pytest.mark.parametrize(
    ("weight", "factor"),
    [(TeacherWeight.ADVANTAGE, -2.0), (TeacherWeight.NONE, 1.0), (TeacherWeight.CONFIDENCE, 0.75)],
)
def test_prefixes_have_the_teachers_weight(weight, factor):
    row = hybrid(-2.0, prefix_kind=RowKind.TEACHER, confidence=0.25)
    objective = Objective(teacher_weight=weight, teacher_shape=TeacherShape.LOG)
    logp = torch.full((5,), -1.0, requires_grad=True)
    batch_loss([row], [1.0], logp, objective, None, torch.ones(5)).loss.backward()
    assert (-logp.grad).tolist() == pytest.approx([factor] * 3 + [-2.0] * 2)


def test_a_prefix_trains_where_the_row_has_no_advantage():
    row = hybrid(0.0, prefix_kind=RowKind.TEACHER, confidence=0.25)
    for weight, trains in [
        (TeacherWeight.ADVANTAGE, False),
        (TeacherWeight.NONE, True),
        (TeacherWeight.CONFIDENCE, True),
    ]:
        objective = Objective(teacher_weight=weight)
        assert row.trains(objective) is trains
        assert not hybrid(0.0).trains(objective)
        assert not TrainRow((1,), (2,), RowKind.ON_POLICY, 0.0).trains(objective)
    sure = replace(row, confidence=1.0)
    assert not sure.trains(Objective(teacher_weight=TeacherWeight.CONFIDENCE))
    assert hybrid(0.0).trains(Objective(entropy_coefficient=0.1))


# --- refused ---


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9), (0.0, 1.0)])
def test_nothing_is_sampled_from_logits_that_are_no_numbers(bad, temperature, top_p):
    u = torch.tensor([0.3, 0.6], dtype=torch.float64)
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]] * 2)
    logits[1, 0] = bad
    with pytest.raises(HapoError, match="not finite"):
        sample_tokens(logits, u, temperature, top_p)
    logits[1] = -math.inf
    with pytest.raises(HapoError, match="not finite"):
        sample_tokens(logits, u, temperature, top_p)


def test_tokens_that_are_ruled_out_are_no_fault():
    logits = torch.tensor([[-math.inf, 1.0, -math.inf, -math.inf]])
    tokens, logprobs = sample_tokens(logits, torch.tensor([0.9], dtype=torch.float64), 1.0, 1.0)
    assert (int(tokens), float(logprobs)) == (1, 0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_steps_do_not_move_are_refused(dtype):
    with pytest.raises(ConfigError, match="round to nothing"):
        Updater(gpt2().to(dtype), UpdateSpec(1e-6))
    Updater(gpt2().double(), UpdateSpec(1e-6))
    frozen = gpt2().to(dtype)
    for p in frozen.parameters():
        p.requires_grad_(False)
    frozen.lm_head.weight.requires_grad_().data = frozen.lm_head.weight.data.float()
    Updater(frozen, UpdateSpec(1e-6))  # as adapters on weights that stay
