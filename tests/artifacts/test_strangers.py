"""What a stage did not write is not published with its artifact, whenever it was put there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hapo_core.errors import DataError
from pipeline.artifacts import Scratch, check_manifest, write_manifest


def written(tmp_path: Path) -> tuple[Scratch, list[str]]:
    """Unfinished work: two files that the stage wrote."""
    scratch = Scratch("train@1", "a" * 64, tmp_path / "scratch")
    names = ["rounds.parquet", "model/weights"]
    for name in names:
        path = scratch.path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return scratch, names


def a_file(out: Path) -> str:
    (out / "planted.txt").write_text("x")
    return "planted.txt"


def a_file_below(out: Path) -> str:
    (out / "model" / "evil.py").write_text("x")
    return "model/evil.py"


def a_folder(out: Path) -> str:
    (out / "more" / "empty").mkdir(parents=True)
    (out / "more" / "file").write_text("x")
    return "more/file"


def a_link(out: Path) -> str:
    (out / "link").symlink_to("/etc/hostname")
    return "link"


def a_linked_folder(out: Path) -> str:
    (out / "model" / "home").symlink_to("/etc")
    return "model/home"


PLANTS = [a_file, a_file_below, a_folder, a_link, a_linked_folder]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("plant", PLANTS)
def test_what_was_planted_is_left_out_and_named(
    tmp_path: Path, plant: Callable[[Path], str], late: bool
) -> None:
    scratch, names = written(tmp_path)
    out, said = scratch.path / "out", list[str]()
    planted = None if late else plant(out)
    write_manifest(out, "segment", {}, names)
    planted = planted or plant(out)
    target = tmp_path / "policy" / "1"
    scratch.publish_copy(target, "out", said.append)
    assert len(said) == 1 and planted in said[0] and str(target) in said[0]
    found = {p.relative_to(target).as_posix() for p in target.rglob("*")}
    assert found == {"manifest.json", "rounds.parquet", "model", "model/weights"}
    assert set(json.loads((target / "manifest.json").read_text())["files"]) == set(names)
    check_manifest(target, "segment")


def test_leftovers_of_a_killed_write_are_not_published_either(tmp_path: Path) -> None:
    scratch, names = written(tmp_path)
    (scratch.path / "out" / ".rounds.parquet.x1.partial").write_text("half")
    write_manifest(scratch.path / "out", "segment", {}, names)
    scratch.publish_copy(tmp_path / "1", "out", pytest.fail)
    assert not list((tmp_path / "1").glob(".*"))


@pytest.mark.parametrize("linked", ["rounds.parquet", "model", "."])
def test_a_link_in_a_file_s_place_is_refused_with_a_remedy_that_works(
    tmp_path: Path, linked: str
) -> None:
    scratch, names = written(tmp_path)
    out = scratch.path / "out"
    shutil.move(out / linked, tmp_path / "elsewhere")
    place = out / linked if linked != "." else out
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="replaced by a link") as caught:
        write_manifest(out, "segment", {}, names)
    assert caught.value.where == str(place) and "delete the link" in str(caught.value.remedy)
    place.unlink()
    _, names = written(tmp_path)  # the stage again
    write_manifest(out, "segment", {}, names)
    scratch.publish_copy(tmp_path / "1", "out", pytest.fail)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    scratch, names = written(tmp_path)
    with pytest.raises(DataError, match="is missing while the stage ran"):
        write_manifest(scratch.path / "out", "segment", {}, [*names, "gain.json"])


def test_links_in_a_scratch_folder_are_gone_when_a_stage_takes_it_up(tmp_path: Path) -> None:
    scratch, _ = written(tmp_path)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    (scratch.path / "out" / "rollouts").symlink_to(precious)
    (scratch.path / "states").symlink_to(precious)
    again = Scratch("train@1", "a" * 64, tmp_path / "scratch")
    assert not any(p.is_symlink() for p in again.path.rglob("*"))
    shutil.rmtree(again.path)
    again.path.symlink_to(precious)
    assert not Scratch("train@1", "a" * 64, tmp_path / "scratch").path.is_symlink()
    assert (precious / "file").read_text() == "x"


def test_a_linked_folder_in_an_artifact_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights").write_text("w")
    write_manifest(tmp_path / "a", "policy", {})
    (tmp_path / "a" / "more").symlink_to("/etc")
    with pytest.raises(DataError, match="does not list"):
        check_manifest(tmp_path / "a")
