"""One `dvc repro` in a process group of its own: its lines, its end, and how it is stopped."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.system.processes import die_with_parent, group_alive, stop_group

_RUNNING = re.compile(r"^Running stage '(?P<stage>[^']+)'")
_SKIPPED = re.compile(
    r"^Stage '(?P<stage>[^']+)' (didn't change, skipping|is cached - skipping run)"
)
_DVC = re.compile(r"^(Running stage '|Stage '|> |Updating lock|Generating lock|ERROR: |WARNING: )")
_PROGRESS = re.compile(r"^[\w@.-]+  \S+ \d+/\d+(  |$)")
_TICK_SECONDS = 0.2
_AFTERMATH_SECONDS = 1.0


@dataclass(frozen=True)
class Event:
    """What a line of DVC says about a stage."""

    kind: Literal["running", "skipped"]
    stage: str


def read_line(line: str) -> Event | None:
    """The event in a line of `dvc repro`, if any."""
    if match := _RUNNING.match(line):
        return Event("running", match["stage"])
    if match := _SKIPPED.match(line):
        return Event("skipped", match["stage"])
    return None


def is_dvc_line(line: str) -> bool:
    """Whether DVC itself wrote the line (a stage's own lines are in the stage's own log)."""
    return _DVC.match(line) is not None


def run_command(
    command: Sequence[str],
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    stop_asked: Callable[[], str | None],
) -> int:
    """Run `command` in its own session until it ends or is asked to stop.

    Args:
        command: usually `python -m dvc repro ...`.
        env: its whole environment.
        on_line: called with every line of its output (stdout and stderr together).
        stop_asked: asked several times a second; a text means: end the group now.

    Returns:
        Its exit status; negative for a signal. No process of its group is left.
    """
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    try:
        _follow(process, on_line, stop_asked)
    finally:
        if process.poll() is None or group_alive(process.pid):
            stop_group(process)
    return process.wait()


def _follow(
    process: subprocess.Popen[bytes],
    on_line: Callable[[str], None],
    stop_asked: Callable[[], str | None],
) -> None:
    """Read lines until the output closes, or shortly after the process ended.

    A process that the stage left behind may keep the pipe open for ever; hence the second case.
    """
    assert process.stdout is not None
    pipe, rest, ended = process.stdout.fileno(), b"", None
    while stop_asked() is None:
        if select.select([pipe], [], [], _TICK_SECONDS)[0]:
            chunk = os.read(pipe, 65536)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                on_line(line.decode(errors="replace").rstrip("\r"))
        elif process.poll() is not None:
            ended = ended or time.monotonic()
            if time.monotonic() - ended > _AFTERMATH_SECONDS:
                break
    if rest:
        on_line(rest.decode(errors="replace"))


class Hints:
    """What DVC says beside the stages: at the end of every command about git and remotes (a head
    and its command), with every stage about its lock file and the stage's command, empty lines
    between. `hapo run` says itself what to do next."""

    _HEADS = ("To track the changes with git, run:", "To enable auto staging, run:")
    _ALONE = ("Use `dvc push` to send your updates to remote storage.",)
    _EVERY = re.compile(r"^((Updating|Generating) lock file 'dvc\.lock'|> python -m pipeline\.)")

    def __init__(self) -> None:
        self._inside = False

    def is_one(self, line: str) -> bool:
        """Whether this line, the next one of the output, belongs to a hint."""
        if line.strip() in self._HEADS or self._EVERY.match(line):
            self._inside = True
            return True
        if line.strip() in self._ALONE:
            return True
        if self._inside and (not line.strip() or line.startswith("\t")):
            return True
        self._inside = False
        return False


class Screen:
    """Prints the lines; on a terminal, progress lines overwrite one another."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._open = False

    def show(self, line: str) -> None:
        """Print one line."""
        if self.live and _PROGRESS.match(line):
            width = os.get_terminal_size().columns
            print(f"\r\x1b[K{line[: width - 1]}", end="", flush=True)
            self._open = True
            return
        print(("\n" if self._open else "") + line, flush=True)
        self._open = False
