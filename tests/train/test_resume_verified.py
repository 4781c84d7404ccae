"""A segment that was killed goes on from what it wrote, whatever happened to it meanwhile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_segment import here, params_of, start
from told import Listening

from hapo_core.errors import DataError
from pipeline.artifacts.seals import write_seal
from pipeline.config import Params
from pipeline.flows.observer import Observer
from pipeline.train.segment import Segment, train_segment
from pipeline.train.shown import drop_states_without_gain

__all__ = ["here", "start"]
ROUNDS = 4


def settings() -> Params:
    return params_of("hapo", segments={"1": {"prev": "base", "rounds": ROUNDS}})


def artifact() -> dict[str, bytes]:
    folder = Path("artifacts/policy/1")
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def begun(rounds: int) -> Path:
    """A segment that stopped after some rounds, as a kill leaves it; its scratch folder."""
    shutil.rmtree("artifacts/policy/1", ignore_errors=True)
    shutil.rmtree(".hapo/scratch", ignore_errors=True)
    segment = Segment(settings(), "1", Observer("train@1"))
    try:
        while segment.done < rounds:
            segment.round(segment.done)
        return segment.scratch.path
    finally:
        segment.close()


def flip(path: Path) -> None:
    data = path.read_bytes()
    at = len(data) // 2
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


@pytest.fixture
def whole(here: Path) -> dict[str, bytes]:
    """The bytes of an uninterrupted segment."""
    shutil.rmtree("artifacts/policy/1", ignore_errors=True)
    shutil.rmtree(".hapo/scratch", ignore_errors=True)
    train_segment(settings(), "1", Observer("train@1"))
    return artifact()


@pytest.mark.parametrize(
    ("damaged", "goes_on"),
    [
        ("out/rollouts/round-00003.parquet", 2),
        pytest.param("out/groups/round-00003.parquet", 2, marks=pytest.mark.slow),
        pytest.param("rounds/round-00003.parquet", 2, marks=pytest.mark.slow),
        pytest.param("rounds/round-00003.seal.json", 2, marks=pytest.mark.slow),
        ("out/rollouts/round-00001.parquet", 0),
        ("states/round-00003/state/optimizer.safetensors", 2),
        pytest.param("states/round-00003/posteriors.parquet", 2, marks=pytest.mark.slow),
        ("states/round-00003/manifest.json", 2),
        ("parts.json", 3),
    ],
)
def test_a_flipped_byte_costs_rounds_and_no_truth(
    whole: dict[str, bytes], damaged: str, goes_on: int
) -> None:
    scratch = begun(3)
    assert len(list(scratch.glob("states/round-*"))) == 2
    flip(scratch / damaged)
    observer = Listening("train@1")
    train_segment(settings(), "1", observer)
    assert artifact() == whole
    on = [line for line in observer.lines if line.startswith("continues after round")]
    assert on == ([f"continues after round {goes_on}"] if goes_on else [])
    if damaged != "parts.json":
        assert any("is not used" in line for line in observer.lines)


def test_a_state_under_the_name_of_another_round_is_not_used(whole: dict[str, bytes]) -> None:
    """Whole in itself, as a copy by hand leaves it: its own round could never be written again."""
    states = begun(3) / "states"
    shutil.rmtree(states / "round-00003")
    shutil.copytree(states / "round-00002", states / "round-00003")
    observer = Listening("train@1")
    train_segment(settings(), "1", observer)
    assert artifact() == whole
    assert any("holds the state after round 2" in line for line in observer.lines)
    assert "continues after round 2" in observer.lines


def test_a_byte_that_flips_while_it_runs_is_not_published(whole: dict[str, bytes]) -> None:
    begun(0)
    segment = Segment(settings(), "1", Observer("train@1"))
    try:
        while not segment.ended:
            segment.round(segment.done)
        flip(segment.out / "rollouts" / "round-00002.parquet")
        with pytest.raises(DataError, match="run the same command again"):
            segment.publish()
    finally:
        segment.close()
    assert not Path("artifacts/policy/1").exists()
    train_segment(settings(), "1", Observer("train@1"))
    assert artifact() == whole


def test_scratch_deleted_while_it_runs(whole: dict[str, bytes]) -> None:
    begun(0)
    segment = Segment(settings(), "1", Observer("train@1"))
    try:
        segment.round(0)
        segment.round(1)
        shutil.rmtree(segment.scratch.path)
        with pytest.raises(DataError, match="changed while it ran"):
            segment.round(2)
    finally:
        segment.close()
    train_segment(settings(), "1", Observer("train@1"))
    assert artifact() == whole


# --- what showing the trace gains (METHOD 9), measured once by the starting policy


Damage = Callable[[Path], object]


def gaining() -> Params:
    distill = {"template": "{solution}\n{problem}", "gain_problems": 2, "gain_samples": 1}
    return params_of(
        "hapo",
        teacher={"use": "distill", "distill": {**distill, "without_gain": "go_on"}},
        update={"learning_rate": 0.01},  # another policy would measure another gain
        rollout={"group_size": 2, "max_tokens": 24},
        train={"prompts_per_round": 2},
    )


def better(scratch: Path) -> Path:
    """A gain that was never measured, in the file's place."""
    path = scratch / "out" / "gain.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "difference": 0.9}))
    return path


