"""The size and shape of the house: `python bench/house.py [ROOT]`, a checkout of any commit.

Counts files at the top of `pipeline/`, import circles, lines, the longest file and function, files
that name a method or a metric, and lines that know Prefect. One JSON object on stdout.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "docs"))
from test_imports import circles, modules

METHODS = ("bread", "chord", "hpt", "prefix_rft", "relift", "srft")
"""Comparators whose names are no other words."""
METRIC = "mismatch_max"
"""A metric of the update that nothing but the update computes with."""


def naming(pattern: str, files: list[Path]) -> dict[Path, int]:
    """File -> lines in which a pattern is found."""
    found = re.compile(pattern, re.IGNORECASE)
    counts = {p: sum(bool(found.search(x)) for x in p.read_text().splitlines()) for p in files}
    return {p: n for p, n in counts.items() if n}


def functions(path: Path) -> list[tuple[int, str]]:
    """(lines, name) of every function of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (int(n.end_lineno or n.lineno) - n.lineno + 1, f"{path}:{n.name}")
        for n in ast.walk(tree)
        if isinstance(n, kinds)
    ]


def facts(root: Path) -> dict[str, object]:
    """All counts of one checkout."""
    files = sorted(modules(root).values())
    lengths = sorted(
        (len(p.read_text().splitlines()), p.relative_to(root).as_posix()) for p in files
    )
    longest = max(f for p in files for f in functions(p))
    prefect, metric = naming("prefect", files), naming(rf"\b{METRIC}\b", files)
    imported = naming(r"^\s*(?:from|import) prefect", files)
    rings = circles(root)
    return {
        "files at the top of pipeline/": len(list((root / "pipeline").glob("*.py"))),
        "rooms of pipeline/": sum(1 for p in (root / "pipeline").iterdir() if p.is_dir()),
        "files": len(files),
        "lines": sum(n for n, _ in lengths),
        "import circles": len(rings),
        "circles": rings,
        "longest files": lengths[-5:],
        "files over 400 lines": sum(n > 400 for n, _ in lengths),
        "longest function": (longest[0], longest[1].split("/")[-1]),
        "files that name a method (median)": median(
            len(naming(rf"\b{m}\b", files)) for m in METHODS
        ),
        f"files, lines that name the metric {METRIC}": (len(metric), sum(metric.values())),
        "files that name Prefect": len(prefect),
        "lines that name Prefect": sum(prefect.values()),
        "files, lines that import Prefect": (len(imported), sum(imported.values())),
    }


if __name__ == "__main__":
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
    print(json.dumps(facts(checkout), indent=1))
