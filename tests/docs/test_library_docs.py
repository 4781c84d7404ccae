"""docs/library.md: what it names exists, and its example runs."""

from __future__ import annotations

import importlib
import re

import pytest
from conftest import REPO

TEXT = (REPO / "docs" / "library.md").read_text()
TABLE = TEXT.split("## From equation to function")[1].split("## Shapes")[0]
ROWS = [line.split("|")[1:5] for line in TABLE.splitlines() if line.startswith("| ")][1:]


def test_every_function_of_the_table_is_in_its_file() -> None:
    assert len(ROWS) > 20
    for _, functions, files, _ in ROWS:
        paths = [REPO / "hapo_core" / name for name in re.findall(r"`([\w./]+)`", files)]
        assert paths and all(path.exists() for path in paths), files
        sources = [p.read_text() for f in paths for p in ([f] if f.is_file() else f.rglob("*.py"))]
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
            defined = rf"(def|class) {name}\b"
            assert any(re.search(defined, source) for source in sources), name


def test_every_test_of_the_table_exists() -> None:
    for *_, tests in ROWS:
        for file, name in re.findall(r"`(\w+/test_\w+\.py)(?:::(\w+))?`", tests):
            source = (REPO / "tests" / file).read_text()
            assert not name or f"def {name}(" in source, name
        for page in re.findall(r"docs/\w+\.md", tests):
            assert (REPO / page).is_file()


@pytest.mark.parametrize("name", re.findall(r"^from (hapo_core[\w.]*) import", TEXT, re.MULTILINE))
def test_modules_of_the_example_import(name: str) -> None:
    importlib.import_module(name)


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    exec(compile(code, "docs/library.md", "exec"), {})
    decision, confidence, steps = capsys.readouterr().out.split()
    assert (decision, float(confidence), steps) == ("injected", pytest.approx(1 / 6), "1")
