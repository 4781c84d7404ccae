"""Credentials stay out of logs, messages and the UI, whoever put them into a text.

What counts as one: values of environment variables whose names say so (HF_TOKEN,
AWS_SECRET_ACCESS_KEY, WANDB_API_KEY, ...), and credentials in `.dvc/config.local`.
"""

from __future__ import annotations

import configparser
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

HIDDEN = "***"
_LOCAL = Path(".dvc/config.local")
_NAMES = re.compile(
    r"token|secret|passw|passphrase|api_?key|access_?key|account_?key|private_?key|credential"
    r"|connection_?string|auth_?string|_auth$|headers$|cookie|_pat$",
    re.IGNORECASE,
)
_NO_VALUE = re.compile(r"path|file|dir$|disable|parallelism", re.IGNORECASE)
_LOGIN = re.compile(r"://[^\s:/@]*:(\S+)@")
_BARE_LOGIN = re.compile(r"[^\s:/@]*:(\S+)@")
"""A password up to the last @, however it is written: `user:p/w@host`."""
_SHORTEST = 6
"""Characters; a shorter value would be found in ordinary words."""


def hide(text: str) -> str:
    """The text with every known credential replaced by `***`."""
    for secret in _known():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def learn() -> None:
    """Look again: a credential has been put into the environment."""
    _known.cache_clear()


@functools.cache
def _known() -> tuple[str, ...]:
    found = {value for value in (*_of_environment(), *_of_dvc()) if len(value) >= _SHORTEST}
    return tuple(sorted(found, key=len, reverse=True))


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAMES.search(name) and not _NO_VALUE.search(name):
            yield value
            if name.upper().endswith("AUTH_STRING"):  # user:password
                yield value.partition(":")[2]
        yield from _of_address(value)
        if name.lower().endswith("_proxy") and (login := _BARE_LOGIN.match(value)):
            yield login[1]


def _of_dvc() -> Iterator[str]:
    reader = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        reader.read(_LOCAL, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return
    for section in reader.sections():
        for name, value in reader.items(section):
            if _NAMES.search(name) and not _NO_VALUE.search(name):
                yield value.strip("\"'")
            yield from _of_address(value)


def _of_address(value: str) -> Iterator[str]:
    """The password in `scheme://user:password@host`."""
    if "://" in value and "@" in value:
        try:
            password = urlsplit(value.strip("\"'")).password
        except ValueError:
            return
        if password:
            yield password
        elif login := _LOGIN.search(value):
            yield login[1]
