"""YAML: a reader that keeps comments, order and quotes, and one that gives plain values or says in
a sentence why it does not."""

from __future__ import annotations

import errno
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError
from pipeline.artifacts import read_text

BAD_YAML = (YAMLError, ValueError, RecursionError)
"""What reading YAML can raise: no YAML; a date or a number that there is not, or text that is no
UTF-8; nested too deeply."""
_UNREADABLE = 2000
"""Levels: brackets in texts count too, and Python's own limit comes first."""
_BRACKETS = re.compile(rf"[\[{{\]}}]|(?:[-?:][ \t]+){{{_UNREADABLE}}}")
_DEEPEST = 50
_MOST = 200_000
"""Values of one document, a repeated (`*anchor`) one counted each time: it is unfolded later."""


def round_trip() -> YAML:
    """A reader and writer that keeps comments, order and quotes."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def plain_values(text: str) -> Any:
    """The plain value of a YAML text, by the fast reader, which ends the process (SIGSEGV) on a
    text that is nested a hundred thousand times.

    Raises:
        YAMLError, ValueError, RecursionError: BAD_YAML.
    """
    open_brackets = 0
    for bracket in _BRACKETS.findall(text):
        open_brackets += 1 if bracket in "[{" else -1
        if open_brackets > _UNREADABLE or len(bracket) > 1:
            raise RecursionError
    return YAML(typ="safe").load(text)


def read_yaml(text: str, where: str) -> Any:
    """The plain value of a YAML text.

    Raises:
        ConfigError: it is no YAML, holds itself, or unfolds to more than a configuration is.
    """
    try:
        found = plain_values(text)
    except BAD_YAML as error:
        raise bad_yaml(error, where) from error
    refuse_endless(found, where)
    return found


def read_yaml_file(path: Path) -> Any:
    """`read_yaml` of a file.

    Raises:
        ConfigError: as there, or the file cannot be read.
    """
    try:
        text = read_text(path)
    except OSError as error:
        plain = error.errno != errno.ENXIO
        what = f"cannot be read: {error.strerror}" if plain else "is no plain file"
        raise ConfigError(what, where=str(path)) from error
    except UnicodeDecodeError as error:
        raise bad_yaml(error, str(path)) from error
    return read_yaml(text, str(path))


def bad_yaml(error: BaseException, where: str) -> ConfigError:
    """What is said of BAD_YAML."""
    what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return ConfigError(f"not valid YAML: {what}", where=where)


def refuse_endless(value: object, where: str) -> None:
    """Refuse a value that holds itself, is nested without measure, or unfolds to millions.

    Raises:
        ConfigError: naming the key.
    """
    todo: list[tuple[object, tuple[object, ...]]] = [(value, ())]
    count = 0
    while todo:
        part, path = todo.pop()
        count += 1
        if len(path) > _DEEPEST or count > _MOST:
            what = "holds itself or is nested too deeply" if count <= _MOST else "is too large"
            name = ".".join(map(str, path[:4])) or "the configuration"
            raise ConfigError(
                f"{name}: the value {what}",
                where=where,
                remedy="write the value out, without the anchor (&) and alias (*) that repeat it",
            )
        if isinstance(part, Mapping):
            todo += [(inner, (*path, key)) for key, inner in part.items()]
        elif isinstance(part, list | tuple | set):
            todo += [(inner, (*path, index)) for index, inner in enumerate(part)]


def endless_numbers(value: object, path: str = "") -> list[str]:
    """The keys whose numbers are no numbers to compute with: `.inf`, `.nan`, `1e999`."""
    if isinstance(value, Mapping):
        return [
            found
            for key, inner in value.items()
            for found in endless_numbers(inner, f"{path}.{key}" if path else str(key))
        ]
    if isinstance(value, list | tuple):
        return [
            found
            for i, inner in enumerate(value)
            for found in endless_numbers(inner, f"{path}.{i}")
        ]
    return [path] if isinstance(value, float) and not math.isfinite(value) else []
