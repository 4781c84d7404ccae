"""One row per setting, from its seeds: scores with intervals, tests, costs, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from hapo_core.stats.benchmark import PairedResult, align, mean_interval, paired_test
from hapo_core.stats.pooling import pooled_scores
from hapo_core.stats.seeds import SeedTest, holm, seed_interval, seed_test
from pipeline.compare.collect import Result

ENDS = 10
"""Sampled rounds at either end of a run over which the teacher's share is averaged."""
DRAWS = 10_000


@dataclass(frozen=True)
class Curve:
    """Means over seeds at the rounds that all of them have, None where no seed has a value."""

    rounds: tuple[int, ...]
    generated: tuple[float, ...]
    trained: tuple[float, ...]
    probe: tuple[float | None, ...]
    injected: tuple[float | None, ...]
    dead: tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """A setting, or the starting policy (`label` base). Means over seeds; shares in [0, 1].

    `per_seed`: avg@k by seed; `ci`: 95 % over problems, seeds pooled (`hapo_core.stats.pooling`),
    which speaks of these runs; `seed_ci`: 95 % over runs, which speaks of the setting, None below
    three seeds. `against`: this setting minus the reference, problem by problem, on the seeds both
    have; `by_seed`: the same with the run as the unit, `corrected` its p after Holm over all
    settings that are compared with that reference.
    """

    label: str
    per_seed: dict[int, float]
    avg: float
    ci: tuple[float, float]
    against: dict[str, PairedResult]
    seed_ci: tuple[float, float] | None = None
    by_seed: dict[str, SeedTest] = field(default_factory=dict)
    corrected: dict[str, float] = field(default_factory=dict)
    rounds: float | None = None
    injected: tuple[float, float] | None = None
    """Share of groups that the teacher entered, first and last rounds."""
    outside: tuple[float, float] | None = None
    """Traces trained outside of the groups (CHORD, ReLIFT), a round, first and last rounds."""
    balance: tuple[float, float] | None = None
    """Gradient weight of teacher tokens over that of on-policy ones, first and last rounds."""
    dead: float | None = None
    generated: float | None = None
    trained: float | None = None
    wall_s: float | None = None
    curve: Curve | None = None


def rows_of(results: Sequence[Result], benchmark: str, references: Sequence[str]) -> list[Row]:
    """The starting policy, then every setting in the order of the results."""
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result.label, []).append(result)
    seeds = {r.seed: r for r in results}  # the base of a seed is the same in all its cells
    start = results[0].start
    base = _scored(start, list(seeds.values()), start, benchmark, {})
    known = {label: by_label[label] for label in references if label in by_label}
    rows = [base]
    for label, found in by_label.items():
        others = {name: part for name, part in known.items() if name != label}
        row = _scored(label, found, "final", benchmark, others)
        rows.append(_with_costs(row, found))
    return _corrected(rows)


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """Holm's correction of every column of seed tests, over the settings; the base is none."""
    found: dict[str, dict[str, float]] = {}
    for row in rows[1:]:
        for name, test in row.by_seed.items():
            if test.p is not None:
                found.setdefault(name, {})[row.label] = test.p
    columns = {name: holm(p) for name, p in found.items()}
    return [
        replace(row, corrected={n: p[row.label] for n, p in columns.items() if row.label in p})
        for row in rows
    ]


def _scored(
    label: str,
    results: Sequence[Result],
    target: str,
    benchmark: str,
    references: Mapping[str, Sequence[Result]],
) -> Row:
    key = (target, benchmark)
    values = np.array(list(_pool(results, key).values()))
    low, high = mean_interval(values)
    against = {}
    for name, others in references.items():
        both = {r.seed for r in results} & {r.seed for r in others}
        if both:
            ours, theirs = (
                _pool([r for r in part if r.seed in both], ("final", benchmark))
                for part in (results, others)
            )
            against[name] = paired_test(*align(theirs, ours), 0.95, DRAWS, 0, f"{label}/{name}")
    per_seed = _per_seed(results, key)
    by_seed = {
        name: test
        for name, others in references.items()
        if (test := seed_test(per_seed, _per_seed(others, ("final", benchmark)))) is not None
    }
    return Row(
        label=label,
        per_seed=per_seed,
        avg=float(values.mean()),
        ci=(low, high),
        against=against,
        seed_ci=seed_interval(list(per_seed.values())),
        by_seed=by_seed,
    )


