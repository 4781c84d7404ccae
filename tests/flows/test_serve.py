"""`hapo serve` and prefect.yaml: a schedule or the UI starts runs, one at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO, PrefectServer, Project, eventually, long
from real_runs import DOWNSTREAM, stage_pids, task_states
from ruamel.yaml import YAML

from hapo_core.errors import ConfigError, HapoError
from pipeline.config import load_params
from pipeline.config.overrides import configure, with_overrides
from pipeline.flows.names import deployment_name
from pipeline.flows.records import LATE_REASON
from pipeline.run.clock import time_zone
from pipeline.run.request import Request
from pipeline.run.shown_runs import is_shown, shown_run
from pipeline.system.locks import Patience, WaitStopped, device_locks, devices_of

PARAMS = (REPO / "params.yaml").read_text()


# --- what a run is asked for --------------------------------------------------------------------


def test_overrides_keep_the_rest() -> None:
    changed = with_overrides(PARAMS, ("update.learning_rate=2e-5", "segments.2.rounds=7"))
    before, after = PARAMS.splitlines(), changed.splitlines()
    differing = [new for old, new in zip(before, after, strict=True) if old != new]
    assert differing == ["  learning_rate: 2e-05", '  "2": {prev: "1", rounds: 7}']
    added = with_overrides(PARAMS, ("update.betas=[0.9, 0.99]",))
    assert "betas:" in added
    assert with_overrides(PARAMS, ()) == PARAMS


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "no override"),
        ("=3", "no override"),
        ("seed.x=3", "is a value"),
        ("update.lerning_rate=1", "did you mean 'learning_rate'"),
        ("seed=minus", "seed"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_bad_overrides_change_nothing(tmp_path: Path, override: str, words: str) -> None:
    (tmp_path / "params.yaml").write_text(PARAMS)
    with pytest.raises(ConfigError, match=words):
        configure(None, (override,), tmp_path)
    assert (tmp_path / "params.yaml").read_text() == PARAMS


def test_profile_keeps_what_a_person_wrote(tmp_path: Path) -> None:
    shutil.copytree(REPO / "params", tmp_path / "params")
    mine = PARAMS.replace("seed: 0", "seed: 5", 1)
    (tmp_path / "params.yaml").write_text(mine)
    wanted = Request(profile="quickstart", overrides=("seed=3",))
    said = configure(wanted.profile, wanted.overrides, tmp_path)
    assert load_params(tmp_path / "params.yaml").seed == 3
    (backup,) = tmp_path.glob("params.backup-*.yaml")
    assert backup.read_text() == mine and backup.name in " ".join(said)
    configure(
        wanted.profile, wanted.overrides, tmp_path
    )  # the same again, then another: none of them is a person's
    configure("quickstart", ("seed=4",), tmp_path)
    assert load_params(tmp_path / "params.yaml").seed == 4
    assert len(list(tmp_path.glob("params.backup-*.yaml"))) == 1
    assert configure(root=tmp_path) == []
    with pytest.raises(ConfigError, match="no profile"):
        configure("nowhere", (), tmp_path)


def test_words_for_dvc() -> None:
    assert list(Request().dvc_words()) == [["repro"]]
    assert list(Request(targets=("base",)).dvc_words()) == [["repro", "--", "base"]]
    assert list(Request(force=True).dvc_words()) == [["repro", "--force"]]
    both = Request(targets=("base", "report"), force=True)
    single = ["repro", "--force", "--single-item", "--", "base", "report"]
    assert list(both.dvc_words()) == [single, ["repro", "--", "base", "report"]]


# --- one at a time ------------------------------------------------------------------------------


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    assert devices_of("cpu") == ["cpu"]
    assert devices_of("cuda") == ["gpu-2", "gpu-GPU-abc"]
    assert devices_of("cuda:1") == ["gpu-GPU-abc"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices_of("cuda:3") == ["gpu-3"]


def test_a_device_serves_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPO_LOCKS", str(tmp_path / "locks"))
    told: list[str] = []
    asked = iter([None, None, "stopped by SIGTERM"])
    patience = Patience(told.append, lambda: next(asked))
    with device_locks(["gpu-0", "gpu-1"], tmp_path):
        with device_locks(["gpu-2"], tmp_path):  # another GPU is free
            pass
        second = device_locks(["gpu-1"], tmp_path)
        with pytest.raises(HapoError, match=f"works on gpu-1: process {os.getpid()} in {tmp_path}"):
            second.__enter__()
        with pytest.raises(WaitStopped), device_locks(["gpu-1"], tmp_path, patience):
            raise AssertionError("the lock was given twice")
    assert len(told) == 1 and "waits for it" in told[0]
    with device_locks(["gpu-1"], tmp_path):
        pass


def test_a_killed_holder_frees_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPO_LOCKS", str(tmp_path))
    code = (
        "import time\nfrom pipeline.system.locks import device_locks\n"
        "from pipeline.run.shown_runs import shown_run\n"
        "with device_locks(['cpu']), shown_run('abc'):\n    print('held', flush=True)\n"
        "    time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert is_shown("abc", tmp_path)
        with pytest.raises(HapoError, match="another run works on cpu"):
            device_locks(["cpu"]).__enter__()
        holder.kill()
    with device_locks(["cpu"]):
        assert not is_shown("abc", tmp_path)
    with shown_run("abd", tmp_path):
        assert is_shown("abd", tmp_path)
    assert not is_shown("abd", tmp_path)


def test_two_projects_share_the_machine(
    finished_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_project.env["HAPO_LOCKS"] = str(tmp_path)
    monkeypatch.setenv("HAPO_LOCKS", str(tmp_path))
    with device_locks(["cpu"], Path("/elsewhere")):
        done = finished_project.hapo("run", "--no-server", check=False)
        assert done.returncode == 2
        assert "another run works on cpu" in done.stderr and "/elsewhere" in done.stderr
        waiting = finished_project.start("pipeline.cli", "run", "--no-server", "--wait")
        assert waiting.stdout is not None
        assert "this run waits for it" in waiting.stdout.readline()
    out, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, out


# --- served -------------------------------------------------------------------------------------


def test_names() -> None:
    assert "/" not in deployment_name(Path("/somewhere/a b")) and time_zone()


@pytest.mark.parametrize("words", [("--cron", "at night"), ("--interval", "-3")])
def test_bad_schedules(
    finished_project: Project, prefect_server: PrefectServer, words: tuple[str, str]
) -> None:
    finished_project.env |= prefect_server.env
    done = finished_project.hapo("serve", *words, check=False)
    assert done.returncode == 2 and words[0] in done.stderr and "Traceback" not in done.stderr


class Served:
    """A project with a running `hapo serve`."""

    def __init__(self, project: Project, prefect: PrefectServer, *words: str) -> None:
        self.project, self.prefect = project, prefect
        self.name = f"served-{project.path.parent.name}"
        self.log = project.path.parent / "serve.log"
        env = project.environment() | prefect.env
        env |= {"PREFECT_HOME": str(project.path.parent / "home")}
        env |= {"PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        with self.log.open("w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "serve", "--name", self.name, *words],
                cwd=project.path,
                env=env,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = eventually(self.find)
        assert self.process.poll() is None, self.log.read_text()
        return found

    def find(self) -> dict[str, Any]:
        """The deployment as the server has it; empty before it is there."""
        where = {"deployments": {"name": {"any_": [self.name]}}}
        found = self.prefect.post("/deployments/filter", where)
        return dict(found[0]) if found else {}

    def runs(self, *states: str) -> list[dict[str, Any]]:
        body = {
            "sort": "EXPECTED_START_TIME_ASC",
            "deployments": {"name": {"any_": [self.name]}},
            "flow_runs": {"state": {"type": {"any_": list(states)}}},
        }
        return list(self.prefect.post("/flow_runs/filter", body))

    def start(self, **parameters: object) -> str:
        """What the UI's button does; the flow run's id."""
        path = f"/deployments/{self.deployment()['id']}/create_flow_run"
        state = {"type": "SCHEDULED"}
        return str(self.prefect.post(path, {"parameters": parameters, "state": state})["id"])

    def state(self, run: str) -> dict[str, Any]:
        (found,) = self.prefect.flow_runs(id={"any_": [run]})
        return dict(found["state"])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture
def served_project(finished_project: Project) -> Project:
    (finished_project.path / "params").mkdir()
    for name in ("other", "toy"):
        shutil.copy(
            finished_project.path / "params.yaml", finished_project.path / f"params/{name}.yaml"
        )
    return finished_project


def test_cron_reaches_the_server(served_project: Project, prefect_server: PrefectServer) -> None:
    """Prefect plans the runs; served again without one, the schedule is gone."""
    served = Served(served_project, prefect_server, "--cron", "30 2 * * *")
    try:
        eventually(lambda: served.runs("SCHEDULED"))
        (schedule,) = served.deployment()["schedules"]
        assert schedule["schedule"]["cron"] == "30 2 * * *" and schedule["active"]
        assert schedule["schedule"]["timezone"] == time_zone()
        assert served.runs("SCHEDULED")[0]["expected_start_time"][14:16] == "30"
    finally:
        served.stop()
    assert served.find()["paused"]  # nothing piles up while nobody serves
    again = Served(served_project, prefect_server)
    try:
        eventually(lambda: again.find()["schedules"] == [] and not again.find()["paused"])
    finally:
        again.stop()


@pytest.fixture
def served(served_project: Project, prefect_server: PrefectServer) -> Iterator[Served]:
    served_project.env["TOY_SECONDS"] = "60"
    service = Served(served_project, prefect_server, "--interval", "3")
    try:
        yield service
    finally:
        service.stop()


@pytest.mark.slow
def test_schedule_form_and_cancel(served: Served) -> None:
    """A schedule fires; a run by the UI's form is cancelled, and continues by `hapo run`."""
    begun = ("PENDING", "RUNNING", "COMPLETED", "FAILED", "CRASHED")
    eventually(lambda: served.runs(*begun))
    deployment = served.deployment()
    path = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
    served.prefect.patch(path, {"active": False})
    now = datetime.now(UTC).isoformat()
    late = [run for run in served.runs("SCHEDULED") if run["expected_start_time"] < now]
    for run in late:  # of a busy machine: they would stand in front of the next one
        served.prefect.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLED"}})
    first = eventually(lambda: served.runs("COMPLETED", "FAILED", "CRASHED"))[0]
    assert first["state_name"] == "Completed" and first["auto_scheduled"]
    eventually(lambda: set(task_states(served.prefect, first["id"]).values()) == {"Cached"})
    form = deployment["parameter_openapi_schema"]["properties"]
    assert list(form) == ["profile", "targets", "force", "overrides", "wait"]
    assert {"enum": ["other", "toy"], "type": "string"} in form["profile"]["anyOf"]

    served.project.ran()
    wanted = served.start(profile="toy", overrides=["segments.2.rounds=3"], targets=["evaluate"])
    log = served.project.path / "ran.log"
    eventually(lambda: log.exists() and "train@2" in log.read_text())
    assert load_params(served.project.path / "params.yaml").segments["2"].rounds == 3
    (child,) = eventually(lambda: served.prefect.children(wanted))
    assert child["name"] == "train@2"
    working = ("-m dvc ", "-m pipeline.train ")
    stages = {p for p in stage_pids(served.project) if any(w in command(p) for w in working)}
    assert len(stages) >= 2
    begin = time.monotonic()
    state = {"type": "CANCELLING", "name": "Cancelling"}
    served.prefect.post(f"/flow_runs/{wanted}/set_state", {"state": state})
    eventually(lambda: not stages & set(stage_pids(served.project)), seconds=10)
    print(f"children gone {time.monotonic() - begin:.1f} s after the request")
    eventually(lambda: served.state(wanted)["name"] == "Cancelled", seconds=30)
    eventually(lambda: served.prefect.children(wanted)[0]["state_name"] == "Cancelled", seconds=10)
    served.project.ran()
    served.start(targets=["evaluate"])
    eventually(lambda: log.exists() and "train@2" in log.read_text())
    served.stop()  # the service takes its run along
    eventually(lambda: not stage_pids(served.project), seconds=15)
    served.project.ran()
    served.project.env["TOY_SECONDS"] = "0"
    served.project.hapo("run", "--no-server")
    assert served.project.ran() == DOWNSTREAM


