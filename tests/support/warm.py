"""Processes of test projects without the seconds that each needs to import what others wrote.

A process that has imported DVC, Prefect and pandas, and nothing of ours, forks for every
`python -m pipeline.NAME` and `python -m dvc` of a warm project; the fork goes to the project's
folder, takes its environment and its files, imports the project's own code and runs the module as
Python would. For a project that learns it imports torch and transformers first, once. A fork is a
process of its own: its command line is what was asked for, it may be killed, dies with the process
that asked for it, and leaves with its own status. What it does not know is run by the real Python.
Tests of how processes start, end each other or load modules use the real one; test_end_to_end
compares the bytes of both.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

BIN = Path(__file__).parent / "warm_bin"
REPO = Path(__file__).parents[2]
GRADING = "WARM_GRADING"
"""Environment variable: the socket of the process that forks workers which grade."""
SOCKET, REAL, LEARNS = "WARM_PYTHON", "WARM_REAL", "WARM_LEARNS"
"""Environment variables: the socket of the process that forks; the real Python; whether a project
learns (then torch is imported before the fork)."""
ALWAYS = (
    "pandas",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pydantic",
    "ruamel.yaml",
    "dvc.cli",
    "dvc.api",
    "dvc.repo.reproduce",
    "dvc.repo.experiments",
    "dvc.stage.run",
    "dvc.stage.cache",
    "dvc.parsing.context",
    "dvc.parsing.interpolate",
    "dvc.ui.table",
    "dvc_data.index.checkout",
    "dvc_data.hashfile.transfer",
    "dvc_objects.fs.local",
    "scmrepo.git",
    "pygit2",
    "dulwich.porcelain",
    "networkx",
    "flufl.lock",
    "prefect",
    "prefect.artifacts",
    "prefect.client.orchestration",
    "prefect.events.clients",
    "prefect.events.worker",
    "prefect.flow_engine",
    "prefect.logging.handlers",
)
LEARNING = (
    "torch",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch.distributed.tensor",
    "torch.utils.tensorboard",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2.tokenization_qwen2",
    "transformers.generation.utils",
    "accelerate",
    "scipy.stats",
    "scipy.optimize",
    "datasketch",
    "jinja2",
    "safetensors.torch",
)
_ROOM = "x" * 4000
"""A word of the command line that a fork overwrites with its own words."""


class Prefect:
    """Prefect, imported and set aside: an `import prefect` of a fork finds it, and reads the
    settings of that moment, as a first import does."""

    def __init__(self) -> None:
        ours = [name for name in sys.modules if name.partition(".")[0] == "prefect"]
        self.aside = {name: sys.modules.pop(name) for name in ours}
        self.aside["prefect.logging.configuration"].PROCESS_LOGGING_CONFIG.clear()
        for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
            if logger is logging.root or logger.name.partition(".")[0] == "prefect":
                logger.handlers.clear()
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        """For the import system."""
        if name != "prefect":
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        return ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """For the import system."""
        self.spec = self.aside["prefect"].__spec__
        return self.aside["prefect"]

    def exec_module(self, module: ModuleType) -> None:
        """For the import system."""
        module.__spec__ = self.spec
        sys.modules.update(self.aside)
        importlib.import_module("prefect.context").refresh_global_settings_context()
        importlib.import_module("prefect.logging.configuration").setup_logging()


def grade(path: str) -> NoReturn:
    """Forks workers that grade: of this repository, or of a copy with the same verifier. What they
    would do before the first job has been done: sympy is imported, the grammar is built."""
    sys.path.insert(0, str(REPO))
    worker = importlib.import_module("hapo_core.verify.workers.worker")
    worker._warm_up("math", worker.load_grader("math"))
    words = serve(path, ())
    root = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])
    kind, memory, _ = sys.argv[1:]
    if kind != "math" or any(
        path.read_bytes() != (root / path.relative_to(REPO)).read_bytes()
        for path in REPO.glob("hapo_core/verify/**/*.py")
    ):
        real = os.environ[REAL]
        os.execv(real, [real, "-m", words, kind, memory, str(os.getppid())])
    worker.main(kind, int(memory), os.getppid())
    os._exit(0)


def serve(path: str, imported: Sequence[str] = ALWAYS) -> str:
    """Returns the module to run in each forked process, which is set up as the request says; ends
    with its standard input."""
    _import(imported)
    if imported:
        Prefect()
    learns = False
    gc.freeze()
    gc.set_threshold(50_000)
    door = socket.socket(socket.AF_UNIX)
    door.bind(path + ".new")
    door.listen(32)
    Path(path + ".new").rename(path)
    while True:
        ready, _, _ = select.select([door, 0], [], [])
        if 0 in ready:
            os._exit(0)
        caller, _ = door.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        with caller.makefile("rb") as lines:
            _, files, _, _ = socket.recv_fds(caller, 1, 3)
            request = json.loads(lines.readline())
        if imported and LEARNS in request["environment"] and not learns:
            _import(LEARNING)
            learns = True
            gc.freeze()
        if os.fork() == 0:
            door.close()
            return _fork(caller, files, request)
        caller.close()
        for file in files:
            os.close(file)


def _import(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would lose a thread"


def _fork(caller: socket.socket, files: list[int], request: dict[str, Any]) -> str:
    """Fork once more: returns in the process that is to run; this one tells how that ends."""
    os.setsid()
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        with suppress(OSError):
            caller.sendall(b"%d\n" % pid)
        status = _wait(pid, caller)
        with suppress(OSError):
            caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    caller.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[0:1] = [request["cwd"], *added]
    sys.executable = str(BIN / "python")
    module, *words = request["words"]
    if "HAPO_LAUNCHED" in os.environ:  # a rank looks whether its launcher is its parent
        os.environ["HAPO_LAUNCHED"] = str(os.getppid())
    if "HAPO_TEST_IMPORTS" in os.environ:
        importlib.import_module("sitecustomize")  # tests/support/import_site
    _call_it(["python", "-m", module, *words])
    sys.argv = [module, *words]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = sys.__stdout__ = _text(1, sys.stdout.encoding, "strict")
    sys.stderr = sys.__stderr__ = _text(2, sys.stderr.encoding, "backslashreplace")
    return str(module)


def _wait(pid: int, caller: socket.socket) -> int:
    """The status of the process, which is killed as soon as nobody waits for it."""
    with os.fdopen(os.pidfd_open(pid), "rb", buffering=0) as ended:
        ready, _, _ = select.select([ended, caller], [], [])
        if ended not in ready:  # the caller says nothing more: its end was closed
            os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _call_it(words: list[str]) -> None:
    """Overwrite this process's command line (Linux)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    line = b"".join(word.encode() + b"\0" for word in words)[: end - begin]
    ctypes.memmove(begin, line.ljust(end - begin, b"\0"), end - begin)


