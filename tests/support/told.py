"""An observer that keeps what it is told."""

from __future__ import annotations

from pipeline.flows.observer import Observer


class Listening(Observer):
    """Its `lines` are the messages, in order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lines: list[str] = []

    def log(self, message: str, level: int = 20) -> None:
        self.lines.append(message)
