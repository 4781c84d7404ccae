"""Fixtures: a real Prefect server, the shared data, and a project with stand-in stages."""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import warm
from servers import PrefectServer, serve

from hapo_core.verify.workers import process

# Two workers of pytest on two cores: a second thread in each costs more than it gives (80 times on
# a loaded machine), and threads that spin while they wait take the core from those that work.
# Before anything imports torch; processes that tests start take it over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPO = Path(__file__).parents[1]
SOAK = "HAPO_SOAK" in os.environ
SLOW = SOAK or "HAPO_SLOW" in os.environ
long = pytest.mark.soak
"""For sweeps and series of kills: `make soak` runs them."""
STAGES = ("curate", "base", "train", "evaluate", "report")
TOY_PARAMS = """\
# a comment at the top
profile: toy
seed: 0
method: hapo
curate:
  sources:
    chains: {kind: chains, count: 8, min_steps: 1, max_steps: 2}
  benchmarks:
    held_out: {kind: chains, count: 8, min_steps: 1, max_steps: 2}
  max_trace_tokens: 32
base: {kind: tiny, hidden_size: 16, layers: 1, heads: 1, steps: 1, batch_size: 2,
       learning_rate: 0.001, slip_probability: 0.5}
gate:
  threshold: {kind: constant, gamma: 0.3}
teacher: {}
objective: {}
sft: {}
rewards: {verifier: exact}
rollout: {max_tokens: 32}
update: {learning_rate: 0.001}
train: {prompts_per_round: 2}
segments:  # keys are quoted
  "1": {prev: base, rounds: 2}
  "2": {prev: "1", rounds: 2}  # the last one

# how the policies are measured
evaluate:
  benchmarks:
    held_out: {k: 4, max_tokens: 32}
targets:
  base: {policy: base}
  final: {policy: "2"}  # kept in step with segments
compute: {threads: 1}
"""


LONGEST = (
    "train/test_end_to_end.py",
    "run/test_run.py",
    "flows/test_serve.py",
    "run/test_dvc.py",
    "flows/test_observe.py",
    "train/test_ranks.py",
    "verify/test_verify_pool.py",
    "run/test_provenance.py",
    "train/test_cold_start.py",
    "compare/test_compare.py",
    "run/test_locked_modules.py",
    "start/test_wheel.py",
    "run/test_clean.py",
    "oracles/test_trl_trainer.py",
    "flows/test_doors.py",
    "core/test_golden_hapo.py",
    "report/test_report.py",
)
"""Files that take longest. A worker of `make test` takes a file whole: these are handed out first,
so that none of them begins when the other worker has nothing left."""


