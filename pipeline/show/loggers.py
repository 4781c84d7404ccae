"""Curves of the rounds for TensorBoard, Weights & Biases, MLflow and Trackio.

A segment is one run of each logger, named after its stage and inputs; the steps are rounds. They
only watch: what a logger does wrong is a warning, never a failed stage, and no artifact holds
anything of theirs. Nothing leaves this machine unless `loggers` in params.yaml says so.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hapo_core.errors import ConfigError
from pipeline.artifacts import atomic_write_json, read_json
from pipeline.artifacts.tables import whole
from pipeline.config import Loggers, MlflowLog, TensorboardLog, TrackioLog, WandbLog
from pipeline.flows.observer import warn
from pipeline.show.rounds_page import scalars

Row = Mapping[str, object]


class Logger(Protocol):
    """One place that curves are written to."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write the numbers of a round (counted from 1)."""

    def close(self) -> None:
        """Write what is still in memory."""


class Curves:
    """All loggers of a segment.

    Args:
        settings: section `loggers`.
        run: the segment's name for them; the same after a kill, another for other inputs.
        earlier: the rounds that an interrupted run of the segment finished (`tables.ROUNDS`).

    Raises:
        ConfigError: a logger that params.yaml asks for is not installed.
    """

    def __init__(self, settings: Loggers, run: str, earlier: Sequence[Row] = ()) -> None:
        self._open: list[tuple[str, Logger]] = []
        for name, opener in _openers(settings, run).items():
            self._guard(name, partial(self._begin, name, opener))
        for row in earlier:
            self.add(row)

    def add(self, row: Row) -> None:
        """Write a round."""
        step, values = whole(row, "round"), scalars(row)
        for name, logger in list(self._open):
            self._guard(name, partial(logger.log, step, values))

    def close(self) -> None:
        """End the loggers' runs."""
        for name, logger in list(self._open):
            self._guard(name, logger.close)
        self._open.clear()

    def _begin(self, name: str, opener: Callable[[], Logger]) -> None:
        self._open.append((name, opener()))

    def _guard(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except ImportError as error:
            if name != "tensorboard":  # which nobody had to ask for
                raise ConfigError(
                    f"the package of this logger is not installed: {error}",
                    where=f"params.yaml: loggers.{name}",
                    remedy=f"pip install 'hapo[{name}]', or take the section out",
                ) from error
            warn(f"no TensorBoard curves: {error}")
        except Exception as error:  # noqa: BLE001  third parties' code, which decides nothing here
            warn(f"logger {name}: {type(error).__name__}: {error}; it gets no more rounds")
            self._open = [(n, logger) for n, logger in self._open if n != name]


def _openers(settings: Loggers, run: str) -> dict[str, Callable[[], Logger]]:
    found: dict[str, Callable[[], Logger]] = {}
    if (board := settings.tensorboard) is not None:
        found["tensorboard"] = lambda: Tensorboard(board, run)
    if (wandb := settings.wandb) is not None:
        found["wandb"] = lambda: Unrepeated(Path(wandb.folder), run, Wandb(wandb, run))
    if (mlflow := settings.mlflow) is not None:
        found["mlflow"] = lambda: Unrepeated(Path(mlflow.folder), run, Mlflow(mlflow, run))
    if (trackio := settings.trackio) is not None:
        found["trackio"] = lambda: Unrepeated(Path(trackio.folder), run, Trackio(trackio, run))
    return found


class Unrepeated:
    """A logger that gets each round once, also when a segment continues after a kill.

    The round is noted before it is written, so a kill in between costs one point of the curves
    and never doubles one.
    """

    def __init__(self, folder: Path, run: str, inner: Logger) -> None:
        self._mark, self._inner = folder / "rounds" / f"{run}.json", inner
        self._last = int(read_json(self._mark)["last"]) if self._mark.is_file() else 0

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._last:
            self._last = step
            atomic_write_json(self._mark, {"last": step})
            self._inner.log(step, values)

    def close(self) -> None:
        self._inner.close()


class Tensorboard:
    """Event files below FOLDER/RUN, written anew when a segment continues.

    Written in this thread: the package's own writer has another one behind a queue of ten, which a
    full disk ends, and the next round then waits for ever.
    """

    def __init__(self, settings: TensorboardLog, run: str) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        folder = Path(settings.folder) / run
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._event: Any = Event
        self._scalar: Any = scalar
        self._writer: Any = EventsWriter(str(folder / "events"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            summary = self._scalar(name, value)
            event = self._event(wall_time=time.time(), step=step, summary=summary)
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; offline unless params.yaml says otherwise."""

    def __init__(self, settings: WandbLog, run: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        Path(settings.folder).mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=settings.project,
            id=run.replace("@", "-"),
            name=run,
            resume="allow",
            mode=settings.mode,
            dir=settings.folder,
            save_code=False,
            settings=wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """A run of MLflow, in files unless params.yaml names a server or database."""

    def __init__(self, settings: MlflowLog, run: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        uri = settings.uri or (Path(settings.folder) / "runs").absolute().as_uri()
        self._client: Any = MlflowClient(uri)
        known = self._client.get_experiment_by_name(settings.experiment)
        experiment = (
            known.experiment_id if known else self._client.create_experiment(settings.experiment)
        )
        tagged = self._client.search_runs([experiment], f"tags.`mlflow.runName` = '{run}'")
        if tagged:
            self._id = tagged[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=run).info.run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio in a local database; no dashboard is started."""

    def __init__(self, settings: TrackioLog, run: str) -> None:
        os.environ["TRACKIO_DIR"] = str(Path(settings.folder).absolute())
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):  # those would send the rounds away
            os.environ.pop(name, None)
        import trackio

        self._module: Any = trackio
        trackio.init(
            settings.project,
            name=run,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()
