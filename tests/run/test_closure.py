"""Which modules a stage counts, and that they are read where threads meet in the parser."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from hapo_core.errors import DataError
from pipeline.dependencies import closure as closures
from pipeline.dependencies import kept
from pipeline.dependencies.closure import closure, code_hash, parsed
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
        ("pipeline.flows.records", set()),
    ],
)
def test_which_stages_count_a_module(module: str, kinds: set[str]) -> None:
    """Of the import closure alone: modules in rooms whose others count, and some that do not."""
    found = {kind for kind in READS if module in closure(f"pipeline.{kind}.__main__", REPO)}
    assert {kind for kind in found if not is_plumbing(module, kind)} == kinds


def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, empty in (("_entries", {}), ("_made", {}), ("_loaded", set())):
        monkeypatch.setattr(kept, name, empty)
    closures._imports.cache_clear()
    closures._hash.cache_clear()


def _package(root: Path) -> Path:
    for package in closures.PACKAGES:
        (root / package).mkdir()
        (root / package / "__init__.py").write_text("")
    (root / "pipeline" / "a.py").write_text("from pipeline import b  # why\n")
    (root / "pipeline" / "b.py").write_text("x = 1\n")
    return root / "pipeline" / "a.py"


def test_a_text_is_parsed_once_and_an_edit_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _package(tmp_path)
    _as_a_new_process(monkeypatch)
    before, first = closure("pipeline.a", tmp_path), code_hash(module)
    assert set(before) == {"pipeline.a", "pipeline.b", "pipeline"}
    kept.save(tmp_path)

    with monkeypatch.context() as patched:
        _as_a_new_process(patched)
        kept.load(tmp_path)
        patched.setattr(ast, "parse", lambda *_: pytest.fail("parsed again"))
        assert closure("pipeline.a", tmp_path) == before
        assert code_hash(module) == first

    _as_a_new_process(monkeypatch)
    kept.load(tmp_path)
    module.write_text("from pipeline import b  # not at all\n")
    assert code_hash(module) == first
    module.write_text("import pipeline.c\n")
    assert set(closure("pipeline.a", tmp_path)) == {"pipeline.a", "pipeline"}
    assert code_hash(module) != first


@pytest.mark.parametrize("torn", ["", "[]", '{"reader": 1}', None])
def test_what_is_kept_may_be_torn_or_anothers(
    torn: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version of the reader, or of Python, may find something else in the same text."""
    _package(tmp_path)
    _as_a_new_process(monkeypatch)
    closure("pipeline.a", tmp_path)
    kept.save(tmp_path)
    place = tmp_path / kept.PLACE
    whole = json.loads(place.read_text())
    wrong = {key: ["pipeline.made_up"] for key in whole["entries"]}
    place.write_text(torn if torn is not None else json.dumps({"reader": "x", "entries": wrong}))
    _as_a_new_process(monkeypatch)
    kept.load(tmp_path)
    assert set(closure("pipeline.a", tmp_path)) == {"pipeline.a", "pipeline.b", "pipeline"}
    kept.save(tmp_path)
    assert json.loads(place.read_text()) == whole
