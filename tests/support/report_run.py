"""Synthetic runs for the report's tests: artifacts of the declared schemas, real gate decisions.

A policy whose success probability per prompt rises (or not) stands in for the model; its counts
pass through the real `hapo_core.gate.Gate`, so that predicted and measured injection rates belong
together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from hapo_core.gate import AdaptiveThreshold, ConstantThreshold, Decision, Gate, GateSpec
from hapo_core.stats.benchmark import Generation, Protocol, benchmark_result
from hapo_core.stats.intervals import mean_interval
from pipeline.artifacts import atomic_write_json, record_timing, write_manifest
from pipeline.artifacts.tables import BASE_LOG, GENERATIONS, GROUPS, ROUNDS, write_table

SIZE, PROMPTS = 8, 16
VERDICTS = ("correct", "wrong", "unparsed", "truncated", "timeout", "bad_gold", "error")


@dataclass(frozen=True)
class Story:
    """What the synthetic policy does. `start`, `end`: mean success probability over prompts."""

    method: str = "hapo"
    segments: tuple[int, ...] = (30, 30)
    start: float = 0.03
    end: float = 0.75
    held_out: tuple[float, float] = (0.04, 0.48)
    threshold: str = "adaptive"
    gamma: float = 0.6
    seed: int = 7
    sft_rounds: int = 0
    problems: int = 200
    samples: int = 8
    generations: bool = True
    probe: bool = True
    profile: str = "quickstart"


SMALL = Story(segments=(8, 8), problems=60, samples=4)
STORIES = {
    "hapo": SMALL,
    "grpo": replace(SMALL, method="grpo", end=0.04, held_out=(0.05, 0.05)),
    "luffy": replace(SMALL, method="luffy"),
    "sft": replace(SMALL, method="sft"),
    "sft_then_rl": replace(SMALL, method="sft_then_rl", sft_rounds=5),
}


def params_of(story: Story) -> dict[str, Any]:
    """params.yaml of the story."""
    names = [str(i + 1) for i in range(len(story.segments))]
    threshold = (
        {"kind": "adaptive", "gamma_start": story.gamma, "kappa": 2.0, "smoothing": 0.8}
        if story.threshold == "adaptive"
        else {"kind": "constant", "gamma": story.gamma}
    )
    chains = {"kind": "chains", "count": 2000, "min_steps": 5, "max_steps": 7}
    held_out = {"kind": "chains", "count": story.problems, "min_steps": 6, "max_steps": 6}
    protocol = {"k": story.samples, "temperature": 0.6, "max_tokens": 96}
    return {
        "profile": story.profile,
        "seed": story.seed,
        "method": story.method,
        "curate": {
            "sources": {"chains": chains},
            "benchmarks": {"chains6": held_out, "short": {**held_out, "max_steps": 6}},
            "max_trace_tokens": 96,
        },
        "base": {
            "kind": "tiny", "hidden_size": 96, "layers": 3, "heads": 4, "steps": 900,
            "batch_size": 64, "learning_rate": 2e-3, "slip_probability": 0.5,
        },
        "gate": {"threshold": threshold},
        "teacher": {"shape": "log"},
        "sft": {"rounds": story.sft_rounds},
        "rollout": {"group_size": SIZE, "max_tokens": 96},
        "update": {"learning_rate": 2e-4},
        "train": {
            "prompts_per_round": PROMPTS,
            "probe_benchmark": "chains6" if story.probe else None,
            "probe_every": 10,
        },
        "segments": {
            name: {"prev": "base" if i == 0 else names[i - 1], "rounds": rounds}
            for i, (name, rounds) in enumerate(zip(names, story.segments, strict=True))
        },
        "evaluate": {"benchmarks": {"chains6": protocol, "short": protocol}},
        "targets": {"base": {"policy": "base"}, "final": {"policy": names[-1]}},
    }  # fmt: skip


def make_run(root: Path, story: Story) -> None:
    """Write params.yaml and all artifacts of the story below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "params.yaml").open("w", encoding="utf-8") as sink:
        YAML().dump(params_of(story), sink)
    artifacts = root / "artifacts"
    _data(artifacts / "data")
    _base(artifacts / "policy" / "base")
    _train(artifacts, story)
    for target, share in zip(("base", "final"), story.held_out, strict=True):
        _evaluate(artifacts / "evaluation" / target, target, share, story)
    for stage, wall in (("curate", 4.2), ("base", 101.3)):
        _timing(artifacts, stage, wall, {}, 0, 0)


