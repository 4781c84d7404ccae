"""A small untrained policy and hand-made groups for tests of rollout, loss and update."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.graded import Graded, graded
from hapo_core.groups import Extras, Group, PlannedGroup, Trace
from hapo_core.methods import GRPO, Method
from hapo_core.methods.entry import Parts, Teaching
from hapo_core.methods.registry import methods
from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
from hapo_core.objective import DAPO, DR_GRPO, GSPO, PAPER, Objective, RowKind
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.rows import scored_rows
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
                graded(rollouts, rewards),
                Trace(chain.problem, tuple(trace_ids), chain.solution()),
            )
        )
    return groups


SMALLER = {"relift": {"buffer": 2}, "chord": {"expert_share": 3 / 43}}
"""Options that let few small groups show what a method does: CHORD gets 3 traces beside them."""


def _labels() -> dict[str, tuple[str, dict[str, object]]]:
    """Every method that plans groups, and the variants that comparisons or tests know:
    label -> (method, options)."""
    found: dict[str, tuple[str, dict[str, object]]] = {}
    for name, entry in methods().items():
        if entry.teaching not in (Teaching.ALONE, Teaching.FIRST):
            found[name] = (name, SMALLER.get(name, {}))
            for label, options in entry.variants.items():
                found[label] = (name, {**SMALLER.get(name, {}), **options})
    found["prefix_rft_teacher"] = ("prefix_rft", {"prefix_tokens": "teacher"})
    return found


PRESETS = {"dapo": DAPO, "dr_grpo": DR_GRPO, "gspo": GSPO}
NAMES = (*_labels(), *PRESETS)
"""All methods and variants, for tests that must hold for each. A new file of a method is here."""


def made_method(label: str, groups: list[Group]) -> tuple[Method, Objective]:
    """The method with its own defaults where there are some, and the objective that it trains."""
    gate, ids = Gate(GateSpec(ConstantThreshold(0.5)), 0), [g.prompt.prompt_id for g in groups]
    if label in PRESETS:
        objective, dynamic, overlong = PRESETS[label], None, None
        if label == "dapo":
            dynamic = DynamicSampling(tuple(ids), len(ids), 1, 0)
            overlong = SoftOverlong(40, 20)
        return GRPO(gate, objective, 0, dynamic, overlong), objective
    name, changes = _labels()[label]
    entry = methods()[name]
    options = entry.options if entry.options is None else replace(entry.options, **changes)
    objective = entry.objective(PAPER, options)
    known = {i: (g.prompt, g.trace) for i, g in zip(ids, groups, strict=True) if g.trace}
    parts = Parts(gate, objective, 0, 5, 8, demonstrations=known)
    return entry.make(parts, options), objective


def planned_round(name: str, groups: list[Group]) -> tuple[list[PlannedGroup], Extras, Objective]:
    """One planned round of a method; its requests for continuations are answered with random
    tokens, one of them right."""
    method, objective = made_method(name, groups)
    size = len(groups[0].rollouts)
    found = {g.prompt.prompt_id: g for g in groups}
    if name.startswith("prefix_rft"):
        empty = [replace(g, samples=()) for g in groups]
        for g, request in zip(empty, method.wants(empty, size, 9)[::2], strict=True):
            full = found[request.prompt_id]
            own = replace(g, samples=full.samples[1:])
            found[request.prompt_id] = _continued(own, request.prefix, 1)
    while wanted := method.wants(list(found.values()), size, 9):
        for request in wanted:
            group = found[request.prompt_id]
            found[request.prompt_id] = _continued(group, request.prefix, request.n)
    planned = [_as_scored(p) for p in method.plan(list(found.values()), 9)]
    return planned, method.take_extras(9), objective


def _as_scored(planned: PlannedGroup) -> PlannedGroup:
    """Rows of distillation get random log-probs of a teacher, the same for the same group."""
    rng = np.random.default_rng(len(planned.group.prompt.token_ids))
    rows = [row for row in planned.rows if row.kind is RowKind.DISTILL]
    return scored_rows(planned, [(-rng.random(len(r.response_ids)) * 3).tolist() for r in rows])


def _continued(group: Group, prefix: int, n: int) -> Group:
    rng = np.random.default_rng(prefix)
    more = []
    for j in range(n):
        tokens = tuple(int(t) for t in rng.integers(4, 20, int(rng.integers(2, 9))))
        logprobs = tuple(float(x) for x in -rng.random(len(tokens)))
        rollout = Rollout(group.prompt.prompt_id, j, tokens, logprobs, Finish.STOP, "", prefix)
        more.append(Graded(rollout, 1.0 if j == 0 else 0.0))
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
