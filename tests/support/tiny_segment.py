"""A real training segment on a tiny policy, for tests of every method."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import REPO

from pipeline.artifacts.tables import GROUPS, ROLLOUTS, ROUNDS, read_frame
from pipeline.base.stage import build_base
from pipeline.config import Params, parse_params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.train.segment import train_segment

SIZE, PROMPTS, BUDGET = 4, 6, 24


CHAINS = {"kind": "chains", "min_steps": 1, "max_steps": 1, "start_low": 100, "start_high": 109}


PARAMS: dict[str, Any] = {
    "profile": "methods",
    "seed": 3,
    "method": "grpo",
    "curate": {
        "sources": {"chains": {**CHAINS, "count": 24}},
        "benchmarks": {"heldout": {**CHAINS, "count": 4}},
        "max_prompt_tokens": 40,
        "max_trace_tokens": BUDGET,
        "decontaminate_ngram": 0,
    },
    "base": {
        "kind": "tiny",
        "hidden_size": 48,
        "layers": 2,
        "heads": 2,
        "steps": 120,
        "batch_size": 32,
        "learning_rate": 0.005,
        "short_steps": [1, 1],
        "long_steps": [1, 1],
        "slip_first_step": 1,
        "slip_probability": 0.5,
        "start_low": 100,
        "start_high": 109,
    },
    "gate": {"threshold": {"kind": "constant", "gamma": 0.5}},
    "teacher": {"relift": {"buffer": 4}},
    "sft": {"rounds": 1},
    "rewards": {"verifier": "exact", "workers": 1},
    "rollout": {"group_size": SIZE, "max_tokens": BUDGET},
    "update": {"learning_rate": 0.001},
    "train": {"prompts_per_round": PROMPTS},
    "segments": {"1": {"prev": "base", "rounds": 2}},
    "evaluate": {"benchmarks": {"heldout": {"k": 1, "max_tokens": BUDGET}}},
    "targets": {"base": {"policy": "base"}, "final": {"policy": "1"}},
    "compute": {"threads": 1},
}


def params_of(method: str, **changes: Any) -> Params:
    """The configuration with another method and whole sections changed."""
    return parse_params(json.loads(json.dumps({**PARAMS, "method": method, **changes})))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with curated data and the starting policy."""
    path = tmp_path_factory.mktemp("methods")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(path)
    try:
        (path / "data").symlink_to(REPO / "data")
        curate(params_of("grpo"), Observer("curate"))
        build_base(params_of("grpo"), Observer("base"))
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return path


@pytest.fixture
def here(start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    path = tmp_path / "project"
    shutil.copytree(start, path, symlinks=True)
    monkeypatch.chdir(path)
    return path


def trained(method: str, **changes: Any) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(rounds, groups, rollouts) of a segment of two rounds."""
    train_segment(params_of(method, **changes), "1", Observer("train@1"))
    folder = Path("artifacts/policy/1")
    tables = [
        pd.concat(read_frame(p, schema) for p in sorted((folder / name).glob("*.parquet")))
        for name, schema in (("groups", GROUPS), ("rollouts", ROLLOUTS))
    ]
    return read_frame(folder / "rounds.parquet", ROUNDS), tables[0], tables[1]
