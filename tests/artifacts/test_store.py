"""pipeline.artifacts: files are whole or absent, and a changed artifact is refused by name."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from hapo_core.errors import DataError, HapoError
from hapo_core.umask import umask
from pipeline import artifacts as store
from pipeline.artifacts.tables import TableWriter, read_table, write_table
from pipeline.flows.stage import guarded


def make_artifact(folder: Path) -> Path:
    store.atomic_write_text(folder / "model" / "weights", "w" * 1000)
    store.atomic_write_json(folder / "metrics.json", {"b": 1, "a": [0.5, None]})
    store.write_manifest(folder, "policy", {"rounds": 3})
    return folder


def test_json_is_canonical(tmp_path: Path) -> None:
    store.atomic_write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "é",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        store.atomic_write_json(tmp_path / "b.json", {"x": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_write_replaces_whole_and_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    store.atomic_write_text(path, "old")
    store.atomic_write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def test_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom pipeline import artifacts as store\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), 9)\n"
        "store.atomic_write_text(Path(sys.argv[1]), 'new' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_manifest_lists_every_file(tmp_path: Path) -> None:
    manifest = store.check_manifest(make_artifact(tmp_path / "a"), "policy")
    assert sorted(manifest["files"]) == ["metrics.json", "model/weights"]
    assert manifest["facts"] == {"rounds": 3}
    again = make_artifact(tmp_path / "b")
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: flip_a_byte(f / "model" / "weights"), "sha256"),
        (lambda f: (f / "model" / "weights").write_text("short"), "5 bytes"),
        (lambda f: (f / "model" / "weights").unlink(), "missing"),
        (lambda f: (f / "model" / "extra").write_text("x"), "does not list"),
        (lambda f: (f / "manifest.json").unlink(), "unfinished"),
        (lambda f: (f / "manifest.json").write_text("{"), "JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "not a manifest"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, words: str) -> None:
    folder = make_artifact(tmp_path / "a")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=words) as caught:
        store.check_manifest(folder)
    assert caught.value.where is not None and str(folder) in caught.value.where
    assert caught.value.remedy is not None and "dvc" in caught.value.remedy


def test_missing_and_other_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the artifact is missing"):
        store.check_manifest(tmp_path / "nothing")
    with pytest.raises(DataError, match="'policy', not 'data'"):
        store.check_manifest(make_artifact(tmp_path / "a"), "data")


def test_inputs_hash_follows_content(tmp_path: Path) -> None:
    folder = make_artifact(tmp_path / "a")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "code.py").write_text("1")
    first = store.inputs_hash({"x": 1, "y": [1, 2]}, [folder, plain])
    assert first == store.inputs_hash({"y": [1, 2], "x": 1}, [folder, plain])
    assert first != store.inputs_hash({"x": 2, "y": [1, 2]}, [folder, plain])
    (plain / "code.py").write_text("2")
    assert first != store.inputs_hash({"x": 1, "y": [1, 2]}, [folder, plain])
    with pytest.raises(DataError, match="input of the stage is missing"):
        store.inputs_hash({}, [tmp_path / "nothing"])


def test_scratch_is_found_again_and_published(tmp_path: Path) -> None:
    root, target = tmp_path / "scratch", tmp_path / "out" / "policy" / "1"
    scratch = store.Scratch("train@1", "a" * 64, root)
    (scratch.path / "half").write_text("work")
    assert (store.Scratch("train@1", "a" * 64, root).path / "half").read_text() == "work"
    other = store.Scratch("train@1", "b" * 64, root)
    neighbour = store.Scratch("train@11", "b" * 64, root)
    scratch.discard_others()
    assert not other.path.exists() and neighbour.path.exists()
    target.mkdir(parents=True)
    (target / "stale").write_text("from another run")
    scratch.publish(target)
    assert [p.name for p in target.iterdir()] == ["half"]
    assert not scratch.path.exists()


def test_publish_of_a_part_keeps_the_rest(tmp_path: Path) -> None:
    scratch = store.Scratch("base", "c" * 64, tmp_path / "scratch")
    (scratch.path / "out").mkdir()
    (scratch.path / "out" / "x").write_text("1")
    (scratch.path / "resume").write_text("2")
    scratch.publish(tmp_path / "target", "out")
    assert (tmp_path / "target" / "x").read_text() == "1"
    assert (scratch.path / "resume").read_text() == "2"
    scratch.discard()
    assert not scratch.path.exists()


def test_timings(tmp_path: Path) -> None:
    assert store.read_timings(tmp_path / "none") == {}
    store.record_timing("train@1", 1.5, trained=7, parts={"b": 0.5, "a": 1}, root=tmp_path)
    found = store.read_timings(tmp_path)["train@1"]
    assert found.pop("peak_rss_mb") > 1
    assert found == {
        "stage": "train@1",
        "wall_s": 1.5,
        "tokens": {"generated": 0, "trained": 7},
        "parts": {"a": 1, "b": 0.5},
    }


# --- a full disk --------------------------------------------------------------------------------


def test_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "state"
    store.atomic_write_bytes(path, b"old")
    with pytest.raises(HapoError, match=r"disk is full.*kB are missing.*whole") as caught:
        store.atomic_write_bytes(path, b"x" * 400_000)
    assert caught.value.where == str(path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in small_disk.iterdir()] == ["state"]


def test_full_disk_while_publishing_keeps_the_scratch(small_disk: Path, tmp_path: Path) -> None:
    scratch = store.Scratch("train@1", "d" * 64, tmp_path / "scratch")
    (scratch.path / "weights").write_bytes(b"x" * 400_000)
    target = small_disk / "policy"
    with pytest.raises(HapoError, match="disk is full"):
        scratch.publish(target)
    assert not target.exists() and not list(small_disk.iterdir())
    assert (scratch.path / "weights").stat().st_size == 400_000
    (scratch.path / "weights").write_bytes(b"x" * 1000)
    scratch.publish(target)  # the other file system, with enough space
    assert (target / "weights").stat().st_size == 1000
    assert not scratch.path.exists()


def test_space_is_asked_for_beforehand(small_disk: Path) -> None:
    store.require_space(small_disk / "not" / "there", 1000)
    with pytest.raises(HapoError, match=r"10\.0 MB are needed"):
        store.require_space(small_disk, 10_000_000)


def test_a_library_s_own_full_disk_is_understood(tmp_path: Path) -> None:
    class SafetensorError(Exception):
        pass

    with pytest.raises(HapoError, match="disk is full"), store.guard_disk(tmp_path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")
    with pytest.raises(HapoError, match="disk is full"), store.guard_disk(tmp_path):
        raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(OSError, match="denied"), store.guard_disk(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """`ulimit -f` of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000])
