"""The finished runs of a comparison as a table, one line a run: what a notebook reads."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.compare.collect import Result


def runs_csv(results: Sequence[Result]) -> str:
    """Scores in percent (avg@k of each benchmark; before the first round `NAME_base`, or with the
    cold start's name), the teacher's part and the cost of every finished run."""
    rows = [_row(run) for run in results]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    sink = io.StringIO()
    writer = csv.DictWriter(sink, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def _row(run: Result) -> dict[str, object]:
    scores = {
        name if target == "final" else f"{name}_{target}": _percent(list(means.values()))
        for (target, name), means in run.scores.items()
    }
    return {
        "setting": run.label,
        "seed": run.seed,
        **scores,
        **_of_rounds(run.rounds),
        "seconds": "" if run.wall_s is None else round(run.wall_s),
        "experiment": run.experiment,
    }


def _percent(means: Sequence[float]) -> float:
    return round(100 * float(np.mean(means)), 3)


def _of_rounds(rounds: pd.DataFrame) -> dict[str, object]:
    """`injected`, `dead`: groups in percent; `last_injection`, `alarm`: rounds, empty for none."""
    injected = rounds[rounds.injected_groups > 0]["round"]
    spoke = rounds[rounds["alarm"] > 0]["round"] if "alarm" in rounds else injected[:0]
    prompts = max(1, int(rounds.prompts.sum()))
    return {
        "rounds": len(rounds),
        "injected": round(100 * float(rounds.injected_groups.sum()) / prompts, 2),
        "last_injection": int(injected.max()) if len(injected) else "",
        "alarm": int(spoke.min()) if len(spoke) else "",
        "dead": round(100 * float(rounds.dead_groups.sum()) / prompts, 2),
        "generated": int(rounds.generated_tokens.sum()),
        "trained": int(rounds.trained_tokens.sum()),
    }
