"""The log-prob head in chunks: the numbers of the whole matrix, and never the whole matrix."""

from __future__ import annotations

import pytest
import torch
from tiny import made_groups, tiny_policy

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.logprob_head import ChunkedLogProbs
from hapo_core.methods import GRPO
from hapo_core.objective import PAPER
from hapo_core.update import Updater, UpdateSpec


def _whole(hidden, weight, bias, target, temperature):
    logits = torch.nn.functional.linear(hidden, weight, bias).float() / temperature
    logp = torch.log_softmax(logits, -1)
    return logp.gather(-1, target[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


def _inputs(dtype, with_bias):
    torch.manual_seed(0)
    hidden = torch.randn(23, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(31, 8, dtype=dtype, requires_grad=True)
    bias = torch.randn(31, dtype=dtype, requires_grad=True) if with_bias else None
    return hidden, weight, bias, torch.randint(31, (23,))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_the_whole_matrix(temperature, with_entropy, with_bias):
    hidden, weight, bias, target = _inputs(torch.float32, with_bias)
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    g, e = torch.randn(23), torch.randn(23) * with_entropy
    logp, entropy = _whole(hidden, weight, bias, target, temperature)
    expected = torch.autograd.grad((g * logp + e * entropy).sum(), leaves)
    ours, extra = ChunkedLogProbs.apply(hidden, weight, bias, target, temperature, 5, with_entropy)
    torch.testing.assert_close(ours, logp, atol=2e-6, rtol=0)
    if with_entropy:
        torch.testing.assert_close(extra, entropy, atol=5e-6, rtol=0)
    loss = (g * ours).sum() + ((e * extra).sum() if with_entropy else 0)
    for a, b in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_gradients_in_bfloat16_are_as_good_as_autograds():
    hidden, weight, _, target = _inputs(torch.bfloat16, False)
    exact = _whole(hidden.double(), weight.double(), None, target, 1.0)[0].sum()
    truth = torch.autograd.grad(exact, [hidden, weight])
    logp, _ = ChunkedLogProbs.apply(hidden, weight, None, target, 1.0, 5, False)
    for a, b in zip(torch.autograd.grad(logp.sum(), [hidden, weight]), truth, strict=True):
        assert a.dtype is torch.bfloat16
        torch.testing.assert_close(a.float(), b.float(), atol=0.1, rtol=0.03)


def test_no_tensor_of_the_whole_matrix_exists():
    """Every tensor that an operation makes, forward and backward, stays below two chunks."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return out

    hidden = torch.randn(400, 4, requires_grad=True)
    weight = torch.randn(1000, 4, requires_grad=True)
    target = torch.randint(1000, (400,))
    with Watch():
        logp, entropy = ChunkedLogProbs.apply(hidden, weight, None, target, 1.0, 10, True)
        (logp.sum() + entropy.sum()).backward()
    assert largest == 10 * 1000


@pytest.mark.parametrize("chunk", [32 * 1024 * 1024, 200])
def test_mixed_precision_keeps_float32_weights_and_nearly_the_gradient(chunk, monkeypatch):
    monkeypatch.setattr("hapo_core.policy.HEAD_CHUNK_ELEMENTS", chunk)
    found = {}
    for mixed in (False, True):
        model, tokenizer = tiny_policy()
        planned = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(
            made_groups(tokenizer, [2, 5]), 0
        )
        updater = Updater(model, UpdateSpec(1e-3, mixed_precision=mixed))
        found[mixed] = updater.update(planned, PAPER, 40, 1e-3)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        moments = [s["exp_avg"] for s in updater.optimizer.state.values()]
        assert moments and {m.dtype for m in moments} == {torch.float32}
    assert found[True]["grad_norm"] == pytest.approx(found[False]["grad_norm"], rel=0.05)
    assert found[True]["grad_norm"] != found[False]["grad_norm"]
    assert found[True]["entropy"] == pytest.approx(found[False]["entropy"], rel=0.01)
