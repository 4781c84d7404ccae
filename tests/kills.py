"""Kill points of the kill matrix: real processes of a small project, killed with SIGKILL."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import threading
import time
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
    .replace('"1": {prev: base, rounds: 4}', '"1": {prev: base, rounds: 3}')
    .replace('"2": {prev: "1", rounds: 2}', '"2": {prev: "1", rounds: 1}')
)


@dataclass(frozen=True)
class Point:
    """One kill: where it is triggered, and who dies.

    `at` is a part of tests/kill_site/sitecustomize.py's plan, or {"seconds": s} for a kill from
    outside, s seconds after the command's start.
    """

    name: str
    victims: tuple[str, ...]
    at: dict[str, Any]
    server: bool = False
    target: str = "train@1"

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
    resumed_status: int = -1
    same_bytes: bool = False
    seconds: float = 0.0
    output: str = field(default="", repr=False)


def call(target: str, role: str = "train", n: int = 1, **rest: Any) -> dict[str, Any]:
    """A point at the n-th call of a function."""
    return {"role": role, "call": target, "n": n, **rest}


def rename(match: str, n: int = 1) -> dict[str, Any]:
    """A point just before the n-th rename of a path in a training stage."""
    return {"role": "train", "event": "os.rename", "match": match, "n": n}


DECODE = "hapo_core.rollout.hf:HFEngine._decode"
PLAN = "hapo_core.methods.base:ReinforcementMethod.plan"
VERIFY = "hapo_core.verify.process:GradingProcess._send"
STEP = "torch.optim.adamw:AdamW.step"
WRITE = "pipeline.checkpoint:write_state"
PUBLISH = "pipeline.store:Scratch.publish_copy"
COMMIT = "dvc.stage:Stage.commit"
DUMP = "dvc.utils.serialize._yaml:_dump"


def named_points(rng: random.Random) -> list[Point]:
    """The places that the specification names, with victims in turn and rounds by chance."""

    def n() -> int:
        return rng.randint(1, 3)

    return [
        Point("rollout half done", ("train",), call(DECODE, n=20 * n())),
        Point("rollout half done", ("dvc",), call(DECODE, n=20 * n())),
        Point("rollout half done", ("cli",), call(DECODE, n=20 * n())),
        Point("rollout half done", ALL, call(DECODE, n=20 * n())),
        Point("while verifying", ("worker",), call(VERIFY, n=10 * n(), after=True)),
        Point("while verifying", ("train",), call(VERIFY, n=10 * n(), after=True)),
        Point("after verify", ("train",), call(PLAN, n=n())),
        Point("after verify", ("cli",), call(PLAN, n=n())),
        Point("after verify", ALL, call(PLAN, n=n())),
        Point("in the optimizer step", ("train",), call(STEP, n=n())),
        Point("in the optimizer step", ("dvc",), call(STEP, n=n(), after=True)),
        Point("in the optimizer step", ALL, call(STEP, n=n(), after=True)),
        Point("before the checkpoint", ("train",), call(WRITE, n=n())),
        Point("in the checkpoint's rename", ("train",), rename("states/.round", n())),
        Point("in the checkpoint's rename", ALL, rename("states/.round", n())),
        Point("after the checkpoint", ("train",), call(WRITE, n=n(), after=True)),
        Point("before publishing", ("train",), call(PUBLISH)),
        Point("in the artifact's rename", ("train",), rename("policy/.1.partial")),
        Point("after publishing", ALL, call(PUBLISH, after=True)),
        Point("before dvc's commit", ("dvc",), call(COMMIT, "dvc")),
        Point("after dvc's commit", ("dvc",), call(COMMIT, "dvc", after=True)),
        Point("in the run cache's write", ("dvc",), call(DUMP, "dvc")),
        Point("dvc.lock truncated", ("dvc",), call(DUMP, "dvc", n=2)),
        Point("dvc.lock truncated", ALL, call(DUMP, "dvc", n=4), target="train@2"),
        Point("before dvc's commit", ALL, call(COMMIT, "dvc", n=2), target="train@2"),
        Point("in the optimizer step", ("server",), call(STEP, n=n()), server=True),
        Point("after verify", ALL, call(PLAN, n=n()), server=True),
    ]


def random_points(
    rng: random.Random, counts: dict[str, int], wall: float, many: int
) -> list[Point]:
    """At a change of a file chosen by chance in the stage or in dvc, or at any moment."""
    points = []
    for k in range(many):
        victims = rng.choice([("train",), ("dvc",), ("cli",), ALL])
        kind = ("stage's file", "dvc's file", "any moment")[k % 3]
        if kind == "any moment":
            at: dict[str, Any] = {"seconds": round(rng.uniform(1.0, wall), 2)}
        else:
            role = "train" if kind == "stage's file" else "dvc"
            many_changes = counts[role] if role == "train" else counts[role] // 2  # of two segments
            at = {"role": role, "change": True, "n": rng.randint(1, many_changes)}
            victims = (role,) if k % 2 else ALL
        points.append(Point(kind, victims, at))
    return points


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
        made._project(start).dvc("repro", "curate", "base")
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

    def _uninterrupted(self) -> None:
        project = self.copy("whole")
        counts = self.folder / "counts"
        counts.mkdir()
        at = {"role": "*", "change": True, "n": 10**9, "counts": str(counts)}
        self.arm(project, at, (), "plan")
        began = time.monotonic()
        project.call(*Point("", (), {}, target="train@2").command)
        self.wall = time.monotonic() - began
        for path in counts.iterdir():
            role = path.name.split("-")[0]
            self.counts[role] = max(self.counts.get(role, 0), int(path.read_text()))
        assert rounds_begun(project) == [1, 2, 3, 4]
        for target in ("train@1", "train@2"):
            self.whole[target] = self.hashes(project, target)

    # --- one kill -----------------------------------------------------------------------------

    def kill_once(self, project: Project, point: Point, tag: str) -> Outcome:
        """Start the command, let the point come, and wait until nothing of the run is left."""
        before = rounds_begun(project)
        outside = "seconds" in point.at
        fired = self.arm(project, {} if outside else point.at, point.victims, tag)
        run = project.start(*point.command)
        timer = threading.Timer(point.at.get("seconds", 0), kill_from_outside, [project, point])
        if outside:
            timer.start()
        output, _ = run.communicate(timeout=300)
        timer.cancel()
        if outside:
            timer.join()
        quiet = wait_until_quiet(project)
        begun = rounds_begun(project)[len(before) :]
        where = fired.read_text() if fired.exists() else ("outside" if outside else "not reached")
        where = where.replace(str(project.path) + "/", "")
        return Outcome(
            point.name, point.victims, where, run.returncode, quiet, begun, 0, output=output
        )

    def resume(self, project: Project, outcome: Outcome, point: Point) -> None:
        """The same command again, with a plan that kills nobody."""
        first = rounds_begun(project)
        self.arm(project, {}, (), "resume")
        done = project.call(*point.command, check=False)
        outcome.resumed_status = done.returncode
        outcome.output += "\n--- resumed ---\n" + done.stdout + done.stderr
        later = rounds_begun(project)[len(first) :]
        outcome.redone = len(set(first) & set(later))
        outcome.same_bytes = self.hashes(project, point.target) == self.whole[point.target]


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


def kill_from_outside(project: Project, point: Point) -> None:
    """SIGKILL to the victims that are there."""
    for role in point.victims:
        for pid in project_processes(project, role):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue


def wait_until_quiet(project: Project, limit: float = 30.0) -> float:
    """Seconds until no process of the run is left."""
    began = time.monotonic()
    eventually(lambda: not project_processes(project), seconds=limit)
    return time.monotonic() - began


def check(outcome: Outcome, point: Point) -> None:
    """What must hold after every kill and the same command."""
    story = f"{outcome}\n{outcome.output}"
    if point.survives:
        assert outcome.status == 0, story
    elif "seconds" not in point.at:
        assert outcome.where != "not reached" and outcome.status != 0, story
    assert outcome.quiet_seconds < 10, story
    assert outcome.resumed_status == 0, story
    assert outcome.redone <= 1, story
    assert outcome.same_bytes, story


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
