"""A week in small: 200 short rounds in one segment, killed and continued on the way; memory, open
files and disk over the rounds.

    python bench/long_run.py [--rounds 200] [--kills 3]

A policy of 34k parameters on chains of additions, CPU. Prints one line every 20 rounds and the
change between the first and the last quarter of every process's life.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).parents[1]
PARAMS = """\
profile: week
seed: 5
method: hapo
curate:
  sources:
    chains: {{kind: chains, count: 64, min_steps: 1, max_steps: 2}}
  benchmarks:
    heldout: {{kind: chains, count: 8, min_steps: 1, max_steps: 2}}
  max_prompt_tokens: 40
  max_trace_tokens: 32
  decontaminate_ngram: 0
base: {{kind: tiny, hidden_size: 32, layers: 2, heads: 2, steps: 6, batch_size: 8,
       learning_rate: 0.003, slip_probability: 0.5}}
gate: {{evidence: prompt, threshold: {{kind: constant, gamma: 0.5}}}}
teacher: {{shape: log}}
objective: {{preset: paper}}
sft: {{}}
rewards: {{verifier: "bench_reward:grade"}}
rollout: {{group_size: 4, max_tokens: 32}}
update: {{learning_rate: 0.001}}
train: {{prompts_per_round: 4, probe_benchmark: heldout, probe_every: 20, probe_problems: 4}}
segments:
  "1": {{prev: base, rounds: {rounds}}}
evaluate:
  benchmarks:
    heldout: {{k: 2, max_tokens: 32}}
targets:
  base: {{policy: base}}
  final: {{policy: "1"}}
compute: {{threads: 1}}
"""
REWARD = """\
from hapo_core.verify.verdict import Verdict


def grade(gold, answer):
    return (Verdict.CORRECT if gold == answer else Verdict.WRONG), "equal text"
"""
ROUND = re.compile(r"round (\d+)/\d+")


@dataclass(frozen=True)
class Sample:
    """After one round: the stage's memory, with that of its workers, open files, disk."""

    attempt: int
    round: int
    rss_mb: float
    workers_mb: float
    files: int
    state_kb: float
    tables_kb: float
    seconds: float


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--kills", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _project(root, options.rounds)
        samples = _run(root, options.rounds, options.kills)
        _show(samples, root)


def _project(root: Path, rounds: int) -> None:
    for folder in ("pipeline", "hapo_core"):
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "params.yaml").write_text(PARAMS.format(rounds=rounds))
    (root / "bench_reward.py").write_text(REWARD)
    for stage in ("curate", "base"):
        subprocess.run(
            [sys.executable, "-m", f"pipeline.{stage}"],
            cwd=root,
            env=_environment(root),
            check=True,
            stdout=subprocess.DEVNULL,
        )


def _environment(root: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    return {**kept, "HF_HUB_OFFLINE": "1", "HAPO_PROGRESS_SECONDS": "0", "PYTHONPATH": str(root)}


def _run(root: Path, rounds: int, kills: int) -> list[Sample]:
    samples: list[Sample] = []
    stops = [rounds * (k + 1) // (kills + 1) for k in range(kills)]
    for attempt in range(kills + 1):
        began = time.monotonic()
        stage = subprocess.Popen(
            [sys.executable, "-m", "pipeline.train", "--segment", "1"],
            cwd=root,
            env=_environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert stage.stdout is not None
        for line in stage.stdout:
            match = ROUND.search(line)
            if match is None or "continues" in line:
                continue
            number = int(match[1])
            sample = _sample(root, stage.pid, attempt, number, time.monotonic() - began)
            if sample is not None:
                samples.append(sample)
            if attempt < kills and number >= stops[attempt]:
                stage.send_signal(signal.SIGKILL)
                break
        stage.wait()
    return samples


def _sample(root: Path, pid: int, attempt: int, number: int, seconds: float) -> Sample | None:
    scratch = next((root / ".hapo/scratch").glob("train@1-*"))
    try:
        files = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - entries may vanish
        rss, workers = _rss(pid), sum(_rss(child) for child in _below(pid))
    except OSError:  # the stage has just ended
        return None
    states = _size(scratch / "states")
    tables = _size(scratch) - states
    return Sample(attempt, number, rss, workers, files, states / 1e3, tables / 1e3, seconds)


def _rss(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+)", text)
    return int(match[1]) / 1024 if match else 0.0


def _below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in children for child in path.read_text().split()]
    return found + [deeper for child in found for deeper in _below(child)]


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _show(samples: list[Sample], root: Path) -> None:
    print("attempt  round  RSS MB  workers MB  open files  state kB  tables kB  s since start")
    for s in samples:
        if s.round % 20 == 0 or s == samples[0]:
            print(
                f"{s.attempt + 1:>7}  {s.round:>5}  {s.rss_mb:>6.0f}  {s.workers_mb:>10.0f}  "
                f"{s.files:>10}  {s.state_kb:>8.0f}  {s.tables_kb:>9.0f}  {s.seconds:>13.1f}"
            )
    for attempt in sorted({s.attempt for s in samples}):
        own = [s for s in samples if s.attempt == attempt]
        quarter = max(1, len(own) // 4)
        first, last = own[quarter : 2 * quarter] or own, own[-quarter:]  # the first warms up
        grown = statistics.median(s.rss_mb for s in last) - statistics.median(
            s.rss_mb for s in first
        )
        files = max(s.files for s in last) - max(s.files for s in first)
        print(
            f"attempt {attempt + 1}: {len(own)} rounds; from its second to its last quarter "
            f"RSS {grown:+.1f} MB, open files {files:+d}"
        )
    ends = samples[-1].tables_kb / samples[-1].round
    left = _size(root / "artifacts/policy/1") / 1e3
    print(f"tables {ends:.1f} kB a round; finished segment {left:.0f} kB")


if __name__ == "__main__":
    main()
