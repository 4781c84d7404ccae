"""A small Qwen2 policy with its own tokenizer, trained from nothing on supervised text."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from hapo_core.rng import Purpose, seed31
from hapo_core.tasks.chains import SYMBOLS

INITIALIZER_RANGE = 0.08
"""Near 1/sqrt(width): with the usual .02 a policy this narrow needs more steps, and some seeds far
more (docs/quickstart.md)."""

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}\n"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)


def tiny_tokenizer() -> Qwen2Tokenizer:
    """One token a symbol of the chains task, with BOS, EOS, PAD and a chat template.

    It is a Qwen2 tokenizer without merges, because `AutoTokenizer` loads the class that belongs to
    the model's type, whatever class was saved: any other kind would come back as a Qwen2 tokenizer
    with other tokens.
    """
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    symbols = ["\u010a" if s == "\n" else s for s in SYMBOLS if len(s) == 1]  # byte-level newline
    tokenizer = Qwen2Tokenizer(
        vocab={s: i for i, s in enumerate([*specials, *symbols])},
        merges=[],
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([s for s in SYMBOLS if len(s) > 1])
    return tokenizer


def tiny_model(
    tokenizer: Qwen2Tokenizer, hidden: int, layers: int, heads: int, seed: int
) -> Qwen2ForCausalLM:
    """A Qwen2 causal LM with tied embeddings; weights depend only on the shape and `seed`."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=512,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed31(seed, Purpose.INIT))
        return Qwen2ForCausalLM(config)
