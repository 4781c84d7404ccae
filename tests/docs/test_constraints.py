"""constraints.txt, the releases that were tested: whole, and within what pyproject.toml allows."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
from conftest import REPO
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
LINES = [
    line for line in (REPO / "constraints.txt").read_text().splitlines() if not line.startswith("#")
]


def test_every_line_is_one_release() -> None:
    wrong = [x for x in LINES if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", x)]
    assert len(LINES) > 100 and not wrong


@pytest.mark.parametrize("part", ["dependencies", "dev"])
def test_all_that_we_ask_for_is_there(part: str) -> None:
    known = dict(line.split("==") for line in LINES)
    held = {canonicalize_name(name): release for name, release in known.items()}
    asked = PROJECT[part] if part in PROJECT else PROJECT["optional-dependencies"][part]
    for requirement in map(Requirement, asked):
        release = held[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(release), requirement


@pytest.mark.parametrize("target", ["run", "test"])
def test_make_installs_them(target: str) -> None:
    command = ["make", "--dry-run", "--always-make", target]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    installs = [line for line in done.stdout.splitlines() if "pip install" in line]
    assert installs and all("--constraint constraints.txt" in line for line in installs)


def test_newest_stops_nothing() -> None:
    """Whatever its installation or tests say, `make newest` ends with status 0 and says so."""
    command = ["make", "newest", "NEWEST=/nonexistent/env", "PYTHON=true"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and "THE NEWEST RELEASES FAIL" in done.stdout
