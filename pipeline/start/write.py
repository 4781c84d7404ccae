"""The configuration and the README of a project of one's own model and data."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted

from pipeline.config.yaml import round_trip
from pipeline.start.decide import Machine, Model, Numbers
from pipeline.start.fit import Fit
from pipeline.start.refuse import Problem

HELD_OUT = Path("data/heldout.jsonl")
SAMPLES = 4
"""Responses to a held-out problem, at each evaluation."""
PROFILE = "own"


@dataclass(frozen=True)
class Plan:
    """All that the configuration is written from."""

    found: Fit
    model: Model
    machine: Machine
    numbers: Numbers
    method: str
    rounds: int
    seed: int
    held_out: tuple[Problem, ...]
    test: dict[str, object] | None = None
    """A source of params.yaml that is measured instead of held-out problems."""


def heldout_text(problems: Sequence[Problem]) -> str:
    """The held-out problems as lines of JSON."""
    rows = [{"problem": p.text, "answer": p.answer} for p in problems]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def params_text(plan: Plan) -> str:
    """params.yaml of the plan."""
    n, m = plan.numbers, plan.machine
    benchmark = plan.test or {"kind": "table", "path": str(HELD_OUT)}
    name = "test" if plan.test else "heldout"
    whole: dict[str, object] = {
        "profile": PROFILE,
        "seed": plan.seed,
        "method": plan.method,
        "curate": {
            "sources": {"mine": _flow(plan.found.source)},
            "benchmarks": {name: _flow(benchmark)},
            "prompt_suffix": Quoted(n.suffix),
            "max_prompt_tokens": n.max_prompt,
            "max_trace_tokens": n.max_tokens,
            # Held-out problems come from the same file: whole copies are dropped from training.
            "decontaminate_ngram": 13 if plan.test else 0,
        },
        "base": _flow(plan.model.base),
        "gate": {
            "evidence": "group",
            "statistic": "mean",
            "threshold": _flow({"kind": "adaptive", "gamma_start": 0.5}),
        },
        "teacher": {"weight": "advantage", "shape": "log"},
        "objective": {"preset": "paper"},
        "sft": {"rounds": max(1, plan.rounds // 3)},
        "rewards": {"verifier": plan.found.verifier},
        "rollout": {
            "group_size": n.group,
            "temperature": 1.0,
            "max_tokens": n.max_tokens,
            "max_rows": n.max_rows,
        },
        "update": _update(n, m),
        "train": {
            "prompts_per_round": n.prompts,
            "checkpoint_every": 1 if plan.model.small else 5,
            "probe_benchmark": name,
            "probe_every": max(1, plan.rounds // 4),
            "probe_problems": 32,
            "probe_samples": 2,
        },
        "segments": {Quoted("1"): _flow({"prev": "base", "rounds": plan.rounds})},
        "evaluate": {
            "benchmarks": {
                name: _flow({"k": SAMPLES, "temperature": 0.6, "max_tokens": n.max_tokens})
            },
            "max_rows": n.max_rows,
        },
        "targets": {
            "base": _flow({"policy": "base"}),
            "final": _flow({"policy": Quoted("1")}),
        },
        "compute": {"device": m.device, "threads": m.threads},
    }
    return _dumped(whole)


def _update(n: Numbers, machine: Machine) -> dict[str, object]:
    found: dict[str, object] = {
        "learning_rate": n.learning_rate,
        "micro_batch_tokens": n.micro_batch,
    }
    if n.lora:
        found["lora"] = _flow({"rank": 16})
    if n.checkpointing:
        found["gradient_checkpointing"] = True
    if machine.device != "cpu":
        found["mixed_precision"] = True
    return found


def _flow(mapping: dict[str, object]) -> object:
    from ruamel.yaml.comments import CommentedMap

    found = CommentedMap()
    for key, value in mapping.items():
        if isinstance(value, dict):
            value = _flow(value)
        elif isinstance(value, str) and not value.isidentifier():
            value = Quoted(value)
        found[key] = value
    found.fa.set_flow_style()
    return found


_HEAD = """\
# Written by `hapo train` from a look at data, model and machine; every key is yours to change
# (docs/configuration.md). `hapo run` runs what is not up to date.
"""


def _dumped(whole: dict[str, object]) -> str:
    sink = io.StringIO()
    round_trip().dump(whole, sink)
    lines: list[str] = []
    for line in sink.getvalue().splitlines():
        if lines and line[:1].isalpha() and lines[-1][:1] == " ":
            lines.append("")
        lines.append(line)
    return _HEAD + "\n".join(lines) + "\n"


# --- words ----------------------------------------------------------------------------------------


def decisions(plan: Plan, time: str) -> list[tuple[str, str]]:
    """(what, what was decided and why), for the terminal and the project's README."""
    f, n, m = plan.found, plan.numbers, plan.model
    adapter = f.source["adapter"]
    columns = f.source.get("columns")
    how = f"adapter {adapter}"
    if isinstance(columns, dict) and columns:
        how = ", ".join(f"{ours} = {theirs}" for ours, theirs in columns.items())
    rows = [("problems", f"{len(f.problems)} of {f.source['path']}: {how}")]
    rows.append(("solutions", _solutions(f, n)))
    if plan.test:
        rows.append(("measured on", f"{plan.test['path']}, before and after"))
    else:
        what = f"{len(plan.held_out)} problems, never trained on: {HELD_OUT}"
        rows.append(("held out", f"{what}, {SAMPLES} responses each before and after"))
    told = "told to box the answer" if n.suffix else "no instruction is added"
    rows.append(
        ("prompts", f"the longest has {n.prompt_longest} tokens, at most {n.max_prompt}; {told}")
    )
    rows.append(("responses", f"at most {n.max_tokens} tokens"))
    rows.append(
        ("rounds", f"{plan.rounds} of {n.prompts} problems x {n.group} responses, {plan.method}")
    )
    size = f"{m.parameters / 1e6:.3g}M parameters"
    what = "adapters (LoRA) train" if n.lora else "all weights train"
    rows.append(("model", f"{size}, {what}, learning rate {n.learning_rate:g}"))
    memory = f"about {n.memory / 1e9:.2g} GB of {plan.machine.memory / 1e9:.3g} GB"
    memory += f", {n.max_rows} responses at once"
    rows.append(("memory", f"{memory} ({plan.machine.device}, {plan.machine.threads} threads)"))
    rows.append(("time", time))
    return rows + [("note", note) for note in f.notes]


def _solutions(f: Fit, n: Numbers) -> str:
    if not f.graded:
        return "none"
    where = f.source.get("traces_path")
    text = f"of {where}, joined by {f.joined_by}; " if where else ""
    text += f"{f.taught} problems have one; "
    text += f"their answer is marked by {f.source.get('mark', 'box')!s}, "
    text += f"{f.right} of {f.graded} sampled are right; the longest has {n.trace_longest} tokens"
    return text + ("" if n.trace_kept == 1 else f", {100 * n.trace_kept:.0f} % are short enough")
