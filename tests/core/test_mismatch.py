"""The guard of every round: a trainer that computes another function than the sampler stops."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tiny_families import Words, tiny_family

import hapo_core.policy
import hapo_core.update
from hapo_core.errors import HapoError
from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.groups import Group
from hapo_core.logits import HeadPath
from hapo_core.lora import LoraSpec, add_adapters
from hapo_core.methods import GRPO
from hapo_core.mismatch import LIMITS, Apart, limit_of, refuse_apart
from hapo_core.objective import PAPER
from hapo_core.rollout import Prompt, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.update import Updater, UpdateSpec
from pipeline.build.optimizer import update_spec
from pipeline.config.engine import VllmServers

PROMPTS = [Prompt(str(i), tuple((7 * j + i) % 90 + 3 for j in range(4 + 2 * i))) for i in range(3)]
SPEC = UpdateSpec(1e-3, mismatch_limit=LIMITS["float32"])


def sampled(model, temperature=1.0):
    """Planned groups of four rollouts each, one of them right."""
    found = {p.prompt_id: [] for p in PROMPTS}
    sampling = Sampling(4, temperature, 1.0, 16)
    for rollout in HFEngine(model, Words()).generate(PROMPTS, sampling, 0, 0):
        found[rollout.prompt_id].append(rollout)
    groups = [Group(p, graded(found[p.prompt_id], (1.0, 0, 0, 0)), None) for p in PROMPTS]
    return GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(groups, 0)


def update(model, planned, objective=PAPER, **spec):
    updater = Updater(model, dataclasses.replace(SPEC, **spec))
    return updater.update(planned, objective, 16, 1e-3)


def stops(model, planned, objective=PAPER, **spec):
    """The error of the guard; the weights have not moved."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(HapoError, match="sampler and trainer disagree") as found:
        update(model, planned, objective, **spec)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    return found.value


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "granite", "falcon_h1", "mamba"])
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_no_alarm_where_nothing_is_wrong(family, temperature):
    model = tiny_family(family)
    objective = dataclasses.replace(PAPER, temperature=temperature)
    found = update(model, sampled(model, temperature), objective, minibatches=2, epochs=2)
    assert found["mismatch_mean"] < LIMITS["float32"] / 20


def test_no_alarm_with_adapters_and_in_bfloat16():
    model = tiny_family("llama")
    add_adapters(model, LoraSpec(4, 8.0, None), 0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3)
    assert update(model, sampled(model))["mismatch_mean"] < LIMITS["float32"] / 20
    model = tiny_family("qwen2")
    planned = sampled(model)
    low = update(model, planned, mixed_precision=True, mismatch_limit=LIMITS["bfloat16"])
    assert LIMITS["float32"] < low["mismatch_mean"] < LIMITS["bfloat16"]


@pytest.mark.parametrize("steps", [{}, {"minibatches": 2, "epochs": 2}], ids=["one", "four"])
def test_a_wrong_temperature_stops_before_the_first_step(steps):
    model = tiny_family("llama")
    planned = sampled(model, 1.0)
    error = stops(model, planned, dataclasses.replace(PAPER, temperature=0.95), **steps)
    assert "temperature" in str(error.remedy)
    stops(model, planned, dataclasses.replace(PAPER, temperature=0.6), mismatch_limit=0.1)


def test_logits_that_lose_their_scale_stop(monkeypatch):
    model = tiny_family("granite")
    planned = sampled(model)
    monkeypatch.setattr(hapo_core.policy, "head_path", lambda _: HeadPath.LINEAR)
    assert "scale" in str(stops(model, planned).remedy)


def test_shifted_labels_stop(monkeypatch):
    model = tiny_family("llama")
    planned = sampled(model)
    true = hapo_core.update.response_logprobs

    def shifted(model, sequences, temperature, with_entropy):
        moved = [(p, (*r[1:], r[0])) for p, r in sequences]
        return true(model, moved, temperature, with_entropy)

    monkeypatch.setattr(hapo_core.update, "response_logprobs", shifted)
    error = stops(model, planned)
    assert "(1) the text" in str(error.remedy)  # far off: not another temperature


def test_another_template_in_the_trainer_stops():
    model = tiny_family("llama")
    planned = [
        dataclasses.replace(
            p, rows=tuple(dataclasses.replace(r, prompt_ids=(5, *r.prompt_ids)) for r in p.rows)
        )
        for p in sampled(model)
    ]
    assert "template" in str(stops(model, planned).remedy)


def test_an_engine_with_old_weights_stops():
    model = tiny_family("llama")
    old = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.01)
    assert "old ones" in str(stops(model, sampled(old)).remedy)


def test_noise_in_the_trainer_stops(monkeypatch):
    model = tiny_family("gpt2")
    planned = sampled(model)
    monkeypatch.setattr(hapo_core.update, "ready_to_train", lambda m: m.train())
    stops(model, planned)


def test_no_number_is_no_agreement():
    with pytest.raises(HapoError):
        refuse_apart([Apart(100, float("nan"), -100.0, float("nan"))], 0.1)
    refuse_apart([], 0.1)
    refuse_apart([Apart(), Apart()], 1e-9)


def test_few_tokens_have_more_slack_and_all_ranks_count():
    refuse_apart([Apart(4, 4 * 0.25, -4.0, -4.0)], 0.1)
    with pytest.raises(HapoError):
        refuse_apart([Apart(10_000, 2500.0, -1e4, -1e4)], 0.1)
    with pytest.raises(HapoError, match="over 20000 tokens"):
        refuse_apart([Apart(10_000, 0.0, -1e4, -1e4), Apart(10_000, 1e4, -1e4, -2e4)], 0.1)


def test_off_measures_only():
    model = tiny_family("llama")
    planned = sampled(model)
    wrong = dataclasses.replace(PAPER, temperature=0.5)
    assert update(model, planned, wrong, mismatch_limit=None)["mismatch_mean"] > 0.1


@pytest.mark.parametrize(
    ("mixed", "server", "temperature", "chosen", "limit"),
    [
        (False, None, 1.0, None, 1e-3),
        (False, None, 1.5, None, 1e-3),
        (False, None, 0.5, None, 2e-3),
        (True, None, 1.0, None, 0.1),
        (False, VllmServers(), 1.0, None, 1e-3),
        (False, VllmServers(dtype="bfloat16"), 1.0, None, 0.1),
        (False, VllmServers(guard_tolerance=0.4), 1.0, None, 0.4),
        (False, None, 1.0, 0.02, 0.02),
        (False, None, 1.0, "off", None),
    ],
)
def test_the_limit_follows_dtypes_engine_and_temperature(mixed, server, temperature, chosen, limit):
    fields = dict.fromkeys(
        ("learning_rate", "warmup_rounds", "weight_decay", "betas", "max_grad_norm",
         "minibatches", "epochs", "micro_batch_tokens"), 1,
    )  # fmt: skip
    params = SimpleNamespace(
        update=SimpleNamespace(**fields, mixed_precision=mixed, mismatch_limit=chosen),
        rollout=SimpleNamespace(
            engine="vllm" if server else "hf", vllm=server, temperature=temperature, dtype=None
        ),
        compute=SimpleNamespace(dtype="float32", shard=False),
    )
    assert update_spec(params).mismatch_limit == limit  # type: ignore[arg-type]
    assert limit_of(["float32", "bfloat16"], 2.0) == 0.1
