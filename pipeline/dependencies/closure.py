"""Which modules a stage's entry imports, at any depth, without running them; and their hashes."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from hapo_core.errors import DataError
from pipeline.dependencies.kept import kept

PACKAGES = ("hapo_core", "pipeline")
ENDS = ("pipeline.dependencies", "pipeline.config", "pipeline.build.teacher")
"""Not looked into: the first names modules of all stages and computes nothing; of the second the
lock holds the values, and it names every method to check their options; the third asks the methods
whether they want traces, and refuses or warns."""
_NAME = re.compile(r"(hapo_core|pipeline)(\.\w+)+")


def code_root(root: Path = Path()) -> Path:
    """The folder with both packages: the project's own, or where they are installed."""
    if (root / "pipeline" / "__init__.py").is_file():
        return root
    return Path(__file__).resolve().parents[2]


def closure(entry: str, code: Path) -> dict[str, Path]:
    """Module -> file of all that `entry` imports, itself and packages on the way included.

    Imports inside of functions count, those for type checking do not. A text that is the name of
    a module counts as an import: that is how a module is started as another process. A module
    that lists its folder (`pkgutil.iter_modules`) imports all of it.
    """
    files = _files(code)
    found: dict[str, Path] = {}
    todo = [entry]
    while todo:
        module = todo.pop()
        if module in found or module not in files:
            continue
        path = found[module] = Path(files[module])
        if module.startswith(ENDS):
            continue
        imported, lists_folder = _imports(path, stamp_of(path), module)
        todo += imported
        if lists_folder:
            todo += [f"{module.rpartition('.')[0]}.{p.stem}" for p in path.parent.glob("*.py")]
        todo += [module.rpartition(".")[0]] if "." in module else []
    return found


def code_hash(path: Path) -> str:
    """Hex sha256 of a module without comments, docstrings and empty lines; of any other file, of
    its bytes."""
    return _hash(path, stamp_of(path))


Stamp = tuple[int, int, int, int]
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where statements stand in others."""


def stamp_of(path: Path) -> Stamp:
    """What tells that a file was written: its time of change too, which nobody can set back."""
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino


@cache
def _hash(path: Path, stamp: Stamp) -> str:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix != ".py":
        return digest
    return kept(f"hash {digest}", lambda: [_bare_hash(data)])[0]


def _bare_hash(data: bytes, tree: ast.Module | None = None) -> str:
    return hashlib.sha256(bare(data.decode("utf-8"), tree).encode()).hexdigest()


def bare(source: str, tree: ast.Module | None = None) -> str:
    """Python source (`tree`: its own, if known) without comments, docstrings and empty lines."""
    lines = source.splitlines()
    try:
        tree = tree or ast.parse(source)
        # The tokenizer is slow, and asked by every stage for every module: only where it is needed.
        read = io.StringIO(source if "#" in source else "").readline
        tokens = list(tokenize.generate_tokens(read))
    except (SyntaxError, tokenize.TokenError):
        return source
    for token in tokens:
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for first, last in _docstrings(tree):
        lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """(first, last line) of texts that stand alone as a statement."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        for part in _BLOCKS:  # expressions hold no statements: a walk over all nodes takes longer
            inner = getattr(node, part, None)
            if not isinstance(inner, list):  # the body of a conditional expression, or a lambda
                continue
            todo += inner
            for one in inner if part == "body" else ():
                value = one.value if isinstance(one, ast.Expr) else None
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    yield one.lineno, one.end_lineno or one.lineno


def _files(code: Path) -> dict[str, str]:
    """Module -> file of both packages; a file comes before a folder of its name."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        top = str(code / package)
        for folder, _, names in os.walk(top, followlinks=True):
            inside = package + folder[len(top) :].replace(os.sep, ".")
            for name in names:
                if name == "__init__.py":
                    found.setdefault(inside, f"{folder}{os.sep}{name}")
                elif name.endswith(".py"):
                    found[f"{inside}.{name[:-3]}"] = f"{folder}{os.sep}{name}"
    return found


@cache
def _imports(path: Path, stamp: Stamp, module: str) -> tuple[tuple[str, ...], bool]:
    """Modules of ours that it imports, and whether it lists its folder."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()

    def look() -> list[str]:
        tree = _tree(data, path)
        kept(f"hash {digest}", lambda: [_bare_hash(data, tree)])  # as it is parsed already
        return list(_found(tree, module, path.name == "__init__.py"))

    # An import's meaning depends on where the module stands, not on its text alone.
    found = kept(f"imports {module} {path.name} {digest}", look)
    return tuple(found), b"iter_modules" in data


def _found(tree: ast.Module, module: str, is_package: bool) -> Iterator[str]:
    package = module if is_package else module.rpartition(".")[0]
    found: list[str] = []
    for node in _executed(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.partition(":")[0]
            beside = f"{package}.{text.removesuffix('.py')}" if text.endswith(".py") else text
            found += [beside] if _NAME.fullmatch(beside) else []
    return (name for name in dict.fromkeys(found) if name.split(".")[0] in PACKAGES)


def parsed(path: Path) -> ast.Module:
    """A module's syntax tree.

    Raises:
        DataError: it is no Python, as in the middle of an edit.
    """
    return _tree(path.read_bytes(), path)


def _tree(data: bytes, path: Path) -> ast.Module:
    try:
        return _parse(data.decode("utf-8"))
    except (SyntaxError, UnicodeDecodeError) as error:
        raise DataError(
            f"this module cannot be read as Python: {error}", where=str(path), remedy="mend it"
        ) from error


def _parse(text: str, tries: int = 5) -> ast.Module:
    """`ast.parse`, again where two threads met in it (Prefect parses in threads of its own).

    The parser's depth is counted for the whole interpreter up to Python 3.12: "AST constructor
    recursion depth mismatch" (python/cpython#106905).
    """
    for _ in range(tries - 1):
        with suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)
