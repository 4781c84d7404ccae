"""The rollout engine of the configuration, and how it samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import config as c
from pipeline.artifacts.places import expanded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hapo_core.rollout import Engine, Sampling
    from hapo_core.rollout.vllm.server import ServerSpec


def training_sampling(params: c.Params) -> Sampling:
    """How a round's rollouts are drawn."""
    from hapo_core.rollout import Sampling

    r = params.rollout
    return Sampling(r.group_size, r.temperature, r.top_p, r.max_tokens)


def rollout_dtype(params: c.Params) -> str:
    """Of the weights with which the hf engine draws a segment's rollouts: those of the passes of
    the update, where nothing else is said. Sharded weights generate as they are."""
    if params.rollout.dtype is not None:
        return params.rollout.dtype
    low = params.update.mixed_precision and not params.compute.shard
    return "bfloat16" if low else "float32"


ENGINES = Path(".hapo/engine")
"""Logs of engine servers, and the weights written for them, by stage."""


def rollout_engine(
    choice: c.RolloutParams | c.Evaluate,
    compute: c.Compute,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stage: str,
    context: int,
    tell: Callable[[str], None],
    dtype: str | None = None,
) -> Engine:
    """The engine of the configuration, on `model`.

    Args:
        dtype: of the weights that generate in this process; None: the configuration's.
        stage: names the folder of its servers' logs.
        context: longest prompt plus response, tokens.
        tell: gets lines about servers.

    Raises:
        ConfigError: the engine's environment is not there.
    """
    if choice.engine == "hf":
        import torch

        from hapo_core.rollout.transformers_engine import HFEngine

        low = (dtype or choice.dtype) == "bfloat16"
        return HFEngine(model, tokenizer, choice.max_rows, torch.bfloat16 if low else None)
    from hapo_core.rollout.vllm.engine import VLLMEngine, VLLMSettings

    servers = choice.vllm or c.VllmServers()
    processed = not isinstance(choice, c.RolloutParams) or choice.top_p == 1
    rows = -(-choice.max_rows // servers.servers)
    settings = VLLMSettings(
        None if servers.urls else server_spec(servers, compute.dtype, context, rows, processed),
        servers.servers,
        servers.urls or (),
        servers.gpus or (),
        servers.guard_tolerance,
        servers.restarts,
    )
    return VLLMEngine(model, tokenizer, settings, ENGINES / stage, choice.max_rows, tell)


def server_spec(
    servers: c.VllmServers, dtype: str, context: int, rows: int, processed: bool = True
) -> ServerSpec:
    """How a server of the configuration is started."""
    from hapo_core.rollout.vllm.server import ServerSpec

    return ServerSpec(
        environment=expanded(servers.environment),
        device=servers.device,
        dtype=servers.dtype or dtype,
        context=context,
        rows=rows,
        threads=servers.threads,
        cache_gb=servers.cache_gb,
        memory_share=servers.memory_share,
        processed=processed,
        start_seconds=servers.start_seconds,
        arguments=servers.arguments,
        variables=servers.variables,
    )
