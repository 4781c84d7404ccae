"""The wheel in an environment of its own: nothing of the clone, and nothing downloaded twice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from conftest import REPO

PACKAGE = ("hapo_core", "hapo_trl", "pipeline", "params", ".dvc")
FILES = (
    *("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "dvc.yaml"),
    *("prefect.yaml", ".dvcignore", ".gitignore"),
)


def build(folder: Path, version: str | None = None) -> Path:
    """Build the wheel from a copy of the repository's files (setuptools leaves a build folder)."""
    source = folder / "source"
    skip = shutil.ignore_patterns("__pycache__", "tmp", "cache", "config.local")
    for name in PACKAGE:
        shutil.copytree(REPO / name, source / name, ignore=skip)
    for name in FILES:
        shutil.copy(REPO / name, source / name)
    if version is not None:
        place = source / "pyproject.toml"
        place.write_text(place.read_text().replace('version = "0.1.0"', f'version = "{version}"'))
    words = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)
    (wheel,) = folder.glob("hapo-*.whl")
    return wheel


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel; other packages come from the one that runs the tests."""

    path: Path

    @property
    def packages(self) -> Path:
        return self.path / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"

    def install(self, wheel: Path) -> None:
        python = str(self.path / "bin" / "python")
        words = ["--python", python, "install", "-q", "--no-deps", "--force-reinstall", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True, capture_output=True)

    def hapo(self, *words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and "PREFECT" not in k}
        path = f"{self.path / 'bin'}{os.pathsep}{kept['PATH']}"
        env = {**kept, "PATH": path, "HF_HUB_OFFLINE": "1", "COLUMNS": "100", **more}
        command = [str(self.path / "bin" / "hapo"), *words]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def environment(folder: Path) -> Installed:
    """A new environment. Folders on `sys.path` are read there as plain folders, so that their own
    .pth files, an editable install of the clone among them, do nothing."""
    venv.create(folder, with_pip=False)
    made = Installed(folder)
    others = [p for p in sys.path if (Path(p) / "torch").is_dir()]
    assert others, "torch is not on sys.path"
    (made.packages / "shared.pth").write_text("\n".join(others) + "\n")
    program = folder / "bin" / "dvc"  # DVC starts its workers by this name
    run = "import sys; from dvc.cli import main; sys.exit(main())"
    program.write_text(f"#!{folder / 'bin' / 'python'}\n{run}\n")
    program.chmod(0o755)
    return made
