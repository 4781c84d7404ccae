"""Does a server hold the trainer's weights? A few log-probs say so (DESIGN 6).

Two tests. *Level*: the log-probs that the server reports for tokens it samples agree with the
trainer's for the same tokens; this goes through the decoding path, prefix cache and head that the
rollouts use. *Motion*: on the tokens of the last check the server must have moved with the policy.
With s the server's log-probs, o and n the trainer's before and now, b = <s-o, n-o> / <n-o, n-o> is
1 for a server that follows and 0 for a stale one. It sees an update that is far smaller than the
level's tolerance, and abstains where the noise of the arithmetic (bfloat16) hides the motion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from hapo_core.errors import HapoError
from hapo_core.modes import evaluating
from hapo_core.policy import response_logprobs

LEVEL_TOLERANCE = {"float32": 2e-4, "bfloat16": 0.1}
"""Largest mean |delta log p| by dtype. Measured: 6e-5 at most in float32, .03 on average in
bfloat16 (0.4 at most)."""
_STALE_BELOW = 0.5
_SURE = 0.1
"""The motion test speaks where the standard error of b is at most this."""

Sequence_ = tuple[tuple[int, ...], tuple[int, ...]]


class StalePolicyError(HapoError):
    """A rollout engine does not sample from the policy that is being trained."""


@dataclass(frozen=True)
class Check:
    """What a passed check measured: `mean` and `largest` |delta log p| over `tokens` tokens;
    `motion` is b, None at the first check or where noise hides it."""

    tokens: int
    mean: float
    largest: float
    motion: float | None


def trainer_logprobs(
    model: PreTrainedModel, sequences: Sequence[Sequence_], temperature: float
) -> torch.Tensor:
    """Float64 log-probs [response tokens, rows one after another] under the trainer, on the CPU."""
    with evaluating(model), torch.no_grad():
        logp, _ = response_logprobs(model, sequences, temperature)
    return logp.double().cpu()


def check_level(
    server: Sequence[float], trainer: torch.Tensor, tolerance: float, where: str
) -> tuple[float, float]:
    """Mean and largest |delta log p|.

    Raises:
        StalePolicyError: the mean exceeds `tolerance`, or is no number.
    """
    delta = (torch.tensor(server, dtype=torch.float64) - trainer).abs()
    mean, largest = float(delta.mean()), float(delta.max())
    if not mean <= tolerance:
        raise StalePolicyError(
            f"the engine's log-probs are not the policy's: |delta| is {mean:.2g} on average and "
            f"{largest:.2g} at most over {len(delta)} tokens; allowed mean {tolerance:.2g}",
            where=where,
            remedy="its weights are stale, or it computes in another dtype or reports log-probs "
            "at another temperature (--logprobs-mode); a server of ours: report this, with its "
            "log; yours by URL: start it as docs/engines.md says",
        )
    return mean, largest


def check_motion(
    server: Sequence[float], before: torch.Tensor, now: torch.Tensor, where: str
) -> float | None:
    """b, or None where nothing moved or the noise hides it.

    Raises:
        StalePolicyError: the server stayed behind.
    """
    moved = now - before
    length = float(moved.norm())
    if length == 0 or len(moved) < 3:
        return None
    s = torch.tensor(server, dtype=torch.float64) - before
    b = float(s @ moved) / length**2
    error = float((s - b * moved).norm()) / math.sqrt(len(moved) - 1) / length
    if not error <= _SURE:
        return None
    if b < _STALE_BELOW:
        raise StalePolicyError(
            f"the engine did not follow the last update: its log-probs moved {100 * b:.0f} % of "
            f"the policy's way (+- {100 * error:.0f} %)",
            where=where,
            remedy="its weights are stale: restart the server; the finished rounds are kept",
        )
    return b
