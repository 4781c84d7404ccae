"""The wheel also holds what a project starts from; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", "prefect.yaml")


class BuildWithProject(build_py):
    """Copies dvc.yaml, the profiles and the ignore files into `pipeline/project`: the repository
    is itself a project, so that none of them exists twice. Their names are changed
    (`pipeline.config.shipped` knows how): DVC would take the package for a project of its own."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "pipeline", "project")
        shutil.rmtree(target, ignore_errors=True)
        (target / "params").mkdir(parents=True)
        for name in FILES:
            shutil.copyfile(name, target / f"{name.lstrip('.').replace('/', '_')}.txt")
        for path in sorted(Path("params").glob("*.yaml")):
            shutil.copyfile(path, target / path)


setup(cmdclass={"build_py": BuildWithProject})
