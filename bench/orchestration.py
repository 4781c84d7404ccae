"""What Prefect and DVC cost a run, how fast a run stops, and what a bad server costs a stage.

    python bench/orchestration.py overhead [--times 3]   # four ways to the same training segment
    python bench/orchestration.py cancel [--times 3]     # Ctrl-C, SIGTERM, and the server's API
    python bench/orchestration.py server [--times 3]     # away at the start, killed, hanging

CPU, a few minutes each; the load of the machine is printed beside the figures.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

REPO = Path(__file__).parents[1]
sys.path.insert(0, str(REPO))
from pipeline.config.overrides import with_overrides  # noqa: E402
from pipeline.flows import server  # noqa: E402
from pipeline.flows.health import AUTH  # noqa: E402

SMALL = (
    "base.hidden_size=32 base.layers=2 base.heads=2 base.steps=10 rollout.group_size=4 "
    "curate.sources.chains.count=64 curate.benchmarks.heldout.count=16 "
    "curate.benchmarks.short.count=16 train.prompts_per_round=4 train.probe_problems=4 "
    "compute.threads=1"
)
SHORT, LONG = 1, 21
"""Rounds of the two segments whose difference is the cost of a round."""
HAPO, DVC = ("pipeline.cli", "run", "train@1"), ("dvc", "repro", "train@1")
STAGE = """
import sys, time
from pipeline.flows.stage import run_stage, stage_main

def work(observer):
    for k in range(1, 41):
        observer.part = str(k)
        for name in ("rollout", "verify", "gate", "update"):
            observer.task(name, time.sleep, 0.1)
        observer.progress(k, 40)
        observer.growing_table("rounds-1", [{"round": k}])

stage_main(lambda: run_stage("train@1", work))
"""


def main() -> None:
    """Measure one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("overhead", "cancel", "server"))
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    os.environ["HAPO_SERVER_PORT"] = "0"
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # the server ends too
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory() as name:
        os.environ["HAPO_LOCKS"] = f"{name}/locks"
        {"overhead": overhead, "cancel": cancel, "server": bad_server}[options.what](
            Path(name).resolve(), options.times
        )
    print(f"load after: {os.getloadavg()[0]:.1f}")


# --- projects and processes ---------------------------------------------------------------------


def project(root: Path, overrides: str) -> Path:
    """Code and configuration; data and the base policy are made."""
    for folder in ("pipeline", "hapo_core", "data"):
        shutil.copytree(REPO / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".dvc").mkdir()
    shutil.copy(REPO / ".dvc/config", root / ".dvc/config")
    shutil.copy(REPO / "dvc.yaml", root / "dvc.yaml")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    text = (REPO / "params/quickstart.yaml").read_text()
    (root / "params.yaml").write_text(with_overrides(text, tuple(overrides.split())))
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", "-q", "curate", "base"],
        cwd=root,
        env=environment(None),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return root


