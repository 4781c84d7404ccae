"""A training stage whose trainer is not its sampler stops in round 1 and says what to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_segment import here, start, trained  # noqa: F401  (fixtures)

import pipeline.train.segment
from hapo_core.errors import HapoError
from pipeline.system.remedies import in_project_words


def test_a_planted_fault_stops_the_first_round(
    here: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true = pipeline.train.segment.objective
    wrong = lambda params: replace(true(params), temperature=0.8)  # noqa: E731
    monkeypatch.setattr(pipeline.train.segment, "objective", wrong)
    with pytest.raises(HapoError, match="sampler and trainer disagree") as found:
        trained("grpo")
    said = in_project_words(found.value)
    assert said.where == "update.mismatch_limit"
    assert "temperature" in str(said.remedy) and "docs/methods.md" in str(said.remedy)
    assert not list(here.glob(".hapo/scratch/*/rounds/*.parquet"))
    rounds, _, _ = trained("grpo", update={"learning_rate": 0.001, "mismatch_limit": "off"})
    assert rounds.mismatch_mean.max() > 1e-2
