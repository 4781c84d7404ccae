"""Profiles: shipped configurations under params/, copied to params.yaml."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError
from pipeline.config import PARAMS, load_params
from pipeline.store import atomic_write_bytes

FOLDER = Path("params")


def names(root: Path = Path()) -> list[str]:
    """The shipped profiles."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def current(root: Path = Path()) -> tuple[str | None, bool]:
    """(profile that params.yaml names, whether params.yaml differs from the shipped file).

    (None, False) where there is no params.yaml; (None, True) where it names none.
    """
    path = root / PARAMS
    if not path.is_file():
        return None, False
    text = path.read_bytes()
    try:
        raw = YAML(typ="safe").load(text.decode("utf-8"))
    except (YAMLError, UnicodeDecodeError):
        return None, True
    name = raw.get("profile") if isinstance(raw, dict) else None
    if not isinstance(name, str):
        return None, True
    shipped = root / FOLDER / f"{name}.yaml"
    return name, not (shipped.is_file() and shipped.read_bytes() == text)


def use(name: str, *, force: bool = False, root: Path = Path()) -> Path | None:
    """Copy params/NAME.yaml to params.yaml.

    Args:
        name: of the profile.
        force: replace an edited params.yaml; the edited file is kept as a backup.
        root: the project.

    Returns:
        The backup, where one was made.

    Raises:
        ConfigError: no such profile, the profile is not valid, or params.yaml was edited.
    """
    source = root / FOLDER / f"{name}.yaml"
    if not source.is_file():
        raise ConfigError(
            f"no profile {name!r}{_nearest(name, names(root))}",
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


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def differences(root: Path = Path()) -> list[str]:
    """The lines by which params.yaml differs from the shipped profile it names (unified diff)."""
    profile, edited = current(root)
    shipped = root / FOLDER / f"{profile}.yaml"
    if not edited or profile is None or not shipped.is_file():
        return []
    before = shipped.read_text(encoding="utf-8").splitlines()
    after = (root / PARAMS).read_text(encoding="utf-8").splitlines()
    return list(difflib.unified_diff(before, after, str(shipped), str(PARAMS), lineterm="", n=0))


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo profile use NAME|list|show`."""
    parser = subparsers.add_parser("profile", help="choose a shipped configuration")
    actions = parser.add_subparsers(dest="action", required=True)
    using = actions.add_parser("use", help="copy params/NAME.yaml to params.yaml")
    using.add_argument("name")
    using.add_argument("--force", action="store_true", help="replace edits, keeping a backup")
    actions.add_parser("list", help="the shipped profiles")
    actions.add_parser("show", help="the current one, and how params.yaml differs from it")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    if options.action == "use":
        backup = use(options.name, force=options.force)
        print(f"params.yaml is now profile {options.name}")
        if backup is not None:
            print(f"your edited file is kept as {backup}")
        return 0
    profile, edited = current()
    if options.action == "list":
        for name in names():
            print(("* " if name == profile else "  ") + name)
        return 0
    if profile is None and not edited:
        print("no params.yaml; `hapo profile use NAME` makes one")
        return 1
    print(f"{profile or 'no shipped profile'}{' (edited)' if edited else ''}")
    for line in differences():
        print(line)
    return 0
