"""The careless starting policy of the chains task: supervised steps on a clean and a sloppy part.

Short chains are solved cleanly, long ones with a habit of slips: the policy can do every step, but
rarely all of them, as a language model does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.policy import micro_batches, response_logprobs
from hapo_core.rng import Purpose, generator
from hapo_core.tasks.chains import Habit, draw_chain


@dataclass(frozen=True)
class CarelessSpec:
    """What the base sees. Lengths are steps of a chain, both ends included."""

    short_steps: tuple[int, int]
    long_steps: tuple[int, int]
    long_share: float
    start_low: int
    start_high: int
    habit: Habit

    def example(self, seed: int, step: int, index: int) -> tuple[str, str]:
        """(problem, written solution) number `index` of optimizer step `step`."""
        rng = generator(seed, Purpose.BASE_BATCH, step, sample=index)
        low, high = self.long_steps if rng.random() < self.long_share else self.short_steps
        chain = draw_chain(rng, int(rng.integers(low, high + 1)), self.start_low, self.start_high)
        return chain.problem, chain.solution(self.habit.slips(chain, rng))


@dataclass(frozen=True)
class SupervisedSpec:
    """Optimizer settings: warm-up, then cosine down to a tenth of `learning_rate`."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (0.1 + 0.9 * cosine)


def supervised_optimizer(model: PreTrainedModel, spec: SupervisedSpec) -> torch.optim.AdamW:
    """AdamW as the base uses it."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=spec.learning_rate,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        foreach=False,
    )


def supervised_step(
    model: PreTrainedModel,
    optimizer: torch.optim.AdamW,
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    learning_rate: float,
    token_budget: int = 8192,
) -> float:
    """One step on (prompt ids, response ids) rows: NLL, token mean over the whole batch.

    Returns:
        The loss in nats per response token.
    """
    total = sum(len(response) for _, response in rows)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad(set_to_none=True)
    value = 0.0
    for batch in micro_batches([len(p) + len(r) for p, r in rows], token_budget):
        logp, _ = response_logprobs(model, [rows[i] for i in batch])
        loss = -logp.sum() / total
        loss.backward()
        value += float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return value


def encode(
    tokenizer: PreTrainedTokenizerBase, problem: str, solution: str
) -> tuple[list[int], list[int]]:
    """Prompt ids through the chat template, response ids with EOS."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": problem}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    response = tokenizer(solution, add_special_tokens=False).input_ids
    return list(prompt), [*response, int(tokenizer.eos_token_id)]
