"""The recipes of containers/: their words are a Containerfile's, and what they copy is there.
No container engine builds them here."""

from __future__ import annotations

import re

import pytest
from conftest import REPO

RECIPES = sorted((REPO / "containers").glob("*.Containerfile"))
WORDS = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}


def steps(text: str) -> list[list[str]]:
    """Every instruction with its arguments, lines that go on joined."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [line.split() for line in lines if line.strip()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.name)
def test_a_recipe_copies_what_is_there_and_all_that_the_wheel_needs(recipe: object) -> None:
    found = steps((REPO / "containers" / str(recipe)).read_text())
    assert found[0][0] == "FROM" and {step[0] for step in found} <= WORDS
    copied = {name.rstrip("/") for step in found if step[0] == "COPY" for name in step[1:-1]}
    assert all((REPO / name).exists() for name in copied)
    listed = (REPO / "MANIFEST.in").read_text().split()
    wanted = {name for name in listed if (REPO / name).is_file()}
    assert wanted <= copied | {"bench", "tests"} and "constraints.txt" in copied
    assert ["USER", "hapo"] in found  # not root


def test_there_are_two() -> None:
    assert [r.name for r in RECIPES] == ["cpu.Containerfile", "cuda.Containerfile"]
