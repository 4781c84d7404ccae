"""Every method through the real training stage on a tiny policy: two rounds, and exact resume."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import REPO
from ruamel.yaml import YAML

from pipeline.base import build_base
from pipeline.checkpoint import read_waiting
from pipeline.config import Params, parse_params
from pipeline.curate import curate
from pipeline.observe import Observer
from pipeline.store import read_json
from pipeline.tables import GROUPS, ROLLOUTS, ROUNDS, read_frame
from pipeline.train import Segment, train_segment

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


@pytest.mark.parametrize(
    "method", ["srft", "hpt", "relift", "chord", "prefix_rft", "bread", "real"]
)
def test_every_method_runs_two_rounds(here: Path, method: str) -> None:
    rounds, groups, rollouts = trained(method)
    assert len(rounds) == 2 and (rounds["trained_tokens"] > 0).all()
    kinds = rollouts.kind.value_counts()
    own, branches = rollouts[rollouts.kind == "policy"], rollouts[rollouts.kind == "continuation"]
    assert len(groups) == 2 * PROMPTS
    # What was generated is all counted, and no response exceeds the budget.
    sampled = pd.concat([own, branches])
    assert sampled.token_ids.map(len).sum() == rounds.generated_tokens.sum()
    assert len(sampled) == rounds.rollouts.sum()
    given = branches.prefix_tokens.astype(int)
    assert (branches.token_ids.map(len) + given <= BUDGET).all()
    assert [len(x) for x in sampled.logprobs] == [len(x) for x in sampled.token_ids]
    injected = groups.decision == "injected"
    assert injected.sum() == rounds.injected_groups.sum()
    failed = (groups.successes == 0) & (groups.known > 0)
    match method:
        case "srft":
            assert injected.all() and kinds["teacher"] == 2 * PROMPTS
            assert own.advantage.isin([-1.0, 0.1]).all()
        case "hpt":
            assert (injected == failed).all() and injected.any()
            assert own.advantage.isna().sum() == SIZE * injected.sum()
        case "relift":
            # Failed prompts of both rounds (6 of 24, none twice), in batches of 4.
            waiting = read_waiting(Path("artifacts/policy/1"))
            assert rounds.extra_rows.sum() + len(waiting) == failed.sum()
            assert rounds.extra_rows.sum() >= 4 > len(waiting) and not injected.any()
        case "chord":
            assert (rounds.extra_rows == PROMPTS * SIZE / 4).all() and not injected.any()
        case "prefix_rft":
            assert injected.all() and len(branches) == 2 * PROMPTS
            assert len(own) == 2 * PROMPTS * (SIZE - 1) and branches.advantage.notna().all()
        case "bread":
            assert branches.prompt_id.nunique() == failed.sum() > 0
            assert branches.advantage.notna().sum() == SIZE * injected.sum() > 0
            assert (injected <= failed).all()
        case "real":
            assert own.advantage.isin([-1.0, 1.0]).all() and not injected.any()


@pytest.mark.parametrize("preset", ["dapo", "dr_grpo", "gspo"])
def test_every_preset_runs_two_rounds(here: Path, preset: str) -> None:
    rounds, groups, rollouts = trained("grpo", objective={"preset": preset})
    mixed = (groups.successes > 0) & (groups.successes < groups.known)
    assert len(rounds) == 2 and len(rollouts) == SIZE * len(groups)
    if preset != "dapo":
        assert len(groups) == 2 * PROMPTS
        return
    discarded = groups.decision == "discarded"
    assert (discarded == ~mixed).all() and discarded.any()
    for _, one in groups.groupby("round"):
        assert one.prompt_id.is_unique
        enough = ((one.decision != "discarded").sum() == PROMPTS) or len(one) == 24
        assert enough  # six mixed groups, or all prompts were tried


def test_a_budget_of_tokens_ends_the_segment(here: Path) -> None:
    """Exactly the rounds of a plain segment of that length, also when it is resumed."""
    plain, _, _ = trained("grpo")
    ends = [hashes(Path("artifacts/policy/1/model"))]
    needed = int(plain.generated_tokens[0]) + 1
    params = params_of("grpo", segments={"1": {"prev": "base", "rounds": 9, "generated": needed}})
    for resumed in (False, True):
        for folder in ("artifacts/policy/1", ".hapo"):
            shutil.rmtree(folder)
        if resumed:
            segment = Segment(params, "1", Observer("train@1"))
            segment.round(0)
            segment.close()
        train_segment(params, "1", Observer("train@1"))
        rounds = read_frame(Path("artifacts/policy/1/rounds.parquet"), ROUNDS)
        assert rounds["round"].tolist() == [1, 2]
        assert rounds.generated_tokens.sum() >= needed > rounds.generated_tokens[0]
        ends.append(hashes(Path("artifacts/policy/1/model")))
    assert ends[0] == ends[1] == ends[2]
    assert read_json(Path("artifacts/policy/1/manifest.json"))["facts"]["rounds"] == [0, 2]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_relift_killed_while_its_buffer_holds_prompts_ends_with_the_same_bytes(here: Path) -> None:
    """kill -9 after the first of three rounds; the buffer fills in the second at the earliest."""
    raw = {**PARAMS, "method": "relift", "segments": {"1": {"prev": "base", "rounds": 3}}}
    raw["teacher"] = {"relift": {"buffer": 8}}
    with Path("params.yaml").open("w") as file:
        YAML().dump(raw, file)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    env = {**kept, "PYTHONPATH": str(REPO), "HAPO_PROGRESS_SECONDS": "0"}
    command = [sys.executable, "-m", "pipeline.train", "--segment", "1"]
    stage = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    for line in stage.stdout:
        if "round 1/3" in line:
            os.kill(stage.pid, signal.SIGKILL)
            break
    stage.wait()
    assert not Path("artifacts/policy/1").exists()
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert "continues after round" in again
    killed = hashes(Path("artifacts/policy/1"))
    rounds = read_frame(Path("artifacts/policy/1/rounds.parquet"), ROUNDS)
    assert rounds.extra_rows[0] == 0 and rounds.extra_rows.sum() >= 8
    for folder in ("artifacts/policy/1", ".hapo"):
        shutil.rmtree(folder)
    train_segment(parse_params(json.loads(json.dumps(raw))), "1", Observer("train@1"))
    assert hashes(Path("artifacts/policy/1")) == killed


def test_relift_carries_its_buffer_from_segment_to_segment(here: Path) -> None:
    """One segment of two rounds, or two of one: the same policy and the same prompts waiting."""
    ends = []
    for rounds in ((2,), (1, 1)):
        names = [str(k + 1) for k in range(len(rounds))]
        links = zip(names, ["base", *names], rounds, strict=False)
        params = params_of(
            "relift",
            teacher={"relift": {"buffer": 8}},
            segments={name: {"prev": prev, "rounds": count} for name, prev, count in links},
            targets={"base": {"policy": "base"}, "final": {"policy": names[-1]}},
        )
        for name in names:
            train_segment(params, name, Observer(f"train@{name}"))
        last = Path("artifacts/policy") / names[-1]
        ends.append((hashes(last / "model"), hashes(last / "state")))
        table = read_frame(last / "rounds.parquet", ROUNDS)
        assert table.extra_rows.iloc[-1] == 8  # six of the first round were waiting
        shutil.rmtree("artifacts/policy/1")
    assert ends[0] == ends[1]
