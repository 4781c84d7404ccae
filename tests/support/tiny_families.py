"""Tiny, randomly initialised models of transformers' causal LM families.

Weights are loud (sigma .3), so that a left-out function or a wrong mask moves log-probs by tenths;
factors that are 1 in a family's default configuration are set to something else.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

FAMILIES = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
VOCABULARY = 96
MOST_PARAMETERS = 3_000_000
_SIZES: dict[str, object] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "emb_dim"), 32),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim"), 48),
    **dict.fromkeys(("encoder_ffn_dim", "dff", "d_inner"), 48),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), 2),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim", "sliding_window"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "mamba_d_head", "mamba_n_heads", "state_size"), 8),
    "rotary_dim": 4,
    "mamba_n_groups": 1,
    "mamba_d_ssm": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    # Factors between hidden states and logits.
    "logits_scaling": 3.0,
    "logit_scale": 0.4,
    "lm_head_multiplier": 0.5,
    "final_logit_softcapping": 5.0,
    "output_logit_soft_cap": 5.0,
    "logits_soft_cap": 5.0,
    "dim_model_base": 16,
    # Encoders as decoders.
    "is_decoder": True,
    "causal": True,
}
_OWN: dict[str, dict[str, object]] = {
    "bamba": {"attn_layer_indices": [1], "layer_types": None},
    "cohere_compass_text": {"layer_types": None},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {
            "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32,
        },
    },
    "deepseek_v4": {
        "head_dim": 16, "o_lora_rank": 16, "index_n_heads": 2, "index_head_dim": 8,
        "num_key_value_heads": 2,
    },
    "dots1": {"n_shared_experts": 1, "layer_types": None},
    "falcon": {"head_dim": None},
    "falcon_h1": {"layer_types": None},
    "falcon_mamba": {"layer_types": None},
    "gemma3n_text": {
        "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
        "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_text": {
        "head_dim": 8, "global_head_dim": 8, "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma4_unified_text": {"head_dim": None, "layer_types": None},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"layer_types": None, "attn_layer_offset": 1, "attn_layer_period": 2},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "longcat_flash": {
        "ffn_hidden_size": 48, "head_dim": 8, "moe_topk": 2, "zero_expert_num": 2,
        "expert_ffn_hidden_size": 16, "num_layers": 2,
    },
    "mamba": {"layer_types": None},
    "mamba2": {"layer_types": None, "n_groups": 1, "num_heads": 8, "head_dim": 8},
    "minicpm3": {"logits_scaling": None},
    "moshi": {"sliding_window": 64},
    "nemotron_h": {"layer_types": None, "layers_block_type": ["mamba", "attention"]},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": 2, "num_decoder_layers": 2},
    "roc_bert": {
        "enable_pronunciation": False, "enable_shape": False, "pronunciation_vocab_size": 8,
        "shape_vocab_size": 8, "pronunciation_embed_dim": 8, "shape_embed_dim": 8,
        "concat_input": False,
    },
    "xlnet": {"max_position_embeddings": None, "n_head": 4, "d_head": 8},
    "xlstm": {"v_head_dim": None, "qk_head_dim": None, "layer_types": None, "chunk_size": 1},
    "xmod": {"default_language": "en_XX"},
    "rembert": {"output_embedding_size": 32, "input_embedding_size": 32},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"]},
    "xlm": {"n_heads": 4, "n_langs": 1, "use_lang_emb": False},
    "zamba": {
        "num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 2,
        "n_mamba_heads": 2, "num_key_value_heads": 4, "mamba_dt_rank": 4,
        "use_mamba_kernels": False, "layer_types": None,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid"] * 2, "layer_types": None,
        "mamba_headdim": 8, "n_mamba_heads": 8, "num_key_value_heads": 4,
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


class NotTiny(Exception):
    """Why a family has no tiny model here."""


def tiny_config(family: str) -> PreTrainedConfig:
    """A configuration of the family with two narrow layers.

    Raises:
        NotTiny: its default configuration cannot be shrunk by the names of sizes above.
    """
    kind = CONFIG_MAPPING[family]
    try:
        default = kind()
        # Gemma-4's head_dim differs by layer, and may not be read.
        chosen = {k: v for k, v in _SIZES.items() if k in vars(default) or hasattr(default, k)}
        types = getattr(default, "layer_types", None)
        if types:
            chosen["layer_types"] = [types[0], next((t for t in types if t != types[0]), types[0])]
        if hasattr(default, "qk_rope_head_dim"):
            chosen.pop("head_dim", None)  # of the rotary part there
            chosen |= {"num_key_value_heads": 4}
        chosen |= _OWN.get(family, {})
        return kind(**{k: v for k, v in chosen.items() if v is not None})
    except Exception as error:
        raise NotTiny(f"{type(error).__name__}: {str(error).splitlines()[0][:90]}") from error


def tiny_family(family: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model of the family with loud weights.

    Raises:
        NotTiny: it cannot be shrunk, or needs packages that are not here.
    """
    import torch

    config = tiny_config(family)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    try:
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(config).parameters())
        if size > MOST_PARAMETERS:
            raise NotTiny(f"{size / 1e6:.0f}M parameters with two narrow layers")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = kind(config).eval()
            with torch.no_grad():
                for p in model.parameters():
                    if p.ndim > 1:
                        p.normal_(0, 0.3)
        model(input_ids=torch.tensor([[3, 4, 5, 6]]))  # some need kernels or more than tokens
        return model
    except NotTiny:
        raise
    except Exception as error:
        raise NotTiny(f"{type(error).__name__}: {str(error).splitlines()[0][:90]}") from error


