"""The in-process engine: draws that do not depend on the batch, log-probs that are true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import chain_prompts, tiny_policy
from transformers import AutoTokenizer

from hapo_core.errors import ConfigError
from hapo_core.policy import response_logprobs
from hapo_core.rollout import Finish, Sampling
from hapo_core.rollout.transformers_engine import HFEngine, copy_in, nucleus, sample_tokens
from hapo_core.tasks.chains import distinct_chains

SAMPLING = Sampling(n=4, temperature=1.0, top_p=1.0, max_tokens=24)


def _by_key(rollouts):
    return {(r.prompt_id, r.sample): r for r in rollouts}


def test_tokens_do_not_depend_on_batch_or_order():
    model, tokenizer = tiny_policy()
    prompts = chain_prompts(tokenizer)
    together = _by_key(HFEngine(model, tokenizer).generate(prompts, SAMPLING, 7, 3))
    alone = _by_key(
        r
        for p in reversed(prompts)
        for r in HFEngine(model, tokenizer, max_rows=1).generate([p], SAMPLING, 7, 3)
    )
    assert together.keys() == alone.keys()
    for key, rollout in together.items():
        assert rollout.token_ids == alone[key].token_ids
        assert rollout.finish is alone[key].finish
        np.testing.assert_allclose(rollout.logprobs, alone[key].logprobs, atol=2e-5)


def test_seed_and_round_change_the_draws():
    model, tokenizer = tiny_policy()
    prompts = chain_prompts(tokenizer, 2)
    engine = HFEngine(model, tokenizer)
    draws = [
        {k: r.token_ids for k, r in _by_key(engine.generate(prompts, SAMPLING, s, t)).items()}
        for s, t in [(0, 0), (0, 0), (1, 0), (0, 1)]
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2] != draws[3] != draws[0]


def test_sampler_logprobs_are_the_trainers():
    model, tokenizer = tiny_policy()
    prompts = {p.prompt_id: p for p in chain_prompts(tokenizer)}
    for temperature in (1.0, 0.6):
        sampling = Sampling(4, temperature, 1.0, 24)
        for r in HFEngine(model, tokenizer).generate(list(prompts.values()), sampling, 0, 0):
            pair = (prompts[r.prompt_id].token_ids, r.token_ids)
            with torch.no_grad():
                logp, _ = response_logprobs(model, [pair], temperature)
            np.testing.assert_allclose(r.logprobs, logp.numpy(), atol=3e-5)


def test_finish_reasons_and_token_counts():
    model, tokenizer = tiny_policy()
    rollouts = list(
        HFEngine(model, tokenizer).generate(chain_prompts(tokenizer, 20), SAMPLING, 0, 0)
    )
    assert len(rollouts) == 80
    for r in rollouts:
        ended = r.token_ids[-1] == tokenizer.eos_token_id
        assert (r.finish is Finish.STOP) == ended
        assert ended or len(r.token_ids) == SAMPLING.max_tokens
        assert tokenizer.eos_token_id not in r.token_ids[:-1]
    assert {r.finish for r in rollouts} == {Finish.STOP, Finish.LENGTH}


def test_greedy_agrees_with_transformers():
    model, tokenizer = tiny_policy()
    for prompt in chain_prompts(tokenizer, 3):
        engine = HFEngine(model, tokenizer)
        ours = next(engine.generate([prompt], Sampling(1, 0.0, 1.0, 20), 0, 0))
        theirs = model.generate(
            torch.tensor([prompt.token_ids]), do_sample=False, max_new_tokens=20
        )[0, len(prompt.token_ids) :]
        assert list(ours.token_ids) == theirs.tolist()


def test_sampling_follows_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    u = torch.tensor(np.random.default_rng(0).random(20000))
    tokens, logp = sample_tokens(logits.expand(20000, 4), u, 1.0, 1.0)
    shares = torch.bincount(tokens, minlength=4) / 20000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=0.015)
    np.testing.assert_allclose(logp.exp(), torch.tensor([0.5, 0.3, 0.15, 0.05])[tokens], rtol=1e-5)
    cut, _ = sample_tokens(logits.expand(20000, 4), u, 1.0, 0.7)
    assert set(cut.tolist()) == {0, 1}
    extreme, _ = sample_tokens(logits.expand(2, 4), torch.tensor([0.0, 1.0]), 1.0, 1.0)
    assert extreme.tolist() == [0, 3]


def test_bad_sampling_is_refused():
    with pytest.raises(ConfigError):
        Sampling(0, 1.0, 1.0, 8)
    with pytest.raises(ConfigError):
        Sampling(1, 1.0, 1.5, 8)


def test_tokenizer_survives_auto_tokenizer(tmp_path):
    """AutoTokenizer picks the class by model type; ours must come back with the same tokens."""
    model, tokenizer = tiny_policy()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for chain in distinct_chains(20, 0, "tokenizer", 1, 8):
        text = chain.problem + "\n" + chain.solution()
        ids = tokenizer(text).input_ids
        assert loaded(text).input_ids == ids
        assert loaded.decode(ids) == text
        assert len(ids) == len(text) - text.count("\\boxed{") * 6


def _by_sorting(probs, top_p):
    """The top-p cut by its definition: a stable sort of the whole vocabulary."""
    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(probs, dtype=torch.bool).scatter_(
        -1, index, ordered.cumsum(-1) - ordered < top_p
    )


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.5, 0.9, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 3.0, 20.0])
def test_top_p_keeps_what_a_whole_sort_keeps(top_p, sharpness):
    """Also with many equal probabilities (coarse logits), where their order decides."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(12, 3000, generator=generator) * sharpness
    for given in (logits, logits.bfloat16().float(), (logits * 2).round()):
        probs = given.softmax(-1).double()
        assert torch.equal(nucleus(probs, top_p), _by_sorting(probs, top_p))


def test_a_copy_in_bfloat16_generates_and_follows_the_policy():
    model, tokenizer = tiny_policy()
    prompts = chain_prompts(tokenizer, 3)
    engine = HFEngine(model, tokenizer, dtype=torch.bfloat16)

    def drawn(engine):
        return {
            k: (r.token_ids, r.logprobs)
            for k, r in _by_key(engine.generate(prompts, SAMPLING, 7, 3)).items()
        }

    before = drawn(engine)
    assert before == drawn(HFEngine(copy_in(model, torch.bfloat16), tokenizer))
    assert before != drawn(HFEngine(model, tokenizer))  # so it is the copy that generates
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    assert drawn(engine) == before, "the update is not announced yet"
    engine.policy_changed()
    assert drawn(engine) == drawn(HFEngine(copy_in(model, torch.bfloat16), tokenizer)) != before
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


def test_a_copy_keeps_ties_and_buffers():
    model, _ = tiny_policy()
    made = copy_in(model, torch.bfloat16)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied
    assert {p.dtype for p in made.parameters()} == {torch.bfloat16}
    for (name, mine), theirs in zip(model.named_buffers(), made.buffers(), strict=True):
        assert mine.dtype == theirs.dtype, name
        assert torch.equal(mine, theirs)
