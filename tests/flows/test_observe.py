"""pipeline.flows.observer: Prefect shows the work, and can neither fail, repeat nor delay it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, PrefectServer, eventually

from hapo_core.errors import HapoError
from pipeline.flows.health import ask, patience
from pipeline.flows.observer import Observer, Once, brief
from pipeline.flows.stage import guarded, run_stage

# A stage as a process: MODE says what happens after the third of ten rounds.
STAGE = """
import os, signal, sys, time
from hapo_core.errors import HapoError
from pipeline.flows.stage import run_stage, stage_main

name, mode, pid = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()

def fail(error):
    raise error

def work(observer):
    print("WORK", flush=True)
    for done in range(1, 11):
        for task in ("rollout", "verify", "gate", "update"):
            observer.task(task, time.sleep, 0.02)
        observer.progress(done, 10, success=done / 20, tokens_per_second=9800.0)
        observer.table_artifact("rounds-2_x", [{"round": done, "success": 0.5}], "of the round")
        if done == 3:
            if mode == "hapo":
                observer.task("verify", fail, HapoError("broken on purpose", remedy="none"))
            if mode == "value":
                observer.task("verify", fail, ValueError("not a HapoError"))
            if mode == "term":
                observer.task("update", os.kill, os.getpid(), signal.SIGTERM)
            if mode == "kill server":
                os.kill(pid, signal.SIGKILL)
            if mode == "stop server":
                os.kill(pid, signal.SIGSTOP)
    observer.markdown_artifact("segment-2", "# done")
    observer.log("all rounds done")
    print("SECONDS", time.monotonic() - began, flush=True)
    return 41

def main():
    print("RESULT", run_stage(name, work) + 1)

