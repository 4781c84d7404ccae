"""Made-up finished cells of a comparison."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.compare.collect import Result


def made_result(label: str, seed: int, level: float, injected: list[int]) -> Result:
    n = len(injected)
    rounds = pd.DataFrame(
        {
            "round": range(1, n + 1),
            "rollouts": 8,
            "prompts": 10,
            "injected_groups": injected,
            "dead_groups": [5] * n,
            "extra_rows": pd.array([2] * (n - 1) + [None], dtype="Int64"),
            "teacher_balance": [0.5] * (n - 1) + [None],
            "generated_tokens": [100] * n,
            "trained_tokens": [50] * n,
            "probe_avg": [None] * (n - 1) + [level],
        }
    )
    rng = np.random.default_rng(seed)
    ease = rng.random(40) * 0.2
    scores = {f"p{i}": float(level + ease[i]) for i in range(40)}
    low = {f"p{i}": float(ease[i]) for i in range(40)}
    keys = (("base", "held"), ("final", "held"))
    return Result(
        label, seed, label, rounds, dict(zip(keys, (low, scores), strict=True)),
        dict.fromkeys(keys, str(seed)), {}, 2.0,
    )  # fmt: skip
