"""A small real project: a clone of the repository whose run takes seconds."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from conftest import copy_code

PARAMS = """\
profile: seconds
seed: 3
method: hapo
curate:
  sources:
    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}
  benchmarks:
    heldout: {kind: chains, count: 8, min_steps: 2, max_steps: 3}
  max_prompt_tokens: 40
  max_trace_tokens: 48
  decontaminate_ngram: 0
base: {kind: tiny, hidden_size: 32, layers: 2, heads: 2, steps: 6, batch_size: 8,
       learning_rate: 0.003, slip_probability: 0.5}
gate:
  evidence: prompt
  statistic: thompson
  threshold: {kind: adaptive, gamma_start: 0.5}
teacher: {shape: log}
objective: {preset: paper}
sft: {rounds: 2}
rewards: {verifier: math}
rollout: {group_size: 4, max_tokens: 48}
update: {learning_rate: 0.001}
train: {prompts_per_round: 6, probe_benchmark: heldout, probe_every: 2, probe_problems: 4}
segments:
  "1": {prev: base, rounds: 4}
  "2": {prev: "1", rounds: 2}
evaluate:
  benchmarks:
    heldout: {k: 2, max_tokens: 48}
targets:
  base: {policy: base}
  final: {policy: "2"}
compute: {threads: 1}
"""


def clone(path: Path) -> None:
    """Code, data, configuration and git; DVC without a cache."""
    copy_code(path)
    (path / "params.yaml").write_text(PARAMS)
    for words in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", *words], cwd=path, check=True)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
