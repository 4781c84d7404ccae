"""A small untrained policy and hand-made groups for tests of rollout, loss and update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.groups import Continuation, Extras, Group, PlannedGroup, Trace
from hapo_core.loss import DAPO, DR_GRPO, GSPO, PAPER, Objective
from hapo_core.methods import (
    BREAD,
    CHORD,
    GRPO,
    HAPO,
    HPT,
    LUFFY,
    REAL,
    SRFT,
    Method,
    PrefixRFT,
    ReLIFT,
)
from hapo_core.methods.chord import CHORD_MU, CHORD_PHI, CHORDOptions
from hapo_core.methods.prefix_rft import PrefixRFTOptions, prefix_rft_objective
from hapo_core.methods.real import real_objective
from hapo_core.methods.relift import ReLIFTOptions
from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
from hapo_core.methods.srft import srft_objective
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


NAMES = (
    "hapo",
    "luffy",
    "srft",
    "hpt",
    "relift",
    "chord-mu",
    "chord-phi",
    "prefix_rft",
    "prefix_rft-teacher",
    "bread",
    "real",
    "dapo",
    "dr_grpo",
    "gspo",
)
"""All methods and variants, for tests that must hold for each."""


def made_method(name: str, groups: list[Group]) -> tuple[Method, Objective]:
    """The method with its own defaults where there are some, and the objective that it trains."""
    gate, ids = Gate(GateSpec(ConstantThreshold(0.5)), 0), [g.prompt.prompt_id for g in groups]
    known = {i: (g.prompt, g.trace) for i, g in zip(ids, groups, strict=True) if g.trace}
    prefix = PrefixRFTOptions(teacher_shaping=name.endswith("teacher"))
    match name.split("-")[0]:
        case "hapo":
            return HAPO(gate, PAPER, 0), PAPER
        case "luffy":
            return LUFFY(gate, PAPER, 0), PAPER
        case "srft":
            return SRFT(gate, PAPER, 0), srft_objective(PAPER)
        case "hpt":
            return HPT(gate, PAPER, 0), PAPER
        case "relift":
            return ReLIFT(gate, PAPER, 0, known, ReLIFTOptions(2)), PAPER
        case "chord":
            phi = name == "chord-phi"
            options = CHORDOptions(CHORD_PHI if phi else CHORD_MU, phi, 3)
            return CHORD(gate, PAPER, 0, known, options), PAPER
        case "prefix_rft":
            return PrefixRFT(gate, PAPER, 0, prefix), prefix_rft_objective(PAPER, prefix)
        case "bread":
            return BREAD(gate, PAPER, 0), PAPER
        case "real":
            return REAL(gate, PAPER, 0), real_objective(PAPER)
        case "dapo":
            dynamic = DynamicSampling(tuple(ids), len(ids), 1, 0)
            return GRPO(gate, DAPO, 0, dynamic, SoftOverlong(40, 20)), DAPO
        case "dr_grpo":
            return GRPO(gate, DR_GRPO, 0), DR_GRPO
        case "gspo":
            return GRPO(gate, GSPO, 0), GSPO
    raise ValueError(name)


def planned_round(name: str, groups: list[Group]) -> tuple[list[PlannedGroup], Extras, Objective]:
    """One planned round of a method; its requests for continuations are answered with random
    tokens, one of them right."""
    method, objective = made_method(name, groups)
    size = len(groups[0].rollouts)
    found = {g.prompt.prompt_id: g for g in groups}
    if name.startswith("prefix_rft"):
        empty = [replace(g, rollouts=(), rewards=()) for g in groups]
        for g, request in zip(empty, method.wants(empty, size, 9)[::2], strict=True):
            full = found[request.prompt_id]
            own = replace(g, rollouts=full.rollouts[1:], rewards=full.rewards[1:])
            found[request.prompt_id] = _continued(own, request.prefix, 1)
    while wanted := method.wants(list(found.values()), size, 9):
        for request in wanted:
            group = found[request.prompt_id]
            found[request.prompt_id] = _continued(group, request.prefix, request.n)
    planned = method.plan(list(found.values()), 9)
    return planned, method.extras(9), objective


def _continued(group: Group, prefix: int, n: int) -> Group:
    rng = np.random.default_rng(prefix)
    more = []
    for j in range(n):
        tokens = tuple(int(t) for t in rng.integers(4, 20, int(rng.integers(2, 9))))
        logprobs = tuple(float(x) for x in -rng.random(len(tokens)))
        rollout = Rollout(group.prompt.prompt_id, j, tokens, logprobs, Finish.STOP, "")
        more.append(Continuation(prefix, rollout, 1.0 if j == 0 else 0.0))
    return replace(group, continuations=(*group.continuations, *more))


def chain_prompts(tokenizer, count: int = 5, seed: int = 3) -> list[Prompt]:
    """Prompts of different chains, as the chat template writes them."""
    chains = distinct_chains(count, seed, "engine", 1, 6)
    return [
        Prompt(
            c.problem,
            tuple(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": c.problem}],
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                )
            ),
        )
        for c in chains
    ]
