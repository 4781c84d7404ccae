"""Nothing is left behind on the CPU when the policy is elsewhere: update, engine, probe, audit and
resume points of every method on a pretended device (`tests/support/pretended.py`). Its attention is
another one than the CPU's, so that values agree to rounding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from pretended import Pretended, pretended_device, send
from tiny import NAMES, chain_prompts, made_groups, made_method, planned_round, tiny_policy

from hapo_core import policy as policy_module
from hapo_core.policy import response_logprobs
from hapo_core.rollout import Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.rollout.vllm.weights import export_weights
from hapo_core.theory.gradient_gap import gradient_gap, without_teacher
from hapo_core.update import Updater, UpdateSpec, supervised
from hapo_core.verify import VerifierPool, VerifierSettings
from pipeline.artifacts.optimizer import load_optimizer, moments, save_optimizer
from pipeline.train.probe import Probe

pytestmark = pytest.mark.usefixtures("one_thread")
SUCCESSES = [0, 1, 3, 0, 7, 8, 0]
SAMPLING = Sampling(4, 0.6, 0.9, 24)


def _policy(elsewhere: bool):
    model, tokenizer = tiny_policy()
    return (send(model) if elsewhere else model), tokenizer


def _weights(model):
    return {
        name: p.held if isinstance(p, Pretended) else p.detach()
        for name, p in ((n, p.data) for n, p in model.named_parameters())
    }


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _close(there, here):
    if there is None or here is None:
        assert there is here
    else:
        torch.testing.assert_close(there, here, rtol=0, atol=1e-5 * float(here.abs().max()))


def test_the_pretended_device_finds_what_a_card_would_refuse():
    with pretended_device() as values:
        there = torch.ones(3, device="meta")
        assert isinstance(there, Pretended)
        for spoil in (
            lambda: there + torch.ones(3),
            lambda: torch.ones(3)[there.long()],
            lambda: torch.cat([there, torch.ones(1)]),
            lambda: there.numpy(),
            lambda: torch.ones(3).masked_fill_(there > 0, 0.0),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                spoil()
        assert float(there.sum() + torch.tensor(1.0)) == 4.0
        assert there[torch.tensor([0, 1])].cpu().tolist() == [1.0, 1.0]
        assert values["item"] == 1


def _updated(name, elsewhere, monkeypatch):
    model, tokenizer = _policy(elsewhere)
    groups, extras, objective = planned_round(name, made_groups(tokenizer, SUCCESSES))
    monkeypatch.setattr(policy_module, "HEAD_CHUNK_ELEMENTS", 40 * len(tokenizer))
    updater = Updater(model, UpdateSpec(1e-3, minibatches=2, micro_batch_tokens=512))
    gradient = updater.gradient(groups, objective, 64, extras.beside)
    metrics = updater.update(groups, objective, 64, 1e-3, extras.beside)
    for rows in extras.after:
        metrics = metrics.with_step(updater.supervise(rows, supervised(objective), 64, 1e-3))
    held = gradient.held if isinstance(gradient, Pretended) else gradient
    return model, updater, held, metrics


@pytest.mark.parametrize("name", NAMES)
def test_update_and_resume_point_of_every_method(name, monkeypatch, tmp_path):
    """Also the chunked head, old log-probs of a second minibatch, and steps on traces alone.
    What a resume point holds are the moments of the device, and a policy on the CPU goes on from
    them. (Not read onto the pretended device: torch's reader has a way of its own with `meta`.)"""
    state = tmp_path / "state"
    state.mkdir()
    with pretended_device():
        there, updater, gradient, metrics = _updated(name, True, monkeypatch)
        save_optimizer(there, updater.optimizer, state / "optimizer.safetensors")
        held = {k: v.cpu() for k, v in moments(there, updater.optimizer).items()}
    here, _, own, its = _updated(name, False, monkeypatch)
    _close(gradient, own)
    assert metrics["loss"] == pytest.approx(its["loss"], abs=1e-5)
    assert _weights(there).keys() == _weights(here).keys()
    again, _ = _policy(False)
    new = Updater(again, updater.spec)
    load_optimizer(again, new.optimizer, state)
    assert held
    assert _same(moments(again, new.optimizer), held)


@pytest.mark.parametrize("name", NAMES)
def test_the_audits_gradients_of_every_method(name):
    def gap(elsewhere):
        model, tokenizer = _policy(elsewhere)
        groups = made_groups(tokenizer, SUCCESSES)
        planned, extras, objective = planned_round(name, groups)
        method, _ = made_method(name, groups)
        alone = method.plan([without_teacher(g) for g in groups], 9)
        return gradient_gap(
            Updater(model, UpdateSpec(1e-3)), planned, alone, objective, 64, extras.beside
        )

    with pretended_device():
        there = gap(True)
    here = gap(False)
    assert (there.with_norm, there.without_norm) == pytest.approx(
        (here.with_norm, here.without_norm), rel=1e-4
    )
    assert there.cosine == pytest.approx(here.cosine, abs=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_engine_and_the_log_probs_of_what_it_drew(dtype, top_p):
    def drawn(elsewhere):
        model, tokenizer = _policy(elsewhere)
        prompts = chain_prompts(tokenizer, 3)
        engine = HFEngine(model, tokenizer, max_rows=8, dtype=dtype)
        found = list(engine.generate(prompts, Sampling(4, 0.6, top_p, 24), 7, 3))
        engine.policy_changed()
        found += engine.generate(prompts, Sampling(1, 0.0, 1.0, 8), 7, 4)
        ids = {p.prompt_id: p.token_ids for p in prompts}
        with torch.no_grad():
            logp, _ = response_logprobs(model, [(ids[r.prompt_id], r.token_ids) for r in found])
        return sorted(found, key=lambda r: (r.prompt_id, r.sample, r.token_ids)), logp.cpu()

    with pretended_device() as values:
        there, logp = drawn(True)
    here, own = drawn(False)
    low = dtype is not None
    if not low:  # in bfloat16 another attention may draw another token
        assert [r.token_ids for r in there] == [r.token_ids for r in here]
        torch.testing.assert_close(logp, own, rtol=0, atol=1e-4)
        for a, b in zip(there, here, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)
    assert all(x <= 0 for r in there for x in r.logprobs)
    # A card waits for every value: tokens and log-probs of a step, one look for NaN, and what the
    # top-p cut asks; not one a row.
    steps = 2 * 24 + 8
    assert values["tolist"] + values["item"] <= 8 * steps + 100


def test_the_probe():
    def measured(elsewhere, pool):
        model, tokenizer = _policy(elsewhere)
        prompts = chain_prompts(tokenizer, 3)
        ids = [p.prompt_id for p in prompts]
        benchmark = SimpleNamespace(
            prompts=prompts,
            ids=ids,
            answers=dict.fromkeys(ids, "7"),
            rewards=dict.fromkeys(ids, "exact"),
        )
        probe = Probe(benchmark, SAMPLING, SimpleNamespace(seed=0))
        return probe.measure(HFEngine(model, tokenizer), pool, "")

    with VerifierPool(VerifierSettings(kind="exact", workers=1)) as pool:
        with pretended_device():
            there = measured(True, pool)
        assert there == measured(False, pool)


def test_weights_for_an_engine(tmp_path):
    for elsewhere in (True, False):
        with pretended_device():
            model, tokenizer = _policy(elsewhere)
            export_weights(model, tokenizer, tmp_path / str(elsewhere))
    written = [(tmp_path / str(e) / "model.safetensors").read_bytes() for e in (True, False)]
    assert written[0] == written[1]