def of_another_run(scratch: Path) -> None:
    """Its seal, whole in itself."""
    path, gain = scratch / "out" / "gain.json", (scratch / "out" / "gain.json").read_bytes()
    write_seal(scratch / "gain.seal.json", [better(scratch)], scratch)
    path.write_bytes(gain)


def of_other_files(scratch: Path) -> None:
    """Whole, and it says nothing of the gain."""
    write_seal(scratch / "gain.seal.json", [], scratch)
    better(scratch)


DAMAGES: dict[str, Damage] = {
    "a flipped byte": lambda scratch: flip(scratch / "out" / "gain.json"),
    "a flipped byte of the seal": lambda scratch: flip(scratch / "gain.seal.json"),
    "the seal is lost": lambda scratch: (scratch / "gain.seal.json").unlink(),
    "the gain is lost": lambda scratch: (scratch / "out" / "gain.json").unlink(),
    "another gain": better,
    "the seal of another run": of_another_run,
    "a seal of other files": of_other_files,
}


@pytest.mark.parametrize("name", ["none", *DAMAGES])
def test_states_without_a_gain_as_it_was_measured_are_dropped(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    gain = tmp_path / "out" / "gain.json"
    gain.write_text('{"difference": 0.0}')
    write_seal(tmp_path / "gain.seal.json", [gain], tmp_path)
    (tmp_path / "states" / "round-00001").mkdir(parents=True)
    DAMAGES.get(name, lambda scratch: None)(tmp_path)
    lines: list[str] = []
    drop_states_without_gain(tmp_path, lines.append)
    assert (tmp_path / "states").exists() == (name == "none")
    assert [line.endswith("the segment starts anew") for line in lines] == [True] * (name != "none")


def test_a_flipped_byte_of_the_gain_costs_rounds_and_no_truth(here: Path) -> None:
    train_segment(gaining(), "1", Observer("train@1"))
    whole = artifact()
    shutil.rmtree("artifacts/policy/1")
    shutil.rmtree(".hapo/scratch")
    segment = Segment(gaining(), "1", Observer("train@1"))
    segment.round(0)
    segment.close()
    flip(segment.scratch.path / "out" / "gain.json")
    observer = Listening("train@1")
    train_segment(gaining(), "1", observer)
    assert artifact() == whole
    assert any("gain.json has changed" in line for line in observer.lines)
    assert "continues after round 1" not in observer.lines


@pytest.mark.parametrize("name", DAMAGES)
def test_a_gain_that_changes_while_it_runs_is_not_published(here: Path, name: str) -> None:
    segment = Segment(gaining(), "1", Observer("train@1"))
    try:
        segment.done = segment.first_round + segment.rounds  # only what `publish` compares
        DAMAGES[name](segment.scratch.path)
        with pytest.raises(DataError, match=r"changed while it ran: .*gain") as caught:
            segment.publish()
    finally:
        segment.close()
    assert "run the same command again" in str(caught.value.remedy)
    assert not Path("artifacts/policy/1").exists()
