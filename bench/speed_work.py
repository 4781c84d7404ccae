"""The workloads of bench/speed.py: models, prompts, and batches of made-up responses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.graded import graded
from hapo_core.groups import Group
from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.tasks.chains import distinct_chains
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Workload:
    """A model and a batch. Response lengths of `update` cases are log-normal, the longest ten
    times the median; in rounds a response ends by chance (`stops` tokens of the vocabulary end
    it), which makes lengths geometric with mean vocabulary / stops."""

    model: str
    groups: int
    size: int
    median: int
    micro_batch_tokens: int
    repeats: int
    stops: int

    @property
    def rows(self) -> int:
        """Responses of a batch."""
        return self.groups * self.size

    def rows_of_pass(self, most: int) -> int:
        """The largest number of rows, at most `most`, that divides the batch evenly."""
        return max(k for k in range(1, most + 1) if self.rows % k == 0)

    @property
    def longest(self) -> int:
        """Response budget, tokens."""
        return 10 * self.median


WORKLOADS = {
    "0.7M": Workload("0.7M", 10, 4, 32, 1024, 5, 1),
    "135M": Workload("135M", 10, 2, 8, 256, 1, 2048),
}
QUICK = {
    "0.7M": Workload("0.7M", 10, 4, 10, 512, 2, 1),
    "135M": Workload("135M", 10, 2, 4, 128, 1, 8192),
}
"""Sizes of `--quick`: it shows that everything runs, its figures mean little."""


def make_model(name: str, stops: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Random weights of a real shape, and a tokenizer whose ids are a part of the vocabulary."""
    tokenizer = tiny_tokenizer()
    if name == "0.7M":
        model: PreTrainedModel = tiny_model(tokenizer, 128, 4, 4, 0)
    elif name == "135M":
        config = LlamaConfig(  # SmolLM2-135M
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    else:
        raise ValueError(name)
    # The last ids of the vocabulary end a response too, so that random weights end one at all.
    vocabulary = int(model.config.vocab_size)
    ends = [int(tokenizer.eos_token_id), *range(vocabulary - stops + 1, vocabulary)]
    model.generation_config.eos_token_id = ends
    return model.eval(), tokenizer


def lengths_of(work: Workload) -> list[int]:
    """Log-normal response lengths at evenly spaced quantiles, shuffled by a fixed rule."""
    n = work.rows
    z = [statistics.NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    sigma = math.log(10) / z[-1]
    lengths = [max(2, round(work.median * math.exp(sigma * x))) for x in z]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1)).tolist()
    return [lengths[i] for i in order]


def prompts_of(work: Workload, tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, Prompt]]:
    """Text and ids of the prompts, ids as TRL's tokenisation gives them."""
    chains = distinct_chains(work.groups, 0, "bench", 3, 4)
    ids = [tuple(tokenizer(c.problem)["input_ids"]) for c in chains]
    return [
        (c.problem, Prompt(str(k), i)) for k, (c, i) in enumerate(zip(chains, ids, strict=True))
    ]


def made_groups(
    work: Workload, tokenizer: PreTrainedTokenizerBase, vocabulary: int, dead_share: float
) -> list[Group]:
    """Groups of random responses; the first groups (`dead_share` of them) are all wrong."""
    random = torch.Generator().manual_seed(2)
    lengths, dead = lengths_of(work), round(dead_share * work.groups)
    groups = []
    for k, (_, prompt) in enumerate(prompts_of(work, tokenizer)):
        rollouts = []
        for j in range(work.size):
            length = lengths[k * work.size + j]
            tokens = tuple(torch.randint(4, vocabulary, (length,), generator=random).tolist())
            rollout = Rollout(prompt.prompt_id, j, tokens, (0.0,) * length, Finish.STOP, "")
            rollouts.append(rollout)
        rewards = tuple(float(k >= dead and j % 2 == 0) for j in range(work.size))
        groups.append(Group(prompt, graded(rollouts, rewards), None))
    return groups


def reward(prompt_id: int, tokens: Sequence[int], groups: int, dead_share: float) -> float:
    """A cheap reward: 0 for the first groups, otherwise right about every second time."""
    return float(prompt_id >= round(dead_share * groups) and sum(tokens) % 2 == 0)
