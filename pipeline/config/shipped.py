"""What ships with the package: the files that a project starts from, and the profiles."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped() -> Path:
    """The folder that holds `params/`, the shipped profiles: inside of the installed package
    (setup.py puts them there), or the clone that the package is imported from."""
    inside = _PACKAGE / "project"
    return inside if inside.is_dir() else _PACKAGE.parent


def shipped_text(name: str) -> str:
    """A file that a project starts from, by its name there: dvc.yaml, .gitignore, .dvc/config."""
    folder = shipped()
    changed = f"{name.lstrip('.').replace('/', '_')}.txt"
    place = folder / (name if folder == _PACKAGE.parent else changed)
    return place.read_text(encoding="utf-8")
