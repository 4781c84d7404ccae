"""The guard of every round: does the trainer compute the log-probs that the sampler drew from?

On the policy's own tokens, before the first step moves it, sampler and trainer are two ways to
compute the same number. Rounding tells them apart by little; a wrong temperature, a function of
the logits that one side leaves out, other prompts, shifted labels or stale weights by tenths or
whole nats, and nothing else of a run shows it. What is compared is computed for the loss anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hapo_core.errors import HapoError
from hapo_core.exchange import exchanged

LIMITS = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest mean |delta log p| by the coarser dtype of the two, at temperature 1 and above.

float32: two orders of summation. 2e-6 on average is usual for transformers, with adapters too; 6e-5
is the most that a vLLM server showed, which is sent merged adapters. The limit is fifteen times
that, and a tenth of what a temperature of .98 for 1 does.
bfloat16 (either side; autocast too): .03 on average is measured with vLLM, more for mixtures of
experts, whose choice of experts flips. A temperature of .7 for 1 is above the limit, .9 is not."""
_SPREAD = 4.0
"""Few tokens may be further off: the standard error of a mean of |delta| is about the mean over
sqrt(tokens), and four of them are allowed on top."""
_FAR = 0.5
"""Nats between the two averages, above which the trainer does not see the same text."""


@exchanged
@dataclass
class Apart:
    """Sums over tokens that the policy drew: their number, |delta log p|, and both log-probs."""

    tokens: int = 0
    size: float = 0.0
    sampler: float = 0.0
    trainer: float = 0.0

    def add(self, other: Apart) -> None:
        """Take in other tokens."""
        self.tokens += other.tokens
        self.size += other.size
        self.sampler += other.sampler
        self.trainer += other.trainer


def limit_of(dtypes: Iterable[str], temperature: float) -> float:
    """The limit for a sampler and a trainer of these dtypes. A temperature below 1 magnifies the
    rounding of logits, and so the limit."""
    return max(LIMITS[name] for name in dtypes) / min(1.0, temperature)


def refuse_apart(found: Sequence[Apart], limit: float) -> None:
    """Stop before a step that would train on other log-probs than the sampler's.

    Args:
        found: what each rank has seen of this round so far.
        limit: largest mean |delta log p| over many tokens.

    Raises:
        HapoError: the mean is above the limit, or no number.
    """
    whole = Apart()
    for part in found:
        whole.add(part)
    n = whole.tokens
    if not n or whole.size / n <= limit * (1 + _SPREAD / math.sqrt(n)):
        return
    sampler, trainer = whole.sampler / n, whole.trainer / n
    raise HapoError(
        f"sampler and trainer disagree about the policy: |delta log p| is {whole.size / n:.3g} on "
        f"average over {n} tokens that the policy drew (log p is {sampler:.3g} on average for the "
        f"sampler, {trainer:.3g} for the trainer); dtype and engine explain {limit:.2g}. The step "
        "was not taken",
        remedy=_look(sampler, trainer),
        topic="update:apart",
    )


def _look(sampler: float, trainer: float) -> str:
    text = "the text: another prompt in the trainer (chat template, system text, BOS), labels that "
    text += "are shifted, another tokenizer"
    function = "the function: temperature, a scale or cap of the logits, padding, dropout"
    weights = "the weights: a server that kept old ones, adapters that it was not sent"
    far = not trainer >= sampler - _FAR
    ways = [text, function, weights] if far else [function, weights, text]
    listed = "; ".join(f"({k}) {way}" for k, way in enumerate(ways, 1))
    return f"look, the likeliest first, at {listed}. Where only dtypes differ, raise the limit"
