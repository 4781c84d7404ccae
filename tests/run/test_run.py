"""`hapo run`: DVC under a Prefect flow, stopped, killed and continued."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest
from conftest import PrefectServer, Project, eventually, long
from real_runs import DOWNSTREAM, finish, pid_of, run_id, slow_run, stage_pids, task_states

# --- without a server ---------------------------------------------------------------------------


def test_plain_run(finished_project: Project) -> None:
    finished_project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    done = finished_project.hapo("run", "--no-server")
    assert finished_project.ran() == DOWNSTREAM
    assert "held_out   25.0 % [12.5, 37.5]" in done.stdout
    assert f"report  {finished_project.path}/reports/report.html" in done.stdout
    assert "UI " not in done.stdout
    assert not (finished_project.path / ".hapo" / "prefect").exists()
    finished_project.hapo("run", "--no-server", "--force-stage", "evaluate@final")
    assert finished_project.ran() == ["evaluate@final", "report"]
    finished_project.hapo("run", "--no-server", "train@1")
    assert finished_project.ran() == []


def test_server_address_that_does_not_answer(finished_project: Project) -> None:
    finished_project.env["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    done = finished_project.hapo("run", check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for words in ("http://127.0.0.1:9/api", "unset PREFECT_API_URL", "start that", "--no-server"):
        assert words in done.stderr
    finished_project.hapo("run", "--no-server")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("gamma: 0.3", "gama: 0.3", "did you mean 'gamma'"),
        ("gamma: 0.3", "gamma: 1.3", "gate.threshold"),
        ('"2": {prev', "2: {prev", "unquoted"),
        ('policy: "2"', 'policy: "1"', "targets.final.policy"),
    ],
)
def test_bad_configuration_runs_nothing(
    finished_project: Project, old: str, new: str, words: str
) -> None:
    finished_project.edit(old, new)
    done = finished_project.hapo("run", "--no-server", check=False)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert "params.yaml" in done.stderr
    assert finished_project.ran() == []


def test_outside_a_project(project: Project) -> None:
    (project.path / "dvc.yaml").unlink()
    done = project.hapo("run", "--no-server", check=False)
    assert done.returncode == 2 and "no hapo project" in done.stderr


# --- stopped and killed, without a server -------------------------------------------------------


def test_stopping_leaves_no_process(finished_project: Project) -> None:
    """SIGTERM; Ctrl-C is below, with a server."""
    run = slow_run(finished_project, "--no-server")
    begin = time.monotonic()
    run.send_signal(signal.SIGTERM)
    out, _ = run.communicate(timeout=30)
    assert time.monotonic() - begin < 10
    assert run.returncode == 130, out
    assert stage_pids(finished_project) == []
    assert "the same command continues" in out
    finish(finished_project, "--no-server")


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(b"pipeline.cli", marks=long),
        pytest.param(b"dvc", marks=long),
        b"pipeline.train",
    ],
)
def test_kill_9(finished_project: Project, victim: bytes) -> None:
    """Whichever process is killed, no other stays behind, and the run continues."""
    run = slow_run(finished_project, "--no-server")
    os.kill(pid_of(finished_project, victim), signal.SIGKILL)
    run.communicate(timeout=30)
    assert run.returncode != 0
    eventually(lambda: not stage_pids(finished_project), seconds=10)
    finish(finished_project, "--no-server")


def test_dvc_alone_is_tethered_too(finished_project: Project) -> None:
    project = finished_project
    project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    project.env["TOY_SECONDS"] = "60"
    run = project.start("dvc", "repro")
    log = project.path / "ran.log"
    eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=60)
    run.kill()
    run.communicate(timeout=30)
    eventually(lambda: not stage_pids(project), seconds=10)


def test_second_run_is_refused(finished_project: Project) -> None:
    run = slow_run(finished_project, "--no-server")
    second = finished_project.hapo("run", "--no-server", check=False)
    assert second.returncode == 2
    assert f"process {run.pid}" in second.stderr
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=30)


# --- with a server ------------------------------------------------------------------------------


@pytest.fixture
def shown_project(finished_project: Project, prefect_server: PrefectServer) -> Project:
    finished_project.env |= prefect_server.env
    return finished_project


def open_run(prefect: PrefectServer, project: Project) -> str:
    """The id of the project's running top-level flow run."""

    def newest() -> str | None:
        runs = prefect.flow_runs(name={"any_": ["hapo"]}, state={"type": {"any_": ["RUNNING"]}})
        return runs[0]["id"] if runs else None

    return str(eventually(newest))


def test_stages_are_nested_and_cached_ones_shown(
    shown_project: Project, prefect_server: PrefectServer
) -> None:
    shown_project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    done = shown_project.hapo("run")
    assert shown_project.ran() == DOWNSTREAM
    top = run_id(done.stdout)
    (shown,) = prefect_server.flow_runs(id={"any_": [top]})
    assert (shown["name"], shown["state_name"]) == ("hapo", "Completed")
    children = {run["name"]: run["state_name"] for run in prefect_server.children(top)}
    assert children == dict.fromkeys(DOWNSTREAM, "Completed")
    cached = dict.fromkeys(("curate", "base", "train@1", "evaluate@base"), "Cached")
    eventually(lambda: task_states(prefect_server, top) == {**children, **cached})
    (train,) = [run for run in prefect_server.children(top) if run["name"] == "train@2"]
    tasks = eventually(lambda: len(found := prefect_server.task_runs(train["id"])) == 12 and found)
    four = ("rollout", "verify", "gate", "update")
    assert {t["name"] for t in tasks} == {f"{task} {n}" for task in four for n in (1, 2, 3)}
    logged = prefect_server.logs(top)
    assert logged.count("Running stage 'train@2':") == 1
    assert not any("round 1/3" in line for line in logged)  # that is in the stage's own log
    assert sum(line.startswith("train@2  round 3/3") for line in logged) == 1  # its last word
    assert not any("lock file" in line or line.startswith("> python") for line in logged)
    assert done.stdout.count("train@2  round 3/3") == 1


