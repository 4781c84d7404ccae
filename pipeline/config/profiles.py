"""Profiles: configurations under params/, the project's own and the shipped ones, copied to
params.yaml."""

from __future__ import annotations

import difflib
from pathlib import Path

from hapo_core.errors import ConfigError
from pipeline.artifacts import atomic_write_bytes
from pipeline.config import PARAMS, load_params
from pipeline.config.nearest import did_you_mean
from pipeline.config.shipped import shipped
from pipeline.config.yaml import BAD_YAML, plain_values

FOLDER = Path("params")


def names(root: Path = Path()) -> list[str]:
    """The project's own profiles and the shipped ones."""
    folders = (root / FOLDER, shipped() / FOLDER)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def place_of(name: str, root: Path = Path()) -> Path:
    """The file of a profile: the project's own wins over the shipped one of that name."""
    own = root / FOLDER / f"{name}.yaml"
    given = shipped() / FOLDER / f"{name}.yaml"
    return given if given.is_file() and not own.is_file() else own


def current(root: Path = Path()) -> tuple[str | None, bool]:
    """(profile that params.yaml names, whether params.yaml differs from the shipped file).

    (None, False) where there is no params.yaml; (None, True) where it names none.
    """
    path = root / PARAMS
    if not path.is_file():
        return None, False
    text = path.read_bytes()
    try:
        raw = plain_values(text.decode("utf-8"))
    except BAD_YAML:
        return None, True
    name = raw.get("profile") if isinstance(raw, dict) else None
    if not isinstance(name, str):
        return None, True
    given = place_of(name, root)
    return name, not (given.is_file() and given.read_bytes() == text)


def use(name: str, *, force: bool = False, root: Path = Path()) -> Path | None:
    """Copy a profile to params.yaml.

    Args:
        name: of the profile.
        force: replace an edited params.yaml; the edited file is kept as a backup.
        root: the project.

    Returns:
        The backup, where one was made.

    Raises:
        ConfigError: no such profile, the profile is not valid, or params.yaml was edited.
    """
    source = place_of(name, root)
    if not source.is_file():
        raise ConfigError(
            f"no profile {name!r}{did_you_mean(name, names(root))}",
            where=str(source),
            remedy="`hapo profile list` shows them",
        )
    load_params(source)
    target = root / PARAMS
    profile, edited = current(root)
    backup = None
    if edited and target.read_bytes() != source.read_bytes():
        if not force:
            raise ConfigError(
                f"params.yaml has edits that differ from the shipped profile {profile!r}"
                if profile
                else "params.yaml names no shipped profile, so it holds work of yours",
                where=str(target),
                remedy="keep it under a name of its own (`cp params.yaml params/MINE.yaml`), or "
                f"`hapo profile use {name} --force`, which keeps a backup",
            )
        backup = keep_backup(root)
    atomic_write_bytes(target, source.read_bytes())
    return backup


def keep_backup(root: Path = Path()) -> Path:
    """Copy params.yaml to the first free params.backup-N.yaml and return that name."""
    target = root / PARAMS
    backup = _free_name(target)
    atomic_write_bytes(backup, target.read_bytes())
    return backup


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.stem}.backup-{number}{path.suffix}")).exists():
        number += 1
    return candidate


def differences(root: Path = Path()) -> list[str]:
    """The lines by which params.yaml differs from the shipped profile it names (unified diff)."""
    profile, edited = current(root)
    if not edited or profile is None or not place_of(profile, root).is_file():
        return []
    given = place_of(profile, root)
    before = given.read_text(encoding="utf-8").splitlines()
    after = (root / PARAMS).read_text(encoding="utf-8").splitlines()
    return list(difflib.unified_diff(before, after, str(given), str(PARAMS), lineterm="", n=0))
