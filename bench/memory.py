"""Peak memory of an update and of rollouts, one process and two, beside the dry run's estimate.

    PYTHONPATH=. python bench/memory.py [--tokens 2048] [--rows 32] [--processes 1 2]

SmolLM2's shape with random weights, float32, CPU. An update is one optimizer step on rows of 128
tokens, `--tokens` a pass, twice (the second finds moments and what the allocator kept). Rollouts:
`--rows` responses of 24 tokens to prompts of 104. Figures are the peak of resident memory less
what was resident before the model was made. The last lines are the estimate for other models, by
the same formulas.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from peak import Peak
from speed_work import make_model

from hapo_core import distributed
from hapo_core.objective import Objective
from hapo_core.rollout import Prompt, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.rows import RowKind, TrainRow
from hapo_core.update import Updater
from hapo_core.update_spec import UpdateSpec
from pipeline.checks.memory import Blocks, memory
from pipeline.config import Params, load_params

REPO = Path(__file__).parents[1]
LENGTH, NEW = 128, 24
OTHERS = {  # blocks, parameters, those outside of blocks
    "7B": (Blocks(28, 3584, 18944, 512, 152064), 7_615_616_512, 1_089_998_336),
    "32B": (Blocks(64, 5120, 27648, 1024, 152064), 32_763_876_352, 1_557_140_480),
}


def measure(kind: str, tokens: int, rows: int) -> dict[str, float]:
    """Of this process, one rank of those that the environment names."""
    torch.set_num_threads(1)
    peak = Peak()
    peak.start()
    ranks = distributed.join("cpu")
    model, tokenizer = make_model("135M", 1)
    if ranks.count > 1:
        distributed.shard(model, ranks)
    began = time.monotonic()
    if kind == "update":
        updater = Updater(model, UpdateSpec(1e-5, micro_batch_tokens=tokens), ranks)
        half = tuple(range(5, 5 + LENGTH // 2))
        row = TrainRow(half, half, RowKind.SFT)
        for _ in range(2):
            updater.supervise([row] * (tokens // LENGTH * ranks.count), Objective(), 64, 1e-5)
    else:
        engine = HFEngine(model, tokenizer, rows)
        prompts = [Prompt(str(k), tuple(range(5, 5 + LENGTH - NEW))) for k in range(rows)]
        with torch.no_grad(), distributed.unsharded(model):
            list(engine.generate(prompts, Sampling(1, 1.0, 1.0, NEW), 0, 0))
    seconds = time.monotonic() - began
    ranks.barrier()
    return {"rank": ranks.index, "gb": peak.bytes() / 1e9, "seconds": seconds}


def run(kind: str, processes: int, args: argparse.Namespace) -> list[dict[str, float]]:
    """The measurement in `processes` processes of their own, by rank."""
    words = [f"--{name}={getattr(args, name)}" for name in ("tokens", "rows")]
    command = [sys.executable, __file__, "--one", kind, *words]
    with tempfile.TemporaryDirectory() as folder:
        several = {"WORLD_SIZE": str(processes), distributed.STORE: f"{folder}/ranks"}
        running = [
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                env=os.environ | (several | {"RANK": str(k)} if processes > 1 else {}),
            )
            for k in range(processes)
        ]
        outputs = [one.communicate()[0] for one in running]
    if any(one.returncode for one in running):
        raise SystemExit("a process failed; its message is above")
    return sorted((json.loads(o.splitlines()[-1]) for o in outputs), key=lambda one: one["rank"])


def large(processes: int) -> Params:
    """The profile for 7B, on so many cards: checkpointed, passes in bfloat16, vLLM elsewhere."""
    params = load_params(REPO / "params" / "qwen2.5-math-7b.yaml")
    shard = {"processes": processes, "shard": processes > 1}
    return params.model_copy(update={"compute": params.compute.model_copy(update=shard)})


def settings(tokens: int, rows: int, processes: int) -> Params:
    """A configuration of that size, for the estimate."""
    params = load_params(REPO / "params" / "smollm2-stories.yaml")
    shard = {"processes": processes, "shard": processes > 1}
    parts = {
        "compute": params.compute.model_copy(update=shard),
        "update": params.update.model_copy(update={"micro_batch_tokens": tokens}),
        "rollout": params.rollout.model_copy(
            update={"max_rows": rows, "max_tokens": NEW, "group_size": rows}
        ),
        "curate": params.curate.model_copy(update={"max_prompt_tokens": LENGTH - NEW}),
    }
    return params.model_copy(update=parts)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", choices=("update", "rollout"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.tokens, args.rows)))
        return
    with torch.device("meta"):
        model, _ = make_model("135M", 1)
    parameters, shape = model.num_parameters(), model.config
    ends = shape.vocab_size * shape.hidden_size + shape.hidden_size
    print(f"{parameters / 1e6:.1f}M parameters, {args.tokens} tokens a pass, {args.rows} rows")
    print("| processes | what | estimated GB | measured GB, by process | seconds |")
    print("|---|---|---|---|---|")
    for count in args.processes:
        params = settings(args.tokens, args.rows, count)
        held = memory(params, parameters, ends, Blocks.of(shape))
        for kind, parts in (("update", held.update), ("rollout", held.rollout)):
            found = run(kind, count, args)
            gb = ", ".join(f"{one['gb']:.2f}" for one in found)
            seconds = max(one["seconds"] for one in found)
            own = sum(v for name, v in parts.items() if kind == "update" or name != "moments")
            print(f"| {count} | {kind} | {own / 1e9:.2f} | {gb} | {seconds:.0f} |", flush=True)
    print("\n| model | processes | update | rollouts (vLLM elsewhere) | a resume point |")
    print("|---|---|---|---|---|")
    for name, (blocks, all_, outside) in OTHERS.items():
        for count in (1, 2, 8, 32):
            held = memory(large(count), all_, outside, blocks)
            sizes = [sum(part.values()) / 1e9 for part in (held.update, held.rollout, held.saving)]
            print(f"| {name} | {count} | " + " | ".join(f"{s:.0f} GB" for s in sizes) + " |")


if __name__ == "__main__":
    main()
