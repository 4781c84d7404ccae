"""Which engine generates, and on what."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.section import Section

CPU_HEAD_WIDTHS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Widths of an attention head that vLLM's CPU build computes (0.32, `cpu_attn.py`)."""


class VllmServers(Section):
    """vLLM servers, started by us from an environment of their own, or given by URL."""

    environment: str = "build/engine-cpu"
    """Folder with `bin/python` that has vLLM (`hapo engine install` makes one)."""
    device: Literal["cpu", "cuda"] = "cpu"
    servers: int = Field(default=1, ge=1)
    """How many are started; prompts are sharded over them. A server that dies is started again."""
    gpus: tuple[str, ...] | None = None
    """CUDA_VISIBLE_DEVICES of each server; unset leaves the choice to vLLM (one server)."""
    urls: tuple[str, ...] | None = None
    """Servers that run already, `http://host:port` (docs/engines.md says how to start them);
    none is started then. They must see this machine's `.hapo/engine` under the same path."""
    threads: int = Field(default=1, ge=1)
    """Threads of one CPU server."""
    cache_gb: int = Field(default=1, ge=1)
    """Key-value cache of a CPU server, GiB."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the servers; unset means `compute.dtype`."""
    memory_share: float = Field(default=0.9, gt=0, lt=1)
    """Share of a GPU's memory that a server may take."""
    start_seconds: float = Field(default=300.0, gt=0)
    restarts: int = Field(default=2, ge=0)
    """How often one server is started again in one round; then its shard goes to another."""
    guard_tolerance: float | None = Field(default=None, gt=0)
    """Largest mean |delta log p| between server and trainer after an update; by default 2e-4 in
    float32, 0.1 in bfloat16."""
    arguments: tuple[str, ...] = ()
    """More arguments of vLLM's server, as on its command line."""
    variables: dict[str, str] = Field(default_factory=dict)
    """More environment variables of the server, such as VLLM_BATCH_INVARIANT."""

    @model_validator(mode="after")
    def _consistent(self) -> VllmServers:
        if self.urls is not None and not self.urls:
            raise ValueError("`urls` is empty; leave it out to start servers")
        if self.urls is not None and self.servers != 1:
            raise ValueError("`servers` are those that are started; with `urls` none is")
        if self.gpus is not None and len(self.gpus) != self.servers:
            raise ValueError(f"`gpus` needs one entry per server, {self.servers}")
        if self.gpus is not None and self.device != "cuda":
            raise ValueError("`gpus` needs `device: cuda`")
        if self.device == "cuda" and self.servers > 1 and self.gpus is None:
            raise ValueError("several servers on GPUs need `gpus`, one entry each")
        return self


class EngineChoice(Section):
    """Which engine generates: transformers in the process, or vLLM servers."""

    engine: Literal["hf", "vllm"] = "hf"
    vllm: VllmServers | None = None
    """Of `engine: vllm`; left out, a CPU server from build/engine-cpu is started."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the weights with which `engine: hf` generates; bfloat16 is a copy beside those that train,
    made anew after every update. Unset, rollouts follow `update.mixed_precision` (without
    `compute.shard`), evaluations are float32."""

    @model_validator(mode="after")
    def _engine(self) -> EngineChoice:
        if self.engine == "hf" and self.vllm is not None:
            raise ValueError("`vllm` has settings, but `engine` is hf")
        if self.engine == "vllm" and self.dtype is not None:
            raise ValueError("`dtype` is of `engine: hf`; that of servers is `vllm.dtype`")
        return self


class Compute(Section):
    """Where and how the numbers are computed; bits depend on these."""

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that train: bfloat16 is refused, see `update.mixed_precision`."""
    threads: int = Field(default=2, ge=1)
    """Threads of every process."""
    attention: str = "sdpa"
    processes: int = Field(default=1, ge=1)
    """Training processes on this machine; with `device: cuda` one GPU each (docs/speed.md)."""
    shard: bool = False
    """Spread blocks, gradients and moments over the processes (FSDP2) instead of repeating them."""

    @model_validator(mode="after")
    def _several(self) -> Compute:
        if self.shard and self.processes == 1:
            raise ValueError("`shard` needs `processes` of 2 or more")
        if self.processes > 1 and ":" in self.device:
            raise ValueError(
                f"`device` {self.device} is one GPU; {self.processes} processes need `cuda`"
            )
        return self
