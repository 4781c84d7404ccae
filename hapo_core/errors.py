"""The one exception that users are meant to read."""

from __future__ import annotations


class HapoError(Exception):
    """A condition that the user can mend.

    Args:
        what: what is wrong, in one sentence.
        where: file, row, key or address at which it was found.
        remedy: what to do about it, in words of this library.
        topic: a name under which a program around the library may have a remedy in its own words
            (which key of its configuration, which of its commands).
    """

    def __init__(
        self, what: str, *, where: str | None = None, remedy: str | None = None, topic: str = ""
    ) -> None:
        self.what, self.where, self.remedy, self.topic = what, where, remedy, topic
        parts = [what]
        if where:
            parts.append(f"  at: {where}")
        if remedy:
            parts.append(f"  remedy: {remedy}")
        super().__init__("\n".join(parts))


class ConfigError(HapoError):
    """The configuration is unknown, contradictory or out of range."""


class DataError(HapoError):
    """An input file, table or artifact is not what it says it is."""
