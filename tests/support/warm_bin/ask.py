"""Asks tests/support/warm.py to run `-m NAME` for what it knows; anything else, and what has a
sitecustomize.py that is to change what others wrote (kill_site), is the real Python's."""

import json
import os
import signal
import socket
import sys
import time

words = sys.argv[1:]
real = os.environ["WARM_REAL"]
while words[:1] == ["-u"]:
    words = words[1:]
    os.environ["PYTHONUNBUFFERED"] = "1"
name = words[1] if words[:1] == ["-m"] else ""
grades = name == "hapo_core.verify.workers.worker"
known = name.startswith("pipeline") or name in (
    "dvc",
    "torch.distributed.run",
    "ranks_worker",
    "loads",
)
if grades and "WARM_GRADING" in os.environ:  # which has imported ours: that is not noted
    ready = os.path.exists(os.environ["WARM_GRADING"])  # noqa: PTH110
    known = ready and "HAPO_TEST_IMPORTS" not in os.environ
    os.environ["WARM_PYTHON"] = os.environ["WARM_GRADING"]
if not known or "KILL_PLAN" in os.environ:
    os.execv(real, [real, *sys.argv[1:]])
warm = socket.socket(socket.AF_UNIX)
for _ in range(3000):  # it imports, once
    try:
        warm.connect(os.environ["WARM_PYTHON"])
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(0.1)
umask = os.umask(0)
os.umask(umask)
request = {"cwd": os.getcwd(), "environment": dict(os.environ), "words": words[1:]}  # noqa: PTH109
request["umask"] = umask
if grades:
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # as a worker does: it dies with who started it
socket.send_fds(warm, [b"w"], [0, 1, 2])
warm.sendall(json.dumps(request).encode() + b"\n")
answers = warm.makefile("rb")
pid = int(answers.readline())
note = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"warm-{os.getpid()}")  # noqa: PTH118
with open(note, "w") as sink:  # noqa: PTH123
    sink.write(str(pid))
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda caught, _: os.kill(pid, caught))
status = int(answers.readline())
os.unlink(note)  # noqa: PTH108
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
