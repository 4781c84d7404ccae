"""A small untrained policy and hand-made groups for tests of rollout, loss and update."""

from __future__ import annotations

import numpy as np
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from hapo_core.groups import Group, Trace
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.tasks.careless import encode
from hapo_core.tasks.chains import distinct_chains
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer


def tiny_policy(seed: int = 0) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    """An untrained two-layer policy; same seed, same weights."""
    tokenizer = tiny_tokenizer()
    return tiny_model(tokenizer, 32, 2, 2, seed).eval(), tokenizer


def made_groups(
    tokenizer: Qwen2Tokenizer, successes: list[int], size: int = 8, seed: int = 0
) -> list[Group]:
    """One group per entry: that many rewards of 1, rollouts of random tokens and lengths."""
    rng = np.random.default_rng(seed)
    chains = distinct_chains(len(successes), seed, "groups", 2, 4)
    groups = []
    for chain, count in zip(chains, successes, strict=True):
        prompt_ids, trace_ids = encode(tokenizer, chain.problem, chain.solution())
        rollouts = []
        for j in range(size):
            length = int(rng.integers(3, 30))
            tokens = tuple(int(t) for t in rng.integers(4, len(tokenizer), length))
            logprobs = tuple(float(x) for x in -rng.random(length) * 3)
            rollouts.append(
                Rollout(chain.problem, j, tokens, logprobs, Finish.STOP, tokenizer.decode(tokens))
            )
        rewards = [1.0] * count + [0.0] * (size - count)
        rng.shuffle(rewards)
        groups.append(
            Group(
                Prompt(chain.problem, tuple(prompt_ids)),
                tuple(rollouts),
                tuple(rewards),
                Trace(chain.problem, tuple(trace_ids), chain.solution()),
            )
        )
    return groups
