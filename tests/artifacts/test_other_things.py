"""What lies in a file's place and is none, or is nested without measure: a sentence, no traceback
and no waiting."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from hapo_core.errors import DataError
from hapo_core.json_text import parse_json
from hapo_core.model_folder import check_model_folder
from pipeline.artifacts import MANIFEST, read_json, read_manifest, read_text
from pipeline.cli import main
from pipeline.dependencies import kept
from pipeline.dependencies.lock import place_of, read_lock
from pipeline.flows import server_home
from pipeline.flows.stage import guarded
from pipeline.system.dvc_state import LOCKFILE_COPY, RWLOCK, heal_lockfile, heal_rwlock
from pipeline.system.locks import RUN_LOCK, run_holder

DEEP = "[" * 100_000


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def lost_link(path: Path) -> None:
    path.symlink_to("nowhere")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("plant", [pipe, folder, lost_link, device])
def test_what_is_no_file_is_not_read(tmp_path: Path, plant) -> None:
    plant(tmp_path / "facts.json")
    with pytest.raises(DataError, match="is no plain file"):
        read_json(tmp_path / "facts.json")


@pytest.mark.parametrize("plant", [pipe, folder, device])
def test_state_that_is_no_file_is_no_state(tmp_path: Path, plant) -> None:
    """A pipe in the place of `.hapo/modules.json` kept `hapo status` waiting for ever; a link to
    /dev/zero took all memory."""
    for path in (
        place_of("train", tmp_path),
        tmp_path / kept.PLACE,
        tmp_path / RUN_LOCK,
        tmp_path / LOCKFILE_COPY,
        tmp_path / server_home.HOME / "server.json",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        plant(path)
    (tmp_path / "dvc.lock").write_text("torn")
    assert read_lock("train", tmp_path) is None
    assert kept._read(tmp_path / kept.PLACE) == {}
    assert run_holder(tmp_path) is None
    assert "removed" in heal_lockfile(tmp_path)[0]
    assert server_home.recorded(tmp_path) is None
    with pytest.raises(OSError):
        read_text(tmp_path / RUN_LOCK)


def test_json_without_a_bottom(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="too deeply"):
        parse_json(DEEP)
    (tmp_path / "facts.json").write_text(DEEP)
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "facts.json")


def test_its_readers_take_it_for_torn(tmp_path: Path) -> None:
    """Locks, DVC's state, a model's index: each has its own answer to a damaged file."""
    for place in (place_of("train", tmp_path), tmp_path / RWLOCK, tmp_path / "dvc.lock"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(DEEP)
    assert read_lock("train", tmp_path) is None
    assert "torn" in heal_rwlock(tmp_path)[0]
    assert "torn" in heal_lockfile(tmp_path)[0]


@pytest.mark.parametrize("text", ["[]", "null", "{}", '{"facts": {}, "files": []}', DEEP])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(DataError):
        read_manifest(tmp_path)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG])
def test_the_systems_word_becomes_a_sentence(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise OSError(number, os.strerror(number), "artifacts/x")

    assert guarded(work) == 2
    said = capsys.readouterr().err
    assert "artifacts/x" in said
    assert "remedy" in said


def test_a_link_to_nowhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "table.parquet"
    link.symlink_to("nowhere")
    assert guarded(lambda: link.read_bytes() and None) == 2
    assert "a link to something that is not there" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):  # a file that nobody put there is a fault of ours
        guarded(lambda: (tmp_path / "other").read_bytes() and None)


@pytest.mark.parametrize("words", [["samples", "--prompt", "\udcff"], ["run", "-S", "seed=\udcff"]])
def test_an_argument_that_is_no_text(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "is no UTF-8" in capsys.readouterr().err


def test_a_model_index_without_a_bottom(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    for text in (DEEP, "[]", json.dumps({"weight_map": []})):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(DataError, match="shard index"):
            check_model_folder(tmp_path)
