"""A line of the dry run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hapo_core.errors import HapoError
from pipeline.system.remedies import in_project_words

Kind = Literal["ok", "note", "PROBLEM"]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, and what was found."""

    kind: Kind
    subject: str
    text: str


def problem(subject: str, error: HapoError) -> Finding:
    """The error as a line."""
    said = in_project_words(error)
    text = said.what + (f" ({said.where})" if said.where else "")
    return Finding("PROBLEM", subject, text + (f"; {said.remedy}" if said.remedy else ""))
