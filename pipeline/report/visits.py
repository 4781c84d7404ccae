"""Visits of prompts: did help help, and which prompts were solved or lost."""

from __future__ import annotations

import pandas as pd

from hapo_core.stats.graduation import BINS, Graduation
from hapo_core.stats.help_effect import HelpEffect
from hapo_core.stats.visits import Visit
from pipeline.show.table import Table
from pipeline.show.text import percent, points


def visits_of(groups: pd.DataFrame | None) -> list[Visit]:
    """The rows of the GROUPS table as visits."""
    if groups is None:
        return []
    columns = ("prompt_id", "round", "successes", "known", "decision")
    rows = zip(*(groups[name].tolist() for name in columns), strict=True)
    return [Visit(str(p), int(r), int(s), int(k), str(d)) for p, r, s, k, d in rows]


def graduation_table(found: Graduation | None) -> Table | None:
    """First visit by last visit; None where no prompt was seen twice."""
    if found is None:
        return None
    headers = ("first visit: right", "prompts", *(f"last: {name}" for name in BINS), "helped")
    rows = tuple(
        (name, str(sum(counts)), *map(str, counts), str(helped))
        for name, counts, helped in zip(BINS, found.counts, found.helped, strict=True)
    )
    note = f"Prompts that were visited twice or more: {found.prompts:,}. From none right to more "
    note += (
        f"than half: {found.solved:,}; from more than half to none: {found.lost:,}. Helped: the "
    )
    note += "teacher came into one of the prompt's groups."
    return Table(headers, rows, note=note)


def help_words(found: HelpEffect) -> str:
    """The effect of help in a line."""
    rates = f"{percent(found.rates[0], 1)} after help ({found.injected} visits), "
    rates += f"{percent(found.rates[1], 1)} held out ({found.held_out})"
    if found.ci is None:
        return f"{rates}: too few to say"
    return f"{points(found.effect, *found.ci)} points: {rates}"
