"""Prompt templates by name, for models that are evaluated outside a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TemplateName = Literal["boxed", "bare", "plain-boxed", "plain"]

_BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Template:
    """What stands around a problem.

    Args:
        name: as printed; `curate` for the one of params.yaml.
        chat: whether the tokenizer's chat template is applied.
        suffix: appended to the problem.
        system: the system message, or None.
        date: what the chat template was told to be today, where it asks; else None.
    """

    name: str
    chat: bool = True
    suffix: str = ""
    system: str | None = None
    date: str | None = None

    def describe(self) -> str:
        """The whole template in one line; two evaluations with equal lines asked alike."""
        if not self.chat:
            return f"no chat template, problem + {self.suffix!r}"
        system = f"system: {self.system!r}, " if self.system else ""
        day = f"date: {self.date}, " if self.date else ""
        return f"chat template, {day}{system}user: problem + {self.suffix!r}"


TEMPLATES: dict[TemplateName, Template] = {
    "boxed": Template("boxed", suffix=_BOXED),
    "bare": Template("bare"),
    "plain-boxed": Template("plain-boxed", chat=False, suffix=_BOXED + "\n"),
    "plain": Template("plain", chat=False),
}
"""`boxed` asks for a box, `bare` asks nothing but the problem; `plain` ones are for base models."""
