"""The verifier of the configuration."""

from __future__ import annotations

from hapo_core.verifier_settings import VerifierSettings
from pipeline import config as c
from pipeline.config.section import core_of


def verifier_settings(r: c.Rewards) -> VerifierSettings:
    """The verifier of traces, rollouts and benchmarks."""
    return core_of(VerifierSettings, r, kind=r.verifier)
