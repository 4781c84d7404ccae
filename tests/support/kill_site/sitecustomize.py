"""Kills processes of a test project at a named point. PYTHONPATH puts this folder before all others
in the kill tests (tests/support/kills.py); nothing in the product knows of it.

KILL_PLAN names a JSON file:
  role      the process that counts: `train`, `evaluate`, `dvc`, `cli`, ...; its module
  call      "package.module:Class.function", or
  event     one of CHANGES (`os.rename`) whose first path has the pattern `match`, or
  change    true: every change of a file below the project
  n         the how-maniest (from 1), `after` the call where `after` is true
  victims   roles to kill with SIGKILL, in this order; the process itself comes last
  fired     is created when the point is reached; a plan fires once
  counts    a folder: every process writes there how many it counted (role `*`, n out of reach)
  begun     every round that a segment begins is written there, one line each
"""

import atexit
import contextlib
import functools
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

ROOT = os.environ.get("KILL_ROOT", "")
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}


def role_of(words):
    """The last part of the module after -m."""
    if "-m" not in words[:-1]:
        return ""
    module = words[words.index("-m") + 1]
    return "worker" if module.endswith("verify.worker") else module.rsplit(".", 1)[-1]


def processes(role):
    """Ids of the project's processes in this role (`server`: Prefect's)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            inside = os.path.realpath(folder / "cwd").startswith(ROOT)
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if inside and (role_of(words) == role or (role == "server" and "prefect" in words)):
            found.append(int(folder.name))
    return found


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Plan:
    """Counts, and fires once."""

    def __init__(self, plan):
        self.plan, self.count, self.firing = plan, 0, False
        self.mine = plan["role"] in ("*", role_of(sys.orig_argv))
        self.lock = threading.Lock()
        if self.mine and "counts" in plan:
            atexit.register(self.note_count)

    def note_count(self):
        name = f"{role_of(sys.orig_argv)}-{os.getpid()}"
        Path(self.plan["counts"], name).write_text(str(self.count))

    def hit(self, what):
        with self.lock:
            self.count += 1
            if self.count != self.plan["n"] or self.firing:
                return
            self.firing = True
        try:
            handle = os.open(self.plan["fired"], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        found = {role: processes(role) for role in self.plan["victims"]}
        said = ", ".join(f" {len(pids)} {role}" for role, pids in found.items())
        os.write(handle, f"{role_of(sys.orig_argv)} {what}:{said}".encode())
        os.fsync(handle)
        own = False
        for pids in found.values():
            for pid in pids:
                if pid == os.getpid():
                    own = True
                else:
                    kill(pid)
        if own:
            kill(os.getpid())
        self.firing = False

    def audit(self, event, arguments):
        if self.firing or not self.mine:
            return
        if event != "open" and event not in CHANGES:
            return
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, changes = (arguments[0] if arguments else ""), event in CHANGES
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        text = str(Path.cwd() / os.fsdecode(path))
        if self.plan.get("change"):
            if changes and text.startswith(ROOT) and ".log" not in text:
                self.hit(f"{event} {text}")
        elif event == self.plan["event"] and re.search(self.plan.get("match", ""), text):
            self.hit(f"{event} {text}")


class Wrapping:
    """A finder that wraps one function of one module when that is imported."""

    def __init__(self, target, wrap):
        self.module, _, self.name = target.partition(":")
        self.wrap, self.busy = wrap, False

    def find_spec(self, name, path=None, target=None):
        if name != self.module or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            owner, *rest = self.name.split(".")
            holder, last = (getattr(module, owner), rest[0]) if rest else (module, owner)
            setattr(holder, last, self.wrap(getattr(holder, last)))

        spec.loader.exec_module = exec_module
        return spec


def install(plan):
    counter = Plan(plan)

    def killing(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            if not plan.get("after"):
                counter.hit(f"before {plan['call']}")
            result = function(*args, **kwargs)
            if plan.get("after"):
                counter.hit(f"after {plan['call']}")
            return result

        return wrapped

    if counter.mine and "call" in plan:
        sys.meta_path.insert(0, Wrapping(plan["call"], killing))
    elif counter.mine:
        sys.addaudithook(counter.audit)


def note_rounds(path):
    def noting(function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(handle, f"{args[3] + 1}\n".encode())
            os.close(handle)
            return function(*args, **kwargs)

        return wrapped

    sys.meta_path.insert(0, Wrapping("hapo_core.prompt_order:prompts_of_round", noting))


if "KILL_PLAN" in os.environ:
    _plan = json.loads(Path(os.environ["KILL_PLAN"]).read_text())
    if role_of(sys.orig_argv) == "train":
        note_rounds(_plan["begun"])
    if _plan.get("n"):
        install(_plan)
