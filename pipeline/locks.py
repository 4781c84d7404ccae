"""One run at a time per project and per device, and DVC's locks and lock file after a kill.

All our locks are `flock`s: the kernel releases them, however their process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError, HapoError
from pipeline.process import alive
from pipeline.store import atomic_write_text

RUN_LOCK = Path(".hapo/run.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
LOCKFILE = Path("dvc.lock")
LOCKFILE_COPY = Path(".hapo/dvc.lock")
"""DVC writes dvc.lock in place: a kill in that moment leaves it empty or torn."""
LOCKS = "HAPO_LOCKS"
"""Environment variable: the folder of the devices' locks; one for all users where it is shared."""
_LOOK_SECONDS = 0.3
_TELL_SECONDS = 600.0


@dataclass(frozen=True)
class Patience:
    """How a run waits for a lock that another one holds.

    Args:
        tell: gets a line when the wait begins, and every ten minutes.
        stop_asked: asked all the time; a text ends the wait.
    """

    tell: Callable[[str], None]
    stop_asked: Callable[[], str | None]


class WaitStopped(HapoError):
    """Somebody stopped the run while it waited for a lock."""


@contextmanager
def run_lock(root: Path = Path(), patience: Patience | None = None) -> Iterator[None]:
    """Hold the project's run lock.

    Args:
        root: the project.
        patience: wait for the holder; by default a held lock is an error.

    Raises:
        HapoError: another run holds it; names its process.
        WaitStopped: while waiting.
    """
    with _held(root / RUN_LOCK, "another run of this project is going on", root, patience):
        yield


@contextmanager
def device_locks(
    devices: Sequence[str], root: Path = Path(), patience: Patience | None = None
) -> Iterator[None]:
    """Hold the locks of this user's devices, over all projects: one run per machine and GPU.

    Args:
        devices: of `devices_of`.
        root: the project, for the message that another run gets.
        patience: as in `run_lock`.

    Raises:
        HapoError: another run holds one of them; names its process and project.
        WaitStopped: while waiting.
    """
    folder = lock_folder()
    with ExitStack() as stack:
        for device in sorted(devices):  # in one order everywhere: no two runs wait in a circle
            what = f"another run works on {device}"
            stack.enter_context(_held(folder / f"{device}.lock", what, root, patience))
        yield


def devices_of(device: str) -> list[str]:
    """The locks that `compute.device` needs: `cpu`, or one for each GPU this process may use.

    GPUs are named as CUDA_VISIBLE_DEVICES names them (indices or UUIDs: use one kind on a
    machine); without that variable, `cuda:N` is GPU N and `cuda` all of the machine's GPUs.
    """
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return [kind]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = _installed_gpus() if visible is None else [v.strip() for v in visible.split(",")]
    names = [name for name in names if name]
    if index.isdigit() and int(index) < len(names):
        names = [names[int(index)]]
    elif index.isdigit() and not names:
        names = [index]
    return [f"gpu-{name}" for name in names] or ["gpu-0"]


def _installed_gpus() -> list[str]:
    found = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*")]
    return sorted((name for name in found if name.isdigit()), key=int)


def lock_folder() -> Path:
    """HAPO_LOCKS, else a folder of this user's that disappears with the machine's next start.

    Raises:
        ConfigError: the folder belongs to somebody else.
    """
    given, runtime = os.environ.get(LOCKS), os.environ.get("XDG_RUNTIME_DIR")
    if given:
        folder = Path(given)
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "hapo"
    else:
        folder = Path(tempfile.gettempdir()) / f"hapo-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(
            "the folder of the device locks belongs to another user",
            where=str(folder),
            remedy=f"set {LOCKS} to a folder of your own",
        )
    return folder


@contextmanager
def _held(path: Path, what: str, root: Path, patience: Patience | None) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        told = -_TELL_SECONDS
        while not _try(handle):
            holder = _holder(handle)
            if patience is None:
                raise HapoError(
                    f"{what}: {holder}",
                    where=str(path),
                    remedy="wait for it (`hapo run --wait` does), or stop it with Ctrl-C there "
                    "(its finished work is kept)",
                )
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                patience.tell(f"{what}: {holder}; this run waits for it")
            if stopped := patience.stop_asked():
                raise WaitStopped(f"{stopped} while it waited for {path}")
            time.sleep(_LOOK_SECONDS)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} in {root.resolve()}\n")
        handle.flush()
        yield


