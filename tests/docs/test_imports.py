"""The house: who may import whom (docs/architecture.md), held by the imports themselves."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import REPO

from pipeline.dependencies.closure import closure

FLOORS = (
    ("hapo_core",),
    ("artifacts",),
    ("config", "system"),
    ("build", "flows", "grading", "models"),
    ("dependencies",),
    ("show", "run"),
    ("base", "cold_start", "curate", "evaluate", "report", "train"),
    ("checks",),
    ("audit", "clean", "compare", "measure", "samples", "start"),
    ("commands",),
    ("cli",),
)
"""Rooms by floor, lowest first. A room imports from lower floors and, on its own floor, only where
NEIGHBOURS says so; the six stages never import one another."""
NEIGHBOURS = {("system", "config"), ("config", "system"), ("grading", "build"), ("build", "models")}
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN_IN_CORE = ("pipeline", "prefect", "dvc", "hapo_trl")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of both packages."""
    found = {}
    for package in ("hapo_core", "pipeline"):
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports_of(text: str) -> list[ast.Import | ast.ImportFrom]:
    """Parsed once for all tests that look at every module."""
    nodes = ast.walk(ast.parse(text))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, those inside functions and for type checking too."""
    for node in imports_of(path.read_text(encoding="utf-8")):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                yield deeper if deeper in known else node.module, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level, node.lineno
        else:
            for alias in node.names:
                yield alias.name, node.lineno


def room(module: str) -> str:
    """`hapo_core`, or the folder (or file) of `pipeline`."""
    package, _, rest = module.partition(".")
    return package if package == "hapo_core" else rest.split(".")[0] or "pipeline"


def upward(root: Path) -> list[str]:
    """Every import that goes up, sideways without leave, or out of a room without a floor."""
    known, wrong = modules(root), []
    for module, path in known.items():
        here = room(module)
        for target, line in imports(path, known):
            if target.split(".")[0] not in ("hapo_core", "pipeline"):
                continue
            there = room(target)
            if here == there or "pipeline" in (here, there):
                continue
            if here not in FLOOR or there not in FLOOR:
                wrong.append(f"{module}:{line} imports {target}: a room without a floor")
            elif FLOOR[there] >= FLOOR[here] and (here, there) not in NEIGHBOURS:
                wrong.append(f"{module}:{line} imports {target}: not downward")
    return wrong


def circles(root: Path) -> list[str]:
    """Modules that import one another, at import or inside of functions (`__init__` counts)."""
    known = modules(root)
    graph = {
        module: {target for target, _ in imports(path, known) if target in known}
        for module, path in known.items()
    }
    return [" -> ".join(ring) for ring in strongly_connected(graph) if len(ring) > 1]


def strongly_connected(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach one another, by two passes of depth-first search."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(start: str, edges: dict[str, set[str]], found: list[str]) -> None:
        stack = [(start, iter(sorted(edges[start])))]
        seen.add(start)
        while stack:
            node, rest = stack[-1]
            following = next((n for n in rest if n not in seen), None)
            if following is None:
                found.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(edges[following]))))

    for node in sorted(graph):
        if node not in seen:
            visit(node, graph, order)
    back: dict[str, set[str]] = {node: set() for node in graph}
    for node, targets in graph.items():
        for target in targets:
            back[target].add(node)
    seen.clear()
    rings = []
    for node in reversed(order):
        if node not in seen:
            ring: list[str] = []
            visit(node, back, ring)
            rings.append(sorted(ring))
    return rings


def test_imports_go_downward() -> None:
    assert not upward(REPO)


def test_no_import_circle() -> None:
    assert not circles(REPO)


def test_every_room_has_a_floor() -> None:
    rooms = {room(m) for m in modules(REPO)} - {"pipeline"}
    assert rooms == set(FLOOR)


def test_the_core_knows_nothing_of_the_workflow() -> None:
    known = modules(REPO)
    wrong = [
        f"{module}:{line} imports {target}"
        for module, path in known.items()
        if module.startswith("hapo_core")
        for target, line in imports(path, known)
        if target.split(".")[0] in FORBIDDEN_IN_CORE
    ]
    assert not wrong


def sections() -> str:
    """The sections of params.yaml, as an alternative of a regular expression."""
    from pipeline.config import Params

    return "|".join(sorted(Params.model_fields))


def test_the_cores_messages_know_no_dvc_and_no_key_of_params_yaml() -> None:
    """Strings of errors only: docstrings may say where a thing is used."""
    word = re.compile(rf"\bdvc\b|params\.yaml|`hapo \w+|\b(?:{sections()})\.[a-z_]+\b")
    wrong = []
    for module, path in modules(REPO).items():
        if not module.startswith("hapo_core"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
                for part in ast.walk(node):
                    text = part.value if isinstance(part, ast.Constant) else None
                    if isinstance(text, str) and word.search(text):
                        wrong.append(f"{module}:{part.lineno} {text!r}")
    assert not wrong


# --- the rule itself can fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("pipeline/artifacts/files.py", "from pipeline.train.segment import Segment", "downward"),
        ("pipeline/report/words.py", "from pipeline.curate.stage import curate", "downward"),
        ("hapo_core/gate.py", "from pipeline.config import Params", "downward"),
        ("pipeline/newroom/thing.py", "from pipeline.config import Params", "without a floor"),
    ],
)
def test_an_upward_import_is_found(tmp_path: Path, file: str, line: str, why: str) -> None:
    for path in modules(REPO).values():
        copy = tmp_path / path.relative_to(REPO)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    broken = tmp_path / file
    broken.parent.mkdir(parents=True, exist_ok=True)
    before = broken.read_text(encoding="utf-8") if broken.is_file() else ""
    broken.write_text(f"{before}\ndef late() -> None:\n    {line}\n", encoding="utf-8")
    assert [w for w in upward(tmp_path) if why in w and line.split()[1] in w]


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert [ring for ring in strongly_connected(graph) if len(ring) > 1] == [["a", "b", "c"]]


def test_the_update_knows_no_method() -> None:
    """What only one method needs comes through its objective and its rows."""
    for entry in ("hapo_core.update", "hapo_core.loss"):
        found = closure(entry, REPO)
        assert entry in found and "hapo_core.objective" in found
        assert not [m for m in found if m.startswith("hapo_core.methods.")], entry