def _per_seed(results: Sequence[Result], key: tuple[str, str]) -> dict[int, float]:
    return {r.seed: float(np.mean(list(r.scores[key].values()))) for r in results}


def _pool(results: Sequence[Result], key: tuple[str, str]) -> dict[str, float]:
    return pooled_scores(
        {r.seed: r.scores[key] for r in results}, {r.seed: r.problems[key] for r in results}
    )


def _with_costs(row: Row, results: Sequence[Result]) -> Row:
    frames = [r.rounds for r in results]
    sampled = [f[f["rollouts"] > 0] for f in frames]
    drawn = [f for f in sampled if len(f)]
    walls = [r.wall_s for r in results]
    return replace(
        row,
        rounds=_mean([float(len(f)) for f in frames]),
        injected=_ends([f["injected_groups"] / f["prompts"] for f in drawn]),
        outside=_ends([f["extra_rows"].fillna(0) for f in drawn]),
        balance=_ends([f["teacher_balance"].dropna() for f in drawn]),
        dead=_mean([float((f["dead_groups"] / f["prompts"]).mean()) for f in drawn]),
        generated=_mean([float(f["generated_tokens"].sum()) for f in frames]),
        trained=_mean([float(f["trained_tokens"].sum()) for f in frames]),
        wall_s=None if None in walls else _mean([w for w in walls if w is not None]),
        curve=_curve(frames),
    )


def _curve(frames: Sequence[pd.DataFrame]) -> Curve:
    shared = min(len(f) for f in frames)
    parts = [f.iloc[:shared] for f in frames]

    def means(column: str, over: str | None = None, running: bool = False) -> list[float | None]:
        table = []
        for f in parts:
            values = f[column].to_numpy(dtype=float, na_value=np.nan)
            if over is not None:  # a share of groups; nothing in rounds without rollouts
                values = np.where(f["rollouts"] > 0, values / f[over].to_numpy(), np.nan)
            table.append(np.cumsum(values) if running else values)
        return [_mean([v for v in column if not np.isnan(v)]) for column in np.stack(table).T]

    return Curve(
        rounds=tuple(int(r) for r in parts[0]["round"]),
        generated=tuple(v or 0.0 for v in means("generated_tokens", running=True)),
        trained=tuple(v or 0.0 for v in means("trained_tokens", running=True)),
        probe=tuple(means("probe_avg")),
        injected=tuple(means("injected_groups", "prompts")),
        dead=tuple(means("dead_groups", "prompts")),
    )


def _ends(runs: Sequence[pd.Series[Any]]) -> tuple[float, float] | None:
    """Means over the first and over the last rounds of the runs that have values."""
    known = [run.to_numpy(dtype=float) for run in runs if len(run)]
    first = _mean([float(run[:ENDS].mean()) for run in known])
    last = _mean([float(run[-ENDS:].mean()) for run in known])
    return None if first is None or last is None else (first, last)


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def row_json(row: Row) -> dict[str, Any]:
    """A row for programs."""
    plain = {k: v for k, v in vars(row).items() if k not in ("against", "by_seed", "curve")}
    plain["by_seed"] = {name: asdict(test) for name, test in row.by_seed.items()}
    plain["against"] = {name: result.to_dict() for name, result in row.against.items()}
    plain["curve"] = None if row.curve is None else vars(row.curve)
    plain["per_seed"] = {str(seed): value for seed, value in row.per_seed.items()}
    return plain
