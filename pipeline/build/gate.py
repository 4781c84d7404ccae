"""The gate of the configuration."""

from __future__ import annotations

import math

from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    GateSpec,
    ScheduledThreshold,
    Shape,
    Statistic,
    Threshold,
    check_reachable,
)
from hapo_core.methods.entry import Teaching
from pipeline import config as c


def gate_spec(params: c.Params) -> GateSpec:
    """The gate of the configuration.

    Raises:
        ConfigError: gamma is out of reach and `gate.allow_unreachable` is not set.
    """
    spec = as_spec(params.gate)
    if params.entry.teaching is Teaching.GATED and not params.gate.allow_unreachable:
        check_reachable(spec, params.rollout.group_size)
    return spec


def as_spec(gate: c.Gate) -> GateSpec:
    """The section as the core's gate, whatever it can reach."""
    return GateSpec(
        threshold=_threshold(gate.threshold),
        evidence=Evidence(gate.evidence),
        statistic=Statistic(gate.statistic),
        quantile=0.5 if gate.quantile is None else gate.quantile,
        prior_a=gate.prior_successes,
        prior_b=gate.prior_failures,
        forgetting=gate.forgetting,
        correlation=gate.correlation,
        holdout=gate.holdout,
        max_surprise=math.inf if gate.max_surprise is None else gate.max_surprise,
    )


def _threshold(t: c.ConstantThreshold | c.ScheduledThreshold | c.AdaptiveThreshold) -> Threshold:
    match t:
        case c.ConstantThreshold():
            return ConstantThreshold(t.gamma)
        case c.ScheduledThreshold():
            return ScheduledThreshold(
                Shape(t.kind), t.gamma_start, t.gamma_end, t.horizon, t.step_at
            )
        case c.AdaptiveThreshold():
            return AdaptiveThreshold(t.gamma_start, t.kappa, t.smoothing)