def _turn(item: pytest.Item) -> int:
    name = item.path.relative_to(REPO / "tests").as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; what is `slow` or `long` skips, and says which command runs it."""
    items.sort(key=_turn)
    for item in items:
        if not SOAK and item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="long: `make soak`"))
        elif not SLOW and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: `make test-slow`"))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread costs more than it gives (80 times on a loaded machine)."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- data ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The shared real data, or skip."""
    folder = Path(os.environ.get("HAPO_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (HAPO_SHARED_DATA names another place)")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


# --- a Prefect server ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """One server for all tests: own home, a free port, loopback only."""
    yield from serve(tmp_path_factory, "prefect")


@pytest.fixture(scope="module")
def doomed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that tests stop for a while, and the last of a module kills."""
    yield from serve(tmp_path_factory, "doomed")


def eventually(check: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The first true answer of `check`; Prefect records task runs with a short delay."""
    end = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return answer


# --- a project ----------------------------------------------------------------------------------


def _hear_ctrl_c() -> None:
    """A test run in the background of a shell ignores Ctrl-C, and its children would inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Project:
    """A copy of the repository in which stand-ins take the places of the stages.

    `forks`: what makes `call` fork from a process that has imported (support/warm.py); what is
    started in the background, to be stopped or killed, is real unless `env` has it too.
    """

    path: Path
    env: dict[str, str] = field(default_factory=dict)
    forks: Mapping[str, str] = field(default_factory=dict)

    def environment(self, forks: Mapping[str, str] | None = None) -> dict[str, str]:
        """Without any Prefect setting but those of `self.env`."""
        env = {**(forks or {}), **self.env}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
        if warm.SOCKET in env:
            path = os.pathsep.join([str(warm.BIN), path])
        locks = {"HAPO_LOCKS": str(self.path / ".hapo" / "locks")}  # tests run beside one another
        return {**kept, **locks, "PATH": path, **env}

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python -m WORDS` in the project."""
        environment = self.environment(self.forks)
        done = subprocess.run(
            [warm.python(environment), "-m", *words],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`python -m WORDS` in the project, in the background."""
        environment = self.environment()
        return subprocess.Popen(
            [warm.python(environment), "-m", *words],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_hear_ctrl_c,
        )

    def dvc(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.call("dvc", *words, check=check)

    def hapo(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.call("pipeline.cli", *words, check=check)

    def ran(self) -> list[str]:
        """The stages that ran since the last question."""
        log = self.path / "ran.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def edit(self, old: str, new: str, name: str = "params.yaml") -> None:
        """Replace text that must be there."""
        path = self.path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def copy_code(root: Path) -> None:
    """Code, data and the set-up of DVC, without a cache and without params.yaml."""
    skip = shutil.ignore_patterns("__pycache__")
    for folder in ("pipeline", "hapo_core", "data"):
        shutil.copytree(REPO / folder, root / folder, ignore=skip)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(REPO / name, root / name)
    (root / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(REPO / ".dvc" / name, root / ".dvc" / name)


READ_MODULES = """\
from pipeline.config import load_params
from pipeline.dependencies import kept
from pipeline.dependencies.lock import READS, lock_of

for kind in READS:
    lock_of(kind, load_params())
kept.save()
"""
"""Leaves `.hapo/modules.json` in a project: what a stage finds in the modules' texts."""


@pytest.fixture(scope="session", autouse=True)
def grading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Workers that grade fork from one that has imported; they are yielded as they really start."""
    forking, environment = warm.start(tmp_path_factory.mktemp("warm"), "grade")
    os.environ.update(environment)
    real, process.PROGRAM[0] = list(process.PROGRAM), str(warm.BIN / "python")
    yield real
    process.PROGRAM[:] = real
    assert forking.stdin is not None
    forking.stdin.close()
    forking.wait(timeout=60)


@pytest.fixture(scope="module")
def real_workers(grading: list[str]) -> Iterator[None]:
    """For tests of how a worker starts, ends and what it may use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "PROGRAM", grading)
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What makes a `Project` fork its processes from one that has imported already."""
    forking, environment = warm.start(tmp_path_factory.mktemp("warm"))
    yield environment
    assert forking.stdin is not None
    forking.stdin.close()
    forking.wait(timeout=60)


@pytest.fixture(scope="session")
def warmth(forks: dict[str, str]) -> dict[str, str]:
    """The same for a project that learns: torch and transformers are imported too."""
    return {**forks, warm.LEARNS: "1"}


@pytest.fixture(scope="session")
def project_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, copied for each test."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    copy_code(root)
    shutil.copy(REPO / "tests" / "support" / "toy_stage.py", root / "pipeline" / "toy_stage.py")
    for stage in STAGES:
        entry = root / "pipeline" / stage / "__main__.py"
        entry.rename(entry.with_name("real.py"))  # named in the stand-in: its code still counts
        real = f'REAL = "pipeline.{stage}.real"\n'
        entry.write_text(f'from pipeline.toy_stage import main\n\n{real}main("{stage}")\n')
    (root / "params.yaml").write_text(TOY_PARAMS)
    compileall.compile_dir(root, quiet=1)  # once, not in every copy
    subprocess.run([sys.executable, "-c", READ_MODULES], cwd=root, check=True)  # likewise
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "start"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    return root


@pytest.fixture
def project(project_template: Path, tmp_path: Path, forks: dict[str, str]) -> Project:
    """A project with git and DVC, whose stages are stand-ins (tests/support/toy_stage.py)."""
    path = tmp_path / "project"
    shutil.copytree(project_template, path, symlinks=True)
    return Project(path, forks=forks)


@pytest.fixture(scope="session")
def finished_template(
    project_template: Path, tmp_path_factory: pytest.TempPathFactory, forks: dict[str, str]
) -> Path:
    """The project after one whole `dvc repro`; made once, copied for each test."""
    path = tmp_path_factory.mktemp("finished") / "project"
    shutil.copytree(project_template, path, symlinks=True)
    project = Project(path, forks=forks)
    project.dvc("repro", "-q")
    assert len(project.ran()) == 7
    return path


@pytest.fixture
def finished_project(finished_template: Path, tmp_path: Path, forks: dict[str, str]) -> Project:
    """A project in which everything has run."""
    path = tmp_path / "project"
    shutil.copytree(finished_template, path, symlinks=True)
    return Project(path, forks=forks)
