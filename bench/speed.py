"""This code and TRL's GRPO trainer side by side: rollouts, update, memory, whole rounds.

    python bench/speed.py [--quick] [--models 0.7M 135M] [--cases a b c d e] [--threads 1]
                          [--lines update:trl-8 ...] [--peak-tflops X]

Same model (random weights of real shapes, float32), same prompts, group size, response budget,
loss, optimizer and threads; every line is a process of its own, after one warm-up. TRL (extra
`dev`) runs its own `train` loop. Two settings of it are measured: 8 rows a pass, its default (the
next smaller number that divides the batch), and 1 row a pass, its leanest; `ours-lean` is this
update with passes no larger than the longest row. The cases:

    (a) rollout   responses of a round, transformers generation on both sides (TRL's inside of its
                  `train`, the rest of the step not counted; so its memory is that of a round)
    (b) update    one optimizer step on a fixed batch of log-normal lengths, and its peak memory
    (c) round     rollout, reward, update; lengths as they are drawn
    (d) sparse    (b) and (c) with 70 % of the groups all wrong
    (e) hapo      a round of HAPO against one of GRPO in this code; the gate and SSI on their own

Memory is the peak of resident memory during the steps less what was resident with the weights
loaded: gradients, optimizer moments and activations. Before anything is timed, loss and gradient
of both sides on the fixed batch are compared. MFU is the share of the device's peak (known GPUs, or
`--peak-tflops`) that the FLOPs which a line needs make up; bench/flops.py says what is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flops import Lengths, Shape, needed, peak
from peak import Peak
from speed_sides import CLOCKS, Ours, Theirs, hapo
from speed_work import QUICK, WORKLOADS, Workload, lengths_of, made_groups

DEAD = 0.7
LOSS_TOLERANCE = 2e-6
GRADIENT_TOLERANCE = 1e-4
"""Largest |difference| over the largest entry; float32 sums in another order."""


# --- one line of the table, in a process of its own ---------------------------------------------


def measure(case: str, side: str, work: Workload, device: str, clock: str) -> dict[str, Any]:
    """Seconds and tokens of every repeat, and the peak of memory."""
    dead = DEAD if case.startswith("sparse") else 0.0
    if not side.startswith("trl"):
        return _measure_ours(case, side, work, dead, device, clock)
    rows = work.rows_of_pass(8 if side == "trl-8" else 1)
    with tempfile.TemporaryDirectory() as folder:
        return _measure_theirs(case, work, dead, rows, Path(folder), device, clock)


def _measure_ours(
    case: str, side: str, work: Workload, dead: float, device: str, clock: str
) -> dict[str, Any]:
    if side == "ours-lean":
        work = replace(work, micro_batch_tokens=work.longest)
    ours, now = Ours(work, dead, device, clock), CLOCKS[clock]
    planned, seconds, tokens, planning = ours.batch(), [], [], []
    most = Peak(device)
    most.start()
    for _ in range(work.repeats + 1):
        began = now()
        if case == "rollout":
            count = sum(len(r.token_ids) for r in ours.rollout())
        elif case.endswith("update"):
            ours.update(planned)
            count = sum(lengths_of(work))
        else:
            count, plan = ours.round(hapo() if side == "hapo" else None)
            planning.append(plan)
        seconds.append(now() - began)
        tokens.append(count)
    found = {"seconds": seconds[1:], "tokens": tokens[1:], "peak": most.bytes()}
    return found | {"planning": planning[1:], "flops": _flops(case, ours, dead)}


def _flops(case: str, side: Ours | Theirs, dead: float) -> list[float]:
    """What every repeat needs; the warm-up left out."""
    shape, batches = Shape.of(side.model), side.batches
    if case.endswith("update"):
        vocabulary = int(side.model.config.vocab_size)
        groups = made_groups(side.work, side.tokenizer, vocabulary, dead)
        fixed = [
            Lengths.of(len(g.prompt.token_ids), [len(r.token_ids) for r in g.rollouts], g.rewards)
            for g in groups
        ]
        batches = [fixed] * (side.work.repeats + 1)
    train, generate = case != "rollout", not case.endswith("update")
    return [needed(shape, batch, generate, train) for batch in batches[1:]]


def _measure_theirs(
    case: str, work: Workload, dead: float, rows: int, folder: Path, device: str, clock: str
) -> dict[str, Any]:
    theirs = Theirs(
        work,
        folder,
        rows=rows,
        fixed=case.endswith("update"),
        steps=work.repeats + 1,
        dead_share=dead,
        device=device,
        clock=clock,
    )
    most = Peak(device)
    most.start()
    theirs.train()
    seconds = theirs.sampling if case == "rollout" else theirs.seconds
    tokens = theirs.tokens or [sum(lengths_of(work))] * len(seconds)
    return {
        "seconds": seconds[1:],
        "tokens": tokens[1:],
        "peak": most.bytes(),
        "planning": [],
        "flops": _flops(case, theirs, dead),
    }


# --- equal results ------------------------------------------------------------------------------


def equality(work: Workload, folder: Path, dead_share: float = 0.0) -> dict[str, float]:
    """One step of both sides on the fixed batch: |difference| of the losses, and the largest
    |difference| of the clipped gradients over their largest entry."""
    found: dict[str, torch.Tensor] = {}

    def seen(model: Any) -> None:
        found.update({n: p.grad.clone() for n, p in model.named_parameters()})

    losses: list[float] = []
    theirs = Theirs(
        work,
        folder,
        rows=work.rows_of_pass(8),
        fixed=True,
        steps=1,
        dead_share=dead_share,
        seen=seen,
    )
    step = theirs.trainer.training_step

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = step(*args, **kwargs)
        losses.append(float(loss))
        return loss

    theirs.trainer.training_step = noted
    theirs.train()
    ours = Ours(work, dead_share)
    gradient: dict[str, torch.Tensor] = {}
    names = {p: n for n, p in ours.model.named_parameters()}

    def keep(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups:
            gradient.update({names[p]: p.grad.clone() for p in group["params"]})

    ours.updater.optimizer.register_step_pre_hook(keep)
    loss = ours.update(ours.batch())
    scale = max(float(g.abs().max()) for g in found.values())
    largest = max(float((found[n] - gradient[n]).abs().max()) for n in found)
    return {"loss": abs(loss - sum(losses)), "gradient": largest / scale}


# --- the table ----------------------------------------------------------------------------------

LINES = (
    ("(a) rollout", "rollout", ("ours", "trl-8")),
    ("(b) update", "update", ("ours", "ours-lean", "trl-8", "trl-1")),
    ("(c) round", "round", ("ours", "trl-8")),
    ("(d) update, 70 % dead", "sparse-update", ("ours", "trl-8")),
    ("(d) round, 70 % dead", "sparse-round", ("ours", "trl-8")),
    ("(e) GRPO and HAPO", "round", ("grpo", "hapo")),
)


def _child(words: list[str], threads: int) -> dict[str, Any]:
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, *words, "--threads", str(threads)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with status {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _speeds(found: dict[str, Any]) -> list[float]:
    return [t / s for t, s in zip(found["tokens"], found["seconds"], strict=True)]


def workload(name: str, options: argparse.Namespace) -> Workload:
    """The batch of the command line."""
    work = (QUICK if options.quick else WORKLOADS)[name]
    return replace(work, repeats=options.repeats or work.repeats)


def table(models: list[str], options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Measure everything and print it as Markdown, line by line."""
    threads = options.threads
    say(
        f"Threads {threads}, float32, {options.device}, {options.clock} clock; {_versions()}; "
        f"{_machine()}."
    )
    for name in models:
        work = workload(name, options)
        common = ["--models", name, "--device", options.device, "--clock", options.clock]
        equal = _child(["--one", "equality", "both", *common, "--quick"], threads)
        common += ["--quick"] if options.quick else []
        common += ["--repeats", str(work.repeats)]
        say(
            f"\n**{name}**: {work.groups} groups of {work.size}, update lengths median "
            f"{work.median}, longest {work.longest}; {work.repeats} repeats. Loss differs by "
            f"{equal['loss']:.1e}, the gradient by {equal['gradient']:.1e} of its largest entry.\n"
        )
        if equal["loss"] > LOSS_TOLERANCE or equal["gradient"] > GRADIENT_TOLERANCE:
            raise SystemExit("the two sides do not compute the same: no figures")
        say(
            "| case | side | tokens/s (min / median / max) | against TRL | peak, MiB | of TRL's "
            "| MFU |"
        )
        say("|---|---|---|---|---|---|---|")
        for title, case, sides in LINES:
            asked = [s for s in sides if not options.lines or f"{case}:{s}" in options.lines]
            if title[1] in options.cases and asked:
                rows = [(s, _child(["--one", case, s, *common], threads)) for s in asked]
                _say_lines(title, rows, peak(options.device, options.peak_tflops), say)


