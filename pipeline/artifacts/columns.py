"""Columns of the groups' tables as arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from hapo_core.theory.injection_probability import GroupColumns


def group_columns(groups: pd.DataFrame) -> GroupColumns:
    """The columns of the GROUPS table as arrays. A trace that is refused counts as none."""
    return GroupColumns(
        round=groups["round"].to_numpy(dtype="int64"),
        successes=groups["successes"].to_numpy(dtype="int64"),
        known=groups["known"].to_numpy(dtype="int64"),
        prior_a=groups["prior_a"].to_numpy(dtype="float64", na_value=float("nan")),
        prior_b=groups["prior_b"].to_numpy(dtype="float64", na_value=float("nan")),
        gamma=groups["gamma"].to_numpy(dtype="float64", na_value=float("nan")),
        decision=groups["decision"].to_numpy(dtype=object),
        has_trace=groups["has_trace"].to_numpy(dtype=bool) & ~refused(groups),
    )


def refused(groups: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Groups whose trace is too surprising to enter, whatever the gate says."""
    if "refused" not in groups:
        return np.zeros(len(groups), dtype=bool)
    found: npt.NDArray[np.bool_] = groups["refused"].to_numpy(dtype=bool)
    return found
