"""A tiny policy that vLLM's CPU build can run, and engines on the real server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from hapo_core.rollout.vllm.engine import VLLMEngine, VLLMSettings
from hapo_core.rollout.vllm.server import ServerSpec
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer

REPO = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("HAPO_ENGINE", REPO / "build" / "engine-cpu"))
needs_engine = pytest.mark.skipif(
    not (ENVIRONMENT / "bin" / "python").exists(),
    reason=f"no engine environment at {ENVIRONMENT}; `make test-vllm` builds it",
)


def policy(seed: int = 0):
    """(model, tokenizer): heads of 32, the smallest that the CPU build has attention for. The
    weights are wide, so that the distributions are far from uniform."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, 64, 2, 2, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5.0)
    return model, tokenizer


def spec(**changes) -> ServerSpec:
    given = {
        "environment": ENVIRONMENT,
        "device": "cpu",
        "dtype": "float32",
        "context": 160,
        "rows": 64,
        **changes,
    }
    return ServerSpec(**given)


def engine(model, tokenizer, folder: Path, servers: int = 1, **changes) -> VLLMEngine:
    settings = VLLMSettings(spec(), servers=servers, **changes)
    return VLLMEngine(model, tokenizer, settings, folder, max_rows=64, tell=print)


def by_key(rollouts):
    return {(r.prompt_id, r.sample): r for r in rollouts}