stage_main(main)
"""


PATIENT = {"HAPO_SERVER_PATIENCE": "10"}
"""For tests of what a server records: a busy machine must not make it look slow."""


def start_stage(
    prefect: PrefectServer | None, name: str, mode: str, pid: int = 0, **env: str
) -> Any:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    if prefect is not None:
        kept |= prefect.env
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, name, mode, str(pid)],
        cwd=REPO,
        env={**kept, "PREFECT__LEFT_OVER": "{}", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_stage_process(
    prefect: PrefectServer | None, name: str, mode: str = "ok", pid: int = 0, **env: str
) -> tuple[int, str, str, float]:
    """(exit status, stdout, stderr, seconds)."""
    begin = time.monotonic()
    process = start_stage(prefect, name, mode, pid, **env)
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err, time.monotonic() - begin


# --- without a server ---------------------------------------------------------------------------


def test_once_keeps_its_outcome() -> None:
    calls: list[int] = []
    once = Once(lambda: calls.append(1))
    once.run()
    once.run()
    once.outcome()
    assert calls == [1]
    failing: Once[float] = Once(lambda: 1 / 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            failing.run()


def test_plain_observer_calls_directly(capsys: pytest.CaptureFixture[str]) -> None:
    observer = Observer("train@2")
    assert observer.task("gate", lambda a, b=0: a + b, 1, b=2) == 3
    with pytest.raises(KeyError):
        observer.task("gate", {}.__getitem__, "x")
    observer.table_artifact("rounds-2", [{"x": 1}])
    observer.markdown_artifact("segment-2", "# x")
    observer.log("hello")
    assert capsys.readouterr().out == "train@2  hello\n"


def test_progress_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 17.0, 17.1, 59.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    observer = Observer("train@2")
    observer.progress(0, 60)
    facts = {"success": 0.125, "injected": 0.62, "tokens_per_second": 9812.0}
    observer.progress(17, 60, **facts, note=None, phase="rl", loss=0.12345)
    observer.progress(18, 60, success=0.1)  # too soon to print
    observer.progress(60, 60, success=0.5)  # the last one always
    assert capsys.readouterr().out.splitlines() == [
        "train@2  round 0/60",
        "train@2  round 17/60  success 12.5 %  injected 62.0 %  9.8k tok/s  phase rl  loss 0.1235"
        "  left 43s",
        "train@2  round 60/60  success 50.0 %",
    ]


def test_duration() -> None:
    assert [brief(s) for s in (0.2, 59, 100, 7500)] == ["0s", "59s", "1m40s", "2h05m"]


def test_stage_without_server_never_imports_prefect() -> None:
    code = (
        "import sys\nfrom pipeline.flows.stage import run_stage\n"
        "print(run_stage('base', lambda observer: observer.task('take over', int, '7')))\n"
        "assert 'prefect' not in sys.modules"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    subprocess.run([sys.executable, "-c", code], cwd=REPO, env=env, check=True)


def test_address_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert run_stage("base", lambda observer: 5) == 5
    assert "no Prefect server answers at http://127.0.0.1:9/api" in capsys.readouterr().err
    assert ask("no address at all") == "dead"


@pytest.mark.parametrize(
    ("said", "factor"), [("3", 3.0), ("0.5", 1.0), ("1e9", 1.0), ("x", 1.0), (None, 1.0)]
)
def test_patience_with_a_slow_server(
    said: str | None, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HAPO_SERVER_PATIENCE", raising=False)
    if said is not None:
        monkeypatch.setenv("HAPO_SERVER_PATIENCE", said)
    assert patience() == factor


def test_errors_become_messages(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise HapoError("the row is empty", where="row 3", remedy="fill it")

    assert guarded(fail) == 2
    assert capsys.readouterr().err == "error: the row is empty\n  at: row 3\n  remedy: fill it\n"
    assert guarded(lambda: None) == 0
    assert guarded(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EROFS, "file system that is read-only"),
        (errno.EACCES, "this user may not use"),
        (errno.EPERM, "this user may not use"),
    ],
)
def test_a_project_that_cannot_be_written_gets_one_sentence(
    number: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number), "reports/summary.json")

    assert guarded(fail) == 2
    first, where, remedy = capsys.readouterr().err.splitlines()
    assert said in first and where == "  at: reports/summary.json" and "copy" in remedy


# --- with a server ------------------------------------------------------------------------------


def one_run(prefect: PrefectServer, name: str) -> dict[str, Any]:
    runs = prefect.flow_runs(name={"any_": [name]})
    assert len(runs) == 1
    return runs[0]


def names_and_states(prefect: PrefectServer, run: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for task in prefect.task_runs(run["id"]):
        found.setdefault(task["name"], []).append(task["state_name"])
    return found


def test_joined_stage(prefect_server: PrefectServer) -> None:
    code, out, err, _ = run_stage_process(
        prefect_server, "train@joined", HAPO_PROGRESS_SECONDS="0", **PATIENT
    )
    assert (code, err) == (0, "")
    assert out.count("WORK") == 1 and "RESULT 42" in out
    run = one_run(prefect_server, "train@joined")
    assert run["state_name"] == "Completed" and run["parent_task_run_id"] is None
    four = ("rollout", "verify", "gate", "update")
    eventually(
        lambda: names_and_states(prefect_server, run) == {t: ["Completed"] * 10 for t in four}
    )
    artifacts = prefect_server.post(
        "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}}
    )
    kinds = sorted((a["key"], a["type"]) for a in artifacts)
    assert kinds == [("rounds-2-x", "table")] * 10 + [("segment-2", "markdown")]
    assert {a["key"]: a["data"] for a in artifacts}["segment-2"] == "# done"
    printed = [line for line in out.splitlines() if line.startswith("train@joined  ")]
    assert len(printed) == len(set(printed)) == 11  # no line is doubled, here
    logged = prefect_server.logs(run["id"])  # nor there
    assert [line for line in logged if line.startswith(("round", "all"))] == [
        line.removeprefix("train@joined  ") for line in printed
    ]


@pytest.mark.parametrize(
    ("mode", "code", "state", "message"),
    [
        ("hapo", 2, "Failed", "broken on purpose"),
        ("value", 1, "Failed", "ValueError: not a HapoError"),
        ("term", 143, "Cancelled", "stopped"),
    ],
)
def test_endings(
    prefect_server: PrefectServer, mode: str, code: int, state: str, message: str
) -> None:
    got, out, err, _ = run_stage_process(prefect_server, f"train@end-{mode}", mode, **PATIENT)
    assert got == code
    assert out.count("WORK") == 1
    assert ("Traceback" in err) == (mode == "value")
    run = one_run(prefect_server, f"train@end-{mode}")
    assert run["state_name"] == state
    assert run["state"]["message"].startswith(message)
    if state == "Failed":
        eventually(lambda: "Failed" in names_and_states(prefect_server, run).get("verify", []))
        words = message.removeprefix("ValueError: ")
        lines = prefect_server.logs(run["id"])
        assert len([line for line in lines if line.startswith(words)]) == 1


def make_parent(prefect: PrefectServer) -> str:
    flow = prefect.post("/flows/", {"name": "parent"})
    state = {"type": "RUNNING"}
    run = prefect.post("/flow_runs/", {"flow_id": flow["id"], "name": "parent", "state": state})
    return str(run["id"])


def test_nested_across_processes(prefect_server: PrefectServer) -> None:
    parent = make_parent(prefect_server)
    run_stage_process(prefect_server, "train@nested", HAPO_PARENT_FLOW_RUN=parent)
    (child,) = prefect_server.children(parent)
    assert (child["name"], child["state_name"]) == ("train@nested", "Completed")
    (placeholder,) = prefect_server.task_runs(parent)
    assert placeholder["id"] == child["parent_task_run_id"]
    assert (placeholder["name"], placeholder["state_name"]) == ("train@nested", "Completed")


def test_unknown_parent_is_no_obstacle(prefect_server: PrefectServer) -> None:
    parent = "00000000-0000-0000-0000-00000000abcd"
    code, out, _, _ = run_stage_process(prefect_server, "train@orphan", HAPO_PARENT_FLOW_RUN=parent)
    assert code == 0 and "RESULT 42" in out


@pytest.fixture(scope="module")
def calm_seconds(doomed_server: PrefectServer) -> float:
    """How long the same stage takes while the server is well."""
    return run_stage_process(doomed_server, "train@calm")[3]


@pytest.mark.slow
def test_server_stopped_before_the_stage(doomed_server: PrefectServer) -> None:
    os.kill(doomed_server.pid, signal.SIGSTOP)
    try:
        code, out, err, seconds = run_stage_process(doomed_server, "train@never-shown")
    finally:
        os.kill(doomed_server.pid, signal.SIGCONT)
    assert code == 0 and out.count("WORK") == 1
    assert "runs without it" in err
    assert seconds < 8.0


@pytest.mark.parametrize(
    "mode", [pytest.param("stop server", marks=pytest.mark.slow), "kill server"]
)
def test_server_that_goes_away(
    doomed_server: PrefectServer, calm_seconds: float, mode: str
) -> None:
    """The result is there, the work ran once, and it cost at most five seconds."""
    code, out, err, seconds = run_stage_process(doomed_server, "train@hit", mode, doomed_server.pid)
    if mode == "stop server":
        os.kill(doomed_server.pid, signal.SIGCONT)
    assert code == 0
    assert out.count("WORK") == 1 and "RESULT 42" in out
    assert err.count("warning") == 1
    assert seconds - calm_seconds < 5.0


# --- the server itself --------------------------------------------------------------------------


SERVED = """
import datetime, os, sys
from prefect import flow

