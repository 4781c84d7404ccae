"""Unfinished work that is taken up again is what was written, or is made again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.artifacts import write_manifest
from pipeline.artifacts.seals import (
    broken,
    drop_oldest,
    newest_whole,
    sealed_part,
    write_resume_point,
    write_seal,
)
from pipeline.artifacts.tables import BASE_LOG

ROWS = [{"step": 0, "loss": 1.0, "learning_rate": 0.1}]


def test_a_flipped_byte_anywhere_is_found(tmp_path: Path) -> None:
    file, seal = tmp_path / "a" / "file", tmp_path / "a.seal.json"
    file.parent.mkdir()
    file.write_bytes(b"some bytes of a round")
    write_seal(seal, [file], tmp_path)
    assert broken(seal, tmp_path, [file]) is None
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert "has changed" in str(broken(seal, tmp_path, [file]))
    file.write_bytes(whole + b"x")
    assert "has changed" in str(broken(seal, tmp_path, [file]))
    file.unlink()
    assert "is missing" in str(broken(seal, tmp_path, [file]))


def test_a_seal_of_other_files_is_no_seal(tmp_path: Path) -> None:
    """An empty one, or one of a file fewer, would let a table pass that nobody compared."""
    first, second, seal = tmp_path / "first", tmp_path / "second", tmp_path / "seal"
    first.write_text("1"), second.write_text("2")
    for sealed in ([], [first], [first, second]):
        write_seal(seal, sealed, tmp_path)
        problem = broken(seal, tmp_path, [first, second])
        assert (problem is None) == (len(sealed) == 2)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"file": 3}', '{"of": "seal", "files": {"file": {"bytes": "x"}}}']
)
def test_a_damaged_seal_is_no_seal(tmp_path: Path, text: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "seal").write_text(text)
    assert "damaged" in str(broken(tmp_path / "seal", tmp_path, [tmp_path / "file"]))
    assert "missing" in str(broken(tmp_path / "none", tmp_path, []))


def test_a_part_is_read_where_it_is_whole_and_made_again_otherwise(tmp_path: Path) -> None:
    path, made, said = tmp_path / "p.parquet", [], []

    def make() -> list[dict[str, object]]:
        made.append(1)
        return ROWS

    def take() -> bool:
        table, was_there = sealed_part(path, BASE_LOG, make, said.append)
        assert table.to_pylist() == ROWS
        return was_there

    assert (take(), take(), len(made), said) == (False, True, 1, [])
    before = path.read_bytes()
    path.write_bytes(before[:30] + bytes([before[30] ^ 4]) + before[31:])
    assert (take(), len(made)) == (False, 2) and "made again" in said[0]
    assert path.read_bytes() == before
    (tmp_path / "p.seal.json").unlink()  # killed between the table and its seal
    assert (take(), len(made)) == (False, 3)


def resume_point(root: Path, number: int) -> Path:
    folder = root / f"round-{number:05d}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"of round {number}")
    write_manifest(folder, "kind", {"rounds": number})
    return folder


def test_a_damaged_newest_resume_point_costs_rounds(tmp_path: Path) -> None:
    older, newer = resume_point(tmp_path, 1), resume_point(tmp_path, 2)
    (tmp_path / ".round-00003.partial").mkdir()
    said: list[str] = []
    assert newest_whole(tmp_path, "round-*", "kind", said.append, lambda _: None) == newer
    assert not said and not (tmp_path / ".round-00003.partial").exists()
    (newer / "weights").write_text("of round X")
    assert newest_whole(tmp_path, "round-*", "kind", said.append, lambda _: None) == older
    assert "round-00002 is not used" in said[0] and not newer.exists()
    (older / "manifest.json").write_text(json.dumps({"kind": "kind", "files": {"weights": {}}}))
    assert newest_whole(tmp_path, "round-*", "kind", said.append, lambda _: None) is None


def test_the_work_of_another_run_is_not_taken_up(tmp_path: Path) -> None:
    """Another seed's, copied with its seals, each whole in itself; or of another place."""
    mine, other = (tmp_path / ".hapo/scratch" / f"train@1-{x * 16}" for x in "ab")
    table, seal = other / "rounds" / "1.parquet", other / "rounds" / "1.seal.json"
    table.parent.mkdir(parents=True)
    table.write_text("a round")
    write_seal(seal, [table], other)
    folder = other / "states" / "round-00001"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("of round 1")
    write_resume_point(folder, "kind", {"rounds": 1})
    shutil.copytree(other, mine)
    assert broken(seal, other, [table]) is None
    problem = broken(mine / "rounds/1.seal.json", mine, [mine / "rounds/1.parquet"])
    assert f"was written for train@1-{'b' * 16}/rounds" in str(problem)
    said: list[str] = []
    for root, found in ((other, folder), (mine, None)):
        states = root / "states"
        assert newest_whole(states, "round-*", "kind", said.append, lambda _: None) == found
    assert len(said) == 1 and f"it is of train@1-{'b' * 16}" in said[0]

    for name in ("first", "second"):  # two benchmarks of one evaluation, their parts swapped
        sealed_part(other / name / "0.parquet", BASE_LOG, lambda: ROWS, said.append)
    for end in ("parquet", "seal.json"):
        shutil.copy(other / f"first/0.{end}", other / f"second/0.{end}")
    assert not sealed_part(other / "second/0.parquet", BASE_LOG, lambda: ROWS, said.append)[1]


def test_what_else_is_wanted_of_a_resume_point(tmp_path: Path) -> None:
    older, newer = resume_point(tmp_path, 1), resume_point(tmp_path, 2)
    said: list[str] = []

    def wanted(folder: Path) -> str | None:
        return "its table is gone" if folder == newer else None

    assert newest_whole(tmp_path, "round-*", "kind", said.append, wanted) == older
    assert "its table is gone" in said[0]


def test_two_are_kept(tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        resume_point(tmp_path, number)
    drop_oldest(tmp_path, "round-*", keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["round-00003", "round-00004"]
