"""Low-rank adapters through peft (extra `lora`): only they train, and only they are saved."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedModel

from hapo_core.errors import ConfigError, DataError
from hapo_core.json_text import parse_json
from hapo_core.rng import Purpose, seed31
from hapo_core.update_spec import LoraSpec

__all__ = [
    "ADAPTER",
    "LoraSpec",
    "add_adapters",
    "base_of",
    "has_adapters",
    "load_adapters",
    "merged_state",
    "settle_description",
]

ADAPTER = "adapter_config.json"
"""In a policy's folder: it holds adapters, and this names the model that they belong to."""


def has_adapters(model: PreTrainedModel) -> bool:
    """Whether the policy consists of adapters on frozen weights."""
    return bool(getattr(model, "_hf_peft_config_loaded", False))


def add_adapters(model: PreTrainedModel, spec: LoraSpec, seed: int) -> None:
    """Put new adapters on the model and freeze all else. They change nothing yet: B is 0.

    Raises:
        ConfigError: peft is not installed, or no layer has one of the names.
    """
    _require_peft()
    from peft import LoraConfig

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=0.0,
        target_modules="all-linear" if spec.targets is None else list(spec.targets),
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed31(seed, Purpose.INIT))
        try:
            model.add_adapter(config)
        except ValueError as error:
            raise ConfigError(f"no adapters: {error}", topic="lora:targets") from error


def base_of(folder: Path) -> Path | None:
    """The model that the adapters of a policy's folder belong to; None where it has none.

    Raises:
        DataError: the description cannot be read.
    """
    described = folder / ADAPTER
    if not described.is_file():
        return None
    try:
        return Path(parse_json(described.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the adapters name no model: {error}", where=str(described)) from error


def load_adapters(model: PreTrainedModel, folder: Path) -> None:
    """Put the saved adapters on their model, ready to train.

    Raises:
        ConfigError: peft is not installed.
    """
    _require_peft()
    model.load_adapter(str(folder), is_trainable=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def settle_description(folder: Path) -> None:
    """Sort the layer names in a saved folder's description: peft writes a set, whose order differs
    from process to process, and equal adapters shall be equal bytes. Nothing without adapters."""
    described = folder / ADAPTER
    if described.is_file():
        facts = parse_json(described.read_text())
        if isinstance(names := facts["target_modules"], list):
            names.sort()
        described.write_text(json.dumps(facts, indent=2, sort_keys=True))


def merged_state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights of the plain model with the adapters added in, by the plain model's names."""
    from peft.tuners.lora import LoraLayer

    state: dict[str, torch.Tensor] = {}
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for name, value in model.state_dict().items():
        if "lora_" not in name:
            state[name.replace(".base_layer.", ".")] = value.detach()
    for name, layer in layers.items():
        (adapter,) = layer.active_adapters
        delta = cast("torch.Tensor", layer.get_delta_weight(adapter)).detach()
        state[f"{name}.weight"] = state[f"{name}.weight"] + delta
    return state


def _require_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise ConfigError("adapters need peft", remedy="pip install peft", topic="lora:peft")
