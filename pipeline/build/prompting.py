"""Prompts are the same in every run: what in a tokenizer or its template is chance, or a clock."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hapo_core.errors import ConfigError

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

_CLOCK = re.compile(r"\bstrftime_now\b")
_CHANCE = re.compile(r"\|\s*random\b|\blipsum\s*\(")
_PROBE = "A train leaves at 9:15 and needs 2 hours and 48 minutes. When does it arrive? " * 8


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of its chat template; empty where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return str(tokenizer.get_chat_template()) if template else ""


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template writes today's date into the prompt."""
    return _CLOCK.search(template_of(tokenizer)) is not None


def at_date(tokenizer: PreTrainedTokenizerBase, date: str) -> dict[str, Any]:
    """The arguments of `apply_chat_template` that hold the template's clock at midnight of `date`
    (YYYY-MM-DD); none where it has no clock."""
    if not reads_clock(tokenizer):
        return {}
    clock: Callable[[str], str] = datetime.fromisoformat(date).strftime
    return {"strftime_now": clock}


def check_steady(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Refuse a tokenizer that answers the same question in two ways.

    Raises:
        ConfigError: its template draws by chance, or it cuts words by chance (BPE dropout,
            sampling of pieces).
    """
    found = _CHANCE.search(template_of(tokenizer))
    if found is not None:
        raise ConfigError(
            f"the chat template draws by chance ({found.group().strip()}): no two runs would ask "
            "alike",
            where=where,
            remedy="take that out of the template (chat_template.jinja, or tokenizer_config.json)",
        )
    if len({tuple(tokenizer(_PROBE).input_ids) for _ in range(3)}) > 1:
        raise ConfigError(
            "the tokenizer cuts the same text in different ways: no two runs would ask alike",
            where=where,
            remedy="switch sampling off: model.dropout in tokenizer.json (null), or "
            "enable_sampling in sp_model_kwargs of tokenizer_config.json",
        )
