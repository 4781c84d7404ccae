"""The optimizer and the adapters of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError
from hapo_core.update_spec import LoraSpec, UpdateSpec
from pipeline import config as c
from pipeline.build.engine import rollout_dtype
from pipeline.config.section import core_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def update_spec(params: c.Params) -> UpdateSpec:
    """Optimizer settings."""
    return core_of(UpdateSpec, params.update, mismatch_limit=_mismatch_limit(params))


def _mismatch_limit(params: c.Params) -> float | None:
    """What the configuration says, or what the dtypes of engine and update explain."""
    from hapo_core.mismatch import limit_of

    u, r = params.update, params.rollout
    if u.mismatch_limit is not None:
        return None if u.mismatch_limit == "off" else u.mismatch_limit
    dtypes: list[str] = [params.compute.dtype, "bfloat16" if u.mixed_precision else "float32"]
    if r.engine == "hf":
        dtypes.append(rollout_dtype(params))
    elif r.vllm is not None and r.vllm.dtype is not None:
        dtypes.append(r.vllm.dtype)
    limit = limit_of(dtypes, r.temperature)
    # A server that may differ by more between updates may do so in them.
    return max(limit, r.vllm.guard_tolerance or 0.0) if r.vllm is not None else limit


def adapt(params: c.Params, model: PreTrainedModel) -> None:
    """Put the configured adapters on a policy that has none yet.

    Raises:
        ConfigError: the policy has adapters, but the configuration trains all weights.
    """
    from hapo_core.lora import add_adapters, has_adapters

    choice = params.update.lora
    if choice is None and has_adapters(model):
        raise ConfigError(
            "the policy consists of adapters, and without update.lora all weights would train",
            where="update.lora",
            remedy="keep update.lora in all segments of a chain",
        )
    if choice is not None and not has_adapters(model):
        add_adapters(model, core_of(LoraSpec, choice), params.seed)
