"""FLOPs that a batch needs, whoever computes it, and what a device could do at most.

Needed are: for a trained token 6 N (forward 2, backward 4), for a generated or prefilled token 2 N,
and for every position that a token attends to 4 x layers x width more (trained: 12). N are the
weights of the blocks, and those of the head where a next token is asked for: not within a prompt.
Not needed, so not counted: padding, groups without a gradient, recomputation, a prompt's prefill
once per sample instead of once per group, the optimizer. A side that computes these anyway has a
lower utilisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

PEAKS = {
    "NVIDIA H200": 67.0,
    "NVIDIA H100 PCIe": 51.0,
    "NVIDIA H100 NVL": 60.0,
    "NVIDIA H100 80GB HBM3": 67.0,
    "NVIDIA A100": 19.5,
    "NVIDIA L40S": 91.6,
    "NVIDIA L4": 30.3,
    "NVIDIA A10G": 35.0,
    "NVIDIA A10": 31.2,
    "NVIDIA GeForce RTX 4090": 82.6,
    "NVIDIA GeForce RTX 3090": 35.6,
    "Tesla T4": 8.1,
}
"""TFLOPS in float32 without tensor cores (what torch computes float32 in, unless told otherwise),
from the makers' data sheets, by the beginning of torch's name of the device."""


@dataclass(frozen=True)
class Shape:
    """Of a decoder: weights outside of embedding and head, those of the head, layers, and the width
    of all its attention heads."""

    weights: int
    head: int
    layers: int
    width: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> Shape:
        """Of a transformers causal LM."""
        config, head = model.config, model.get_output_embeddings().weight
        ends = {id(w): w.numel() for w in (model.get_input_embeddings().weight, head)}
        count = sum(p.numel() for p in model.parameters()) - sum(ends.values())
        each = getattr(config, "head_dim", None)
        each = each or config.hidden_size // config.num_attention_heads
        return cls(
            count,
            head.numel(),
            int(config.num_hidden_layers),
            int(config.num_attention_heads) * each,
        )

    def forward(self, first: int, end: int, asked: int) -> float:
        """Of the tokens at the positions first to end - 1, each attending to those up to itself;
        after `asked` of them the next one is asked for."""
        seen = (first + 1 + end) * (end - first) / 2
        blocks = 2.0 * self.weights * (end - first) + 4.0 * self.layers * self.width * seen
        return blocks + 2.0 * self.head * asked

    def trained(self, prompt: int, response: int) -> float:
        """Forward and backward of a row; the last token is a target only."""
        return 3 * self.forward(0, prompt + response - 1, response)

    def generated(self, prompt: int, responses: Sequence[int]) -> float:
        """A group's prefill and its responses; the last tokens are fed to nobody."""
        own = (self.forward(prompt, prompt + r - 1, r - 1) for r in responses)
        return self.forward(0, prompt, 1) + sum(own)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a group, and whether it has a gradient."""

    prompt: int
    responses: tuple[int, ...]
    alive: bool

    @classmethod
    def of(cls, prompt: int, responses: Sequence[int], rewards: Sequence[float]) -> Lengths:
        """Groups whose rewards are all equal have none."""
        return cls(prompt, tuple(responses), len(set(rewards)) > 1)


def needed(shape: Shape, groups: Sequence[Lengths], generate: bool, train: bool) -> float:
    """FLOPs of a batch."""
    total = 0.0
    for group in groups:
        if generate:
            total += shape.generated(group.prompt, group.responses)
        if train and group.alive:
            total += sum(shape.trained(group.prompt, r) for r in group.responses)
    return total


def peak(device: str, given: float | None) -> float | None:
    """FLOPs a second that the device could do: as given (in TFLOPS), or those of a known GPU."""
    if given is not None:
        return given * 1e12
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name()
    known = [v for k, v in PEAKS.items() if name.startswith(k)]
    return known[0] * 1e12 if known else None
