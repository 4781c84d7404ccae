"""Stages of real projects without the seconds that each needs to import torch and transformers.

A process that has imported what others wrote, and nothing of ours, forks for every
`python -m pipeline.NAME` that a warm project starts; the fork goes to the project's folder, takes
its environment and its files, imports the project's own code and runs the module as Python would.
It is a process of its own: it may be killed, and leaves with its own status. What is no module of
`pipeline` is run by the real Python. Tests of how processes start, end each other or load modules
use the real one; test_end_to_end compares the bytes of both.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

BIN = Path(__file__).parent / "warm_bin"
SOCKET, REAL = "WARM_PYTHON", "WARM_REAL"
"""Environment variables: the socket of the process that forks; the real Python."""
IMPORTED = (
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
    "pandas",
    "pyarrow.parquet",
    "pyarrow.compute",
    "pydantic",
    "ruamel.yaml",
    "datasketch",
    "jinja2",
    "safetensors.torch",
)


def serve(path: str) -> str:
    """Returns the module to run in each forked process, which is set up as the request says; ends
    with its standard input."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    door = socket.socket(socket.AF_UNIX)
    door.bind(path)
    door.listen(32)
    while True:
        ready, _, _ = select.select([door, 0], [], [])
        if 0 in ready:
            os._exit(0)
        caller, _ = door.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            door.close()
            return _fork(caller)
        caller.close()


def _fork(caller: socket.socket) -> str:
    """Fork once more: returns in the process that is to run; this one tells how that ends."""
    os.setsid()
    with caller.makefile("rb") as lines:
        _, files, _, _ = socket.recv_fds(caller, 1, 3)
        request = json.loads(lines.readline())
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        with suppress(OSError):
            caller.sendall(b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        with suppress(OSError):
            caller.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    caller.close()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[0:1] = [request["cwd"], *added]
    module, *words = request["words"]
    sys.argv = [module, *words]
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = sys.__stdout__ = _text(1, sys.stdout.encoding, "strict")
    sys.stderr = sys.__stderr__ = _text(2, sys.stderr.encoding, "backslashreplace")
    return str(module)


def _text(number: int, encoding: str, errors: str) -> io.TextIOWrapper:
    unbuffered = number == 2 or bool(os.environ.get("PYTHONUNBUFFERED"))
    raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(
        raw, encoding, errors, line_buffering=unbuffered, write_through=unbuffered
    )


def start(folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """The process that forks, which ends with its standard input; and what makes a project warm."""
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        stdin=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    return server, {SOCKET: str(path), REAL: sys.executable}


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for the process that does the work; `process` then ends by the same signal."""
    noted = Path(os.environ.get("TMPDIR", "/tmp")) / f"warm-{process.pid}"
    os.kill(int(noted.read_text()) if noted.exists() else process.pid, signal.SIGKILL)


if __name__ == "__main__":
    runpy.run_module(serve(sys.argv[1]), run_name="__main__", alter_sys=True)
