"""How long the run will take: a few decoding steps and one training pass of the model, timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hapo_core.errors import DataError
from pipeline.start.decide import Machine, Model, Numbers

_STEPS = 8
_TOKENS = 2048
_LENGTH = 0.7
"""Share of the response budget that responses use on average, for the estimate."""
_STAGES = 60.0
"""Seconds for what is no model: six processes that start, curation, the report."""


@dataclass(frozen=True)
class Pace:
    """Seconds: `step` decodes one token of all rows at once, `token` is one trained token."""

    step: float
    token: float

    def round(self, n: Numbers) -> float:
        """Seconds of one round."""
        responses = n.group * n.prompts
        length = _LENGTH * n.max_tokens
        waves = -(-responses // n.max_rows)
        trained = responses * (n.max_prompt + length)
        return waves * length * self.step + trained * self.token

    def evaluation(self, n: Numbers, samples: int) -> float:
        """Seconds of `samples` responses."""
        return -(-samples // n.max_rows) * _LENGTH * n.max_tokens * self.step

    def run(self, n: Numbers, rounds: int, samples: int) -> float:
        """Seconds of the whole run: rounds, two evaluations, and everything around them."""
        return _STAGES + rounds * self.round(n) + 2 * self.evaluation(n, samples)


def measure(model: Model, machine: Machine, n: Numbers) -> Pace:
    """Time the model on this machine; the first pass warms up and does not count."""
    import torch

    from hapo_core.policy import load_policy
    from hapo_core.rollout.stepping import stepping
    from pipeline.build.device import quiet_transformers

    quiet_transformers()
    before = torch.get_num_threads()
    torch.set_num_threads(machine.threads)
    try:
        policy: Any = load_policy(model.path)[0]
        policy.to(machine.device)
        length = min(n.max_prompt + n.max_tokens, _TOKENS)
        rows = max(1, _TOKENS // length)

        def decode() -> None:
            ids = torch.zeros((n.max_rows, 1), dtype=torch.long, device=machine.device)
            with torch.inference_mode():
                out = policy(ids.expand(-1, n.max_prompt), use_cache=True)
                if not out.logits[:, -1].isfinite().all():
                    raise DataError(
                        "the model's logits are no numbers",
                        where=str(model.path),
                        remedy="its weights hold NaN or infinity: take another copy of the model",
                    )
                if getattr(out, "past_key_values", None) is None:  # a state space model
                    steps = stepping(policy.eval(), 0)
                    steps.start([[0] * n.max_prompt] * n.max_rows, 1)
                    for _ in range(_STEPS):
                        steps.next(ids[:, 0])
                    return
                for _ in range(_STEPS):
                    out = policy(ids, past_key_values=out.past_key_values, use_cache=True)

        def train() -> None:
            ids = torch.zeros((rows, length), dtype=torch.long, device=machine.device)
            policy(ids).logits.float().logsumexp(-1).mean().backward()
            policy.zero_grad(set_to_none=True)

        return Pace(_timed(decode, machine) / _STEPS, _timed(train, machine) / (rows * length))
    finally:
        torch.set_num_threads(before)


def _timed(work: Callable[[], None], machine: Machine) -> float:
    import torch

    seconds = 0.0
    for _ in range(2):
        began = time.monotonic()
        work()
        if machine.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
    return seconds
