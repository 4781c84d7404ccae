"""Section `loggers`: where the curves of the rounds are written, beside the run's own tables.

No stage depends on it (dvc.yaml does not list it): a change reruns nothing and changes no result.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.section import Section


class TensorboardLog(Section):
    """Event files, for `tensorboard --logdir FOLDER`."""

    folder: str = "logs/tensorboard"


class WandbLog(Section):
    """Weights & Biases (extra `wandb`)."""

    project: str = Field(default="hapo", min_length=1)
    mode: Literal["offline", "online"] = "offline"
    """Offline writes files, which `wandb sync` can send later; online sends every round."""
    folder: str = "logs/wandb"


class MlflowLog(Section):
    """MLflow (extra `mlflow`)."""

    experiment: str = Field(default="hapo", min_length=1)
    uri: str | None = None
    """Of a tracking server or database; None writes files to `folder`."""
    folder: str = "logs/mlflow"


class TrackioLog(Section):
    """Trackio (extra `trackio`); a local database."""

    project: str = Field(default="hapo", min_length=1)
    folder: str = "logs/trackio"


class Loggers(Section):
    """Each is on where it has a section; `loggers: {tensorboard: null}` switches all off."""

    tensorboard: TensorboardLog | None = TensorboardLog()
    wandb: WandbLog | None = None
    mlflow: MlflowLog | None = None
    trackio: TrackioLog | None = None
