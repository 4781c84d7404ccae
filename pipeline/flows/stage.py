"""A stage as a process: shown in Prefect where a server answers, with an exit code."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hapo_core.errors import HapoError
from pipeline.artifacts import disk_full
from pipeline.artifacts.places import expanded
from pipeline.flows.flow import flow_of
from pipeline.flows.health import API_URL, AUTH, answers, prepare_environment, refuses
from pipeline.flows.observer import Observer, T, warn
from pipeline.system.processes import tether
from pipeline.system.remedies import in_project_words
from pipeline.system.secrets import hide
from pipeline.system.terminal import any_terminal


def run_stage(name: str, work: Callable[[Observer], T]) -> T:
    """Run `work` once and return its result, as a Prefect flow run where a server answers.

    Args:
        name: the DVC stage's name; the flow run gets it, nested under the run that the
            environment variable HAPO_PARENT_FLOW_RUN names.
        work: the stage's plain function; called in this thread.

    Raises:
        ValueError: `pipeline.flows.flow` declares no flow for it.
        BaseException: what `work` raised, unchanged. Prefect adds nothing of its own.
    """
    flow_of(name)
    tether()
    with _sigterm_as_exit():
        api = os.environ.get(API_URL)
        if not api:
            return work(Observer(name))
        if not answers(api) and not answers(api):  # a busy machine gets a second chance
            warn(f"no Prefect server answers at {api}: {name} runs without it")
            return work(Observer(name))
        if refuses(api, os.environ.get(AUTH)):
            warn(f"the Prefect server at {api} wants another {AUTH}: {name} runs without it")
            return work(Observer(name))
        prepare_environment()
        from pipeline.flows.flow_run import run_joined

        return run_joined(name, api, work)


def stage_main(main: Callable[[], object]) -> NoReturn:
    """The end of every stage module: `if __name__ == "__main__": stage_main(main)`.

    A HapoError (or a full disk) becomes a message and exit status 2, without a traceback.
    """
    code = guarded(main)
    sys.stdout.flush()
    sys.stderr.flush()
    joined = sys.modules.get("pipeline.flows.flow_run")
    if joined is not None and joined.stuck():
        # Prefect's own exit hooks would wait for a server that no longer answers.
        os._exit(code)
    sys.exit(code)


def guarded(main: Callable[[], object]) -> int:
    """Call `main` and give its exit status; errors that users can mend become messages."""
    any_terminal()
    # The interpreter's last collection would visit every object of torch and Prefect: seconds on a
    # busy machine, at the end of each stage and after every Ctrl-C.
    atexit.register(gc.freeze)
    try:
        result = main()
    except HapoError as error:
        print(hide(f"error: {in_project_words(error)}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (`| head`) has enough; nothing more may be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, sqlite3.Error, RuntimeError) as error:
        mended = _no_home(error) or _no_temporary(error)
        mended = mended or disk_full(error, Path(getattr(error, "filename", None) or "."))
        if mended is None and isinstance(error, OSError):
            mended = _not_ours(error)
        if mended is None:
            raise
        print(hide(f"error: {mended}"), file=sys.stderr)
        return 2
    return result if isinstance(result, int) else 0


_OTHER_THINGS = {
    errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG,
}  # fmt: skip
"""A folder in a file's place, a file in a folder's, a circle of links, a pipe or socket, or a name
that the file system does not take."""


def _no_home(error: Exception) -> HapoError | None:
    """The error for a user without a home folder, such as a number that a container was given:
    DVC and other libraries ask for one, and raise."""
    if "home directory" not in str(error).lower() or expanded("~").is_absolute():
        return None
    return HapoError(
        f"this user (number {os.getuid()}) has no home folder: HOME is not set, and the system's "
        "list of users does not name one",
        remedy="`export HOME=FOLDER`, any folder that this user may write to",
    )


def _no_temporary(error: Exception) -> HapoError | None:
    """The error where Python found no folder for temporary files: all are missing, full or not
    this user's."""
    if "usable temporary directory" not in str(error):
        return None
    return HapoError(
        "no folder for temporary files can be written: TMPDIR, /tmp, /var/tmp and the working "
        "folder are missing, full, or not this user's",
        remedy="free space in one of them, or `export TMPDIR=FOLDER` that this user may write to",
    )


def _not_ours(error: OSError) -> HapoError | None:
    """The error for a file that this user may not write (or read): a read-only project."""
    where = str(error.filename) if error.filename else None
    if error.errno == errno.EROFS:
        what = "this lies on a file system that is read-only, and a file has to be written there"
        return HapoError(what, where=where, remedy="work in a copy of the project elsewhere")
    if error.errno in (errno.EACCES, errno.EPERM):
        what = f"this user may not use a file or folder that is needed ({error.strerror})"
        remedy = "it belongs to another user or is protected: change that, or work in a copy"
        return HapoError(what, where=where, remedy=remedy)
    lost = where is not None and error.errno == errno.ENOENT and Path(where).is_symlink()
    if lost or error.errno in _OTHER_THINGS:
        said = "a link to something that is not there" if lost else error.strerror
        what = f"what lies there cannot be used as the file or folder that it should be ({said})"
        remedy = (
            "remove it; `dvc checkout` restores what a stage made, `hapo init . --upgrade` code"
        )
        return HapoError(what, where=where, remedy=remedy)
    return None


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that worker pools close, instead of cutting it off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
