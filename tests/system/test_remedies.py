"""Errors of the core get the project's keys and commands where people read them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from conftest import REPO

from hapo_core.errors import ConfigError, HapoError
from hapo_core.gate import ConstantThreshold, GateSpec, check_reachable
from pipeline.flows.stage import guarded
from pipeline.system.remedies import REMEDIES, in_project_words


def test_a_gate_out_of_reach_is_told_with_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        check_reachable(GateSpec(ConstantThreshold(0.05)), 8)

    assert guarded(work) == 2
    said = capsys.readouterr().err
    assert "at: gate.threshold" in said
    assert "method grpo, or gate.allow_unreachable: true" in said


def test_an_error_without_a_topic_stays_as_it_is() -> None:
    error = HapoError("full", where="disk", remedy="free some")
    assert in_project_words(error) is error


def test_the_kind_of_error_and_its_place_are_kept() -> None:
    said = in_project_words(ConfigError("no vLLM", where="env", topic="engine:environment"))
    assert isinstance(said, ConfigError)
    assert said.where == "env" and "hapo engine install" in str(said)


def test_topics_and_remedies_are_the_same_set() -> None:
    topics: set[str] = set()
    for path in sorted(Path(REPO / "hapo_core").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        topics |= {t for t in texts if isinstance(t, str) and re.fullmatch(r"[a-z]+:[a-z_]+", t)}
    assert topics == set(REMEDIES)
