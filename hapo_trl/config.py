"""Settings of HAPO on top of TRL's `GRPOConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import GRPOConfig

from hapo_core.advantage import AdvantageKind
from hapo_core.errors import ConfigError
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
from hapo_core.objective import Aggregation, Objective, TeacherShape, TeacherWeight

AGGREGATIONS = {
    "dapo": Aggregation.TOKEN_MEAN,
    "grpo": Aggregation.SEQ_MEAN,
    "dr_grpo": Aggregation.CONSTANT,
}
"""TRL's loss types whose normaliser is fixed before a batch is split, and ours."""
ADVANTAGES = {"group": AdvantageKind.STD, "none": AdvantageKind.MEAN_ONLY}


def _option(default: Any, about: str) -> Any:
    return field(default=default, metadata={"help": about})


@dataclass
class HAPOConfig(GRPOConfig):
    """`GRPOConfig` and the gate, SSI and teacher loss of HAPO (METHOD 3 and 4). Everything that is
    not named here keeps TRL's meaning and default.

    Raises:
        ConfigError: a threshold that is always or never reached, or a setting of TRL under which
            the teacher's row would not be exact.
    """

    hapo_threshold: str = _option("adaptive", "constant, linear, cosine, sigmoid, step, adaptive")
    hapo_gamma: float = _option(0.5, "the threshold, or where a schedule or `adaptive` starts")
    hapo_gamma_end: float = _option(0.1, "where a schedule ends")
    hapo_horizon: int = _option(100, "generation rounds until hapo_gamma_end")
    hapo_step_at: float = _option(0.5, "`step`: share of the horizon at which gamma jumps")
    hapo_kappa: float = _option(1.0, "`adaptive`: exponent of 1 - m_t")
    hapo_smoothing: float = _option(0.9, "`adaptive`: weight of the past in m_t")
    hapo_evidence: str = _option("group", "group, or prompt (a posterior that lives across rounds)")
    hapo_statistic: str = _option("mean", "mean, thompson, quantile")
    hapo_quantile: float = _option(0.5, "`quantile`: which")
    hapo_forgetting: float = _option(1.0, "delta of the prompt posterior")
    hapo_prior_successes: float = _option(1.0, "a0 of the Beta prior")
    hapo_prior_failures: float = _option(1.0, "b0 of the Beta prior")
    hapo_allow_unreachable: bool = _option(False, "accept a gate that is always or never open")
    hapo_teacher_shape: str = _option("ratio", "f(p) of a teacher token: ratio, log, prob")
    hapo_teacher_weight: str = _option("advantage", "times advantage, none, confidence")
    hapo_shaping_lambda: float = _option(0.1, "lambda of `ratio`")
    hapo_success: float = _option(0.5, "a rollout counts as a success above this total reward")
    hapo_teacher_reward: float = _option(1.0, "total reward of the trace")
    hapo_trace_column: str = _option("trace", "column of traces: a completion's text, or None")
    hapo_id_column: str = _option("prompt_id", "column of prompt ids; without it the prompt is it")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_type not in AGGREGATIONS:
            raise ConfigError(
                f"loss_type {self.loss_type!r} has no exact place for a teacher row",
                where="HAPOConfig.loss_type",
                remedy="one of " + ", ".join(AGGREGATIONS),
            )
        if self.scale_rewards not in ADVANTAGES:
            raise ConfigError(
                f"scale_rewards {self.scale_rewards!r}: the advantages of an injected group are "
                "those of its own rewards",
                where="HAPOConfig.scale_rewards",
                remedy="one of " + ", ".join(ADVANTAGES),
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ConfigError(
                "an injected group needs one total reward per rollout",
                where="HAPOConfig.multi_objective_aggregation",
                remedy="sum_then_normalize",
            )
        spec = self.gate_spec
        if not self.hapo_allow_unreachable:
            check_reachable(spec, self.num_generations)

    @property
    def gate_spec(self) -> GateSpec:
        """Evidence, statistic, prior and threshold as `hapo_core.gate` takes them."""
        return GateSpec(
            threshold=self._threshold(),
            evidence=Evidence(self.hapo_evidence),
            statistic=Statistic(self.hapo_statistic),
            quantile=self.hapo_quantile,
            prior_a=self.hapo_prior_successes,
            prior_b=self.hapo_prior_failures,
            forgetting=self.hapo_forgetting,
        )

    def _threshold(self) -> Threshold:
        match self.hapo_threshold:
            case "constant":
                return ConstantThreshold(self.hapo_gamma)
            case "adaptive":
                return AdaptiveThreshold(self.hapo_gamma, self.hapo_kappa, self.hapo_smoothing)
            case shape if shape in list(Shape):
                return ScheduledThreshold(
                    Shape(shape),
                    self.hapo_gamma,
                    self.hapo_gamma_end,
                    self.hapo_horizon,
                    self.hapo_step_at,
                )
        raise ConfigError(
            f"no threshold {self.hapo_threshold!r}",
            where="HAPOConfig.hapo_threshold",
            remedy="constant, adaptive, " + ", ".join(Shape),
        )

    @property
    def objective(self) -> Objective:
        """What the teacher's row needs of the objective; the other rows are TRL's."""
        return Objective(
            advantage=ADVANTAGES[str(self.scale_rewards)],
            aggregation=AGGREGATIONS[self.loss_type],
            teacher_shape=TeacherShape(self.hapo_teacher_shape),
            teacher_weight=TeacherWeight(self.hapo_teacher_weight),
            shaping_lambda=self.hapo_shaping_lambda,
            temperature=self.temperature,
        )