class Words:
    """As much of a tokenizer as the engine asks for."""

    pad_token_id, eos_token_id = 0, 2

    def decode(self, ids: object, **_: object) -> str:
        """No text."""
        return ""


@dataclass(frozen=True)
class Agreement:
    """How far engine and update are from the model's own forward pass: largest |delta log p| over
    `tokens` sampled tokens, and the ways that both found for this model."""

    engine: float
    update: float
    tokens: int
    head: str
    stepping: str


def agreement(model: PreTrainedModel, temperature: float = 0.8) -> Agreement:
    """Sample from four prompts of 3 to 9 tokens, three responses each, rows ending at different
    steps, and compare with one forward pass per sequence, without cache, padding or batch.

    Raises:
        HapoError: the model is refused.
    """
    import torch

    from hapo_core.logits import head_path
    from hapo_core.policy import response_logprobs
    from hapo_core.rollout.protocol import Prompt, Sampling
    from hapo_core.rollout.stepping import stepping
    from hapo_core.rollout.transformers_engine import HFEngine

    prompts = {str(i): tuple((7 * j + i) % 90 + 3 for j in range(3 + 2 * i)) for i in range(4)}
    engine = HFEngine(model, Words(), max_rows=12)
    asked = [Prompt(name, ids) for name, ids in prompts.items()]
    by_engine = by_update = 0.0
    tokens = 0
    for rollout in engine.generate(asked, Sampling(3, temperature, 1.0, 20), 0, 0):
        prompt, response = prompts[rollout.prompt_id], rollout.token_ids
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *response]])
            own = model(input_ids=whole, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            own = torch.log_softmax(own / temperature, -1)
            own = own.gather(-1, torch.tensor(response)[:, None])[:, 0]
            # Beside a shorter row, so that one of them is padded.
            pairs = [(prompt, response), (prompt, (5, 6))]
            update, _ = response_logprobs(model, pairs, temperature)
        by_update = max(by_update, float((update[: len(response)] - own).abs().max()))
        sampled = torch.tensor(rollout.logprobs)
        by_engine = max(by_engine, float((sampled - own).abs().max()))
        tokens += len(response)
    way = type(stepping(model, 0)).__name__
    return Agreement(by_engine, by_update, tokens, head_path(model).value, way.lower())
