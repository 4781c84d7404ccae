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
    TableSource,
)
from pipeline.config.engine import Compute, EngineChoice, VllmServers
from pipeline.config.evaluation import BenchmarkProtocol, Evaluate, Target
from pipeline.config.load import PARAMS, load_params, parse_params, parse_section
from pipeline.config.loggers import Loggers, MlflowLog, TensorboardLog, TrackioLog, WandbLog
from pipeline.config.method import (
    AdaptiveThreshold,
    Bread,
    Chord,
    ConstantThreshold,
    Gate,
    Hpt,
    MethodName,
    Objective,
    PrefixRft,
    Real,
    Relift,
    ScheduledThreshold,
    Sft,
    Srft,
    Teacher,
    Threshold,
)
from pipeline.config.params import Params
from pipeline.config.policy import Base, PretrainedBase, TinyBase
from pipeline.config.section import RewardName, Section
from pipeline.config.training import DifficultyBand, Rewards, RolloutParams, Segment, Train, Update

__all__ = [
    "PARAMS",
    "AdaptiveThreshold",
    "Base",
    "BenchmarkProtocol",
    "BenchmarkSource",
    "Bread",
    "ChainsSource",
    "Chord",
    "Compute",
    "ConstantThreshold",
    "Curate",
    "DifficultyBand",
    "EngineChoice",
    "Evaluate",
    "Gate",
    "GymSource",
    "Hpt",
    "Loggers",
    "MethodName",
    "MlflowLog",
    "Objective",
    "Params",
    "PrefixRft",
    "PresetSource",
    "PretrainedBase",
    "Real",
    "Relift",
    "RewardName",
    "Rewards",
    "RolloutParams",
    "ScheduledThreshold",
    "Section",
    "Segment",
    "Sft",
    "Source",
    "Srft",
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
]
