"""Prompts are the same in every run: what in a tokenizer or its template is chance, or a clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hapo_core.errors import ConfigError
from hapo_core.turns import TEMPLATE_ERRORS

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

_CLOCK = re.compile(r"\bstrftime_now\b")
_CHANCE = re.compile(r"\|\s*random\b|\bfilter\s+random\b|['\"]random['\"]|\blipsum\b")
"""A filter, also of a block (`filter random`) and by name (`map('random')`); and a function."""
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
"""How Python writes an object that has no text of its own: another one in each process."""
_RENDERINGS = 24
_PROBE = "A train leaves at 9:15 and needs 2 hours and 48 minutes. When does it arrive? " * 8


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of its chat template; empty where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict) and "default" not in template:
        raise ConfigError(
            f"the tokenizer has {len(template)} chat templates ({', '.join(sorted(template))}), "
            "and none is the default",
            where=str(getattr(tokenizer, "name_or_path", "") or "the tokenizer"),
            remedy="name one of them `default` in its files",
        )
    return str(tokenizer.get_chat_template()) if template else ""


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether its chat template writes today's date into the prompt."""
    return _CLOCK.search(template_of(tokenizer)) is not None


def at_date(tokenizer: PreTrainedTokenizerBase, date: str) -> dict[str, Any]:
    """The arguments of `apply_chat_template` that hold the template's clock at midnight of `date`
    (YYYY-MM-DD); none where it has no clock."""
    if not reads_clock(tokenizer):
        return {}
    day = datetime.fromisoformat(date).replace(tzinfo=UTC)
    seconds = str(int(day.timestamp()))  # `%s` would be counted in the machine's own time zone

    def clock(form: str) -> str:
        form = re.sub("%[%s]", lambda found: seconds if found[0] == "%s" else found[0], form)
        return day.replace(tzinfo=None).strftime(form)

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
    written = _renderings(tokenizer)
    if len(written) > 1 or any(_ADDRESS.search(text) for text in written):
        how = "an object's address in memory" if len(written) == 1 else "something else every time"
        raise ConfigError(
            f"the chat template writes {how}: no two runs would ask alike",
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


def _renderings(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """What the template makes of one question, again and again; empty where it makes nothing of
    it, which the caller finds out by itself."""
    if not template_of(tokenizer):
        return set()
    asked, clock = [{"role": "user", "content": _PROBE}], at_date(tokenizer, "2025-01-01")
    found = set()
    for _ in range(_RENDERINGS):
        try:
            text = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, tokenize=False, **clock
            )
        except TEMPLATE_ERRORS:
            return set()
        found.add(str(text))
    return found