@pytest.mark.slow
def test_failed_stage(shown_project: Project, prefect_server: PrefectServer) -> None:
    shown_project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    shown_project.env["TOY_FAIL"] = "evaluate@final"
    done = shown_project.hapo("run", check=False)
    assert done.returncode == 255  # DVC's own
    assert "error: this stage was told to fail" in done.stdout
    top = run_id(done.stdout)
    (shown,) = prefect_server.flow_runs(id={"any_": [top]})
    assert shown["state_name"] == "Failed"
    assert shown["state"]["message"].startswith("evaluate@final: this stage was told to fail")
    states = {run["name"]: run["state_name"] for run in prefect_server.children(top)}
    assert states == {"train@2": "Completed", "evaluate@final": "Failed"}
    shown_project.ran()
    del shown_project.env["TOY_FAIL"]
    shown_project.hapo("run")
    assert shown_project.ran() == ["evaluate@final", "report"]


def stop_by_ui(prefect: PrefectServer, project: Project, top: str) -> None:
    state = {"type": "CANCELLING", "name": "Cancelling"}
    prefect.post(f"/flow_runs/{top}/set_state", {"state": state, "force": True})


def stop_by_kill_of_the_stage(prefect: PrefectServer, project: Project, top: str) -> None:
    os.kill(pid_of(project, b"pipeline.train"), signal.SIGKILL)


def stop_by_ctrl_c(prefect: PrefectServer, project: Project, top: str) -> None:
    os.kill(pid_of(project, b"pipeline.cli"), signal.SIGINT)


@pytest.mark.parametrize(
    ("stop", "code", "top_state", "stage_state"),
    [
        (stop_by_ui, 130, "Cancelled", "Cancelled"),
        pytest.param(stop_by_ctrl_c, 130, "Cancelled", "Cancelled", marks=pytest.mark.slow),
        (stop_by_kill_of_the_stage, 255, "Failed", "Crashed"),
    ],
)
def test_stopped_runs_are_closed(
    shown_project: Project,
    prefect_server: PrefectServer,
    stop: Callable[[PrefectServer, Project, str], None],
    code: int,
    top_state: str,
    stage_state: str,
) -> None:
    run = slow_run(shown_project)
    top = open_run(prefect_server, shown_project)
    begin = time.monotonic()
    stop(prefect_server, shown_project, top)
    out, _ = run.communicate(timeout=60)
    assert time.monotonic() - begin < 15
    assert run.returncode == code, out
    assert run_id(out) == top
    assert stage_pids(shown_project) == []
    (shown,) = prefect_server.flow_runs(id={"any_": [top]})
    assert shown["state_name"] == top_state
    (train,) = prefect_server.children(top)
    assert (train["name"], train["state_name"]) == ("train@2", stage_state)
    assert task_states(prefect_server, top)["train@2"] == stage_state


@pytest.mark.slow
def test_killed_run_is_closed_by_the_next(
    shown_project: Project, prefect_server: PrefectServer
) -> None:
    run = slow_run(shown_project)
    top = open_run(prefect_server, shown_project)
    run.kill()
    run.communicate(timeout=30)
    eventually(lambda: not stage_pids(shown_project), seconds=10)
    finish(shown_project)
    states = [r["state_name"] for r in prefect_server.flow_runs(id={"any_": [top]})]
    states += [r["state_name"] for r in prefect_server.children(top)]
    assert states == ["Crashed", "Crashed"] or states == ["Crashed", "Cancelled"]


@pytest.mark.slow
def test_own_server_outlives_the_run_and_dies_without_harm(finished_project: Project) -> None:
    """Without PREFECT_API_URL a server is started; killed in the middle, the run goes on."""
    project = finished_project
    project.env["HAPO_SERVER_PORT"] = "0"
    done = project.hapo("run")
    record = json.loads((project.path / ".hapo" / "prefect" / "server.json").read_text())
    assert f"{record['url']}/runs/flow-run/" in done.stdout
    try:
        assert record["url"] in project.hapo("server", "status").stdout
        project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
        project.env["TOY_SECONDS"] = "6"
        run = project.start("pipeline.cli", "run")
        log = project.path / "ran.log"
        eventually(lambda: log.exists() and "train@2" in log.read_text(), seconds=60)
        os.kill(record["pid"], signal.SIGKILL)
        out, _ = run.communicate(timeout=90)
        assert run.returncode == 0, out
        assert project.ran() == DOWNSTREAM
        assert "held_out   25.0 %" in out
        assert "warning: " in out
        assert not out.rstrip().splitlines()[-1].startswith("UI ")
    finally:
        project.hapo("server", "stop")
    assert project.hapo("server", "status", check=False).returncode == 1
