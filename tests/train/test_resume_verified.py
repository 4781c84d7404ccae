"""A segment that was killed goes on from what it wrote, whatever happened to it meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_segment import here, params_of, start
from told import Listening

from hapo_core.errors import DataError
from pipeline.config import Params
from pipeline.flows.observer import Observer
from pipeline.train.segment import Segment, train_segment

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
        ("out/groups/round-00003.parquet", 2),
        ("rounds/round-00003.parquet", 2),
        ("rounds/round-00003.seal.json", 2),
        ("out/rollouts/round-00001.parquet", 0),
        ("states/round-00003/state/optimizer.safetensors", 2),
        ("states/round-00003/posteriors.parquet", 2),
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
