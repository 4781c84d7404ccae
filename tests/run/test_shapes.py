"""Shapes of models that configurations state in odd ways: Gemma-4 by layer, Mamba without heads."""

from __future__ import annotations

from pathlib import Path

import pytest
from curate_support import byte_tokenizer
from tiny_families import tiny_config, tiny_family
from transformers import CONFIG_MAPPING, T5Config

from hapo_core.errors import ConfigError, DataError
from hapo_core.fit import key_width, number
from pipeline.checks import estimates
from pipeline.checks.memory import Blocks
from pipeline.config import Params, load_params
from pipeline.start.decide import find_model


@pytest.mark.parametrize("family", ["gemma4_text", "gemma4", "llama", "mamba", "gpt2", "qwen3_moe"])
def test_every_configuration_is_read(family: str) -> None:
    """transformers raises a RuntimeError for a size that differs by layer."""
    config = CONFIG_MAPPING[family]()
    Blocks.of(config)
    width = key_width(config)
    assert (width is None) == (family == "mamba")
    text = config.get_text_config()
    assert number(text, "hidden_size") and number(text, "nothing") is None
    if family == "gemma4_text":
        assert width == vars(config)["num_key_value_heads"] * vars(config)["head_dim"]


@pytest.mark.parametrize("family", ["gemma4_text", "mamba"])
def test_hapo_train_looks_at_such_a_model(tmp_path: Path, family: str) -> None:
    tiny_family(family).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    found = find_model(str(tmp_path))
    width = key_width(tiny_config(family))
    assert found.cache_bytes == 2 * 4 * 2 * (width or 0) and found.parameters > 0


def test_the_dry_run_names_a_model_that_is_no_causal_lm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    T5Config(d_model=16, num_layers=1).save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    base = {"kind": "pretrained", "path": str(tmp_path / "m")}
    params = Params.model_validate({**params.model_dump(), "base": base})
    with pytest.raises(DataError, match="no model can be made of its"):
        estimates.policy_size(params)


def test_a_family_that_cannot_compute_activations_again_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_config("ctrl").save_pretrained(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    raw = load_params(Path(__file__).parents[2] / "params.yaml").model_dump()
    raw["base"] = {"kind": "pretrained", "path": str(tmp_path / "m")}
    assert estimates.policy_size(Params.model_validate(raw)) is not None
    raw["update"]["gradient_checkpointing"] = True
    with pytest.raises(ConfigError, match="CTRLLMHeadModel cannot compute its activations again"):
        estimates.policy_size(Params.model_validate(raw))
