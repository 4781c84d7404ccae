"""`hapo profile` and `hapo segments`: configuration files are edited, never lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import REPO, TOY_PARAMS
from ruamel.yaml import YAML

from hapo_core.errors import ConfigError
from pipeline import cli
from pipeline.config import load_params, profiles
from pipeline.config.segments import set_segments


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project (what `find_root` looks for) with two profiles, and in it."""
    (tmp_path / "params").mkdir()
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").touch()
    for name in ("toy", "other"):
        text = TOY_PARAMS.replace("profile: toy", f"profile: {name}")
        (tmp_path / "params" / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- profiles -----------------------------------------------------------------------------------


def test_use_switches_between_unedited_profiles(root: Path) -> None:
    assert profiles.use("toy") is None
    assert (root / "params.yaml").read_bytes() == (root / "params" / "toy.yaml").read_bytes()
    assert profiles.use("other") is None
    assert profiles.current() == ("other", False)
    assert {"other", "toy", "quickstart"} <= set(profiles.names())  # own and shipped ones


def test_edits_are_never_overwritten_silently(root: Path) -> None:
    profiles.use("toy")
    edited = (root / "params.yaml").read_text().replace("seed: 0", "seed: 7")
    (root / "params.yaml").write_text(edited)
    for name in ("other", "toy"):
        with pytest.raises(ConfigError, match="edits that differ"):
            profiles.use(name)
    assert (root / "params.yaml").read_text() == edited
    backup = profiles.use("other", force=True)
    assert backup is not None and backup.read_text() == edited
    (root / "params.yaml").write_text(edited)
    second = profiles.use("other", force=True)
    assert second is not None and second != backup and backup.read_text() == edited


@pytest.mark.parametrize("text", ["no: profile\n", "[1, 2]\n", "a: [\n"])
def test_a_file_of_unknown_origin_is_kept(root: Path, text: str) -> None:
    (root / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match="names no shipped profile"):
        profiles.use("toy")
    assert (root / "params.yaml").read_text() == text


def test_a_broken_or_unknown_profile_is_not_copied(root: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        profiles.use("toyy")
    (root / "params" / "bad.yaml").write_text(TOY_PARAMS.replace("gamma: 0.3", "gamma: 3"))
    with pytest.raises(ConfigError, match=r"gate\.threshold"):
        profiles.use("bad")
    assert not (root / "params.yaml").exists()


def test_commands(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "show"]) == 1
    assert cli.main(["profile", "use", "toy"]) == 0
    assert cli.main(["profile", "list"]) == 0
    assert "* toy" in capsys.readouterr().out
    (root / "params.yaml").write_text(TOY_PARAMS.replace("seed: 0", "seed: 7"))
    assert cli.main(["profile", "show"]) == 0
    out = capsys.readouterr().out
    assert "toy (edited)" in out and "+seed: 7" in out
    assert cli.main(["profile", "use", "other"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "remedy" in err and "Traceback" not in err


def test_every_shipped_profile_is_valid() -> None:
    found = sorted((REPO / "params").glob("*.yaml"))
    assert found
    for path in found:
        assert load_params(path).profile == path.stem


def test_shipped_profiles_name_every_section_that_dvc_reads() -> None:
    """DVC fails on a parameter that is left to its default in our schema."""
    found = sorted((REPO / "params").glob("*.yaml"))
    assert found
    graph = YAML(typ="safe").load(REPO / "dvc.yaml")
    stages = graph["stages"].values()
    defaults = {key for part in graph["vars"] for key in part}  # of stages that may not exist
    read = {str(p).split(".")[0] for s in stages for p in s.get("do", s).get("params", [])}
    read -= defaults
    assert {"method", "train", "compute"} <= read
    for path in found:
        present = {
            line.split(":")[0] for line in path.read_text().splitlines() if line[:1].isalpha()
        }
        assert read <= present, path.name


# --- segments -----------------------------------------------------------------------------------


def test_adding_keeps_comments_and_quotes(root: Path) -> None:
    profiles.use("toy")
    set_segments(4, root=root)
    expected = TOY_PARAMS.replace(
        '  "2": {prev: "1", rounds: 2}  # the last one\n',
        '  "2": {prev: "1", rounds: 2}  # the last one\n'
        '  "3": {prev: "2", rounds: 2}\n'
        '  "4": {prev: "3", rounds: 2}\n',
    ).replace('final: {policy: "2"}', 'final: {policy: "4"}')
    got = (root / "params.yaml").read_text()
    assert _squeezed(got) == _squeezed(expected)
    assert list(load_params(root / "params.yaml").segments) == ["1", "2", "3", "4"]


def test_dropping_is_the_inverse_of_adding(root: Path) -> None:
    profiles.use("toy")
    set_segments(3, root=root)
    set_segments(5, root=root)
    set_segments(2, root=root)
    assert _squeezed((root / "params.yaml").read_text()) == _squeezed(TOY_PARAMS)
    assert set_segments(2, root=root) == []


def test_block_style_and_rounds(root: Path) -> None:
    block = (
        '  "1":\n    prev: base  # from here\n    rounds: 2\n'
        '  "2":\n    prev: "1"\n    rounds: 2  # short\n'
    )
    flow = '  "1": {prev: base, rounds: 2}\n  "2": {prev: "1", rounds: 2}  # the last one\n'
    text = TOY_PARAMS.replace(flow, block)
    assert text != TOY_PARAMS
    (root / "params.yaml").write_text(text)
    set_segments(3, rounds=5, root=root)
    got = (root / "params.yaml").read_text()
    added = '  "3":\n    prev: "2"\n    rounds: 5\n'
    expected = text.replace(block, block.replace("rounds: 2", "rounds: 5") + added)
    assert _squeezed(got) == _squeezed(expected.replace('policy: "2"', 'policy: "3"'))


def test_finished_segments_stay(root: Path) -> None:
    profiles.use("toy")
    finished = root / "artifacts" / "policy" / "1"
    finished.mkdir(parents=True)
    (finished / "manifest.json").write_text("{}")
    done = set_segments(3, rounds=9, root=root)
    segments = load_params(root / "params.yaml").segments
    assert [s.rounds for s in segments.values()] == [2, 9, 9]
    assert any("kept finished" in line for line in done)
    (root / "artifacts" / "policy" / "2").mkdir()
    (root / "artifacts" / "policy" / "2" / "manifest.json").write_text("{}")
    before = (root / "params.yaml").read_text()
    with pytest.raises(ConfigError, match="finished segment"):
        set_segments(1, root=root)
    assert (root / "params.yaml").read_text() == before
    set_segments(1, rounds=4, force=True, root=root)
    assert [s.rounds for s in load_params(root / "params.yaml").segments.values()] == [4]


def test_segments_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiles.use("toy")
    assert cli.main(["segments", "3", "--rounds", "4"]) == 0
    assert "added segment 3 with 4 rounds" in capsys.readouterr().out
    assert cli.main(["segments", "0"]) == 2
    (root / "params.yaml").write_text(TOY_PARAMS.replace('"2":', "2:"))
    assert cli.main(["segments", "3"]) == 2
    assert "unquoted" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((REPO / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_profiles_survive_an_edit(root: Path, path: Path) -> None:
    """There and back: nothing of a shipped file but the segments moves."""
    (root / "params.yaml").write_bytes(path.read_bytes())
    count = len(load_params(path).segments)
    set_segments(count + 2, root=root)
    set_segments(count, root=root)
    assert _squeezed((root / "params.yaml").read_text()) == _squeezed(path.read_text())


def _squeezed(text: str) -> list[str]:
    """Lines without the spaces that align comments, which ruamel may move."""
    return [" ".join(line.split()) for line in text.splitlines()]
