"""One run at a time per project and per device, and DVC's locks and lock file after a kill.

All our locks are `flock`s: the kernel releases them, however their process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hapo_core.errors import ConfigError, HapoError
from pipeline.artifacts import read_text
from pipeline.system.dvc_state import writers

RUN_LOCK = Path(".hapo/run.lock")
COMPARE_LOCK = Path(".hapo/compare.lock")
LOCKS = "HAPO_LOCKS"
"""Environment variable: the folder of the devices' locks; one for all users where it is shared."""
COMMON = Path("/tmp")
"""Of all shells of a user, whatever TMPDIR says: a batch job and a login use the same devices."""
DVC_ENDS_SECONDS = 5.0
"""How long a DVC may go on whose run was killed."""
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
        _wait_for_dvc(root, patience)
        yield


def _wait_for_dvc(root: Path, patience: Patience | None) -> None:
    """A `dvc repro` by hand takes no lock of ours: what is written beside it (params.yaml, locks)
    would cost it its stage. One of a killed run ends by itself, in a moment.

    Raises:
        HapoError: it goes on, and nobody waits for it.
        WaitStopped: while waiting.
    """
    began, told = time.monotonic(), False
    while busy := writers(root):
        what = f"DVC works in this project: process {next(iter(busy.values()))}"
        if patience is None and time.monotonic() - began > DVC_ENDS_SECONDS:
            raise HapoError(
                what,
                where=str(root.resolve()),
                remedy="wait for it (`hapo run --wait` does), or stop it with Ctrl-C there (its "
                "finished work is kept)",
            )
        if patience is not None:
            if not told:
                patience.tell(f"{what}; this run waits for it")
            told = True
            if stopped := patience.stop_asked():
                raise WaitStopped(f"{stopped} while it waited for DVC")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def compare_lock(root: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold what two comparisons of a project must not do at once: ask DVC's queue and add to it, or
    write a page. Waits for the other one."""
    what = "another `hapo compare` of this project is at it"
    with _held(root / COMPARE_LOCK, what, root, Patience(tell, lambda: None)):
        yield


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder for this process; it must be there.

    Raises:
        HapoError: another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HapoError(
                what, where=str(folder), remedy="wait for it, or name another --out"
            ) from error
        yield
    finally:
        os.close(handle)


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
            # A name comes from params.yaml or the environment: it is a file here, never a path.
            name = re.sub(r"[^A-Za-z0-9_-]", "_", device)
            stack.enter_context(_held(folder / f"{name}.lock", what, root, patience))
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
        ConfigError: the folder belongs to somebody else, or cannot be made.
    """
    given, runtime = os.environ.get(LOCKS), os.environ.get("XDG_RUNTIME_DIR")
    if given:
        folder = Path(given)
        if not folder.is_dir():
            _make(folder)
        return folder
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "hapo"
    else:
        common = os.access(COMMON, os.W_OK | os.X_OK)
        folder = (COMMON if common else Path(tempfile.gettempdir())) / f"hapo-{os.getuid()}"
    _make(folder, 0o700)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ConfigError(
            "the folder of the device locks belongs to another user",
            where=str(folder),
            remedy=f"set {LOCKS} to a folder of your own",
        )
    return folder


def _make(folder: Path, mode: int = 0o777) -> None:
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:  # a file or a link to nowhere is in its place, or it may not be made
        raise ConfigError(
            f"the folder of the device locks cannot be made: {error.strerror}",
            where=str(folder),
            remedy=f"remove what lies there, or set {LOCKS} to a folder of your own",
        ) from error


@contextmanager
def _held(path: Path, what: str, root: Path, patience: Patience | None) -> Iterator[None]:
    with _open_lock(path) as handle:
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
        handle.seek(0)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} in {root.resolve()}\n")
        handle.flush()
        yield


def _open_lock(path: Path) -> IO[str]:
    """The lock file, which may lie in a folder that other users write to: a link is not followed,
    and nothing but a plain file with one name is opened.

    Raises:
        ConfigError: it is something else, or this user may not write it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags & ~os.O_CREAT)  # of another user, in a sticky folder
        except FileNotFoundError:
            descriptor = os.open(path, flags, 0o644)
            if _is_shared(path.parent):
                os.fchmod(descriptor, 0o666)  # the next user locks the same file
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise _no_lock(path, "is no plain file") from error
        raise ConfigError(
            f"the lock cannot be opened: {error.strerror}",
            where=str(path),
            remedy=_remedy(error.errno, path),
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise _no_lock(path, "is no plain file of its own")
    return os.fdopen(descriptor, "r+")


def _is_shared(folder: Path) -> bool:
    return bool(folder.stat().st_mode & 0o022)


def _no_lock(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"the lock {what}: somebody put it there, and it is not touched",
        where=str(path),
        remedy="remove it"
        if path.name in (RUN_LOCK.name, COMPARE_LOCK.name)
        else f"remove it, or set {LOCKS} to a folder of your own",
    )


def _remedy(number: int | None, path: Path) -> str:
    if number == errno.EROFS:
        return "the file system is read-only: copy the project to one that can be written"
    if path.name in (RUN_LOCK.name, COMPARE_LOCK.name):
        return "the project belongs to another user or is read-only: work in a copy of your own"
    return (
        f"another user made it: its owner runs `chmod 666 {path}` and makes the folder one that "
        f"all may write (chmod 1777), or set {LOCKS} to a folder of your own"
    )


def run_holder(root: Path = Path()) -> int | None:
    """Process id of the run that holds the lock, without touching the lock (Linux)."""
    path = root / RUN_LOCK
    try:
        inode = path.stat().st_ino
        holder = re.match(r"process (\d+) ", read_text(path))
        table = Path("/proc/locks").read_text()
    except (OSError, UnicodeDecodeError):
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
