"""The cold start: easy traces before the first segment, killed for real, and what follows it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import warm
from conftest import REPO, Project
from small import PARAMS, clone, hashes

from hapo_core.errors import ConfigError
from pipeline.artifacts.tables import BASE_LOG, ROLLOUTS, read_table
from pipeline.cold_start.stage import update_spec
from pipeline.config import parse_params
from pipeline.config.yaml import round_trip

COLD = (
    PARAMS.replace(
        "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n",
        "    easy: {kind: chains, count: 12, min_steps: 1, max_steps: 1}\n"
        "    chains: {kind: chains, count: 24, min_steps: 2, max_steps: 3}\n",
        1,
    )
    .replace("gate:\n", (
        "cold_start:\n  start: {sources: [easy], rounds: 60, batch: 5, learning_rate: 0.002,"
        " checkpoint_every: 2}\n"
    ) + "gate:\n", 1)
    .replace('"1": {prev: base, rounds: 4}', '"1": {prev: start, rounds: 2}')
    .replace('  "2": {prev: "1", rounds: 2}\n', "")
    .replace('final: {policy: "2"}', 'start: {policy: start}\n  final: {policy: "1"}')
)  # fmt: skip


def _run(project: Project, *words: str) -> str:
    done = project.call(*words)
    return done.stdout + done.stderr


def _kill_at(project: Project, line_with: str) -> None:
    stage = project.start("pipeline.cold_start", "--name", "start")
    assert stage.stdout is not None
    for line in stage.stdout:
        if line_with in line:
            warm.kill(stage)
            break
    stage.stdout.close()
    assert stage.wait() == -signal.SIGKILL, "it ended before it was killed"


@pytest.fixture(scope="module")
def warmed(tmp_path_factory: pytest.TempPathFactory, warmth: dict[str, str]) -> Project:
    """A project whose cold start has run."""
    root = tmp_path_factory.mktemp("cold") / "project"
    clone(root)
    (root / "params.yaml").write_text(COLD)
    project = Project(root, {"HAPO_PROGRESS_SECONDS": "0", "PYTHONUNBUFFERED": "1", **warmth})
    for words in (("pipeline.curate",), ("pipeline.base",)):
        _run(project, *words)
    _run(project, "pipeline.cold_start", "--name", "start")
    return project


@pytest.fixture
def project(warmed: Project) -> Path:
    """Its folder."""
    return warmed.path


def test_the_easy_traces_are_learnt_and_counted(project: Path) -> None:
    log = read_table(project / "artifacts/policy/start/cold_start_log.parquet", BASE_LOG)
    losses = log["loss"].to_pylist()
    assert len(losses) == 60 and losses[-1] < losses[0]
    before = hashes(project / "artifacts/policy/base/model")
    after = hashes(project / "artifacts/policy/start/model")
    assert before.keys() == after.keys()
    assert before["model.safetensors"] != after["model.safetensors"]
    assert before["config.json"] == after["config.json"]


def test_killed_twice_it_ends_with_the_same_bytes(project: Path, warmed: Project) -> None:
    """kill -9 about rounds 3 and 13, each behind a resume point: the same policy, to the byte."""
    whole = hashes(project / "artifacts/policy/start")
    subprocess.run(["rm", "-rf", ".hapo", "artifacts/policy/start"], cwd=project, check=True)
    for last in ("round 3/60", "round 13/60"):
        _kill_at(warmed, last)
        assert not (project / "artifacts/policy/start").exists()
    text = _run(warmed, "pipeline.cold_start", "--name", "start")
    assert "continues after round" in text
    assert hashes(project / "artifacts/policy/start") == whole


def test_a_damaged_resume_point_is_not_taken_up(project: Path, warmed: Project) -> None:
    """One byte changes between kill and rerun: the older point is used, the bytes are the same."""
    whole = hashes(project / "artifacts/policy/start")
    subprocess.run(["rm", "-rf", ".hapo", "artifacts/policy/start"], cwd=project, check=True)
    _kill_at(warmed, "round 13/60")
    newest = sorted(project.glob(".hapo/scratch/cold_start@start-*/round-*"))[-1]
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(bytes(content))
    text = _run(warmed, "pipeline.cold_start", "--name", "start")
    assert f"the resume point {newest.name} is not used" in text
    assert "continues after round" in text
    assert hashes(project / "artifacts/policy/start") == whole


def test_the_first_segment_goes_on_from_it_without_its_problems(
    project: Path, warmed: Project
) -> None:
    _run(warmed, "pipeline.train", "--segment", "1")
    rollouts = sorted((project / "artifacts/policy/1/rollouts").glob("*.parquet"))
    ids = {i for f in rollouts for i in read_table(f, ROLLOUTS)["prompt_id"].to_pylist()}
    assert ids and all(i.startswith("chains/") for i in ids), ids
    _run(warmed, "pipeline.evaluate", "--target", "start")
    assert (project / "artifacts/evaluation/start/metrics.json").is_file()


def _with(old: str, new: str) -> dict[str, object]:
    assert old in COLD
    return dict(round_trip().load(COLD.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sources: [easy]", "sources: [esay]", ["cold_start.start.sources", "'esay'", "'easy'"]),
        ("sources: [easy]", "sources: [easy, chains]", ["nothing is left", "keep: true"]),
        ("prev: start", "prev: base", ["segments.1.prev", "'start'"]),
        ("  start: {policy: start}\n", "", ["targets.start.policy"]),
        ("  start: {sources", "  base: {sources", ["cold_start.base", "take another"]),
    ],
)
def test_what_does_not_fit_is_refused(old: str, new: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_params(_plain(_with(old, new)))
    assert all(word in str(caught.value) for word in words), caught.value


def _plain(value: object) -> object:
    from pipeline.config.segments import _plain

    return _plain(value)


def test_its_own_settings_reach_the_update() -> None:
    changed = (
        "learning_rate: 0.002, warmup_rounds: 7, micro_batch_tokens: 512, mixed_precision: true"
    )
    spec = parse_params(_plain(_with("learning_rate: 0.002", changed))).cold_start["start"]
    found = update_spec(spec)
    assert (found.learning_rate, found.warmup_rounds) == (0.002, 7)
    assert (found.micro_batch_tokens, found.mixed_precision) == (512, True)


def test_dvc_makes_a_stage_of_it_only_where_there_is_one(project: Path) -> None:
    """Profiles without a cold start need no key for it."""

    def stages() -> set[str]:
        words = ["dvc", "stage", "list", "--name-only"]
        found = subprocess.run(words, cwd=project, check=True, capture_output=True, text=True)
        return set(found.stdout.split())

    subprocess.run(["dvc", "init", "-q", "-f", "--subdir"], cwd=project, check=True)
    assert {"cold_start@start", "evaluate@start", "train@1"} <= stages()
    (project / "params.yaml").write_text((REPO / "params/quickstart.yaml").read_text())
    assert not any(name.startswith("cold_start") for name in stages())


def test_settings_without_a_cold_start_do_not_mention_it() -> None:
    """The report writes the settings out: older profiles keep its bytes."""
    quick = round_trip().load((REPO / "params/quickstart.yaml").read_text())
    assert "cold_start" not in parse_params(_plain(quick)).model_dump(mode="json")
    assert "cold_start" in parse_params(_plain(_with("gate:", "gate:"))).model_dump(mode="json")