def _timing(
    artifacts: Path, stage: str, wall: float, parts: dict[str, float], out: int, trained: int
) -> None:
    root = artifacts / "timings"
    record_timing(stage, wall, generated=out, trained=trained, parts=parts, root=root)


def _data(folder: Path) -> None:
    rule = {
        "rule": "exact duplicates", "unit": "problems", "rows_in": 2000, "rows_out": 1993,
        "taken": {"same problem": 7}, "noted": {}, "examples": {},
    }  # fmt: skip
    atomic_write_json(
        folder / "curation.json",
        {
            "sources": {"chains": {"rows": 2000, "kind": "chains"}},
            "rules": [rule],
            "contamination": [],
            "benchmarks": {"chains6": {"source": {"kind": "chains"}, "problems": 200}},
            "traces": {"verdicts": {"correct": 1993}, "label_disagreements": []},
            "result": {"problems": 1993, "validation_share": 0.0},
        },
    )
    write_manifest(folder, "data", {})


def _base(folder: Path) -> None:
    rows = [
        {"step": s, "loss": 0.2 + 3 * np.exp(-s / 150), "learning_rate": 2e-3}
        for s in range(0, 901, 50)
    ]
    write_table(rows, BASE_LOG, folder / "base_log.parquet")
    _weights(folder, b"base")


def _weights(folder: Path, content: bytes) -> None:
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "model.safetensors").write_bytes(content)
    write_manifest(folder, "policy", {})


# --- training -----------------------------------------------------------------------------------


def _train(artifacts: Path, story: Story) -> None:
    rng = np.random.default_rng(story.seed)
    ease = rng.normal(size=160)
    threshold = (
        AdaptiveThreshold(story.gamma, 2.0, 0.8)
        if story.threshold == "adaptive"
        else ConstantThreshold(story.gamma)
    )
    gate = Gate(GateSpec(threshold), story.seed)
    total, done = sum(story.segments), 0
    for i, rounds in enumerate(story.segments):
        name = str(i + 1)
        folder, rows = artifacts / "policy" / name, []
        for number in range(done + 1, done + rounds + 1):
            supervised = story.method == "sft" or number <= story.sft_rounds
            progress = 1 / (1 + np.exp(-10 * (number / total - 0.45)))
            mean = story.start + (story.end - story.start) * progress
            mu = 1 / (1 + np.exp(-(np.log(mean / (1 - mean)) + 1.3 * ease)))
            groups = [] if supervised else _groups(gate, story, number, mu, rng)
            rows.append(_round(story, name, number, groups, mean, total, rng))
            path = folder / "groups" / f"round-{number:05d}.parquet"
            write_table(groups, GROUPS, path)
        done += rounds
        write_table(rows, ROUNDS, folder / "rounds.parquet")
        _weights(folder, name.encode())
        generated = sum(int(r["generated_tokens"]) for r in rows)
        trained = sum(int(r["trained_tokens"]) for r in rows)
        parts = {"rollout": 62.0, "verify": 3.1, "update": 40.4}
        _timing(artifacts, f"train@{name}", 110.0 + i, parts, generated, trained)


def _groups(
    gate: Gate, story: Story, number: int, mu: np.ndarray, rng: np.random.Generator
) -> list[dict[str, Any]]:
    picked = rng.choice(len(mu), PROMPTS, replace=False)
    counts = {f"chains/{p}": int(rng.binomial(SIZE, mu[p])) for p in picked}
    gate.begin_round(number - 1, sum(counts.values()) / (SIZE * PROMPTS))
    rows = []
    for prompt, successes in counts.items():
        reading = gate.observe(prompt, successes, SIZE, number - 1)
        solved = successes == SIZE
        injects = {"hapo": reading.open and not solved, "luffy": True}.get(story.method, False)
        rest = Decision.SOLVED if solved else Decision.CLOSED
        decision = Decision.INJECTED if injects else rest
        rows.append(
            {
                "round": number, "prompt_id": prompt, "successes": successes, "known": SIZE,
                "size": SIZE, "prior_a": reading.prior_a, "prior_b": reading.prior_b,
                "posterior_a": reading.prior_a + successes,
                "posterior_b": reading.prior_b + SIZE - successes,
                "confidence": reading.confidence, "gamma": reading.gamma,
                "has_trace": True, "decision": decision.value,
                "dead": solved or (successes == 0 and not injects),
            }
        )  # fmt: skip
    return rows


