"""Tokenisation: prompts and traces, once, with the starting policy's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jinja2.exceptions import TemplateError

from hapo_core.errors import ConfigError, DataError
from hapo_core.turns import turn_end
from pipeline.build.prompting import at_date, check_steady
from pipeline.config.data import DATE

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

BATCH = 64
"""Texts tokenised at once: their ids exist as Python integers for that long, at 36 bytes each."""
Ids = npt.NDArray[np.int32]
_MARK = "hapo0problem"
_NO_SYSTEM = (
    "leave the system message out (system_prompt), and say it beside the problem (prompt_suffix)"
)


class PromptMaker:
    """Problems to templated prompt ids, texts to response ids.

    Args:
        tokenizer: of the starting policy; needs a chat template and an end token.
        suffix: appended to every problem.
        system: the system message, or None.
        chat: False leaves the chat template out; the prompt is then the problem and the suffix,
            with the tokenizer's own special tokens (base models).
        date: what a template that asks for today's date is told (YYYY-MM-DD).

    Raises:
        ConfigError: the tokenizer has no chat template or no end token, or works by chance.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        suffix: str = "",
        system: str | None = None,
        chat: bool = True,
        date: str = DATE,
    ) -> None:
        where = str(getattr(tokenizer, "name_or_path", "") or "the starting policy's tokenizer")
        if chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the tokenizer has no chat template, so prompts cannot be built",
                where=where,
                remedy="start from an instruction-tuned model, or write chat_template.jinja in "
                "a copy of its folder, such as {% for m in messages %}{{ m['content'] + '\\n' }}"
                "{% endfor %}",
            )
        end = turn_end(tokenizer) if chat else tokenizer.eos_token_id
        if end is None:
            raise ConfigError("the tokenizer has no end token (eos_token)", where=where)
        if not chat and system is not None:
            raise ConfigError("a system message needs the chat template", where=where)
        self.tokenizer, self.suffix, self.system, self.chat = tokenizer, suffix, system, chat
        check_steady(tokenizer, where)
        self.clock = at_date(tokenizer, date) if chat else {}
        self.end = int(end)
        """What a response ends with: as the template ends turns, or the tokenizer's end token."""
        self.unknown = tokenizer.unk_token_id
        known = [t for t in tokenizer.all_special_tokens if t != tokenizer.unk_token]
        self._special = re.compile("|".join(map(re.escape, known))) if known else None
        if chat:
            self._refuse_template(where)
        self.opens_thought = chat and self._rendered("1").rstrip().endswith("<think>")
        """The template itself opens the thought; traces must not open it again."""

    def _refuse_template(self, where: str) -> None:
        """Refuse a template that fails on our messages, or writes something else than they say."""
        try:
            text = self._rendered(_MARK)
        except (TemplateError, TypeError, ValueError) as error:
            about = "with a system message " if self.system is not None else ""
            raise ConfigError(
                f"the chat template cannot write a prompt {about}({error})",
                where=where,
                remedy=_NO_SYSTEM if self.system is not None else "mend the chat_template",
            ) from error
        if self.system is not None and self.system.strip() not in text:
            raise ConfigError(
                "the chat template leaves the system message out", where=where, remedy=_NO_SYSTEM
            )
        if _MARK not in text:
            raise ConfigError(
                "the chat template leaves the problem out", where=where, remedy="mend it"
            )

    def _messages(self, problem: str) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, {"role": "user", "content": problem + self.suffix}]

    def _rendered(self, problem: str) -> str:
        text = self.tokenizer.apply_chat_template(
            self._messages(problem), add_generation_prompt=True, tokenize=False, **self.clock
        )
        assert isinstance(text, str)
        return text

    def prompts(self, problems: Sequence[str]) -> list[Ids]:
        """The whole templated prompts as token ids, int32 [tokens] each."""
        ids: list[Ids] = []
        for start in range(0, len(problems), BATCH):
            ids += [
                np.array(row, dtype=np.int32)
                for row in self._coded(problems[start : start + BATCH])
            ]
        if ids and not len(ids[0]):
            raise DataError("the chat template renders to no token", where="chat_template")
        return ids

    def _coded(self, problems: Sequence[str]) -> Any:
        if not self.chat:
            texts = [problem + self.suffix for problem in problems]
            return self.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        return self.tokenizer.apply_chat_template(
            [self._messages(p) for p in problems],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self.clock,
        )

    def responses(self, texts: Sequence[str]) -> list[Ids]:
        """Response ids, int32 [tokens] each, with the end token at their end."""
        ids: list[Ids] = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            coded: Any = self.tokenizer(
                batch, add_special_tokens=False, return_attention_mask=False, verbose=False
            )
            ids += [np.array([*row, self.end], dtype=np.int32) for row in coded["input_ids"]]
        return ids

    def response_text(self, text: str) -> str:
        """A trace as this template continues: without `<think>` where the prompt ends with it."""
        if self.opens_thought and text.lstrip().startswith("<think>"):
            return text.lstrip().removeprefix("<think>").lstrip("\n")
        return text

    def text_fault(self, text: str) -> str | None:
        """Why a text must not be tokenised: a control token of this tokenizer written out."""
        found = self._special.search(text) if self._special else None
        return f"contains the control token {found.group()}" if found else None

    def has_unknown(self, ids: Ids) -> bool:
        """Whether ids hold the tokenizer's token for unknown characters."""
        return self.unknown is not None and bool((ids == self.unknown).any())
