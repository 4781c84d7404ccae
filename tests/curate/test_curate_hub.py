"""Datasets of the hub, from a server of our own: streamed, pinned, and what cannot be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest

_READ = """
import sys
from hapo_core.errors import HapoError
from pipeline.config import TableSource
from pipeline.curate.sources.table import open_table
name, revision, split = sys.argv[1:4]
try:
    source = TableSource(kind="table", adapter="gsm8k", hub=name, revision=revision or None,
                         split=split)
    opened = open_table("x", source)
    print(opened.facts["revision"], [r.parts.answer for r in opened.records])
except HapoError as error:
    print(type(error).__name__, error.what, "|", error.remedy)
"""


def read_hub(tmp_path: Path, endpoint: str, *arguments: str, offline: str = "0") -> str:
    env = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": offline,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", _READ, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_hub_datasets_are_streamed_at_a_recorded_commit(tmp_path: Path) -> None:
    with hub_server.serve() as url:
        found = read_hub(tmp_path, url, hub_server.NAME, "", "train")
        assert found == f"{hub_server.COMMIT} ['1', '2', '3', '4', '5']"


@pytest.mark.parametrize(
    ("name", "revision", "split", "expected"),
    [
        (hub_server.NAME, "v9", "train", "DataError the dataset has no revision 'v9'"),
        (hub_server.NAME, "", "tset", "DataError the dataset has no such config or split"),
        ("no/such", "", "train", "DataError there is no such dataset"),
        (hub_server.GATED, "", "train", "DataError the dataset is gated"),
    ],
)
def test_hub_mistakes_are_named(
    tmp_path: Path, name: str, revision: str, split: str, expected: str
) -> None:
    with hub_server.serve() as url:
        assert read_hub(tmp_path, url, name, revision, split).startswith(expected)


def test_no_network_and_offline_mode(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    found = read_hub(tmp_path, nowhere, hub_server.NAME, "", "train")
    assert found.startswith("HapoError the hub cannot be reached") and "`path`" in found
    found = read_hub(tmp_path, nowhere, hub_server.NAME, "", "train", offline="1")
    assert found.startswith("HapoError") and "offline mode" in found
