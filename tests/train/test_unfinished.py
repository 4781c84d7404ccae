"""What lies damaged or foreign in a killed stage's work never reaches an artifact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_segment import PARAMS, here, params_of, start
from told import Listening

from pipeline.artifacts import Scratch
from pipeline.base.stage import build_base
from pipeline.cold_start.stage import cold_start
from pipeline.config import Params
from pipeline.curate.stage import curate
from pipeline.evaluate.stage import evaluate_policy
from pipeline.flows.observer import Observer
from pipeline.train.segment import train_segment

__all__ = ["here", "start"]

COLD = {"sources": ["chains"], "rounds": 3, "batch": 4, "learning_rate": 0.002}
STAGES: dict[str, tuple[Callable[[Params, Observer], object], str]] = {
    "curate": (curate, "artifacts/data"),
    "base": (build_base, "artifacts/policy/base"),
    "cold_start@cold": (lambda p, o: cold_start(p, "cold", o), "artifacts/policy/cold"),
    "train@1": (lambda p, o: train_segment(p, "1", o), "artifacts/policy/1"),
    "evaluate@base": (lambda p, o: evaluate_policy(p, "base", o), "artifacts/evaluation/base"),
}


def settings(stage: str) -> Params:
    if stage == "base":  # another one than the others go on from: shorter
        return params_of("hapo", base={**PARAMS["base"], "steps": 5})
    if stage != "cold_start@cold":
        return params_of("hapo", segments={"1": {"prev": "base", "rounds": 1}})
    return params_of(
        "hapo",
        cold_start={"cold": {**COLD, "checkpoint_every": 1, "keep": True}},
        segments={"1": {"prev": "cold", "rounds": 1}},
        targets={**{name: {"policy": name} for name in ("base", "cold")}, "final": {"policy": "1"}},
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every name below a folder; bytes of files."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


@pytest.fixture(autouse=True)
def resume_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.base.stage.RESUME_EVERY", 2)


def killed_at_the_end(stage: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run it until it would publish; its scratch folder."""
    work, target = STAGES[stage]
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(".hapo/scratch", ignore_errors=True)

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Scratch, "publish", killed)
        patch.setattr(Scratch, "publish_copy", killed)
        with pytest.raises(KeyboardInterrupt):
            work(settings(stage), Observer(stage))
    (scratch,) = Path(".hapo/scratch").glob(f"{stage}-*")
    return scratch


def damage(scratch: Path) -> None:
    """Flip a byte in the middle of every file."""
    for path in [p for p in scratch.rglob("*") if p.is_file()]:
        data = path.read_bytes()
        at = len(data) // 2
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def plant(scratch: Path) -> None:
    """A file, a folder and links in every folder."""
    for folder in [scratch, *(p for p in scratch.rglob("*") if p.is_dir())]:
        (folder / "planted.txt").write_text("planted")
        (folder / "round-99999.parquet").write_text("planted")
        (folder / "planted").mkdir()
        (folder / "link").symlink_to(Path.cwd())


@pytest.mark.parametrize("stage", STAGES)
def test_damaged_and_foreign_files_of_a_killed_stage_are_not_published(
    here: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, target = STAGES[stage]
    scratch = killed_at_the_end(stage, monkeypatch)
    assert not Path(target).exists()
    shutil.copytree(scratch, "killed")
    work(settings(stage), Observer(stage))  # goes on, or anew, from what is whole
    whole = contents(Path(target))
    for harm in (damage, plant):
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree("killed", scratch)
        harm(scratch)
        observer = Listening(stage)
        work(settings(stage), observer)
        assert contents(Path(target)) == whole
        if harm is damage and stage in ("base", "cold_start@cold", "train@1", "evaluate@base"):
            assert any("not used" in line or "made again" in line for line in observer.lines)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_put_there_while_a_stage_runs_is_not_published(
    here: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted after the last file is written, before the manifest; named, and left out."""
    work, target = STAGES[stage]
    part = "data" if stage == "curate" else "out"
    from pipeline.dependencies.provenance import MadeWith

    check = MadeWith.check

    def planting(made: MadeWith) -> None:
        for out in Path(".hapo/scratch").glob(f"{stage}-*/{part}"):
            (out / "planted.txt").write_text("x")
            (out / "link").symlink_to("/etc")
        check(made)

    monkeypatch.setattr(MadeWith, "check", planting)
    shutil.rmtree(".hapo/scratch", ignore_errors=True)
    observer = Listening(stage)
    work(settings(stage), observer)
    assert not (Path(target) / "planted.txt").exists() and not (Path(target) / "link").exists()
    assert any("planted.txt" in line and "left out" in line for line in observer.lines)