@pytest.mark.slow
def test_one_late_run_waits_and_manual_ones_stay(served: Served) -> None:
    """A run longer than the interval: of the scheduled runs behind it one stays, by LATE_REASON."""
    served.project.edit('{prev: "1", rounds: 2}', '{prev: "1", rounds: 3}')
    log = served.project.path / "ran.log"
    eventually(lambda: log.exists() and "train@2" in log.read_text())
    mine = [served.start(targets=["curate"]) for _ in range(2)]

    def late() -> list[str]:
        now = datetime.now(UTC).isoformat()
        waiting = served.runs("SCHEDULED")
        return [r["id"] for r in waiting if r["auto_scheduled"] and r["expected_start_time"] < now]

    eventually(lambda: len(served.runs("CANCELLED")) >= 3)
    assert {run["state"]["message"] for run in served.runs("CANCELLED")} == {LATE_REASON}
    assert all(run["auto_scheduled"] for run in served.runs("CANCELLED"))
    kept = late()[0]
    eventually(lambda: late() == [kept])  # between two looks there may be a second one
    assert {served.state(run)["type"] for run in mine} == {"SCHEDULED"}
    gone = len(served.runs("CANCELLED"))
    eventually(lambda: len(served.runs("CANCELLED")) > gone)
    assert late()[0] == kept


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


