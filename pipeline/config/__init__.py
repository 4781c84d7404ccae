"""The typed, strict schema of params.yaml: one model per section, every field with its meaning.

Unknown keys, wrong types and contradictions fail before anything runs, with the key's path and
the nearest valid name.
"""

from pipeline.config.data import (
    BenchmarkSource,
    ChainsSource,
    Curate,
    GymSource,
    PresetSource,
    Source,
    StoriesSource,
    TableSource,
)
from pipeline.config.engine import Compute, EngineChoice, VllmServers
from pipeline.config.evaluation import BenchmarkProtocol, Evaluate, Target
from pipeline.config.load import (
    PARAMS,
    load_params,
    parse_params,
    parse_section,
    was_read,
)
from pipeline.config.loggers import Loggers, MlflowLog, TensorboardLog, TrackioLog, WandbLog
from pipeline.config.method import (
    AdaptiveThreshold,
    ConstantThreshold,
    Gate,
    MethodName,
    Objective,
    ScheduledThreshold,
    Sft,
    Teacher,
    Threshold,
)
from pipeline.config.params import Params
from pipeline.config.policy import Base, ColdStart, PretrainedBase, TinyBase
from pipeline.config.section import RewardName, Section
from pipeline.config.training import DifficultyBand, Rewards, RolloutParams, Segment, Train, Update

__all__ = [
    "PARAMS",
    "AdaptiveThreshold",
    "Base",
    "BenchmarkProtocol",
    "BenchmarkSource",
    "ChainsSource",
    "ColdStart",
    "Compute",
    "ConstantThreshold",
    "Curate",
    "DifficultyBand",
    "EngineChoice",
    "Evaluate",
    "Gate",
    "GymSource",
    "Loggers",
    "MethodName",
    "MlflowLog",
    "Objective",
    "Params",
    "PresetSource",
    "PretrainedBase",
    "RewardName",
    "Rewards",
    "RolloutParams",
    "ScheduledThreshold",
    "Section",
    "Segment",
    "Sft",
    "Source",
    "StoriesSource",
    "TableSource",
    "Target",
    "Teacher",
    "TensorboardLog",
    "Threshold",
    "TinyBase",
    "TrackioLog",
    "Train",
    "Update",
    "VllmServers",
    "WandbLog",
    "load_params",
    "parse_params",
    "parse_section",
    "was_read",
]
