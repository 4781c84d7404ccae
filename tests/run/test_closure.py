"""Which modules a stage counts, and that they are read where threads meet in the parser."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from hapo_core.errors import DataError
from pipeline.dependencies.closure import closure, parsed
from pipeline.dependencies.lock import READS
from pipeline.dependencies.plumbing import is_plumbing


def test_threads_that_meet_in_the_parser_fail_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen once: `SystemError: AST constructor recursion depth mismatch` ended an evaluation."""
    (tmp_path / "m.py").write_text("x = 1\n")
    really, failures = ast.parse, [SystemError("AST constructor recursion depth mismatch")] * 2

    def parse(*given: Any, **named: Any) -> ast.AST:
        if failures:
            raise failures.pop()
        return really(*given, **named)

    monkeypatch.setattr(ast, "parse", parse)
    assert isinstance(parsed(tmp_path / "m.py").body[0], ast.Assign)
    assert not failures
    failures += [SystemError("for ever")] * 9
    with pytest.raises(SystemError, match="for ever"):
        parsed(tmp_path / "m.py")


def test_no_python_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = (\n")
    with pytest.raises(DataError, match=r"cannot be read as Python"):
        parsed(tmp_path / "m.py")


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("hapo_core.verify.math.numeric", {"curate", "train", "evaluate"}),
        ("hapo_core.verify.math.equations", {"curate", "train", "evaluate"}),
        ("pipeline.curate.sources.cells", {"curate"}),
        ("pipeline.curate.columns", set()),  # a guess for commands
        ("pipeline.flows.register", set()),
    ],
)
def test_which_stages_count_a_module(module: str, kinds: set[str]) -> None:
    """Of the import closure alone: modules in rooms whose others count, and some that do not."""
    found = {kind for kind in READS if module in closure(f"pipeline.{kind}.__main__", REPO)}
    assert {kind for kind in found if not is_plumbing(module, kind)} == kinds