# --- a work pool --------------------------------------------------------------------------------


def test_prefect_yaml_fetches_nothing() -> None:
    from pipeline.run.flow import hapo

    wanted = YAML(typ="safe").load((REPO / "prefect.yaml").read_text())
    assert wanted["pull"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": "."}}
    ]
    (deployment,) = wanted["deployments"]
    assert deployment["entrypoint"] == f"{hapo.fn.__module__}.{hapo.fn.__name__}"
    assert deployment["work_pool"]["name"] == "hapo"


@long
def test_a_worker_runs_the_project(served_project: Project, prefect_server: PrefectServer) -> None:
    """prefect.yaml as docs/scheduling.md says, with a remote that must not be asked."""
    project = served_project
    shutil.copy(REPO / "prefect.yaml", project.path / "prefect.yaml")
    project.env |= {**prefect_server.env, "DO_NOT_TRACK": "1"}
    project.env["PREFECT_HOME"] = str(project.path.parent / "home")
    remote = ["git", "remote", "add", "origin", "https://example.invalid/x.git"]
    subprocess.run(remote, cwd=project.path, check=True)
    project.call("prefect", "work-pool", "create", "hapo", "--type", "process")
    project.call("prefect", "--no-prompt", "deploy", "--all")
    given = ["-p", 'targets=["evaluate@base"]', "-p", "force=true"]
    project.call("prefect", "deployment", "run", "hapo/pool", *given)
    project.call("prefect", "worker", "start", "--pool", "hapo", "--type", "process", "--run-once")
    body = {"deployments": {"name": {"any_": ["pool"]}}}
    (run,) = prefect_server.post("/flow_runs/filter", body)
    assert run["state_name"] == "Completed"
    eventually(lambda: any(tag.startswith("project-") for tag in _tags(prefect_server, run["id"])))
    assert project.ran() == ["evaluate@base"]


def _tags(prefect: PrefectServer, run: str) -> list[str]:
    (found,) = prefect.flow_runs(id={"any_": [run]})
    return list(found["tags"])
