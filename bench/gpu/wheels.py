"""Gather the wheels that a bare GPU machine lacks: `python bench/gpu/wheels.py [FOLDER]`.

For CPython 3.12 on x86-64 Linux, of the versions installed here, without what torch's and
transformers' image holds already (docs/gpu.md). Together they must stay under 64 MiB.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

NAMES = (
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "ruamel.yaml",
    "math-verify",
    "latex2sympy2-extended",
    "datasketch",
    "tensorboardX",
    "shtab",
    "trl",
    "datasets",
    "multiprocess",
    "dill",
)
SOURCES = ("antlr4-python3-runtime",)
"""Pure Python that its makers publish as source only: built here."""
PLATFORMS = (
    *(f"manylinux_2_{n}_x86_64" for n in (35, 34, 31, 28, 27, 26, 24, 17)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
MOST = 40 * 2**20
"""Bytes of all wheels: what is lent takes 64 MiB with the working tree."""


def main() -> int:
    """Download; 1 if something is missing or too large."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".whl")
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    command = [*pip, "download", "--quiet", "--no-deps", "-d", str(folder)]
    command += ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    command += [f"{name}=={version(name)}" for name in NAMES]
    build = [*pip, "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    build += [f"{name}=={version(name)}" for name in SOURCES]
    if subprocess.run(command).returncode or subprocess.run(build).returncode:
        return 1
    size = sum(file.stat().st_size for file in folder.glob("*.whl"))
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB")
    return int(size > MOST)


if __name__ == "__main__":
    raise SystemExit(main())
