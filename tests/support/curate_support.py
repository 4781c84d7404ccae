"""Shared by the curation tests: a real byte-level tokenizer, parameters, the real files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hapo_core.tasks.tiny import tiny_tokenizer
from pipeline.artifacts import check_manifest
from pipeline.config import (
    ChainsSource,
    Curate,
    Params,
    Rewards,
    Source,
    TableSource,
    TinyBase,
    Train,
)
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer

HELD_OUT = ChainsSource(kind="chains", count=20, min_steps=3, max_steps=5)

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CORPUS = [
    "Find the value of the integer x such that the sum of the first n terms is equal to 12.",
    "Let $ABC$ be a triangle. What is the area of the triangle? \\boxed{\\frac{1}{2}}",
    "<think>\nOkay, so I need to solve for x. Wait, let me check that again.\n</think>\n",
]


def shared_data() -> Path:
    """The folder of real files, or a skip with its reason."""
    given = os.environ.get("HAPO_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set HAPO_SHARED_DATA)")
    return folder


@cache
def byte_tokenizer(extra: str = "") -> PreTrainedTokenizerFast:
    """A byte-level BPE with a chat template; `extra` is put at the template's end."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS, trainer)
    template = CHAT.replace("assistant\n{% endif %}", f"assistant\n{extra}{{% endif %}}")
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=template,
    )


def params_for(
    sources: dict[str, Source],
    benchmarks: dict[str, Source],
    verifier: Literal["math", "exact"] = "math",
    method: str = "grpo",
    **settings: object,
) -> Params:
    """Parameters of which curation reads `curate`, `seed`, `rewards`, `base`, and in its lock
    `train.probe_benchmark` only."""
    section = Curate.model_validate(
        {
            "sources": sources,
            "benchmarks": benchmarks,
            "max_trace_tokens": 100_000,
            "max_prompt_tokens": 4096,
            **settings,
        }
    )
    base = TinyBase(
        kind="tiny",
        hidden_size=16,
        layers=1,
        heads=1,
        steps=1,
        batch_size=1,
        learning_rate=1e-3,
        slip_probability=0.5,
    )
    return Params.model_construct(
        seed=7,
        method=method,
        curate=section,
        base=base,
        rewards=Rewards(verifier=verifier),
        train=Train(prompts_per_round=1),
    )


def run(
    sources: dict[str, Source],
    target: str = "artifacts/data",
    verifier: Literal["math", "exact"] = "exact",  # starts no worker processes
    **settings: object,
) -> tuple[Path, dict[str, Any]]:
    """Curate with the byte tokenizer (the tiny one for chains alone); the folder and account."""
    chains = all(isinstance(s, ChainsSource) for s in sources.values())
    tokenizer = tiny_tokenizer() if chains else byte_tokenizer()
    params = params_for(sources, {"held_out": HELD_OUT}, verifier, **settings)
    curate(params, Observer("curate"), Path(target), tokenizer)
    folder = Path(target)
    check_manifest(folder, "data")
    return folder, json.loads((folder / "curation.json").read_text())


def rule(account: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a rule took, from the account."""
    found: dict[str, Any] = next(r for r in account["rules"] if r["rule"] == name)
    return found


def mine(rows: list[dict[str, object]], name: str = "mine.jsonl", **settings: object) -> Source:
    """A source of these rows, written as JSON lines into the working directory."""
    Path(name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    return TableSource.model_validate({"kind": "table", "path": name, **settings})


_WALK = "A walker goes {} miles on each of {} days and then rests. How many miles does she walk?"


def walk(a: int, b: int) -> str:
    """A problem whose answer is a * b."""
    return _WALK.format(a, b)
