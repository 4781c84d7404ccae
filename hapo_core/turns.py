"""How an assistant's turn ends: what a chat template writes, not what a tokenizer says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from hapo_core.model_folder import end_ids

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
    RecursionError,
)  # fmt: skip
"""What a chat template may raise: it is a program."""
_MARK = "hapo0turn"
"""Stands for an answer; no template writes it."""
_ASKED = {"role": "user", "content": "1"}


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id of the token that the chat template writes after an assistant's answer.

    Gemma's turns end with <end_of_turn>, those of Qwen's base models with <|im_end|>, while their
    tokenizers name another end token. Where the template writes no control token there, or there is
    no template, it is the tokenizer's end token (None where there is none); but GLM's turns end
    with what opens the next one, <|user|>, as its generation_config.json says too.
    """
    plain = getattr(tokenizer, "eos_token_id", None)
    plain = None if plain is None else int(plain)
    if not getattr(tokenizer, "chat_template", None):
        return plain
    last, inside = _after(tokenizer, []), _after(tokenizer, [_ASKED])
    if last is None:
        return plain  # a template of prompts alone
    known = control_tokens(tokenizer)
    first = _first(last, known)
    opens_next = None if inside is None else _first(inside, known)
    if first is not None and opens_next not in (None, first):
        prompt = _rendered(tokenizer, [_ASKED], asks=True) or ""
        if first == _last(prompt, known):
            first = None  # a template that opens the next answer although nobody asked
    if first is None and inside is not None and opens_next is not None:
        text = next(t for t, i in known.items() if i == opens_next)
        if inside.lstrip().startswith(text) and opens_next in _stops_at(tokenizer):
            return opens_next
    return plain if first is None else first


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of control tokens by their texts; added words and spaces are none."""
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    named = set(getattr(tokenizer, "all_special_tokens", ()))
    known = {str(t): i for i, t in added.items() if t.special or str(t) in named}
    for text in named - set(known):
        known[text] = int(tokenizer.convert_tokens_to_ids(text))  # type: ignore[arg-type]
    return {text: i for text, i in known.items() if text.strip()}


def _rendered(
    tokenizer: PreTrainedTokenizerBase, talk: Sequence[dict[str, str]], asks: bool = False
) -> str | None:
    try:
        text = tokenizer.apply_chat_template(list(talk), add_generation_prompt=asks, tokenize=False)
        return str(text)
    except TEMPLATE_ERRORS:
        return None


def _after(tokenizer: PreTrainedTokenizerBase, more: list[dict[str, str]]) -> str | None:
    """What the template writes after an answer; None where it writes none."""
    talk = [_ASKED, {"role": "assistant", "content": _MARK}, *more]
    _, found, tail = (_rendered(tokenizer, talk) or "").rpartition(_MARK)
    return tail if found else None


def _first(text: str, known: dict[str, int]) -> int | None:
    seen = [(text.find(t), -len(t), i) for t, i in known.items() if t in text]
    return min(seen)[2] if seen else None


def _last(text: str, known: dict[str, int]) -> int | None:
    seen = [(text.rfind(t) + len(t), len(t), i) for t, i in known.items() if t in text]
    return max(seen)[2] if seen else None


def _stops_at(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    folder = Path(str(getattr(tokenizer, "name_or_path", "")))
    return end_ids(folder) if folder.is_dir() else ()
