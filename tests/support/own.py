"""Somebody's own model and data: a tiny untrained policy, 200 sums and their worked solutions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tiny import tiny_policy

from hapo_core.policy import save_policy
from hapo_core.tasks.chains import distinct_chains


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    """Lines of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@dataclass(frozen=True)
class Own:
    """The folder with `model`, `problems.jsonl` and `solutions.jsonl`."""

    path: Path

    @property
    def words(self) -> list[str]:
        """The command line that names them."""
        return [
            *("train", "--model", str(self.path / "model")),
            *("--data", str(self.path / "problems.jsonl")),
            *("--traces", str(self.path / "solutions.jsonl")),
        ]

    def rows(self, name: str) -> list[dict[str, object]]:
        """The rows of a file."""
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]

    def change(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
        """Write other rows in their place."""
        write_rows(self.path / name, rows)


def make_own(path: Path, count: int = 200) -> Own:
    """Write the model and both files."""
    path.mkdir(parents=True, exist_ok=True)
    save_policy(*tiny_policy(), path / "model")
    chains = distinct_chains(count, 7, "own", 2, 3)
    write_rows(
        path / "problems.jsonl", ({"question": c.problem, "answer": c.answer} for c in chains)
    )
    write_rows(
        path / "solutions.jsonl",
        ({"question": c.problem, "solution": c.solution()} for c in chains),
    )
    return Own(path)
