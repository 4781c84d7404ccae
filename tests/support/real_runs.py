"""A project that really runs: starting, waiting, looking for its processes and task runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conftest import PrefectServer, Project, eventually

from pipeline.system import processes

DOWNSTREAM = ["train@2", "evaluate@final", "report"]


def slow_run(project: Project, *words: str) -> subprocess.Popen[str]:
    """A run that is in the middle of train@2."""
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.env["TOY_SECONDS"] = "60"
    run = project.start("pipeline.cli", "run", *words)
    log = project.path / "ran.log"
    eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=180)
    return run


def stage_pids(project: Project) -> list[int]:
    """Processes that work in the project (the stage, its shell, dvc, hapo)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            inside = (folder / "cwd").resolve() == project.path
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if inside and processes.alive(int(folder.name)) and b"prefect server" not in command:
            found.append(int(folder.name))
    return found


def pid_of(project: Project, words: bytes) -> int:
    for pid in stage_pids(project):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words in line and b"-c" not in line:
            return pid
    raise AssertionError(f"no process with {words!r}")


def finish(project: Project, *words: str) -> None:
    """The same command ends the work: nothing finished runs again."""
    project.ran()
    project.env["TOY_SECONDS"] = "0"
    project.hapo("run", *words)
    assert project.ran() == DOWNSTREAM


def run_id(output: str) -> str:
    match = re.search(r"/runs/flow-run/([0-9a-f-]{36})", output)
    assert match is not None, output
    return match[1]


def task_states(prefect: PrefectServer, run: str) -> dict[str, str]:
    return {task["name"]: task["state_name"] for task in prefect.task_runs(run)}
