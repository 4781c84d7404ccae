"""Columns of the groups' tables as arrays."""

from __future__ import annotations

import pandas as pd

from hapo_core.theory.injection_probability import GroupColumns


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
