"""Curves of the rounds: each round once, also after a kill; nothing is sent anywhere."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO
from curves import tensorboard_points
from toy_stage import toy_round

from hapo_core.errors import ConfigError
from pipeline.config import Loggers, MlflowLog, TensorboardLog, TrackioLog, WandbLog
from pipeline.show.loggers import Curves
from pipeline.show.rounds_page import scalars

ROWS = [toy_round(n, "1", n / 10) for n in range(1, 7)]
OFF = {"tensorboard": None}


def missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def interrupted(settings: Loggers) -> None:
    """Rounds 1 to 4, a kill after the state of round 2, the rest; then a forced repetition."""
    first = Curves(settings, "train@1-abc")
    for row in ROWS[:4]:
        first.add(row)
    first.close()
    second = Curves(settings, "train@1-abc", ROWS[:2])
    for row in ROWS[2:]:
        second.add(row)
    second.close()


def test_numbers_of_a_round() -> None:
    values = scalars(ROWS[3])
    assert (values["success"], values["dead"], values["loss"]) == (0.4, 0.5, 0.5)
    assert "probe" not in values  # not measured in this round


@pytest.mark.skipif(missing("tensorboard"), reason="tensorboard (extra) is not installed")
def test_tensorboard_has_each_round_once(tmp_path: Path) -> None:
    interrupted(Loggers(tensorboard=TensorboardLog(folder=str(tmp_path))))
    expected = [(n, round(n / 10, 6)) for n in range(1, 7)]
    assert tensorboard_points(tmp_path / "train@1-abc") == expected


FULL = """
import resource, signal, sys, time
from pipeline.config import Loggers, TensorboardLog
from pipeline.show import loggers

loggers.scalars = lambda row: dict.fromkeys(map(str, range(34)), 0.5)
real, later = time.time, [0.0]
time.time = lambda: real() + later[0]  # rounds of minutes
curves = loggers.Curves(Loggers(tensorboard=TensorboardLog(folder=sys.argv[1])), "train@1-abc")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
for number in range(1, 5):
    time.sleep(0.2)
    later[0] += 200
    curves.add({"round": number})
curves.close()
print("done")
"""


@pytest.mark.skipif(missing("tensorboardX"), reason="tensorboardX is not installed")
def test_a_full_disk_under_the_curves_is_a_warning(tmp_path: Path) -> None:
    """The package's own thread ended there, and the next round waited for it for ever: its values
    are more than the ten that the queue between them holds."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{REPO}/tests/support:{REPO}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.endswith("done\n"), done.stderr
    assert done.stderr.count("it gets no more rounds") == 1


@pytest.mark.skipif(missing("mlflow"), reason="mlflow (extra) is not installed")
def test_mlflow_has_each_round_once(tmp_path: Path) -> None:
    settings = MlflowLog(folder=str(tmp_path))
    interrupted(Loggers.model_validate({**OFF, "mlflow": settings}))
    client = importlib.import_module("mlflow.tracking").MlflowClient((tmp_path / "runs").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("hapo").experiment_id])
    history = client.get_metric_history(run.info.run_id, "success")
    assert [(m.step, m.value) for m in history] == [(n, n / 10) for n in range(1, 7)]
    assert run.info.status == "FINISHED"


@pytest.mark.skipif(missing("trackio"), reason="trackio (extra) is not installed")
def test_trackio_has_each_round_once(tmp_path: Path) -> None:
    run_apart("TrackioLog", "trackio", tmp_path)
    (file,) = [p for p in tmp_path.glob("*.db") if "hapo" in p.name]
    with sqlite3.connect(file) as database:
        steps = [step for (step,) in database.execute("SELECT step FROM metrics ORDER BY step")]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.skipif(missing("wandb"), reason="wandb (extra) is not installed")
def test_wandb_stays_offline(tmp_path: Path) -> None:
    run_apart("WandbLog", "wandb", tmp_path)
    folders = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2  # before and after the kill; `wandb sync` joins them by their id
    assert {path.name.split("-", 3)[3] for path in folders} == {"train-1-abc"}
    assert all(list(folder.glob("*.wandb")) for folder in folders)


def run_apart(kind: str, name: str, folder: Path) -> None:
    """`interrupted` in a process of its own, which must not talk to the network."""
    code = (
        "import socket, sys\n"
        "real = socket.socket.connect\n"
        "def connect(self, address):\n"
        "    local = self.family == socket.AF_UNIX or address[0] in ('127.0.0.1', '::1')\n"
        "    assert local, f'a logger called {address}'\n"
        "    return real(self, address)\n"
        "socket.socket.connect = connect\n"
        f"from pipeline.config import Loggers, {kind}\n"
        "from test_loggers import interrupted\n"
        f"settings = {kind}(folder=sys.argv[1])\n"
        f"interrupted(Loggers.model_validate({{'tensorboard': None, '{name}': settings}}))\n"
    )
    path = os.pathsep.join([str(REPO), str(REPO / "tests" / "support")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr


def test_a_failing_logger_is_no_obstacle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    curves = Curves(Loggers(tensorboard=TensorboardLog(folder=str(tmp_path / "file"))), "run")
    curves.add(ROWS[0])
    curves.close()
    assert capsys.readouterr().err.count("logger tensorboard") == 1


@pytest.mark.skipif(not missing("wandb"), reason="wandb is installed")
def test_a_logger_that_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loggers\.wandb"):
        Curves(Loggers(tensorboard=None, wandb=WandbLog(folder=str(tmp_path))), "run")


def test_settings_are_strict() -> None:
    assert Loggers().tensorboard is not None and Loggers().wandb is None
    assert WandbLog().mode == "offline" and MlflowLog().uri is None and TrackioLog().project