def _round(
    story: Story,
    segment: str,
    number: int,
    groups: list[dict[str, Any]],
    mean: float,
    total: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    right = sum(g["successes"] for g in groups)
    rollouts = SIZE * len(groups)
    injected = sum(g["decision"] == "injected" for g in groups)
    cut = int(rng.binomial(rollouts, 0.04)) if groups else 0
    unparsed = int(rng.binomial(rollouts, 0.02)) if groups else 0
    cut, unparsed = min(cut, rollouts - right), min(unparsed, max(0, rollouts - right - cut))
    tokens = 48 + 6 * number / total + rng.normal()
    verdicts = dict.fromkeys(VERDICTS, 0)
    verdicts.update(correct=right, unparsed=unparsed, truncated=cut)
    verdicts["wrong"] = rollouts - right - cut - unparsed
    dead = sum(g["dead"] for g in groups)
    return {
        "round": number, "segment": segment, "method": story.method,
        "phase": "rl" if groups else "sft", "prompts": PROMPTS, "rollouts": rollouts,
        "success_rate": right / rollouts if groups else None,
        "solved_groups": sum(g["successes"] == SIZE for g in groups),
        "failed_groups": sum(g["successes"] == 0 for g in groups),
        "injected_groups": injected, "dead_groups": dead, "no_trace_groups": 0,
        "gamma": groups[0]["gamma"] if groups else None,
        "mean_response_tokens": tokens if groups else None,
        "generated_tokens": int(tokens * rollouts),
        "trained_tokens": int(tokens * SIZE * (len(groups) - dead)) if groups else 800,
        "loss": 0.02, "grad_norm": 0.6 + 0.3 * rng.random(),
        "entropy": 0.5 - 0.2 * number / total if groups else None, "learning_rate": 2e-4,
        "teacher_balance": 0.9 * injected / PROMPTS if groups else None,
        "mismatch_mean": 2e-6 if groups else None, "mismatch_max": 6e-5 if groups else None,
        **{f"verdict_{k}": v for k, v in verdicts.items()},
        **_probe(story, number, total, mean),
    }  # fmt: skip


def _probe(story: Story, number: int, total: int, mean: float) -> dict[str, Any]:
    if not story.probe or number % 10:
        return dict.fromkeys(("probe_avg", "probe_low", "probe_high", "probe_n", "probe_k"))
    first, last = story.held_out
    share = (mean - story.start) / ((story.end - story.start) or 1.0)
    rng = np.random.default_rng(number)
    scores = rng.binomial(4, min(1.0, max(0.0, first + (last - first) * share)), 64) / 4
    low, high = mean_interval(scores)
    return {
        "probe_avg": float(scores.mean()), "probe_low": low, "probe_high": high,
        "probe_n": 64, "probe_k": 4,
    }  # fmt: skip


# --- evaluation ---------------------------------------------------------------------------------


def _evaluate(folder: Path, target: str, share: float, story: Story) -> None:
    benchmarks = {}
    for name, lift in (("chains6", 1.0), ("short", 1.6)):
        rng = np.random.default_rng([story.seed, len(name)])
        ease = rng.beta(0.8 * 2, (1 - 0.8) * 2, story.problems)
        drawn = np.random.default_rng([story.seed, len(name), len(target)]).random(
            (story.problems, story.samples)
        )
        mu = min(0.97, share * lift) * ease / 0.8
        rows = [
            {
                "benchmark": name, "problem_id": f"{name}/{p:04d}", "sample": s,
                "token_ids": [1, 2, 3], "finish": "stop", "text": "7",
                "verdict": "correct" if drawn[p, s] < mu[p] else "wrong",
                "extracted": "7" if drawn[p, s] < mu[p] else str(int(drawn[p, s] * 20)),
            }
            for p in range(story.problems)
            for s in range(story.samples)
        ]  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        if story.generations:
            write_table(rows, GENERATIONS, folder / f"{name}.parquet")
        found = [
            Generation(
                str(r["problem_id"]),
                int(str(r["sample"])),
                str(r["verdict"]),
                str(r["extracted"]),
                52,
            )
            for r in rows
        ]
        ids = [f"{name}/{p:04d}" for p in range(story.problems)]
        protocol = Protocol(story.samples, 0.6, 1.0, 96, "{problem}")
        benchmarks[name] = benchmark_result(found, ids, protocol).to_dict()
    policy = "base" if target == "base" else str(len(story.segments))
    atomic_write_json(folder / "metrics.json", {"policy": policy, "benchmarks": benchmarks})
    write_manifest(folder, "evaluation", {})
    tokens = story.problems * story.samples * 52 * 2
    _timing(folder.parents[1], f"evaluate@{target}", 21.5, {"rollout": 18.0}, tokens, 0)
