"""What a run is asked for: stages, and the configuration it runs with.

A profile and overrides change params.yaml before the run and stay there: DVC compares with that
file, so the workspace always says what its results were made with.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from hapo_core.errors import ConfigError
from pipeline.artifacts import atomic_write_text
from pipeline.config import PARAMS, Params, parse_params, profiles
from pipeline.config.nearest import nearest
from pipeline.config.section import Section
from pipeline.config.yaml import BAD_YAML, bad_yaml, read_yaml, round_trip

WRITTEN = Path(".hapo/params.written")
"""Hash of the params.yaml that `configure` wrote last: such a file holds no work of a person."""
ALLOW_CODE = Path(".hapo/allow-code")
"""Where this file is, runs from the UI and by a schedule may name code in their overrides."""
_CODE_KEYS = {"path", "traces_path", "environment", "arguments", "variables", "urls", "loggers"}
_CODE_KEYS |= {"gguf_package", "hub", "revision"}


def configure(
    profile: str | None = None,
    overrides: Sequence[str] = (),
    root: Path = Path(),
    *,
    person: bool = True,
) -> list[str]:
    """Make params.yaml this profile with these overrides; nothing where neither is named.

    A params.yaml that a person edited is kept as a backup when a profile replaces it.

    Args:
        person: somebody typed it on this machine; what comes from a UI or a schedule may not
            name code, programs, paths or addresses, unless the file ALLOW_CODE is there.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: no such profile or key, it names code and may not, or the result is not
            valid; nothing was written.
    """
    if profile is None and not overrides:
        return []
    path = root / PARAMS
    source = path if profile is None else profiles.place_of(profile, root)
    if profile is not None and profile not in profiles.names(root):
        raise ConfigError(
            f"no profile {profile!r}",
            where=str(source),
            remedy="one of " + ", ".join(profiles.names(root)),
        )
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    given = source.read_text(encoding="utf-8")
    text = with_overrides(given, tuple(overrides), str(source))
    if not person and not (root / ALLOW_CODE).is_file():
        _refuse_code(given, text)
    done = [f"params.yaml: {item}" for item in overrides]
    if profile is not None:
        done.insert(0, f"params.yaml: profile {profile}")
    if text != before:
        if profile is not None and _of_a_person(root, before):
            backup = profiles.keep_backup(root)
            done.append(f"the edited params.yaml is kept as {backup}")
        atomic_write_text(path, text)
        atomic_write_text(root / WRITTEN, _digest(text) + "\n")
    return done


def _refuse_code(given: str, text: str) -> None:
    before, after = (dict(_code(read_yaml(one, "overrides"))) for one in (given, text))
    for key, value in after.items():
        if before.get(key) != value:
            raise ConfigError(
                f"{key}: a run from the UI or a schedule may not name code, programs, paths or "
                "addresses",
                where="overrides",
                remedy=f"set it in params.yaml, or allow it: `touch {ALLOW_CODE}` in the project",
            )


def _code(part: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value) of everything that decides what is run, read or called."""
    last = key.rpartition(".")[2]
    if isinstance(part, Mapping) and last not in _CODE_KEYS:
        for name, inner in part.items():
            yield from _code(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(part, Sequence) and not isinstance(part, str) and last not in _CODE_KEYS:
        for index, inner in enumerate(part):
            yield from _code(inner, f"{key}.{index}")
    elif last in _CODE_KEYS or (isinstance(part, str) and re.search(r"[:/\\$~]", part)):
        yield key, repr(part)


def with_overrides(text: str, overrides: tuple[str, ...], where: str = "params.yaml") -> str:
    """The configuration with `key.path=value` put in; comments and order stay.

    Raises:
        ConfigError: no `=`, a path through something that is no section, or an invalid result.
    """
    parsed = read_yaml(text, where)
    if overrides and not isinstance(parsed, Mapping):
        raise ConfigError("the configuration is no mapping", where=where)
    yaml = round_trip()
    try:
        whole = yaml.load(text)
        for item in overrides:
            _put(whole, item)
        sink = io.StringIO()
        yaml.dump(whole, sink)
        changed = sink.getvalue() if overrides else text
    except BAD_YAML as error:
        raise bad_yaml(error, where) from error
    parse_params(read_yaml(changed, where), where=where)
    return changed


def refuse_unknown(overrides: Sequence[str]) -> None:
    """Refuse what can be no key of params.yaml before there is one: no value is looked at.

    Raises:
        ConfigError: no `=`, or a key that no section has, with the nearest one.
    """
    for item in overrides:
        path = _parts(item)[0]
        kind: object = Params
        for part in path:
            if not (isinstance(kind, type) and issubclass(kind, Section)):
                break  # keys of one's own, such as the names of sources
            if part not in kind.model_fields:
                raise ConfigError(
                    f"{'.'.join(path)}: unknown key{nearest(part, list(kind.model_fields))}",
                    where=f"-S {item}",
                    remedy="`python -m pipeline.config.reference` prints every key",
                )
            kind = kind.model_fields[part].annotation


def _parts(item: str) -> tuple[list[str], str]:
    """(the parts of the key, the value) of `key.path=value`."""
    key, equals, value = item.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(
            f"{item!r} is no override", where="overrides", remedy="write it as key.path=value"
        )
    return path, value


def _put(whole: Any, item: str) -> None:
    (*path, last), value = _parts(item)
    section = whole
    for part in path:
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{item}: {part!r} is a value, no section", where="overrides")
        section = inner
    section[last] = _quoted(read_yaml(value, item))


def _quoted(value: Any) -> Any:
    """Texts with a colon in quotes: inside of {} and [] only these keep them one word."""
    if isinstance(value, str) and ":" in value:
        return DoubleQuotedScalarString(value)
    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(inner) for key, inner in value.items()}
    return [_quoted(inner) for inner in value] if isinstance(value, list) else value


def _of_a_person(root: Path, text: str) -> bool:
    """Whether params.yaml holds edits: no shipped profile, and not what we wrote last."""
    if not text or not profiles.current(root)[1]:
        return False
    written = root / WRITTEN
    return not (written.is_file() and written.read_text().strip() == _digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