def test_a_limit_on_the_size_of_files_keeps_the_old_one(tmp_path: Path, size: int) -> None:
    path, rows = tmp_path / "t.parquet", [{"step": k, "loss": k / 7} for k in range(500)]
    schema = pa.schema([("step", pa.int64()), ("loss", pa.float64())])
    write_table(rows[:1], schema, path)
    before = path.read_bytes()
    # a limit of a task, of a batch system or of the file system: the errno is the same
    writes: list[Callable[[], object]] = [
        lambda: store.atomic_write_text(path, "x" * 4000),
        lambda: write_table(rows, schema, path),
        lambda: store.write_manifest(tmp_path, "k" * 1000, {}),
    ]
    for write in writes:
        said = rf"grow as large.* {size} B, the limit|grow as large.* 1\.0 kB, the limit"
        refused = pytest.raises(HapoError, match=said)
        with largest_file(size), refused as caught, store.guard_disk(tmp_path):
            write()
        assert "ulimit -f unlimited" in str(caught.value.remedy)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_table(rows, schema, path)
    assert read_table(path, schema).num_rows == 500


def test_half_a_table_leaves_nothing_on_a_full_disk(small_disk: Path) -> None:
    schema = pa.schema([("text", pa.string())])
    noise = random.Random(0)
    whole = pa.table({"text": [f"{noise.random()}" for _ in range(60_000)]}, schema=schema)
    full = pytest.raises(HapoError, match="disk is full")
    path = small_disk / "t.parquet"
    with full, store.guard_disk(small_disk), TableWriter(schema, path) as table:
        for start in range(0, whole.num_rows, 4000):
            table.write(whole.slice(start, 4000))
    with full, store.guard_disk(small_disk):
        write_table(whole.to_pylist(), schema, path)
    assert not list(small_disk.iterdir())


def test_a_command_tells_of_a_limit_and_of_the_full_disk_of_a_database(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """DVC's caches are SQLite's, which has errors of its own and one word for two things."""

    def raising(error: Exception) -> Callable[[], object]:
        return lambda: (_ for _ in ()).throw(error)

    assert guarded(raising(OSError(errno.EFBIG, "File too large"))) == 2
    assert "the largest that the file system takes" in capsys.readouterr().err
    assert guarded(raising(sqlite3.OperationalError("database or disk is full"))) == 2
    assert "the disk is full" in capsys.readouterr().err
    damaged = sqlite3.OperationalError("disk I/O error")
    with largest_file(1 << 20):
        assert guarded(raising(damaged)) == 2
    assert "1.0 MB, the limit of this process" in capsys.readouterr().err
    with pytest.raises(sqlite3.OperationalError, match="I/O error"):  # a disk that is broken
        guarded(raising(damaged))


def test_dev_full_without_root() -> None:
    """The kernel's own ENOSPC, where no small file system can be mounted."""
    with pytest.raises(HapoError, match="disk is full"), store.guard_disk(Path("/dev/full")):
        handle = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(handle, b"x")
        finally:
            os.close(handle)


def test_memory_stays_flat_for_large_files(tmp_path: Path) -> None:
    """Hashing a 256 MB (sparse) file must not read it into memory."""
    folder = tmp_path / "big"
    folder.mkdir()
    with (folder / "weights").open("wb") as sink:
        sink.truncate(256_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.write_manifest(folder, "policy", {})
    store.check_manifest(folder, "policy")
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 50_000
    assert (
        json.loads((folder / "manifest.json").read_text())["files"]["weights"]["bytes"]
        == 256_000_000
    )


def test_published_work_stays_until_another_stage_starts(tmp_path: Path) -> None:
    root, target = tmp_path / "scratch", tmp_path / "policy" / "1"
    scratch = store.Scratch("train@1", "e" * 64, root)
    (scratch.path / "out" / "model").mkdir(parents=True)
    (scratch.path / "out" / "model" / "weights").write_text("w")
    scratch.publish_copy(target, "out")
    assert (target / "model" / "weights").read_text() == "w"
    shutil.rmtree(target)  # DVC deletes the outputs of a stage that it has not recorded
    store.Scratch.settle("train@1", root)
    again = store.Scratch("train@1", "e" * 64, root)
    again.publish_copy(target, "out")
    assert (target / "model" / "weights").read_text() == "w"
    unfinished = store.Scratch("train@3", "e" * 64, root)
    store.Scratch.settle("train@2", root)
    assert not again.path.exists() and unfinished.path.exists() and target.exists()