def run_holder(root: Path = Path()) -> int | None:
    """Process id of the run that holds the lock, without touching the lock (Linux)."""
    path = root / RUN_LOCK
    try:
        inode = path.stat().st_ino
        holder = re.match(r"process (\d+) ", path.read_text())
        table = Path("/proc/locks").read_text()
    except OSError:
        return None
    held = any(f":{inode} " in line for line in table.splitlines())
    return int(holder[1]) if held and holder else None


def _try(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(handle: IO[str]) -> str:
    handle.seek(0)
    return handle.read().strip() or "unknown"


# --- runs that are shown ------------------------------------------------------------------------

SHOWN = Path(".hapo/shown")


@contextmanager
def shown_run(run_id: str, root: Path = Path()) -> Iterator[None]:
    """Mark the flow run as one of a living process: `is_shown` is true until this one ends."""
    path = root / SHOWN / f"{run_id}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def is_shown(run_id: str, root: Path = Path()) -> bool:
    """Whether the process of a flow run of this project is alive, perhaps waiting for a lock."""
    try:
        with (root / SHOWN / f"{run_id}.lock").open("r") as handle:
            return not _try(handle)
    except FileNotFoundError:
        return False


# --- DVC's --------------------------------------------------------------------------------------


def heal_rwlock(root: Path = Path()) -> list[str]:
    """Repair `.dvc/tmp/rwlock` after a kill -9; call it while holding `run_lock`.

    An empty or torn file is removed, entries of processes that are gone are dropped.

    Returns:
        What was repaired, in words; empty where nothing was.
    """
    path = root / RWLOCK
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        path.unlink()
        return [f"removed {RWLOCK}, which a killed DVC left torn"]
    write = {path: info for path, info in entries.get("write", {}).items() if _holds(info)}
    read = {
        path: [i for i in infos if _holds(i)] for path, infos in entries.get("read", {}).items()
    }
    read = {path: infos for path, infos in read.items() if infos}
    kept = {mode: held for mode, held in (("write", write), ("read", read)) if held}
    if kept == entries:
        return []
    atomic_write_text(path, json.dumps(kept))
    return [f"dropped entries of ended processes from {RWLOCK}"]


def keep_lockfile(root: Path = Path()) -> None:
    """Copy dvc.lock to `.hapo/dvc.lock` if it is whole."""
    text = _read(root / LOCKFILE)
    if text != _read(root / LOCKFILE_COPY) and _whole(text):
        atomic_write_text(root / LOCKFILE_COPY, text)


def heal_lockfile(root: Path = Path()) -> list[str]:
    """Repair a torn or empty dvc.lock after a kill -9; call it while holding `run_lock`.

    The last whole copy takes its place; without one it is removed. Either way no work is lost:
    what the copy lacks DVC finds in its cache of runs.

    Returns:
        What was repaired, in words; empty where nothing was.
    """
    path, copy = root / LOCKFILE, root / LOCKFILE_COPY
    if not path.is_file() or _whole(_read(path)):
        return []
    text = _read(copy)
    if _whole(text):
        atomic_write_text(path, text)
        return [f"{LOCKFILE} was torn by a kill: put back from {LOCKFILE_COPY}"]
    path.unlink()
    return [f"removed {LOCKFILE}, torn by a kill; DVC finds finished stages in its cache of runs"]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _whole(text: str) -> bool:
    """Whether it is YAML with DVC's sections (a cut in a value passes: DVC then sees a change)."""
    try:
        found = YAML(typ="safe").load(text)
    except YAMLError:
        return False
    return isinstance(found, dict) and isinstance(found.get("stages"), dict)


def writers(root: Path = Path()) -> dict[str, int]:
    """What DVC is writing now: absolute output path -> id of the living DVC process."""
    try:
        entries = json.loads((root / RWLOCK).read_text(encoding="utf-8"))
        held = entries.get("write", {})
        return {str(path): int(info["pid"]) for path, info in held.items() if _holds(info)}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}  # none, or caught in the middle of being written


def _holds(info: dict[str, Any]) -> bool:
    """Whether the recorded process runs and is a DVC (its id may have been given to another)."""
    pid = info.get("pid")
    if not isinstance(pid, int) or not alive(pid):
        return False
    try:
        return b"dvc" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
