"""The gate's promise and its deeds, per round, from `hapo_core.theory.injection_probability`."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from hapo_core.methods.entry import Teaching
from hapo_core.theory.injection_probability import check_rounds, retired_from
from pipeline.artifacts.columns import group_columns
from pipeline.build.gate import as_spec
from pipeline.config import ConstantThreshold, Params
from pipeline.show.series import Values


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
    """Predicted against measured, for a method whose teacher obeys the gate."""
    numbers = [int(r) for r in rounds["round"]]
    if params.entry.teaching is not Teaching.GATED or groups is None or groups.empty:
        empty: Values = [None] * len(numbers)
        return Prediction(empty, (None,) * len(numbers), empty, empty, None)
    gate, columns = as_spec(params.gate), group_columns(groups)
    checks = {check.round: check for check in check_rounds(columns, gate)}
    found = [checks.get(number) for number in numbers]
    predicted = [None if check is None else check.predicted for check in found]
    return Prediction(
        rate=[None if p is None else p.rate for p in predicted],
        band=tuple(None if p is None else (p.low, p.high) for p in predicted),
        implied=[None if check is None else check.implied for check in found],
        measured=[None if check is None else check.measured for check in found],
        retired_from=retired_from(columns, gate),
    )


def cannot_vanish(params: Params) -> bool:
    """A constant threshold on the evidence of one group: injection ends only at mu = 1."""
    constant = isinstance(params.gate.threshold, ConstantThreshold)
    gated = params.entry.teaching is Teaching.GATED
    return gated and constant and params.gate.evidence == "group"
