"""Numbers out of range and places that cannot be written are told by the option's name, at once."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from hapo_core.errors import ConfigError
from pipeline.cli import build_parser, main
from pipeline.commands import values
from pipeline.compare.cells import Budget, plan
from pipeline.config.segments import set_segments

FILE = ["score", "g.jsonl"]
MODEL = ["evaluate", "--model", "m", "--benchmark", "b=b.jsonl"]
BAD = [
    [*FILE, "--timeout", "inf"],
    [*FILE, "--timeout", "nan"],
    [*FILE, "--limit", "-1"],
    [*FILE, "--show", "-1"],
    [*FILE, "--workers", "0"],
    [*FILE, "--label-threshold", "nan"],
    [*MODEL, "--temperature", "inf"],
    [*MODEL, "--top-p", "nan"],
    [*MODEL, "--seed", "-1"],
    [*MODEL, "--k", "0"],
    [*MODEL, "--threads", "0"],
    ["pair", "a", "b", "--confidence", "2"],
    ["pair", "a", "b", "--confidence", "nan"],
    ["pair", "a", "b", "--seed", "-1"],
    ["pair", "a", "b", "--json", "."],
    ["audit", "--groups", "-1"],
    ["samples", "--limit", "9" * 20],
    ["compare", "--jobs", "0"],
    ["compare", "--seeds", "1" + "0" * 40],
    ["segments", "3", "--rounds", "9" * 30],
    ["data", "peek", "b.jsonl", "--rows", "-1"],
    ["serve", "--interval", "nan"],
    ["clean", "--budget", "nan"],
    ["clean", "--budget", "1.2.3"],
    ["clean", "--budget", ""],
]


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_number_out_of_range(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"argument {words[-2]}" in capsys.readouterr().err


WRITES = (
    *([*words, "--out"] for words in (FILE, MODEL, ["audit"], ["compare"])),
    ["report", "--against", "x", "--out"],
    ["init"],
    ["train", "--dir"],
)


@pytest.mark.parametrize("words", WRITES, ids=" ".join)
def test_a_folder_that_cannot_be_one(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "lost").symlink_to("nowhere")
    for place in ("/dev/null", "file", "file/below", "link/below", "lost/below"):
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([*words, str(tmp_path / place)])
        assert ended.value.code == 2


def test_what_is_taken(tmp_path: Path) -> None:
    assert values.folder(str(tmp_path / "a/b")) == tmp_path / "a/b"
    assert values.folder("") == Path()
    assert values.file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    assert (values.count("1"), values.number("0"), values.positive("0.5")) == (1, 0, 0.5)
    assert not (tmp_path / "a").exists()
    tmp_path.chmod(0o500)
    if os.geteuid() != 0:
        with pytest.raises(ArgumentTypeError, match="belongs to another user"):
            values.folder(str(tmp_path / "a"))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("text", ["rounds=nan", "rounds=inf", "generated=1e30", "trained=0.5"])
def test_a_budget_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match="is no budget"):
        Budget.parse(text)


@pytest.mark.parametrize("changes", [{"segments": 5}, {"segments": {}}, {"targets": []}])
def test_a_budget_for_what_has_no_rounds(changes: dict[str, object]) -> None:
    raw = {"method": "grpo", "segments": {"1": {"prev": "base", "rounds": 2}}, "targets": {}}
    with pytest.raises(ConfigError):
        plan(raw, {"x": changes}, [0], Budget("rounds", 5), "code")


def test_segments_have_an_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 1,000"):
        set_segments(99_999_999, root=tmp_path)
