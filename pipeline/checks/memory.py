"""Memory of one training process, part by part, from the model's shape and the configuration.

What is counted is what is held on purpose. Fragmentation, kernels' workspaces and the interpreter
(about .5 GB with torch and transformers) come on top; `python bench/memory.py` measures how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hapo_core.fit import key_width, number
from hapo_core.policy import HEAD_CHUNK_ELEMENTS
from pipeline.build.engine import rollout_dtype
from pipeline.config import Params

BYTES = {"float32": 4, "bfloat16": 2}
_MOMENTS = 2
"""Of AdamW; float32 like the weights."""
_HEAD_CHUNKS = 3
"""Matrices [chunk, vocabulary] at once: logits, their gradient, and a product on the way."""


@dataclass(frozen=True)
class Blocks:
    """The transformer's shape: blocks, width of the residual stream, of the gated feed-forward
    layer, and of keys (and of values) over all their heads; logits of a token."""

    count: int
    hidden: int
    feed_forward: int
    keys: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Blocks | None:
        """From a transformers configuration; None for other kinds of models (experts, recurrent
        layers), whose activations these formulas do not know."""
        text = config.get_text_config()
        keys = key_width(config)
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
        found = [n for n in (number(text, name) for name in names) if n is not None]
        experts = ("num_local_experts", "num_experts", "n_routed_experts")
        if keys is None or any(number(text, n) for n in experts) or len(found) < len(names):
            return None
        count, hidden, feed_forward, vocabulary = found
        return cls(count, hidden, feed_forward, keys, vocabulary)

    def saved(self, *, checkpointing: bool) -> int:
        """Numbers kept for the backward pass for every token of a pass. In a block: four of the
        feed-forward's width (gate, its activation, up, product), eight of the residual's (two
        norms with what they normalised, two sums, queries before and after rotation, attention's
        output), keys and values; three of the last norm. With checkpointing a block keeps its
        input, and one at a time is whole."""
        block = 4 * self.feed_forward + 8 * self.hidden + 2 * self.keys
        blocks = self.count * self.hidden + block if checkpointing else self.count * block
        return blocks + 3 * self.hidden


@dataclass(frozen=True)
class Memory:
    """Bytes by part, of the three times at which a process holds most."""

    update: Mapping[str, int]
    rollout: Mapping[str, int]
    saving: Mapping[str, int]

    @property
    def peak(self) -> tuple[str, int]:
        """The time that needs most, and its bytes."""
        totals = {
            "the update": sum(self.update.values()),
            "rollouts": sum(self.rollout.values()),
            "a resume point": sum(self.saving.values()),
        }
        name = max(totals, key=lambda k: totals[k])
        return name, totals[name]


def memory(params: Params, parameters: int, ends: int, blocks: Blocks | None) -> Memory:
    """Of the first process, which holds most.

    Args:
        parameters: of the policy.
        ends: those outside of its blocks (embedding, last norm, head), which sharding repeats.
        blocks: None leaves activations, head and cache out.
    """
    c, width = params.compute, BYTES[params.compute.dtype]
    own = ends + (parameters - ends) // c.processes if c.shard else parameters
    trained = own if params.update.lora is None else 0  # adapters are small beside the weights
    held = {"weights": width * own, "moments": _MOMENTS * width * trained}
    update = held | {"gradients": width * trained}
    rollout = dict(held)
    if own < parameters:
        rollout["all weights, whole"] = width * (parameters - own)
    in_process = params.rollout.engine == "hf"
    low = rollout_dtype(params) == "bfloat16"
    if in_process and low:
        rollout["bfloat16 copy"] = BYTES["bfloat16"] * parameters
    saving = dict(held)
    if c.shard and c.processes > 1:
        saving["shards on their way to disk"] = min(1 << 30, 3 * width * own)
    if blocks is not None:
        longest = params.curate.max_prompt_tokens + params.rollout.max_tokens
        tokens = max(params.update.micro_batch_tokens, longest)
        kept = blocks.saved(checkpointing=params.update.gradient_checkpointing)
        each = BYTES["bfloat16"] if params.update.mixed_precision else width
        update[f"activations of {tokens:,} tokens"] = each * kept * tokens
        chunk = min(HEAD_CHUNK_ELEMENTS, tokens * blocks.vocabulary)
        update["log-prob head"] = _HEAD_CHUNKS * 4 * chunk
        if in_process:
            of_round = params.train.prompts_per_round * params.rollout.group_size
            rows = min(params.rollout.max_rows, -(-of_round // c.processes))
            each = BYTES["bfloat16"] if low else width
            cache = 2 * blocks.count * blocks.keys * longest * rows
            rollout[f"keys and values of {rows} rows"] = each * cache
    return Memory(update, rollout, saving)
