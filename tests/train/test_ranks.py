"""Several processes train what one trains: real torchrun, gloo, the tiny policy."""

from __future__ import annotations

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
import warm
from conftest import REPO, eventually, long
from listening import elsewhere, family, listening
from safetensors.torch import load_file
from small import PARAMS

from pipeline.artifacts import check_manifest
from pipeline.artifacts.tables import ROLLOUTS, ROUNDS, read_frame
from pipeline.base.stage import build_base
from pipeline.config import load_params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.system.processes import alive
from pipeline.train.checkpoint import newest_state
from pipeline.train.segment import train_segment

sys.path.insert(0, str(REPO / "tests" / "support"))
from ranks_worker import CASES, trained

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
STEP = 1e-3
"""The rate of `ranks_worker`: about what AdamW moves a weight by at a step."""


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "HAPO"))}
    path = os.pathsep.join([str(REPO), str(REPO / "tests" / "support")])
    return {**kept, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


def call(cwd: Path, forks: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m WORDS`; torchrun and its ranks fork from a process that has imported torch."""
    done = subprocess.run(
        [warm.python(forks), "-m", *words],
        cwd=cwd,
        env=environment(**forks),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


# --- the update ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, warmth: dict[str, str]) -> list[dict[str, Any]]:
    """What each of two ranks has after its rounds."""
    out = tmp_path_factory.mktemp("ranks")
    call(out, warmth, *TORCHRUN, "-m", "ranks_worker", str(out))
    return [torch.load(out / f"rank-{k}.pt", weights_only=False) for k in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_steps_of_one(found: list[dict[str, Any]], case: str) -> None:
    alone = trained(case)
    for rank in found:
        several = rank[case]
        for ours, theirs in zip(alone["metrics"], several["metrics"], strict=True):
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=5e-6, abs=1e-6)  # float32
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=5e-6)
            assert theirs["entropy"] == pytest.approx(ours["entropy"], rel=5e-6)
            assert theirs["teacher_balance"] == pytest.approx(ours["teacher_balance"], rel=5e-6)
            assert theirs["mismatch_max"] == pytest.approx(ours["mismatch_max"], rel=5e-6)
            for exact in ("trained_tokens", "optimizer_steps", "skipped_steps"):
                assert getattr(theirs, exact) == getattr(ours, exact)
        largest = max(float(g.abs().max()) for g in alone["gradient"].values())
        assert set(several["gradient"]) == set(alone["gradient"])
        for name, gradient in alone["gradient"].items():
            assert float((several["gradient"][name] - gradient).abs().max()) <= 2e-6 * largest
        assert set(several["weights"]) == set(alone["weights"])
        # float32 sums in another order: where a gradient is itself about rounding, AdamW's quotient
        # carries the whole relative error, so single weights may differ by a part of a step.
        pairs = [(several["weights"][name], weights) for name, weights in alone["weights"].items()]
        off = torch.cat([(theirs - ours).abs().flatten() for theirs, ours in pairs])
        assert float(off.max()) <= 0.05 * STEP
        assert float(off.quantile(0.99)) <= 0.002 * STEP


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_hold_the_same_bits(found: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case] for rank in found)
    assert first["metrics"] == second["metrics"]
    for name, weights in first["weights"].items():
        assert torch.equal(weights, second["weights"][name])


# --- the stage ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, base policy, and a segment trained by one process."""
    path = tmp_path_factory.mktemp("stage")
    (path / "params.yaml").write_text(PARAMS)
    shutil.copytree(REPO / "data", path / "data")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(path)
    try:
        params = load_params()
        curate(params, Observer("curate"))
        build_base(params, Observer("base"))
        train_segment(params, "1", Observer("train@1"))
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return path


@pytest.fixture
def project(start: Path, tmp_path: Path) -> Path:
    """A copy without the trained segment."""
    path = tmp_path / "project"
    shutil.copytree(start, path)
    shutil.rmtree(path / "artifacts/policy/1")
    shutil.rmtree(path / ".hapo")
    return path


def rollouts_of(root: Path, rounds: int = 4) -> pd.DataFrame:
    folder = root / "artifacts/policy/1/rollouts"
    files = [folder / f"round-{k + 1:05d}.parquet" for k in range(rounds)]
    return pd.concat([read_frame(f, ROLLOUTS) for f in files])


def same_segment(one: Path, other: Path, tolerance: float) -> None:
    """Tokens, verdicts and counters are equal, weights and moments to the tolerance."""
    check_manifest(other / "artifacts/policy/1", "segment")
    columns = ["round", "prompt_id", "sample", "kind", "token_ids", "verdict", "replaced"]
    ours, theirs = (rollouts_of(root)[columns].reset_index(drop=True) for root in (one, other))
    for frame in (ours, theirs):
        frame["token_ids"] = [tuple(t) for t in frame["token_ids"]]
    pd.testing.assert_frame_equal(ours, theirs)
    for part in ("model/model.safetensors", "state/optimizer.safetensors"):
        a, b = (load_file(root / "artifacts/policy/1" / part) for root in (one, other))
        assert set(a) == set(b)
        for name, tensor in a.items():
            assert float((tensor - b[name]).abs().max()) <= tolerance, name
    a, b = (read_frame(root / "artifacts/policy/1/rounds.parquet", ROUNDS) for root in (one, other))
    assert a["trained_tokens"].tolist() == b["trained_tokens"].tolist()
    assert a["probe_avg"].dropna().tolist() == b["probe_avg"].dropna().tolist()


def test_torchrun_trains_the_same_segment(
    start: Path, project: Path, warmth: dict[str, str]
) -> None:
    done = call(project, warmth, *TORCHRUN, "-m", "pipeline.train", "--segment", "1")
    assert done.stdout.count("round 4/4") == 1  # one rank reports
    same_segment(start, project, 2e-5)


def with_compute(project: Path, words: str) -> None:
    (project / "params.yaml").write_text(PARAMS.replace("{threads: 1}", f"{{threads: 1{words}}}"))


def states(project: Path) -> list[Path]:
    return sorted(project.glob(".hapo/scratch/*/states/round-*"))


def in_two_parts(state: Path) -> None:
    """Each of two processes wrote its own part, and nobody the whole."""
    check_manifest(state, "training-state")
    for part in ("weights", "moments"):
        by = {path.name.split("-")[1] for path in (state / part).glob("shard-*.safetensors")}
        assert by == {"00001", "00002"}
        assert all(path.suffix == ".safetensors" for path in (state / part).iterdir())
    assert not (state / "model").exists()


@pytest.mark.slow
def test_a_killed_rank_fails_the_stage_and_one_process_goes_on(
    start: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_compute(project, ", processes: 2, shard: true")
    assert load_params(project / "params.yaml").compute.processes == 2
    stage = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", "--segment", "1"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    doors: set[str] = set()

    def looked() -> list[Path]:
        doors.update(listening(family(stage.pid)))
        return states(project)

    eventually(looked, 300)
    # The ranks' own sockets are among them: the look would have found others.
    assert doors and not elsewhere(sorted(doors))
    ranks = ranks_of(stage.pid)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = stage.communicate(timeout=300)
    assert stage.returncode == 2, output
    # The other rank may get to tell of the lost connection before it is stopped.
    assert "error: process 1 of 2 was killed by SIGKILL" in output
    assert not any(alive(pid) for pid in ranks)
    assert not (project / "artifacts/policy/1").exists()
    in_two_parts(states(project)[-1])
    with_compute(project, "")
    monkeypatch.chdir(project)
    train_segment(load_params(), "1", Observer("train@1"))
    assert "continues after round" in capsys.readouterr().out
    same_segment(start, project, 2e-5)


def killed_at(project: Path, call: str, n: int) -> None:
    """Run the segment and kill all its processes after one's n-th call of a function."""
    plan = {"role": "train", "call": call, "n": n, "after": True, "victims": ["train"]}
    plan |= {"fired": str(project / "fired"), "begun": str(project / "begun")}
    (project / "plan.json").write_text(json.dumps(plan))
    site = str(REPO / "tests" / "support" / "kill_site")
    env = environment(KILL_PLAN=str(project / "plan.json"), KILL_ROOT=str(project))
    stage = subprocess.Popen(
        [sys.executable, "-m", "pipeline.train", "--segment", "1"],
        cwd=project,
        env={**env, "PYTHONPATH": os.pathsep.join([site, env["PYTHONPATH"]])},
        start_new_session=True,
    )
    assert stage.wait(timeout=400) == -signal.SIGKILL
    eventually(lambda: not in_session(stage.pid), 60)


def in_session(leader: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and alive(int(folder.name)):
            try:
                words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(words[3]) == leader:
                found.append(int(folder.name))
    return found


@long
def test_shards_killed_in_the_writing_cost_a_round_and_damaged_ones_are_not_used(
    start: Path, project: Path
) -> None:
    with_compute(project, ", processes: 2, shard: true")
    # Twice a round: weights, moments. So one rank has written its part of the second round's
    # moments, and the other may have or not.
    killed_at(
        project, "torch.distributed.checkpoint.hf_storage:HuggingFaceStorageWriter.write_data", 4
    )
    (state,) = states(project)
    assert state.name == "round-00001"
    assert (state.parent / ".round-00002.partial").is_dir()
    in_two_parts(state)

    shard = sorted((state / "moments").iterdir())[-1]
    whole = shard.read_bytes()
    damages = {"is missing": None, "content differs": whole[:-1] + bytes([whole[-1] ^ 1])}
    for number, (problem, content) in enumerate(damages.items()):
        scratch = shutil.copytree(state.parent.parent, project / f"damaged-{number}")
        damaged = scratch / shard.relative_to(state.parent.parent)
        damaged.unlink()
        if content is not None:
            damaged.write_bytes(content)
        told: list[str] = []
        assert newest_state(scratch, 0, told.append) is None
        assert len(told) == 1 and shard.name in told[0] and problem in told[0]
    assert newest_state(state.parent.parent, 0, pytest.fail) == state

    with_compute(project, ", processes: 2")
    done = call(project, {}, "pipeline.train", "--segment", "1")
    assert "continues after round 1" in done.stdout
    same_segment(start, project, 2e-5)


@long
def test_three_sharded_processes_go_on_from_one(start: Path, project: Path) -> None:
    killed_at(project, "pipeline.train.checkpoint:write_state", 2)
    state = states(project)[-1]  # the one before is dropped next
    assert (state / "model").is_dir()
    with_compute(project, ", processes: 3, shard: true")
    done = call(project, {}, "pipeline.train", "--segment", "1")
    assert "continues after round 2" in done.stdout
    same_segment(start, project, 2e-5)


def ranks_of(parent: int) -> list[int]:
    """The stage's processes, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                stat = (folder / "stat").read_text()
                environ = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == parent:
                ranks = [int(v[5:]) for v in environ if v.startswith(b"RANK=")]
                found.update({rank: int(folder.name) for rank in ranks})
    return [pid for _, pid in sorted(found.items())]
