"""Memory is what a container allows, where it allows less than the machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.system.memory import memory_bytes

GB = 1 << 30
MACHINE = memory_bytes(Path("/nowhere"), Path("/nowhere"))


def limit(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"memory.max": "1048576"}, 1 << 20),
        ("0::/", {"memory.max": "max"}, MACHINE),
        ("0::/a/b", {"a/memory.max": "2097152", "a/b/memory.max": "max"}, 1 << 21),
        ("0::/a/b", {"a/memory.max": "2097152", "a/b/memory.max": "1048576"}, 1 << 20),
        ("0::/of/the/host", {"memory.max": "1048576"}, 1 << 20),
        ("0::/", {}, MACHINE),
        ("0::/../..", {"memory.max": "1048576"}, 1 << 20),
        ("4:cpu,memory:/j", {"memory/j/memory.limit_in_bytes": "1048576"}, 1 << 20),
        ("4:memory:/j", {"memory/memory.limit_in_bytes": "9223372036854771712"}, MACHINE),
        ("4:memory:/j\n0::/", {"memory/j/memory.limit_in_bytes": "-1"}, MACHINE),
        ("", {}, MACHINE),
    ],
)
def test_the_least_limit_counts(
    tmp_path: Path, own: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "cgroup").write_text(own + "\n")
    for name, text in files.items():
        limit(tmp_path / "groups" / name, text)
    assert memory_bytes(tmp_path / "cgroup", tmp_path / "groups") == expected


def test_here_it_is_a_size() -> None:
    assert GB // 8 < memory_bytes() <= MACHINE
