"""Which token ends an assistant's turn: what a chat template writes, not what a tokenizer says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

_MARK = "hapo0turn"
"""Stands for an answer; no template writes it."""


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token that the chat template writes after an assistant's answer.

    Gemma's turns end with <end_of_turn>, those of Qwen's base models with <|im_end|>, while their
    tokenizers name another end token. Where the template writes no control token there, or there is
    no template, it is the tokenizer's end token (None where there is none).
    """
    plain = getattr(tokenizer, "eos_token_id", None)
    plain = None if plain is None else int(plain)
    if not getattr(tokenizer, "chat_template", None):
        return plain
    talk = [{"role": "user", "content": "1"}, {"role": "assistant", "content": _MARK}]
    try:
        text = str(tokenizer.apply_chat_template(talk, tokenize=False))
    except (TemplateError, ValueError, TypeError):
        return plain  # a template of prompts alone
    _, found, tail = text.rpartition(_MARK)
    seen = [(tail.find(t), -len(t), i) for t, i in _controls(tokenizer) if t in tail]
    return min(seen)[2] if found and seen else plain


def _controls(tokenizer: PreTrainedTokenizerBase) -> list[tuple[str, int]]:
    """Texts and ids of control tokens; added words and spaces are none."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    named = set(getattr(tokenizer, "all_special_tokens", ()))
    known = {str(t): i for i, t in added.items() if t.special or str(t) in named}
    for text in named - set(known):
        known[text] = int(tokenizer.convert_tokens_to_ids(text))  # type: ignore[arg-type]
    return [(text, i) for text, i in known.items() if text.strip()]
