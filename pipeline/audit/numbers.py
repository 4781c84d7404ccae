"""`hapo audit`: has the teacher left? Numbers for any finished or running run (docs/audit.md).

Collects what `hapo_core.theory.outlook` and `hapo_core.theory.gradient_gap` compute;
`pipeline.audit.words` says it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hapo_core.alarm import Spoken
from hapo_core.gate import ConstantThreshold, Evidence, GateSpec, GateState
from hapo_core.methods.entry import Teaching
from hapo_core.theory.injection_probability import (
    GroupColumns,
    RoundCheck,
    check_rounds,
    injection_probability,
    retired_from,
)
from hapo_core.theory.outlook import (
    Future,
    Outlook,
    Residual,
    closing_gamma,
    observed_rounds,
    outlook,
    replaying_gate,
    residual,
)
from hapo_core.theory.population import fit_population
from pipeline.artifacts.columns import group_columns
from pipeline.artifacts.places import DATA
from pipeline.audit.policy import audited, shown_traces
from pipeline.audit.read import RunTables, injected_of, open_run, stored_groups
from pipeline.build import method as wiring
from pipeline.build.gate import gate_spec
from pipeline.build.objective import objective
from pipeline.config import Params
from pipeline.train.checkpoint import read_gate_state
from pipeline.train.trainset import load_trainset

if TYPE_CHECKING:
    from hapo_core.groups import PlannedGroup
    from hapo_core.objective import TrainRow
    from hapo_core.theory.gradient_gap import GradientGap
    from pipeline.train.shown import ShownTraces

WINDOW = 5
"""Last sampled rounds that stand for the final policy."""
RATES = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Success probabilities at which the gate's exact probability is shown."""


@dataclass(frozen=True)
class AuditRound:
    """One round that sampled. Rates are over groups with a usable trace, None without any."""

    round: int
    success_rate: float | None
    gamma: float | None
    measured: float | None
    implied: float | None
    """What the counts imply under the gate's rule; equals `measured` but for Thompson draws."""
    exact: float | None
    """The gate's exact probability for the success rates of this very round (Beta fit)."""
    low: float | None
    high: float | None
    predicted: float | None
    """The same for the success rates of the five rounds before."""


@dataclass(frozen=True)
class GradientRound:
    """A past round's groups under the newest policy, with the teacher and without."""

    round: int
    groups: int
    injected: int
    replayed: bool
    """The decisions that the stored groups give again are the stored decisions."""
    gap: GradientGap


@dataclass(frozen=True)
class Audit:
    """All numbers of an audit. What depends on a rule of injection is None for methods whose
    teacher enters no group of rollouts."""

    method: str
    rounds_done: int
    running: str | None
    rounds: tuple[AuditRound, ...]
    residual: Residual | None
    by_rate: tuple[tuple[float, float], ...]
    outlook: Outlook | None
    retired_from: int | None
    gradients: tuple[GradientRound, ...]
    trace_share: float | None
    """Share of the visited groups of the last rounds whose prompt has a usable trace."""
    last_outside: int | None
    """Last round that trained traces outside of groups (supervised rounds, chord, relift)."""
    contradicted: tuple[int, ...]
    """Rounds whose deeds differ from what their counts imply."""
    alarm: Spoken | None = None
    """What `gate.stop_loss` said, if it did."""
    differs: tuple[str, ...] = ()
    """How params.yaml differs now from what the run was made with."""


# --- collecting ---------------------------------------------------------------------------------