def _run(module: str) -> NoReturn:
    """As Python runs `-m MODULE`, but for what it takes down at the end."""
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except KeyboardInterrupt as error:
        sys.excepthook(type(error), error, error.__traceback__)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001  # as Python itself does
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError, ValueError):
            stream.flush()
    os._exit(status & 255)  # type: ignore[operator]


def _text(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    unbuffered = number == 2 or bool(os.environ.get("PYTHONUNBUFFERED"))
    raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(
        raw, encoding, errors, line_buffering=unbuffered, write_through=unbuffered
    )


def start(folder: Path, kind: str = "serve") -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """The process that forks, which ends with its standard input; and what makes a project warm."""
    path = folder / kind
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    if kind == "grade":
        kept["PYTHONHASHSEED"] = "0"  # as for any worker
    server = subprocess.Popen(
        [sys.executable, __file__, kind, str(path), _ROOM],
        stdin=subprocess.PIPE,
        env={**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
    )
    name = SOCKET if kind == "serve" else GRADING
    return server, {name: str(path), REAL: sys.executable}


def python(environment: Mapping[str, str]) -> str:
    """What runs `-m NAME` in this environment: the real Python, or one that asks for a fork."""
    return str(BIN / "python") if SOCKET in environment else sys.executable


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the process that does the work; `process` then ends by the same signal."""
    noted = Path(os.environ.get("TMPDIR", "/tmp")) / f"warm-{process.pid}"
    os.kill(int(noted.read_text()) if noted.exists() else process.pid, signal.SIGKILL)


if __name__ == "__main__":
    _run(serve(sys.argv[2])) if sys.argv[1] == "serve" else grade(sys.argv[2])