@flow(name="scheduled", log_prints=False)
async def scheduled() -> None:
    with open(sys.argv[1], "a") as sink:
        sink.write("fired\\n")

if __name__ == "__main__":
    scheduled.serve(name="often", interval=datetime.timedelta(seconds=2), limit=1)
"""


def test_schedule_fires(prefect_server: PrefectServer, tmp_path: Path) -> None:
    """With the pinned versions: sqlalchemy 2.1 lets no schedule fire, newer fastapi no server."""
    script, fired = tmp_path / "served.py", tmp_path / "fired"
    script.write_text(SERVED)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    env = {**kept, **prefect_server.env, "PREFECT_HOME": str(tmp_path / "home")}
    env |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1", "DO_NOT_TRACK": "1"}
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, str(script), str(fired)],
        env=env,
        cwd=tmp_path,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        eventually(lambda: fired.exists() and fired.read_text(), seconds=60)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()
    runs = prefect_server.post("/flow_runs/filter", {"flows": {"name": {"any_": ["scheduled"]}}})
    assert any(run["auto_scheduled"] for run in runs)
    for deployment in prefect_server.post("/deployments/filter"):
        prefect_server.post(f"/deployments/{deployment['id']}/pause_deployment", {})


def test_a_long_stage_prints_few_lines_where_they_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HAPO_PROGRESS_SECONDS", "0")
    observer = Observer("base")
    for step in range(1, 801):
        observer.progress(step, 800, what="step", lines=10, loss=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 12 and lines[-1].startswith("base  step 800/800")
    monkeypatch.setenv("HAPO_PROGRESS_LIVE", "1")
    observer = Observer("base")
    for step in range(1, 801):
        observer.progress(step, 800, what="step", lines=10, loss=0.5)
    assert len(capsys.readouterr().out.splitlines()) == 800
