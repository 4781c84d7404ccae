"""The gate's promise and its deeds, per round, from `hapo_core.consistency`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hapo_core.consistency import GroupColumns, check_rounds, retired_from
from pipeline.config import ConstantThreshold, Params

Values = list[float | None]


@dataclass(frozen=True)
class Prediction:
    """Injection rates over groups with a usable trace, one entry per round of the run.

    None in rounds without a prediction: the first one (nothing came before it), supervised ones,
    and all rounds of methods whose teacher does not depend on the gate.
    """

    rate: Values
    band: tuple[tuple[float, float] | None, ...]
    implied: Values
    """What the counts of the round itself imply; differs from `measured` only for `thompson`."""
    measured: Values
    retired_from: int | None
    """First round from which on no group could have been injected any more."""

    @property
    def made(self) -> bool:
        """Whether there is any prediction."""
        return any(v is not None for v in self.rate)

    @property
    def contradicted(self) -> list[int]:
        """Positions of the rounds whose deeds differ from what their counts imply."""
        pairs = enumerate(zip(self.implied, self.measured, strict=True))
        return [i for i, (a, b) in pairs if a is not None and b is not None and abs(a - b) > 1e-9]


def predict_injection(
    params: Params, rounds: pd.DataFrame, groups: pd.DataFrame | None
) -> Prediction:
    """Predicted against measured, for the method whose teacher obeys the gate (`hapo`)."""
    numbers = [int(r) for r in rounds["round"]]
    if params.method != "hapo" or groups is None or groups.empty:
        empty: Values = [None] * len(numbers)
        return Prediction(empty, (None,) * len(numbers), empty, empty, None)
    gate, columns = params.gate, group_columns(groups)
    quantile = 0.5 if gate.quantile is None else gate.quantile
    checks = {
        check.round: check
        for check in check_rounds(
            columns,
            statistic=gate.statistic,
            quantile=quantile,
            base_prior=(gate.prior_successes, gate.prior_failures),
        )
    }
    found = [checks.get(number) for number in numbers]
    predicted = [None if check is None else check.predicted for check in found]
    return Prediction(
        rate=[None if p is None else p.rate for p in predicted],
        band=tuple(None if p is None else (p.low, p.high) for p in predicted),
        implied=[None if check is None else check.implied for check in found],
        measured=[None if check is None else check.measured for check in found],
        retired_from=retired_from(columns, gate.statistic, quantile),
    )


def group_columns(groups: pd.DataFrame) -> GroupColumns:
    """The columns of the GROUPS table as arrays."""
    return GroupColumns(
        round=groups["round"].to_numpy(dtype="int64"),
        successes=groups["successes"].to_numpy(dtype="int64"),
        known=groups["known"].to_numpy(dtype="int64"),
        prior_a=groups["prior_a"].to_numpy(dtype="float64", na_value=float("nan")),
        prior_b=groups["prior_b"].to_numpy(dtype="float64", na_value=float("nan")),
        gamma=groups["gamma"].to_numpy(dtype="float64", na_value=float("nan")),
        decision=groups["decision"].to_numpy(dtype=object),
        has_trace=groups["has_trace"].to_numpy(dtype=bool),
    )


def cannot_vanish(params: Params) -> bool:
    """A constant threshold on the evidence of one group: injection ends only at mu = 1."""
    constant = isinstance(params.gate.threshold, ConstantThreshold)
    return params.method == "hapo" and constant and params.gate.evidence == "group"