def audit_run(params: Params, root: Path, groups: int, differs: tuple[str, ...] = ()) -> Audit:
    """Audit the run below `root`.

    Args:
        params: what it was made with (`pipeline.dependencies.made`).
        differs: how params.yaml differs now, in sentences.
        groups: about how many groups the gradients are compared on; 0 leaves gradients out.

    Raises:
        DataError: there is no finished round, an artifact is damaged, or another run's.
    """
    with open_run(params, root) as tables:
        spec = group_rule(params)
        columns = group_columns(tables.groups)
        rounds: tuple[AuditRound, ...] = ()
        found = None
        if spec is not None and len(tables.groups):
            columns = _ruled(spec, params, columns)
            rounds = _rounds(spec, columns, tables)
            found = _gate_part(spec, params, columns, tables)
        outside = tables.rounds[
            (tables.rounds["phase"] == "sft") | (tables.rounds["extra_rows"].fillna(0) > 0)
        ]
        return Audit(
            differs=differs,
            alarm=_alarm(tables),
            method=params.method,
            rounds_done=int(tables.rounds["round"].max()),
            running=tables.running,
            rounds=rounds,
            residual=found[0] if found else None,
            by_rate=found[1] if found else (),
            outlook=found[2] if found else None,
            retired_from=found[3] if found else None,
            trace_share=found[4] if found else None,
            gradients=_gradients(params, root, tables, groups) if groups else (),
            last_outside=int(outside["round"].max()) if len(outside) else None,
            contradicted=tuple(
                r.round
                for r in rounds
                if spec is not None
                and spec.statistic != "thompson"
                and params.entry.exact
                and abs((r.implied or 0.0) - (r.measured or 0.0)) > 1e-9
            ),
        )


def group_rule(params: Params) -> GateSpec | None:
    """The gate that a method's teacher obeys in groups: the configured one, or the cut-off on S
    that its rule is (docs/consistency.md, 3); None where the teacher enters no group."""
    return params.entry.group_rule(
        gate_spec(params), params.method_options, params.rollout.group_size
    )


def _ruled(spec: GateSpec, params: Params, columns: GroupColumns) -> GroupColumns:
    """The columns with the thresholds and priors that count: a gate's as stored, a rule's own."""
    if params.entry.teaching is Teaching.GATED or not isinstance(spec.threshold, ConstantThreshold):
        return columns
    read = ~np.isnan(columns.gamma)
    return replace(
        columns,
        gamma=np.where(read, spec.threshold.gamma, np.nan),
        prior_a=np.where(read, spec.prior_a, np.nan),
        prior_b=np.where(read, spec.prior_b, np.nan),
    )


def _rounds(spec: GateSpec, columns: GroupColumns, tables: RunTables) -> tuple[AuditRound, ...]:
    checks = {c.round: c for c in check_rounds(columns, spec, WINDOW)}
    exact = {o.round: o.exact for o in observed_rounds(columns, spec)}
    rows = tables.rounds[tables.rounds["rollouts"] > 0]
    return tuple(
        _round(int(number), rate, columns, checks.get(int(number)), exact)
        for number, rate in zip(rows["round"], rows["success_rate"], strict=True)
    )


def _round(
    number: int,
    rate: float | None,
    columns: GroupColumns,
    check: RoundCheck | None,
    exact: Any,
) -> AuditRound:
    gammas = columns.gamma[columns.round == number]
    seen = exact.get(number)
    return AuditRound(
        round=number,
        success_rate=None if rate is None or np.isnan(rate) else float(rate),
        gamma=float(gammas[0]) if gammas.size else None,
        measured=check.measured if check else None,
        implied=check.implied if check else None,
        exact=seen.rate if seen else None,
        low=seen.low if seen else None,
        high=seen.high if seen else None,
        predicted=check.predicted.rate if check and check.predicted else None,
    )


GatePart = tuple[
    Residual | None, tuple[tuple[float, float], ...], Outlook, int | None, float | None
]


def _gate_part(
    spec: GateSpec, params: Params, columns: GroupColumns, tables: RunTables
) -> GatePart | None:
    n, sampled = params.rollout.group_size, np.unique(columns.round)
    late = np.isin(columns.round, sampled[-WINDOW:]) & (columns.known > 0)
    if not late.any():
        return None
    shut = (spoken := _alarm(tables)) is not None and spoken.shuts
    gamma = 0.0 if shut else float(columns.gamma[columns.round == sampled[-1]][0])
    population = fit_population(columns.successes[late], columns.known[late])
    left = residual(population, n, gamma, spec, _evidence(spec, tables))
    curve = injection_probability(RATES, n, gamma, spec)
    has_trace = columns.has_trace
    return (
        left,
        tuple(zip(RATES, (float(p) for p in curve), strict=True)),
        Outlook(Future.CLOSED, closing_gamma(spec, n)) if shut else outlook(spec, n, gamma),
        retired_from(columns, spec),
        float(has_trace[late].mean()) if has_trace is not None else None,
    )


