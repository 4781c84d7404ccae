"""What a run is asked for: stages, and the configuration it runs with.

A profile and overrides change params.yaml before the run and stay there: DVC compares with that
file, so the workspace always says what its results were made with.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError
from pipeline import profiles
from pipeline.config import PARAMS, parse_params
from pipeline.segments import round_trip
from pipeline.store import atomic_write_text

WRITTEN = Path(".hapo/params.written")
"""Hash of the params.yaml that `configure` wrote last: such a file holds no work of a person."""


@dataclass(frozen=True)
class Request:
    """What somebody, or a schedule, wants to run.

    Attributes:
        targets: stages (`train@2`, `evaluate`); none means the whole graph.
        force: run the targets (or everything) even if nothing changed.
        force_stage: run this one stage in any case, then what follows from it.
        profile: begin with this shipped profile instead of the present params.yaml.
        overrides: `key.path=value` (YAML), written into params.yaml.
        wait: wait for a run that holds the project or the device, instead of an error.
    """

    targets: tuple[str, ...] = ()
    force: bool = False
    force_stage: str | None = None
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    wait: bool = False

    def dvc_words(self) -> Iterator[list[str]]:
        """The arguments of `dvc`, one command after the other."""
        if self.force_stage is not None:
            yield ["repro", "--force", "--single-item", self.force_stage]
        if self.force and self.targets:
            yield ["repro", "--force", "--single-item", *self.targets]
        elif self.force:
            yield ["repro", "--force"]
            return
        yield ["repro", *self.targets]


def configure(request: Request, root: Path = Path()) -> list[str]:
    """Make params.yaml what the request says; nothing where it names no profile or override.

    A params.yaml that a person edited is kept as a backup when a profile replaces it.

    Returns:
        What was done, in words.

    Raises:
        ConfigError: no such profile or key, or the result is not valid; nothing was written.
    """
    if request.profile is None and not request.overrides:
        return []
    path = root / PARAMS
    source = path if request.profile is None else root / profiles.FOLDER / f"{request.profile}.yaml"
    if request.profile is not None and request.profile not in profiles.names(root):
        raise ConfigError(
            f"no profile {request.profile!r}",
            where=str(source),
            remedy="one of " + ", ".join(profiles.names(root)),
        )
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    text = with_overrides(source.read_text(encoding="utf-8"), request.overrides, str(source))
    done = [f"params.yaml: {item}" for item in request.overrides]
    if request.profile is not None:
        done.insert(0, f"params.yaml: profile {request.profile}")
    if text != before:
        if request.profile is not None and _of_a_person(root, before):
            backup = profiles.keep_backup(root)
            done.append(f"the edited params.yaml is kept as {backup}")
        atomic_write_text(path, text)
        atomic_write_text(root / WRITTEN, _digest(text) + "\n")
    return done


def with_overrides(text: str, overrides: tuple[str, ...], where: str = "params.yaml") -> str:
    """The configuration with `key.path=value` put in; comments and order stay.

    Raises:
        ConfigError: no `=`, a path through something that is no section, or an invalid result.
    """
    yaml = round_trip()
    try:
        whole = yaml.load(text)
        for item in overrides:
            _put(whole, item)
    except YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=where) from error
    sink = io.StringIO()
    yaml.dump(whole, sink)
    changed = sink.getvalue() if overrides else text
    parse_params(YAML(typ="safe").load(changed), where=where)
    return changed


def _put(whole: Any, item: str) -> None:
    key, equals, value = item.partition("=")
    *path, last = key.strip().split(".")
    if not equals or not all([*path, last]):
        raise ConfigError(
            f"{item!r} is no override", where="overrides", remedy="write it as key.path=value"
        )
    section = whole
    for part in path:
        inner = section.get(part)
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{key}: {part!r} is a value, no section", where="overrides")
        section = inner
    section[last] = YAML(typ="safe").load(value)


def _of_a_person(root: Path, text: str) -> bool:
    """Whether params.yaml holds edits: no shipped profile, and not what we wrote last."""
    if not text or not profiles.current(root)[1]:
        return False
    written = root / WRITTEN
    return not (written.is_file() and written.read_text().strip() == _digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
