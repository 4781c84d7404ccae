"""Reading params.yaml, and saying what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar, get_args
from weakref import WeakValueDictionary

from pydantic import ValidationError

from hapo_core.errors import ConfigError, HapoError
from pipeline.config.nearest import nearest
from pipeline.config.params import Params
from pipeline.config.section import Section
from pipeline.config.yaml import endless_numbers, read_yaml_file, refuse_endless

S = TypeVar("S", bound=Section)
PARAMS = Path("params.yaml")
_READ: dict[Path, WeakValueDictionary[int, Params]] = {}


def load_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        ConfigError: naming the file, the key's path and the nearest valid name.
    """
    if not path.is_file():
        raise ConfigError(
            "no configuration",
            where=str(path),
            remedy="run this in a hapo project; `hapo init DIR` makes one, `hapo train --help` one "
            "of your own model and data",
        )
    found = parse_params(read_yaml_file(path), where=str(path))
    _READ.setdefault(path.resolve(), WeakValueDictionary())[id(found)] = found
    return found


def was_read(params: Params, path: Path = PARAMS) -> bool:
    """Whether `load_params` made this very object of that file, whatever the file says now."""
    read = _READ.get(path.resolve())
    return read is not None and read.get(id(params)) is params


def parse_params(raw: object, where: str = "params.yaml") -> Params:
    """Check a mapping against the schema; see `load_params` for the errors."""
    if not isinstance(raw, dict):
        raise ConfigError("the configuration is no mapping", where=where)
    refuse_endless(raw, where)
    _check_string_keys(raw, where)
    _check_numbers(raw, where)
    try:
        return Params.model_validate(_tuples(raw))
    except ValidationError as error:
        raise _readable(error, where) from error


def parse_section(kind: type[S], given: Mapping[str, object], where: str) -> S:
    """Check one section on its own, as `load_params` would; `where` names its origin."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise _readable(error, where, f"see {kind.__name__} in pipeline/config/") from error


def _check_string_keys(raw: dict[object, object], where: str) -> None:
    """YAML's unquoted 1: is an integer, and DVC then drops the stage without a word."""
    segments = raw.get("segments")
    if not isinstance(segments, dict):
        return
    for key in segments:
        if not isinstance(key, str):
            raise ConfigError(
                f"segments has the unquoted key {key!r}; DVC would skip it silently",
                where=f"{where}: segments",
                remedy=f'write "{key}": with quotes (or use `hapo segments`)',
            )


def _check_numbers(raw: dict[object, object], where: str) -> None:
    """Infinity is above every lower bound, and no setting is meant to be it."""
    for key in endless_numbers(raw):
        raise ConfigError(f"{key}: a finite number is needed", where=where, remedy="write one")


def _tuples(value: object) -> object:
    """YAML has no tuples: give strict tuple fields theirs (all our sequences are fixed pairs)."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value


def _readable(
    error: ValidationError,
    where: str,
    remedy: str = "mend the keys above; `python -m pipeline.config.reference` prints every key",
) -> HapoError:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message = "unknown key" + nearest(path.rsplit(".", 1)[-1], _keys_at(item["loc"][:-1]))
        elif "input" in item and not isinstance(item["input"], dict):
            message += f" (got {item['input']!r})"
        lines.append(f"{path}: {message}" if path else message)
    return ConfigError(
        "the configuration is not valid\n  " + "\n  ".join(lines),
        where=where,
        remedy=remedy,
    )


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at `loc` (union tags are part of pydantic's locations)."""
    options: list[object] = [Params]
    for part in loc:
        following: list[object] = []
        for option in options:
            if isinstance(option, type) and issubclass(option, Section):
                field = option.model_fields.get(str(part))
                if field is not None:
                    following += _models_in(field.annotation)
                elif str(part) in _tag_of(option):
                    following.append(option)
        options = following or options
    return sorted({k for o in options for k in _keys_of(o)})


def _keys_of(option: object) -> list[str]:
    if isinstance(option, type) and issubclass(option, Section):
        return list(option.model_fields)
    return [field.name for field in fields(option)]  # type: ignore[arg-type]


def _models_in(annotation: object) -> list[object]:
    if isinstance(annotation, type) and (
        issubclass(annotation, Section) or is_dataclass(annotation)
    ):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


def _tag_of(option: type[Section]) -> set[str]:
    kind = option.model_fields.get("kind")
    return {str(a) for a in get_args(kind.annotation)} if kind is not None else set()
