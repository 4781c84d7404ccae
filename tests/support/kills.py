"""Kill points of the kill matrix: real processes of a small project, killed with SIGKILL."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from conftest import Project, eventually
from ruamel.yaml import YAML
from small import PARAMS, clone, hashes

SITE = Path(__file__).parent / "kill_site"
ALL = ("worker", "train", "dvc", "cli", "server")
"""Every process of a run; the one that counts kills itself last."""
SURVIVED = ("worker", "server")
"""Deaths that a run outlives."""
KILL_PARAMS = (
    PARAMS.replace("{verifier: math}", '{verifier: "plain_reward:grade", workers: 2}')
    .replace('"1": {prev: base, rounds: 4}', '"1": {prev: base, rounds: 12}')
    .replace('"2": {prev: "1", rounds: 2}', '"2": {prev: "1", rounds: 1}')
)


@dataclass(frozen=True)
class Point:
    """One kill: where it is triggered, and who dies.

    `at` is a part of tests/support/kill_site/sitecustomize.py's plan, or {"seconds": s} for a kill
    from outside, s seconds after the command's start.
    """

    name: str
    victims: tuple[str, ...]
    at: dict[str, Any]
    server: bool = False
    target: str = "train@2"

    @property
    def command(self) -> tuple[str, ...]:
        """What is run, killed and run again."""
        return ("pipeline.cli", "run", *(() if self.server else ("--no-server",)), self.target)

    @property
    def survives(self) -> bool:
        """Whether the run must end well in spite of it."""
        return set(self.victims) <= set(SURVIVED)


@dataclass
class Outcome:
    """What a kill did."""

    name: str
    victims: tuple[str, ...]
    where: str
    status: int
    quiet_seconds: float
    begun: list[int]
    redone: int
    """Rounds of this run that the runs before it had begun."""
    seconds: float = 0.0
    output: str = field(default="", repr=False)


def call(target: str, role: str = "train", n: int = 1, **rest: Any) -> dict[str, Any]:
    """A point at the n-th call of a function."""
    return {"role": role, "call": target, "n": n, **rest}


def rename(match: str, n: int = 1) -> dict[str, Any]:
    """A point just before the n-th rename of a path in a training stage."""
    return {"role": "train", "event": "os.rename", "match": match, "n": n}


def change(role: str, rng: random.Random, most: int) -> dict[str, Any]:
    """A point at one of the first changes of a file, chosen by chance."""
    return {"role": role, "change": True, "n": rng.randint(1, most)}


STATE, ARTIFACT = r"states/\.round-\d+\.partial$", r"policy/\.1\.partial$"
T, D, C = ("train",), ("dvc",), ("cli",)
_LONGEST = 900.0
"""Seconds a command may take on a busy machine."""
DECODE = "hapo_core.rollout.transformers_engine:sample_tokens"
PLAN = "hapo_core.methods.base:ReinforcementMethod.plan"
VERIFY = "hapo_core.verify.workers.process:GradingProcess._send"
STEP = "torch.optim.adamw:AdamW.step"
WRITE = "pipeline.train.checkpoint:write_state"
PUBLISH = "pipeline.artifacts:Scratch.publish_copy"
COMMIT = "dvc.stage:Stage.commit"
DUMP = "dvc.utils.serialize._yaml:_dump"
PROJECTS = 5
"""That are killed again and again until they end."""
ROUND = ("rollout half done", "after verify", "in the optimizer step", "in the checkpoint's rename")
MATRIX = {
    *((who, point) for point in ROUND for who in (T, D, C, ALL, ("worker",), ("server",))),
    *((who, "before dvc's commit") for who in (D, C, ALL, ("server",))),
}
"""Who must have died where in a soak. At DVC's commit the stage and its workers have ended."""


