"""What the dry run says of memory, against what passes really keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import REPO
from transformers import AutoModelForCausalLM, LlamaConfig, MambaConfig, MixtralConfig, Qwen2Config

from hapo_core.modes import ready_to_train
from hapo_core.policy import response_logprobs
from pipeline.checks.estimates import Size, policy_size
from pipeline.checks.memory import Blocks, memory
from pipeline.config import Params, load_params

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def kept(model: torch.nn.Module, rows: int, tokens: int) -> int:
    """Bytes that autograd keeps for the backward pass of `rows` rows, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()
        if place.data_ptr() not in weights:
            found[place.data_ptr()] = place.nbytes()
        return tensor

    half = tuple(k % 60 for k in range(tokens // 2))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logp, _ = response_logprobs(model, [(half, half)] * rows)  # type: ignore[arg-type]
    assert logp.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_what_a_pass_keeps(kind: type, checkpointing: bool) -> None:
    config = kind(**SHAPE)
    model = AutoModelForCausalLM.from_config(config)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ready_to_train(model)
    blocks = Blocks.of(config)
    assert blocks == Blocks(3, 96, 256, 48, 64)
    rows, tokens = 8, 64
    real = kept(model, rows, tokens)
    # Of the pass itself; the block that is computed again lives in the backward pass.
    whole = blocks.saved(checkpointing=checkpointing)
    once = 4 * 256 + 8 * 96 + 2 * 48 if checkpointing else 0
    assert 4 * (whole - once) * rows * tokens == pytest.approx(real, rel=0.06)


def test_models_of_other_shapes_have_no_estimate() -> None:
    assert Blocks.of(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)) is None
    assert Blocks.of(MixtralConfig(**SHAPE)) is None


def profile(name: str) -> Params:
    return load_params(REPO / "params" / f"{name}.yaml")


def test_parts_follow_the_configuration() -> None:
    params = profile("quickstart")
    size = policy_size(params)
    assert size is not None and size.blocks is not None
    one = memory(params, size.parameters, size.ends, size.blocks)
    assert one.update["weights"] == one.update["gradients"] == 4 * size.parameters
    assert one.update["moments"] == 2 * one.update["weights"]
    assert "all weights, whole" not in one.rollout
    assert one.rollout["keys and values of 128 rows"] == 4 * 2 * 4 * 48 * (64 + 112) * 128
    compute = params.compute.model_copy(update={"processes": 2, "shard": True})
    two = memory(params.model_copy(update={"compute": compute}), size.parameters, size.ends, None)
    own = size.ends + (size.parameters - size.ends) // 2
    assert two.update == {"weights": 4 * own, "moments": 8 * own, "gradients": 4 * own}
    assert two.rollout["all weights, whole"] == 4 * (size.parameters - own)
    assert replace(size, blocks=None) == Size(size.parameters, size.ends, size.context, size.tokens)


def test_a_32b_policy_needs_most_while_responses_are_drawn() -> None:
    """METHOD's largest user: 64 blocks of width 5,120; six cards train, weights in float32."""
    params = profile("qwen2.5-math-7b")
    blocks = Blocks(64, 5120, 27648, 1024, 152064)
    parameters, ends = 32_763_876_352, 2 * 5120 * 152064 + 5120
    found = memory(params, parameters, ends, blocks)
    name, need = found.peak
    assert name == "rollouts" and need > 160e9
    state = sum(found.update[part] for part in ("weights", "gradients", "moments"))
    assert state == pytest.approx(16 * (ends + (parameters - ends) / 6))
    (kept,) = (n for n in found.update if n.startswith("activations"))
    longest = params.curate.max_prompt_tokens + params.rollout.max_tokens
    assert found.update[kept] >= 2 * longest * blocks.count * blocks.hidden
