"""DVC's experiment queue, through its command line: what is finished, waiting, running, failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hapo_core.errors import HapoError

_WORKERS = re.compile(r"Worker status: (\d+) active, (\d+) idle")
_STATES = ("Queued", "Running", "Failed", "Success", "Preparing")


@dataclass(frozen=True)
class State:
    """`tasks`: state by experiment name; `workers`: how many are alive; `answering`: how many of
    them told DVC so, which waits a second for an answer that a busy machine gives late."""

    tasks: dict[str, str]
    workers: int
    answering: int

    def named(self, state: str) -> list[str]:
        """The experiments in a state."""
        return [name for name, found in self.tasks.items() if found == state]


@dataclass(frozen=True)
class Queue:
    """The experiments of the project at `root`."""

    root: Path

    def finished(self) -> dict[str, str]:
        """Name -> commit of every finished experiment, whatever commit it started from."""
        form = "--format=%(objectname) %(refname)"
        found = {}
        for line in self._git("for-each-ref", form, "refs/exps").splitlines():
            commit, ref = line.split(" ", 1)
            parts = ref.split("/")
            if len(parts) == 5:  # refs/exps/AB/CDEF.../NAME
                found[parts[-1]] = commit
        return found

    def state(self) -> State:
        """The queue as `dvc queue status` shows it."""
        text = self._dvc("queue", "status")
        tasks = {}
        for line in text.splitlines():
            words = line.split()
            if len(words) >= 3 and words[-1] in _STATES:
                tasks[words[1]] = words[-1]
        workers = _WORKERS.search(text)
        answering = sum(map(int, workers.groups())) if workers else 0
        return State(tasks, max(answering, len(self._alive())), answering)

    def _alive(self) -> set[str]:
        """Names of the workers of this project that are processes of this machine."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended, or it is another user's
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "queue-worker" in words and (process / "cwd").resolve() == self.root.resolve():
                    found.add(words[words.index("queue-worker") + 1])
        return found

    def add(
        self,
        name: str,
        settings: Iterable[str],
        targets: Sequence[str],
        files: Iterable[Path] = (),
    ) -> None:
        """Queue an experiment.

        Args:
            files: of the project, by relative path. It runs in a copy that holds what git knows:
                of these the others are copied too.

        Raises:
            HapoError: DVC refuses.
        """
        words = [f"--set-param={setting}" for setting in settings]
        for path in files:
            if not path.is_absolute() and not self._git("ls-files", "--", str(path)).strip():
                words.append(f"--copy-paths={path}")
        self._dvc("exp", "run", "--queue", f"--name={name}", *words, "--", *targets)

    def start(self, workers: int) -> None:
        """Have so many workers, those that are there included; they outlive this process.

        Raises:
            HapoError: DVC starts workers by the name `dvc`, and there is none.
        """
        path = _path()
        if shutil.which("dvc", path=path) is None:
            raise HapoError(
                "there is no program `dvc`, by whose name DVC starts its workers",
                where=path.split(os.pathsep)[0],
                remedy="`python -m pip install --force-reinstall --no-deps dvc` puts it there",
            )
        self._dvc("queue", "start", "--jobs", str(workers))

    def forget(self, names: Sequence[str]) -> None:
        """Take tasks that wait, failed or were lost out of the queue."""
        if names:
            self._dvc("queue", "remove", "--", *names)

    def give_up(self, names: Sequence[str]) -> None:
        """Mark tasks as failed whose worker is gone."""
        for name in names:
            self._dvc("queue", "kill", "--force", "--", name)

    def _git(self, *words: str) -> str:
        return self._checked(["git", *words])

    def _dvc(self, *words: str) -> str:
        return self._checked([sys.executable, "-m", "dvc", *words])

    def _checked(self, command: list[str]) -> str:
        done = self._call(command)
        if done.returncode != 0:
            shown = " ".join(command[2:] if command[0] == sys.executable else command)
            said = (done.stderr or done.stdout).strip()
            remedy = "a project needs git with at least one commit, and DVC (`dvc init`)"
            if re.search(r"\[Errno (13|30)\]", said):  # EACCES, EROFS
                remedy = "the project cannot be written by this user: work in a copy elsewhere"
            raise HapoError(f"`{shown}` failed: {said}", where=str(self.root), remedy=remedy)
        return done.stdout

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
        env["PATH"] = _path()
        # Files, not pipes: a worker that `dvc queue start` leaves behind would hold a pipe open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(
                command, cwd=self.root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(command, done.returncode, *texts)


def _path() -> str:
    """PATH for DVC, whose workers run `python`: it must be the one that runs us."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