def _alarm(tables: RunTables) -> Spoken | None:
    """What the alarm said up to the newest checkpoint."""
    if not (tables.policy / "state" / "counters.json").is_file():
        return None
    state, _ = read_gate_state(tables.policy)
    return state.alarm.spoken if state.alarm else None


def _evidence(spec: GateSpec, tables: RunTables) -> tuple[Any, Any]:
    """Evidence before the next visit of each prompt: the prior, or what the checkpoint holds."""
    if spec.evidence is Evidence.GROUP:
        return spec.prior_a, spec.prior_b
    state, _ = read_gate_state(tables.policy)
    known = [state.posteriors[i] for i in sorted(state.posteriors)]
    if not known:
        return spec.prior_a, spec.prior_b
    d = spec.forgetting
    return (
        np.array([spec.prior_a + d * (p.a - spec.prior_a) for p in known]),
        np.array([spec.prior_b + d * (p.b - spec.prior_b) for p in known]),
    )


# --- gradients ----------------------------------------------------------------------------------


def _gradients(
    params: Params, root: Path, tables: RunTables, wanted: int
) -> tuple[GradientRound, ...]:
    """The last rounds that sampled, until there are `wanted` groups; at least one round."""
    from pipeline.train.sampling import demonstrations

    sampled = tables.rounds.loc[tables.rounds["rollouts"] > 0, "round"]
    numbers = [int(n) for n in sampled if int(n) in tables.rollouts][::-1]
    if not numbers:
        return ()
    data = load_trainset(root / DATA, params.set_aside)
    known = demonstrations(data, params.rollout.max_tokens)
    updater = audited(params, root, tables)
    shown = shown_traces(params, root, data)
    found: list[GradientRound] = []
    for number in numbers:
        if sum(f.groups for f in found) >= wanted:
            break
        found.append(_gradient_round(params, tables, number, updater, data, known, shown))
    return tuple(found[::-1])


def _gradient_round(
    params: Params,
    tables: RunTables,
    number: int,
    updater: Any,
    data: Any,
    known: Any,
    shown: ShownTraces | None,
) -> GradientRound:
    from hapo_core.theory.gradient_gap import gradient_gap, without_teacher

    what, budget = objective(params), params.rollout.max_tokens
    groups = stored_groups(tables, number, data, budget, params.seed)
    plans: list[list[PlannedGroup]] = []
    beside: tuple[TrainRow, ...] = ()
    for taught in (True, False):
        method = wiring.method(params, GateState(), known, data.prompt_ids)
        method.gate = _gate_of(params, tables, number)
        given = groups if taught else [without_teacher(g) for g in groups]
        planned = method.plan(given, number - 1)
        plans.append(shown.scored(planned, updater, what) if shown else planned)
        if taught:
            beside = method.take_extras(number - 1).beside
    stored = injected_of(tables, number)
    again = {p.group.prompt.prompt_id: p.decision.value == "injected" for p in plans[0]}
    return GradientRound(
        round=number,
        groups=len(groups),
        injected=sum(again.values()),
        replayed=again == stored,
        gap=gradient_gap(updater, plans[0], plans[1], what, budget, beside),
    )


def _gate_of(params: Params, tables: RunTables, number: int) -> Any:
    rows = tables.groups[(tables.groups["round"] == number) & tables.groups["gamma"].notna()]
    before = {
        str(i): (float(a), float(b))
        for i, a, b in zip(rows["prompt_id"], rows["prior_a"], rows["prior_b"], strict=True)
    }
    spec = gate_spec(params)
    return replaying_gate(spec, params.seed, float(rows["gamma"].iloc[0]), before)
