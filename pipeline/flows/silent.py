"""The observer of ranks that report nothing."""

from __future__ import annotations

from pipeline.flows.observer import Observer


class SilentObserver(Observer):
    """The observer of all ranks but the first: they report nothing."""

    def log(self, message: str, level: int = 20) -> None:
        """Takes a line and shows it nowhere: the first rank logs it for all."""
