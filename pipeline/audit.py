"""`hapo audit`: has the teacher left? Numbers for any finished or running run (docs/audit.md).

Collects what `hapo_core.audit` and `hapo_core.gradients` compute; `pipeline.audit_text` says it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hapo_core.audit import Outlook, Residual, observed_rounds, outlook, replaying_gate, residual
from hapo_core.consistency import (
    GroupColumns,
    RoundCheck,
    check_rounds,
    injection_probability,
    retired_from,
)
from hapo_core.gate import ConstantThreshold, Evidence, GateSpec, GateState
from hapo_core.population import fit_population
from pipeline import wiring
from pipeline.audit_read import RunTables, injected_of, open_run, stored_groups
from pipeline.checkpoint import read_gate_state
from pipeline.config import Params
from pipeline.places import DATA
from pipeline.report_injection import group_columns
from pipeline.trainset import load_trainset

if TYPE_CHECKING:
    from hapo_core.gradients import GradientGap

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


# --- collecting ---------------------------------------------------------------------------------


def audit_run(params: Params, root: Path, groups: int) -> Audit:
    """Audit the run below `root`.

    Args:
        groups: about how many groups the gradients are compared on; 0 leaves gradients out.

    Raises:
        DataError: there is no finished round, an artifact is damaged, or another run's.
    """
    with open_run(params, root) as tables:
        spec = group_rule(params)
        columns = group_columns(tables.groups)
        rounds, found = (), None
        if spec is not None and len(tables.groups):
            columns = _ruled(spec, params, columns)
            rounds = _rounds(spec, columns, tables)
            found = _gate_part(spec, params, columns, tables)
        outside = tables.rounds[
            (tables.rounds["phase"] == "sft") | (tables.rounds["extra_rows"].fillna(0) > 0)
        ]
        return Audit(
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
                and params.method != "bread"  # a search may fail
                and abs((r.implied or 0.0) - (r.measured or 0.0)) > 1e-9
            ),
        )


def group_rule(params: Params) -> GateSpec | None:
    """The gate that a method's teacher obeys in groups: HAPO's own; for the others the cut-off on S
    that they are (docs/consistency.md, 3); None where the teacher enters no group."""
    n = params.rollout.group_size
    match params.method:
        case "hapo":
            return wiring.gate_spec(params)
        case "luffy" | "srft" | "prefix_rft":
            return GateSpec(ConstantThreshold(1.0))
        case "hpt":
            return GateSpec(ConstantThreshold((params.teacher.hpt.successes + 1.5) / (n + 2)))
        case "bread":
            return GateSpec(ConstantThreshold(1.5 / (n + 2)))
        case _:
            return None


def _ruled(spec: GateSpec, params: Params, columns: GroupColumns) -> GroupColumns:
    """The columns with the thresholds and priors that count: HAPO's as stored, the others' own."""
    if params.method == "hapo" or not isinstance(spec.threshold, ConstantThreshold):
        return columns
    read = ~np.isnan(columns.gamma)
    return replace(
        columns,
        gamma=np.where(read, spec.threshold.gamma, np.nan),
        prior_a=np.where(read, spec.prior_a, np.nan),
        prior_b=np.where(read, spec.prior_b, np.nan),
    )


def _rounds(spec: GateSpec, columns: GroupColumns, tables: RunTables) -> tuple[AuditRound, ...]:
    prior = (spec.prior_a, spec.prior_b)
    checks = {
        c.round: c for c in check_rounds(columns, WINDOW, spec.statistic, spec.quantile, prior)
    }
    exact = {
        o.round: o.exact for o in observed_rounds(columns, spec.statistic, spec.quantile, prior)
    }
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
    gamma = float(columns.gamma[columns.round == sampled[-1]][0])
    priors = _evidence(spec, tables)
    population = fit_population(columns.successes[late], columns.known[late])
    left = residual(
        population, n, gamma, *priors, spec.statistic, spec.quantile, (spec.prior_a, spec.prior_b)
    )
    curve = injection_probability(
        RATES, n, gamma, spec.prior_a, spec.prior_b, spec.statistic, spec.quantile
    )
    has_trace = columns.has_trace
    return (
        left,
        tuple(zip(RATES, (float(p) for p in curve), strict=True)),
        outlook(spec, n, gamma),
        retired_from(columns, spec.statistic, spec.quantile),
        float(has_trace[late].mean()) if has_trace is not None else None,
    )


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
    from hapo_core.policy import load_policy
    from hapo_core.update import Updater
    from pipeline.waves import demonstrations

    sampled = tables.rounds.loc[tables.rounds["rollouts"] > 0, "round"]
    numbers = [int(n) for n in sampled if int(n) in tables.rollouts][::-1]
    if not numbers:
        return ()
    data = load_trainset(root / DATA)
    known = demonstrations(data, params.rollout.max_tokens)
    device, dtype = wiring.prepare_compute(params.compute)
    model, _ = load_policy(tables.policy / "model", dtype, params.compute.attention)
    updater = Updater(model.to(device), wiring.update_spec(params))
    found: list[GradientRound] = []
    for number in numbers:
        if sum(f.groups for f in found) >= wanted:
            break
        found.append(_gradient_round(params, tables, number, updater, data, known))
    return tuple(found[::-1])


def _gradient_round(
    params: Params, tables: RunTables, number: int, updater: Any, data: Any, known: Any
) -> GradientRound:
    from hapo_core.gradients import gradient_gap, without_teacher

    objective, budget = wiring.objective(params), params.rollout.max_tokens
    groups = stored_groups(tables, number, data, budget, params.seed)
    plans, beside = [], ()
    for taught in (True, False):
        method = wiring.method(params, GateState(), known, data.prompt_ids)
        method.gate = _gate_of(params, tables, number)
        shown = groups if taught else [without_teacher(g) for g in groups]
        plans.append(method.plan(shown, number - 1))
        if taught:
            beside = method.extras(number - 1).beside
    stored = injected_of(tables, number)
    again = {p.group.prompt.prompt_id: p.decision.value == "injected" for p in plans[0]}
    return GradientRound(
        round=number,
        groups=len(groups),
        injected=sum(again.values()),
        replayed=again == stored,
        gap=gradient_gap(updater, plans[0], plans[1], objective, budget, beside),
    )


def _gate_of(params: Params, tables: RunTables, number: int) -> Any:
    rows = tables.groups[(tables.groups["round"] == number) & tables.groups["gamma"].notna()]
    before = {
        str(i): (float(a), float(b))
        for i, a, b in zip(rows["prompt_id"], rows["prior_a"], rows["prior_b"], strict=True)
    }
    spec = wiring.gate_spec(params)
    return replaying_gate(spec, params.seed, float(rows["gamma"].iloc[0]), before)


# --- for programs -------------------------------------------------------------------------------


def as_json(audit: Audit) -> dict[str, Any]:
    """The audit for programs; shares in [0, 1], null where there is no such value."""
    from pipeline.audit_text import answer

    plain = asdict(audit)
    for row, entry in zip(audit.gradients, plain["gradients"], strict=True):
        entry["gap"]["ratio"] = row.gap.ratio
    verdict = answer(audit)
    return {"answer": verdict.state.value, "sentences": list(verdict.sentences), **plain}