def environment(api: str | None) -> dict[str, str]:
    """Ours without any Prefect, `python` found first."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    env |= {"HF_HUB_OFFLINE": "1", "HAPO_PROGRESS_SECONDS": "0", "PYTHONUNBUFFERED": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return env if api is None else env | {"PREFECT_API_URL": api, AUTH: os.environ.get(AUTH, "")}


@contextmanager
def prefect(home: Path) -> Iterator[server.Server]:
    """A server of our own."""
    began = time.monotonic()
    running = server.start(home)
    os.environ[AUTH] = running.auth or ""
    print(f"the server took {time.monotonic() - began:.1f} s to start", flush=True)
    try:
        yield running
    finally:
        server.stop(home)


def start(root: Path, words: tuple[str, ...], api: str | None) -> subprocess.Popen[str]:
    """`python -m WORDS` in the project, deaf to our own Ctrl-C only."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=root,
        env=environment(api),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def inside(root: Path) -> list[int]:
    """Processes that work in the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").resolve() == root and (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if here:
            found.append(int(entry.name))
    return found


# --- overhead -----------------------------------------------------------------------------------


def overhead(folder: Path, times: int) -> None:
    """The same segment, alone and under more and more of the machinery."""
    start_at = project(folder / "start", SMALL)
    with prefect(folder / "server") as running:
        ways: Mapping[str, tuple[tuple[str, ...], str | None]] = {
            "the stage alone": (("pipeline.train", "--segment", "1"), None),
            "dvc repro": (DVC, None),
            "hapo run --no-server": ((*HAPO, "--no-server"), None),
            "hapo run": (HAPO, running.api),
        }
        found: dict[tuple[str, int], list[float]] = {}
        for _ in range(times):  # in turns; the least counts: other work only adds
            for rounds in (SHORT, LONG):
                for name, (words, api) in ways.items():
                    seconds = _once(start_at, folder / "copy", words, api, rounds)
                    found.setdefault((name, rounds), []).append(seconds)
                    print(f"{name}, {rounds} rounds: {seconds:.2f} s", flush=True)
        print(f"{'':22} {SHORT:>4} round  {LONG:>4} rounds  s a round  more a stage  more a round")
        alone = None
        for name in ways:
            short, long = (min(found[name, rounds]) for rounds in (SHORT, LONG))
            each = (long - short) / (LONG - SHORT)
            alone = alone or (short, each)
            more = f"{short - alone[0]:>10.2f} s  {1000 * (each - alone[1]):>9.0f} ms"
            print(f"{name:22} {short:>8.2f} s  {long:>9.2f} s  {each:>9.3f}  {more}")


def _once(origin: Path, root: Path, words: tuple[str, ...], api: str | None, rounds: int) -> float:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(origin, root, symlinks=True)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(with_overrides(text, (f"segments.1.rounds={rounds}",)))
    began = time.monotonic()
    run = start(root, words, api)
    out, _ = run.communicate()
    assert run.returncode == 0, out
    return time.monotonic() - began


# --- stopping -----------------------------------------------------------------------------------


def cancel(folder: Path, times: int) -> None:
    """From the wish until no process of the run is left."""
    origin = project(folder / "start", "base.steps=10")
    with prefect(folder / "server") as running:
        wishes: Mapping[str, Callable[[subprocess.Popen[str], str], None]] = {
            "Ctrl-C": lambda run, page: run.send_signal(signal.SIGINT),
            "SIGTERM": lambda run, page: run.send_signal(signal.SIGTERM),
            "Prefect's API": lambda run, page: _cancelling(running.api, page),
        }
        for name, wish in wishes.items():
            for _ in range(times):
                print(f"{name:14} {_stopped(origin, folder / 'copy', running.api, wish)}")


def _stopped(
    origin: Path, root: Path, api: str, wish: Callable[[subprocess.Popen[str], str], None]
) -> str:
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(origin, root, symlinks=True)
    run = start(root, HAPO, api)
    page = ""
    assert run.stdout is not None
    for line in run.stdout:
        found = re.search(r"/runs/flow-run/([0-9a-f-]+)", line)
        page = found[1] if found else page
        if "round 2/" in line:
            break
    began = time.monotonic()
    wish(run, page)
    while set(inside(root)) - {run.pid}:
        time.sleep(0.02)
    children = time.monotonic() - began
    run.communicate()
    return f"stage and DVC gone {children:.1f} s, all {time.monotonic() - began:.1f} s"


def _cancelling(api: str, run: str) -> None:
    state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    token = base64.b64encode(os.environ[AUTH].encode()).decode()
    heads = {"content-type": "application/json", "authorization": f"Basic {token}"}
    address = f"{api}/flow_runs/{run}/set_state"
    request = urllib.request.Request(address, json.dumps(state).encode(), heads)
    urllib.request.urlopen(request, timeout=20).close()


# --- a bad server -------------------------------------------------------------------------------


def bad_server(folder: Path, times: int) -> None:
    """A stage of 40 rounds that only sleeps (16 s), with a server that is away, dies or hangs."""
    shutil.copytree(REPO / "pipeline", folder / "pipeline")
    shutil.copytree(REPO / "hapo_core", folder / "hapo_core")
    (folder / "sleeper.py").write_text(STAGE)
    dead = "http://127.0.0.1:9/api"
    for turn in range(times):
        plain = _slept(folder, None)
        away = _slept(folder, dead) - plain
        print(f"no server {plain:.1f} s; nothing at its address {away:+.1f} s", flush=True)
        for name, number in (("healthy", 0), ("killed", 9), ("hangs", signal.SIGSTOP)):
            with prefect(folder / f"{name}{turn}") as running:
                more = _slept(folder, running.api, running.pid, number) - plain
                print(f"{name:8} {more:+.1f} s", flush=True)


def _slept(folder: Path, api: str | None, pid: int | None = None, number: int = 0) -> float:
    began = time.monotonic()
    run = start(folder, ("sleeper",), api)
    assert run.stdout is not None
    for line in run.stdout:
        if number and pid is not None and "round 10/" in line:
            os.killpg(pid, number)
            number = 0
    run.wait()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