def chains(rng: random.Random, counts: dict[str, int], wall: float) -> list[list[Point]]:
    """Kills, dealt by chance to projects: within rounds, then at the segment's end; and projects
    with two kills that the run survives.

    `counts`: changes of files in an
    uninterrupted run, by role; `wall`: its seconds.
    """

    def n() -> int:
        return rng.randint(1, 2)

    within = [
        *(Point("rollout half done", v, call(DECODE, n=20 * n())) for v in (T, D, C, ALL)),
        Point("while verifying", T, call(VERIFY, n=10 * n(), after=True)),
        *(Point("after verify", v, call(PLAN, n=n())) for v in (T, D, C, ALL)),
        *(Point("in the optimizer step", v, call(STEP, n=n())) for v in (T, D, C)),
        Point("in the optimizer step", ALL, call(STEP, n=n(), after=True)),
        Point("before the checkpoint", T, call(WRITE, n=n())),
        *(Point("in the checkpoint's rename", v, rename(STATE, n())) for v in (T, D, C, ALL)),
        Point("after the checkpoint", T, call(WRITE, n=n(), after=True)),
        *(Point("a file of the stage", v, change("train", rng, 60)) for v in (T, ALL, T, ALL)),
    ]
    ends = [
        Point("before publishing", T, call(PUBLISH)),
        Point("in the artifact's rename", T, rename(ARTIFACT)),
        Point("after publishing", ALL, call(PUBLISH, after=True)),
        *(Point("before dvc's commit", v, call(COMMIT, "dvc")) for v in (D, C, ALL)),
        *(Point("any moment", v, {"seconds": rng.uniform(0.2, 0.6) * wall}) for v in (T, C, ALL)),
    ]
    many = range(PROJECTS)
    dvc = [Point("a file of dvc", D, change("dvc", rng, counts["dvc"] // 2)) for _ in many]
    recorded = [  # after these DVC knows the segment, or finds it in its cache of runs
        Point("in the run cache's write", D, call(DUMP, "dvc")),
        *(Point("after dvc's commit", v, call(COMMIT, "dvc", after=True)) for v in (D, C)),
        *(Point("dvc.lock truncated", v, call(DUMP, "dvc", n=2)) for v in (D, ALL)),
    ]
    nobody = Point("nobody", (), {})
    for pool in (within, ends, recorded):
        rng.shuffle(pool)
    killed = [[*within[k::PROJECTS], *ends[k::PROJECTS], dvc[k], recorded[k], nobody] for k in many]
    return killed + survived()


def survived() -> list[list[Point]]:
    """Deaths that do not stop a run: of the verification workers in the first segment, of the
    server in the second, at every point."""
    workers = [
        ("while verifying", call(VERIFY, n=5, after=True)),
        ("rollout half done", call(DECODE, n=60)),
        ("after verify", call(PLAN, n=2)),
        ("in the optimizer step", call(STEP, n=2)),
        ("in the checkpoint's rename", rename(STATE, 2)),
    ]
    servers = [
        ("rollout half done", call(DECODE, n=20)),
        ("after verify", call(PLAN)),
        ("in the optimizer step", call(STEP)),
        ("in the checkpoint's rename", rename(STATE)),
        ("before dvc's commit", call(COMMIT, "dvc")),
    ]
    return [
        [
            Point(first, ("worker",), at, target="train@1"),
            Point(second, ("server",), then, server=True),
        ]
        for (first, at), (second, then) in zip(workers, servers, strict=True)
    ]


class Range:
    """A project before its first segment, and the bytes that an uninterrupted run gives.

    Args:
        folder: for copies.
        start: the project; data and base are made and recorded.
    """

    def __init__(self, folder: Path, start: Path) -> None:
        self.folder, self.start = folder, start
        self.whole: dict[str, dict[str, str]] = {}
        self.counts: dict[str, int] = {}
        self.wall = 0.0

    @classmethod
    def made(cls, folder: Path) -> Range:
        """Of a new project, after one uninterrupted run."""
        start = folder / "start"
        clone(start)
        (start / "params.yaml").write_text(KILL_PARAMS)
        made = cls(folder, start)
        made._finish(made._project(start), "dvc", "repro", "curate", "base")
        made._uninterrupted()
        return made

    def _project(self, path: Path) -> Project:
        env = {"HF_HUB_OFFLINE": "1", "HAPO_PROGRESS_SECONDS": "0", "PYTHONPATH": str(SITE)}
        return Project(path, {**env, "HAPO_SERVER_PORT": "0"})

    def copy(self, name: str) -> Project:
        """A fresh project before its first segment."""
        path = self.folder / name
        shutil.copytree(self.start, path, symlinks=True)
        return self._project(path)

    def hashes(self, project: Project, last: str) -> dict[str, str]:
        """Policy, optimizer, posteriors and tables of the segments up to `train@LAST`."""
        found = {}
        for name in map(str, range(1, int(last.removeprefix("train@")) + 1)):
            folder = project.path / "artifacts/policy" / name
            found |= {f"{name}/{k}": v for k, v in hashes(folder).items()}
        return found

    def arm(self, project: Project, at: dict[str, Any], victims: tuple[str, ...], tag: str) -> Path:
        """Give the project's processes a plan; returns the file that says that it was reached."""
        folder = project.path.parent / f"{project.path.name}-{tag}"
        folder.mkdir()
        plan = {**at, "victims": victims, "fired": str(folder / "fired")}
        plan["begun"] = str(project.path.parent / f"{project.path.name}.begun")
        (folder / "plan.json").write_text(json.dumps(plan))
        project.env |= {"KILL_PLAN": str(folder / "plan.json"), "KILL_ROOT": str(project.path)}
        return folder / "fired"

    def _finish(self, project: Project, *words: str) -> None:
        run = project.start(*words)
        output, _ = run.communicate(timeout=_LONGEST)
        assert run.returncode == 0, output

    def _uninterrupted(self) -> None:
        project = self.copy("whole")
        counts = self.folder / "counts"
        counts.mkdir()
        at = {"role": "*", "change": True, "n": 10**9, "counts": str(counts)}
        self.arm(project, at, (), "plan")
        began = time.monotonic()
        self._finish(project, *Point("", (), {}).command)
        self.wall = time.monotonic() - began
        for path in counts.iterdir():
            role = path.name.split("-")[0]
            self.counts[role] = max(self.counts.get(role, 0), int(path.read_text()))
        assert rounds_begun(project) == list(range(1, 14))
        for target in ("train@1", "train@2"):
            self.whole[target] = self.hashes(project, target)

    # --- one kill -----------------------------------------------------------------------------

    def kill_once(self, project: Project, point: Point, tag: str) -> Outcome:
        """Start the command, let the point come, and wait until nothing of the run is left."""
        before = rounds_begun(project)
        outside = "seconds" in point.at
        fired = self.arm(project, {} if outside else point.at, point.victims, tag)
        run = project.start(*point.command)
        words = [project, point, run]
        timer = threading.Timer(point.at.get("seconds", 0), kill_from_outside, words)
        if outside:
            timer.start()
        output, _ = run.communicate(timeout=_LONGEST)
        timer.cancel()
        if outside:
            timer.join()
        quiet = wait_until_quiet(project)
        begun = rounds_begun(project)[len(before) :]
        redone = len(set(before) & set(begun))
        where = fired.read_text() if fired.exists() else "not reached"
        if outside and run.returncode != 0:
            where = "from outside"
        where = where.replace(str(project.path) + "/", "")
        return Outcome(
            point.name, point.victims, where, run.returncode, quiet, begun, redone, output=output
        )


def rounds_begun(project: Project) -> list[int]:
    """The rounds that began in this project, in order, over all runs."""
    path = project.path.parent / f"{project.path.name}.begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def project_processes(project: Project, role: str | None = None) -> list[int]:
    """Processes that work in the project; the Prefect server is left out unless asked for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            inside = str((folder / "cwd").resolve()).startswith(str(project.path))
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
        name = "server" if "prefect" in words else module.rsplit(".", 1)[-1]
        if inside and words != [""] and (name == role if role else name != "server"):
            found.append(int(folder.name))
    return found


def kill_from_outside(project: Project, point: Point, run: subprocess.Popen[str]) -> None:
    """SIGKILL to the victims, as soon as the first of them is there."""
    found: list[list[int]] = []
    while run.poll() is None:
        found = [project_processes(project, role) for role in point.victims]
        if any(found):
            break
        time.sleep(0.05)
    for pid in [pid for pids in found for pid in pids]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until_quiet(project: Project, limit: float = 30.0) -> float:
    """Seconds until no process of the run is left."""
    began = time.monotonic()
    eventually(lambda: not project_processes(project), seconds=limit)
    return time.monotonic() - began


def check(outcome: Outcome, point: Point) -> None:
    """What must hold of every run of a chain, killed or not."""
    story = f"{outcome}\n{outcome.output}"
    if point.survives:
        assert outcome.status == 0, story
        assert not point.victims or outcome.where != "not reached", story
        assert all(f" 0 {role}" not in outcome.where for role in point.victims), story
    else:
        assert (outcome.status != 0) == (outcome.where != "not reached"), story
    assert outcome.quiet_seconds < 10, story
    assert outcome.redone <= 1, story


def forget_segments(root: Path) -> None:
    """Take the segments and what follows out of a finished project, its cache of runs too."""
    yaml = YAML()
    lock = yaml.load(root / "dvc.lock")
    for stage in [s for s in lock["stages"] if s not in ("curate", "base")]:
        del lock["stages"][stage]
    yaml.dump(lock, root / "dvc.lock")
    shutil.rmtree(root / ".dvc/cache/runs")
    shutil.rmtree(root / ".hapo", ignore_errors=True)
    for name in ("policy/1", "policy/2", "evaluation"):
        shutil.rmtree(root / "artifacts" / name)


def record(outcomes: list[Outcome], path: Path) -> None:
    """The matrix as JSON lines."""
    rows = [{k: v for k, v in asdict(o).items() if k != "output"} for o in outcomes]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stop_server(project: Project) -> None:
    """Stop the project's own server, if it has one."""
    subprocess.run(
        ["python", "-m", "pipeline.cli", "server", "stop"],
        cwd=project.path,
        env=project.environment(),
        capture_output=True,
    )
