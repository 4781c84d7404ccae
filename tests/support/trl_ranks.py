"""One of several processes that train with HAPOTrainer: `torchrun trl_ranks.py OUT`.

Half of the prompts have a trace and no rollout is ever right, so that in many micro-batches some
processes hold a trace and others do not. Writes what was logged and where the weights ended.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import datasets
import torch
from trl_tiny import SETTINGS, none_right, tiny_policy

import hapo_trl


def main(out: Path) -> None:
    """Train four optimizer steps of two passes; a generation serves four passes."""
    traces = ["a157+8=165" if i % 2 else None for i in range(16)]
    rows = [{"prompt": f"{100 + i}a+{i}=?\n", "trace": t} for i, t in enumerate(traces)]
    args = hapo_trl.HAPOConfig(
        **SETTINGS,
        output_dir=str(out),
        per_device_train_batch_size=4,
        num_generations=4,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_completion_length=12,
        max_steps=4,
        ddp_backend="gloo",
        hapo_threshold="linear",
        hapo_gamma=0.8,
        hapo_gamma_end=0.4,
        hapo_horizon=4,
    )
    trainer = hapo_trl.HAPOTrainer(
        **tiny_policy(),
        reward_funcs=none_right,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
    )
    own: list[float] = []
    inject = trainer._inject

    def watched(inputs: list, output: dict) -> dict:
        found = inject(inputs, output)
        taught = found.get("hapo_teacher")
        own.append(0.0 if taught is None else float(taught.sum()) / (len(inputs) / 4))
        return found

    trainer._inject = watched  # type: ignore[method-assign]
    trainer.train()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()]).double()
    log = [row for row in trainer.state.log_history if "hapo/injected" in row]
    found = {"log": log, "own": own, "weights": [float(weights.sum()), float(weights.abs().sum())]}
    place = out / f"rank{trainer.accelerator.process_index}.json"
    place.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