def _say_lines(
    title: str,
    rows: list[tuple[str, dict[str, Any]]],
    best_possible: float | None,
    say: Callable[[str], None],
) -> None:
    others = [found for side, found in rows if side.startswith("trl")]
    best = max((statistics.median(_speeds(f)) for f in others), default=None)
    for side, found in rows:
        speeds = _speeds(found)
        middle, megabytes = statistics.median(speeds), found["peak"] / 2**20
        ratio = memory = used = ""
        if best_possible and side != "hapo":  # what it trains is not what its rewards tell
            pairs = zip(found["flops"], found["seconds"], strict=True)
            used = f"{100 * statistics.median(f / s for f, s in pairs) / best_possible:.1f} %"
        if side.startswith("ours") and best is not None:
            ratio = f"{middle / best:.2f}"
            memory = " and ".join(f"{found['peak'] / f['peak']:.2f}" for f in others)
        elif side == "hapo":
            share = sum(found["planning"]) / sum(found["seconds"])
            ratio = f"plan {100 * share:.3f} % of the round"
        spread = f"{min(speeds):.0f} / {middle:.0f} / {max(speeds):.0f}"
        say(f"| {title} | {side} | {spread} | {ratio} | {megabytes:.0f} | {memory} | {used} |")


def _versions() -> str:
    names = ("torch", "transformers", "trl", "accelerate")
    return ", ".join(f"{n} {version(n)}" for n in names)


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    return f"{found[0] if found else platform.machine()}, {os.cpu_count()} cores"


def main() -> None:
    """Parse the command line; `--one` is a child's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(WORKLOADS), help="default: all")
    parser.add_argument("--cases", nargs="+", choices=list("abcde"), default=list("abcde"))
    parser.add_argument("--lines", nargs="+", metavar="CASE:SIDE", help="only these of the cases")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the column MFU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny batches, by default 0.7M only")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, help="of every line, after one warm-up")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)
        if options.out:
            with options.out.open("a") as file:
                file.write(line + "\n")

    if options.one is None:
        models = options.models or (["0.7M"] if options.quick else list(WORKLOADS))
        table(models, options, say)
        return
    torch.set_num_threads(options.threads)
    case, side = options.one
    work = workload(options.models[0], options)
    if case == "equality":
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(equality(replace(work, repeats=1), Path(folder))))
    else:
        print(json.dumps(measure(case, side, work, options.device, options.clock)))


if __name__ == "__main__":
    main()
