"""Tokenisation: prompts and traces, once, with the starting policy's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hapo_core.errors import ConfigError, DataError
from hapo_core.turns import TEMPLATE_ERRORS, control_tokens, turn_end
from pipeline.build.prompting import at_date, check_steady
from pipeline.config.data import DATE

if TYPE_CHECKING:  # transformers takes two seconds to import
    from transformers import PreTrainedTokenizerBase

BATCH = 64
"""Texts tokenised at once: their ids exist as Python integers for that long, at 36 bytes each."""
Ids = npt.NDArray[np.int32]
_MARK = "hapo0problem"
_PROBE = f'{_MARK} <a & "b">\n\n  x_{{1}} {"and so on " * 40}\n{_MARK}'
"""What templates that escape, cut or rewrite would write otherwise."""
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
        known = [t for t in control_tokens(tokenizer) if t != tokenizer.unk_token]
        self._special = re.compile("|".join(map(re.escape, known))) if known else None
        if chat:
            self._refuse_template(where)
        self.opens_thought = chat and self._rendered("1").rstrip().endswith("<think>")
        """The template itself opens the thought; traces must not open it again."""
        self.opening = self._opening() if chat else ""
        """What the model writes before an answer, where control tokens are among it: traces begin
        as its turns do (gpt-oss: <|channel|>final<|message|>)."""
        self._opening_ids = self._own_ids(self.opening)
        self._closes = not chat and self._adds_an_end()

    def _opening(self) -> str:
        """The text between the prompt and the answer of a talk; empty without a control token."""
        talk = [*self._messages("1"), {"role": "assistant", "content": _MARK}]
        try:
            text = self.tokenizer.apply_chat_template(talk, tokenize=False, **self.clock)
        except TEMPLATE_ERRORS:
            return ""
        before, found, _ = str(text).partition(_MARK)
        between = before.removeprefix(self._rendered("1"))
        if not found or between == before or not (self._special and self._special.search(between)):
            return ""
        return between

    def _own_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _adds_an_end(self) -> bool:
        """Whether the tokenizer ends every text by itself (`add_eos_token`): a prompt goes on."""
        ends = {self.tokenizer.eos_token_id, self.tokenizer.sep_token_id} - {None}
        whole, own = self.tokenizer("1")["input_ids"], self._own_ids("1")
        return bool(whole) and whole[-1] in ends and whole[-1:] != own[-1:]

    def _refuse_template(self, where: str) -> None:
        """Refuse a template that fails on our messages, or writes something else than they say."""
        try:
            text = self._rendered(_PROBE)
        except TEMPLATE_ERRORS as error:
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
        if (_PROBE + self.suffix).strip() not in text:
            raise ConfigError(
                "the chat template changes the problem: it cuts, escapes or rewrites its text",
                where=where,
                remedy="mend it: `content` as it is, or trimmed at its ends",
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
            rows = self.tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
            return [row[:-1] for row in rows] if self._closes else rows
        return self.tokenizer.apply_chat_template(
            [self._messages(p) for p in problems],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **self.clock,
        )

    def responses(self, texts: Sequence[str]) -> list[Ids]:
        """Response ids, int32 [tokens] each, as the model's turns begin and end."""
        ids: list[Ids] = []
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            coded: Any = self.tokenizer(
                batch, add_special_tokens=False, return_attention_mask=False, verbose=False
            )
            ids += [
                np.array([*self._opening_ids, *row, self.end], dtype=np.int32)
                for row in coded["input_ids"]
            ]
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
