"""What the guard of every round costs, and how far sampler and trainer are apart where all is well.

python bench/mismatch.py             # cost: an update with and without it, alternating
python bench/mismatch.py FOLDER...   # the largest mean |delta log p| of all rounds below
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))


def cost(rounds: int = 40) -> None:
    """Seconds of an update of 12 groups of 8 rows with and without the check."""
    from tiny import made_groups, tiny_policy

    from hapo_core.gate import ConstantThreshold, Gate, GateSpec
    from hapo_core.methods import GRPO
    from hapo_core.objective import PAPER
    from hapo_core.update import Updater, UpdateSpec

    torch.set_num_threads(1)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    model, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [1, 3, 5] * 4)
    planned = GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(groups, 0)
    for k in range(2 * rounds):
        looks = bool(k % 2)
        # Made-up log-probs are far off: a limit that nothing reaches.
        updater = Updater(model, UpdateSpec(1e-9, mismatch_limit=1e9 if looks else None))
        began = time.process_time()
        updater.update(planned, PAPER, 64, 1e-9)
        seconds[looks].append(time.process_time() - began)
    off, on = (statistics.median(seconds[k]) for k in (False, True))
    print(f"median of {rounds}: without {1e3 * off:.2f} ms, with {1e3 * on:.2f} ms")


def seen(folders: list[str]) -> None:
    """The largest values of all rounds.parquet below the folders."""
    values = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("artifacts/policy/*/rounds.parquet")):
            for row in pq.read_table(path).to_pylist():
                if row.get("mismatch_mean") is not None:
                    values.append((row["mismatch_mean"], row["mismatch_max"], str(path)))
    print(f"{len(values)} rounds")
    if values:
        print("largest mean {:.1e}, at {}".format(*max(values)[::2]))
        print(f"largest of all tokens {max(v[1] for v in values):.1e}")


if __name__ == "__main__":
    seen(sys.argv[1:]) if len(sys.argv) > 1 else cost()
