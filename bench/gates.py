"""Compare gates without a model: thousands of prompts whose success rates rise by themselves.

    python bench/gates.py   # rewrites tables and figure of docs/gates.md, < 1 min on one core

Every gate sees the same groups (same S), so the numbers differ by the gate alone. Learning does
not react to the injections: this measures what a gate spends and where, not what it is worth.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from hapo_core.gate import (  # noqa: E402
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    ScheduledThreshold,
    Shape,
    Statistic,
)
from hapo_core.rng import Purpose, generator  # noqa: E402
from hapo_core.theory.injection_probability import (  # noqa: E402
    injection_probability,
    open_probability,
    visit_injection_probability,
)
from pipeline.show.charts import Series, line_chart, standalone  # noqa: E402
from pipeline.show.pages import TEMPLATES  # noqa: E402

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

N = 8
PROMPTS, ROUNDS, BATCH = 4096, 300, 128
DOCUMENT = ROOT / "docs" / "gates.md"
BEGIN, END = "<!-- tables: written by bench/gates.py -->", "<!-- end of tables -->"


@dataclass(frozen=True)
class World:
    """Prompts with logit(mu) = easiness + speed * progress, progress from 0 to 1 over the rounds;
    a share of `hopeless` prompts does not improve."""

    name: str
    mean: float
    spread: float
    speed: float
    hopeless: float


WORLDS = [
    World("sparse", mean=-4.0, spread=1.5, speed=5.0, hopeless=0.1),
    World("mixed", mean=-1.0, spread=2.0, speed=3.0, hopeless=0.1),
    World("stuck", mean=-4.0, spread=1.5, speed=5.0, hopeless=0.6),
]


@dataclass(frozen=True)
class Visits:
    """What all gates of a world see, arrays [rounds, batch]."""

    prompt: IntArray
    mu: FloatArray
    successes: IntArray
    uniform: FloatArray
    """Decides Thompson gates: opens iff below P(open | S)."""


def visits_of(world: World, seed: int, rounds: int = ROUNDS) -> Visits:
    """Draw a world's groups, each prompt once per epoch."""
    rng = generator(seed, Purpose.TASK, prompt_id=world.name)
    easiness = rng.normal(world.mean, world.spread, PROMPTS)
    moves = rng.random(PROMPTS) >= world.hopeless
    epochs = -(-rounds * BATCH // PROMPTS)
    order = np.concatenate([rng.permutation(PROMPTS) for _ in range(epochs)])
    prompt = order[: rounds * BATCH].reshape(rounds, BATCH)
    progress = np.arange(rounds)[:, None] / max(1, rounds - 1)
    mu = 1 / (1 + np.exp(-(easiness[prompt] + world.speed * progress * moves[prompt])))
    return Visits(prompt, mu, rng.binomial(N, mu), rng.random(prompt.shape))


def injected(spec: GateSpec, visits: Visits) -> tuple[npt.NDArray[np.bool_], FloatArray]:
    """Which groups the gate injects, and gamma_t per round: `hapo_core.gate`, vectorised."""
    gate = Gate(spec, seed=0)  # only for its threshold; `read` is one group at a time
    a, b = np.full(PROMPTS, spec.prior_a), np.full(PROMPTS, spec.prior_b)
    out, gammas = np.zeros(visits.prompt.shape, dtype=np.bool_), np.empty(len(visits.prompt))
    for t, (who, s) in enumerate(zip(visits.prompt, visits.successes, strict=True)):
        gammas[t] = gate.begin_round(t, float(s.mean()) / N)
        before_a = spec.prior_a + spec.forgetting * (a[who] - spec.prior_a)
        before_b = spec.prior_b + spec.forgetting * (b[who] - spec.prior_b)
        # For `mean` and `quantile` p is 0 or 1 and the uniform number decides nothing.
        p = open_probability(s, N, gammas[t], spec, (before_a, before_b))
        out[t] = visits.uniform[t] < p
        if spec.evidence is Evidence.PROMPT:
            a[who], b[who] = before_a + s, before_b + N - s
    return out, gammas


@dataclass(frozen=True)
class Row:
    """One gate in one world. Shares in [0, 1].

    spent: injected groups of all groups; late: the same in the last tenth of the rounds;
    own: injections into groups with S >= 1, which had a success of their own;
    wasted: mean over injections of 1 - (1 - mu)^N, the probability that a fresh group of the
    same policy has a success; able: injected share of the groups with mu > .5; missed: groups with
    S = 0 that got nothing, of all groups with S = 0.
    """

    spent: float
    late: float
    own: float
    wasted: float
    able: float
    missed: float


def measure(spec: GateSpec, visits: Visits) -> Row:
    """Reduce one gate in one world to the columns of the table."""
    hit, _ = injected(spec, visits)
    failed = visits.successes == 0
    able = visits.mu > 0.5
    fresh = 1 - (1 - visits.mu) ** N
    total = max(1, int(hit.sum()))
    last = len(hit) - len(hit) // 10
    return Row(
        spent=float(hit.mean()),
        late=float(hit[last:].mean()),
        own=float((hit & ~failed).sum() / total),
        wasted=float(fresh[hit].sum() / total),
        able=float(hit[able].mean()) if able.any() else 0.0,
        missed=float((failed & ~hit).sum() / max(1, int(failed.sum()))),
    )


def gates() -> dict[str, GateSpec]:
    """The gates that are compared, by a readable name."""
    group, prompt = Evidence.GROUP, Evidence.PROMPT
    mean, thompson, quantile = Statistic.MEAN, Statistic.THOMPSON, Statistic.QUANTILE
    out: dict[str, GateSpec] = {}
    for g in (0.8, 0.5, 0.3, 0.15):
        out[f"group mean, {g:g}"] = GateSpec(ConstantThreshold(g))
    for shape in (Shape.LINEAR, Shape.COSINE):
        threshold = ScheduledThreshold(shape, 0.8, 0.1, ROUNDS)
        out[f"group mean, {shape.value} .8 to .1"] = GateSpec(threshold)
    for start in (0.8, 0.5):
        for kappa in (1.0, 2.0):
            threshold = AdaptiveThreshold(start, kappa)
            out[f"group mean, adaptive {start:g}, kappa {kappa:g}"] = GateSpec(threshold)
    for g in (0.5, 0.3, 0.15):
        out[f"group thompson, {g:g}"] = GateSpec(ConstantThreshold(g), group, thompson)
    for q in (0.1, 0.9):
        out[f"group {q:g}-quantile, 0.3"] = GateSpec(ConstantThreshold(0.3), group, quantile, q)
    for delta in (0.5, 0.9, 1.0):
        for g in (0.5, 0.3, 0.15):
            spec = GateSpec(ConstantThreshold(g), prompt, mean, forgetting=delta)
            out[f"prompt mean, delta {delta:g}, {g:g}"] = spec
    half = partial(GateSpec, evidence=prompt, forgetting=0.5)
    for g in (0.3, 0.15):
        out[f"prompt thompson, delta 0.5, {g:g}"] = half(ConstantThreshold(g), statistic=thompson)
    for q in (0.1, 0.9):
        out[f"prompt {q:g}-quantile, delta 0.5, 0.3"] = half(
            ConstantThreshold(0.3), statistic=quantile, quantile=q
        )
    out["prompt mean, delta 0.5, cosine .8 to .1"] = half(
        ScheduledThreshold(Shape.COSINE, 0.8, 0.1, ROUNDS)
    )
    out["prompt mean, delta 0.5, adaptive 0.5, kappa 1"] = half(AdaptiveThreshold(0.5))
    out["prompt mean, delta 0.5, adaptive 0.3, kappa 1"] = half(AdaptiveThreshold(0.3))
    return out


def table(world: World, rows: dict[str, Row], visits: Visits) -> str:
    """One world as Markdown."""
    first, last = visits.mu[: ROUNDS // 10].mean(), visits.mu[-ROUNDS // 10 :].mean()
    failed = (visits.successes == 0).mean()
    lines = [
        f"### {world.name}: mean mu {first:.2f} in the first tenth, {last:.2f} in the last; "
        f"{100 * failed:.0f} % of groups have S = 0",
        "",
        "| gate | spent | late | own success | wasted | able | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in rows.items():
        cells = (r.spent, r.late, r.own, r.wasted, r.able, r.missed)
        lines.append(f"| {name} | " + " | ".join(f"{100 * x:.1f}" for x in cells) + " |")
    return "\n".join(lines)


def figure() -> str:
    """Exact injection probability of one prompt against its success rate, as an SVG file."""
    mu = np.linspace(0.0, 1.0, 101)
    thompson_gate = GateSpec(ConstantThreshold(0.5), statistic=Statistic.THOMPSON)
    curves = [
        ("always (LUFFY)", injection_probability(mu, N, 0.95)),
        ("mean, .8", injection_probability(mu, N, 0.8)),
        ("mean, .5", injection_probability(mu, N, 0.5)),
        ("mean, .15", injection_probability(mu, N, 0.15)),
        ("thompson, .5", injection_probability(mu, N, 0.5, thompson_gate)),
        (
            "prompt, .5, visit 8",
            np.array([visit_injection_probability(float(m), N, 0.5, 8) for m in mu]),
        ),
    ]
    lines = [
        Series(
            label, [(100 * float(m), float(p)) for m, p in zip(mu, values, strict=True)], f"c{i}"
        )
        for i, (label, values) in enumerate(curves, start=1)
    ]
    svg = line_chart(
        lines,
        title="Injection probability against success rate",
        x_label="success rate of the prompt, percent",
        x_range=(0.0, 100.0),
        y_format=lambda p: f"{p:.2f}",
        y_high=1.0,
    )
    return standalone(svg, (TEMPLATES / "figure.css").read_text(encoding="utf-8"))


def main() -> None:
    """Run all gates in all worlds and rewrite the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DOCUMENT)
    args = parser.parse_args()
    start = time.perf_counter()
    parts = []
    for world in WORLDS:
        visits = visits_of(world, args.seed)
        rows = {name: measure(spec, visits) for name, spec in gates().items()}
        parts.append(table(world, rows, visits))
    text = args.output.read_text() if args.output.exists() else f"{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    args.output.write_text(f"{head}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{tail}")
    args.output.with_name("injection.svg").write_text(figure(), encoding="utf-8")
    sys.stdout.write(f"{args.output}: {time.perf_counter() - start:.1f} s\n")


if __name__ == "__main__":
    main()
