"""All that a report says, collected from the artifacts into one typed structure.

Missing or foreign artifacts are errors that name the stage to run. Statistics come from
`hapo_core`; here are only sums and shares of counts that the tables hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from hapo_core.alarm import AlarmState, Spoken
from hapo_core.errors import DataError
from hapo_core.stats.benchmark import PairedResult, align, mean_interval, paired_test
from hapo_core.stats.graduation import Graduation, graduation
from hapo_core.stats.help_effect import HelpEffect, help_effect
from hapo_core.verdicts import UNKNOWN
from pipeline.artifacts import read_json
from pipeline.artifacts.places import ARTIFACTS, BASE, DATA, EVALUATIONS, POLICIES, TIMINGS
from pipeline.artifacts.tables import BASE_LOG, GENERATIONS, GROUPS, ROUNDS, read_frame
from pipeline.config import Params
from pipeline.report.costs import Fingerprint, StageCost, read_costs, read_fingerprints
from pipeline.report.injection_rates import Prediction, predict_injection
from pipeline.report.lineage import check_one_run
from pipeline.report.visits import visits_of
from pipeline.show.series import Values

Outcome = Literal["higher", "lower", "unclear"]


@dataclass(frozen=True)
class Measurement:
    """One policy on one benchmark; shares in [0, 1], `low`..`high` the interval over problems."""

    avg: float
    n: int
    k: int
    low: float
    high: float
    pass_k: float | None
    maj_k: float | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    truncated_share: float | None
    unparsed_share: float | None
    unknown: int
    mean_tokens: float | None


@dataclass(frozen=True)
class Comparison:
    """Final against starting policy on one benchmark."""

    benchmark: str
    base: Measurement
    final: Measurement
    paired: PairedResult | None
    confidence: float

    @property
    def overlap(self) -> bool:
        """Whether the two intervals overlap."""
        return self.base.low <= self.final.high and self.final.low <= self.base.high

    @property
    def outcome(self) -> Outcome:
        """By the paired difference (interval and test), without one by disjoint intervals."""
        if self.paired is not None:
            low, high = self.paired.ci
            if low <= 0 <= high or self.paired.p_value >= 1 - self.confidence:
                return "unclear"
        elif self.overlap:
            return "unclear"
        return "higher" if self.final.avg > self.base.avg else "lower"


@dataclass(frozen=True)
class History:
    """All rounds of the run in order. `frame` has the columns of `tables.ROUNDS`."""

    frame: pd.DataFrame
    success_band: tuple[tuple[float, float] | None, ...]
    prediction: Prediction
    help: HelpEffect | None = None
    """Injected against held-out groups, where `gate.holdout` left some out."""
    graduation: Graduation | None = None
    alarm: Spoken | None = None
    """What `gate.stop_loss` said, if it did."""
    decisions: Mapping[str, int] = field(default_factory=dict)
    """What became of the teacher in the groups of all rounds, by `hapo_core.gate.Decision`."""

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def rounds(self) -> list[int]:
        """Round numbers as written in the tables."""
        return [int(r) for r in self.frame["round"]]

    @property
    def sampled(self) -> list[bool]:
        """Whether the round drew rollouts (a supervised round does not)."""
        return [bool(n > 0) for n in self.frame["rollouts"]]

    def values(self, column: str) -> Values:
        """A column with None for nulls."""
        return [None if pd.isna(v) else float(v) for v in self.frame[column]]

    def share(self, column: str) -> Values:
        """A count of groups over the round's groups; None in rounds without rollouts."""
        counts = zip(self.frame[column], self.frame["prompts"], self.sampled, strict=True)
        return [float(c / n) if n and sampled else None for c, n, sampled in counts]

    def pooled_share(self, column: str, part: slice) -> float | None:
        """The share over all groups of the sampled rounds in `part` of them."""
        frame = self.frame[self.sampled].iloc[part]
        groups = int(frame["prompts"].sum())
        return float(frame[column].sum() / groups) if groups else None

    def total(self, column: str) -> int:
        """Sum of a count over all rounds."""
        return int(self.frame[column].sum())


@dataclass(frozen=True)
class ReportData:
    """One run, complete."""

    params: Params
    history: History
    comparisons: tuple[Comparison, ...]
    """In the order of params.yaml; the headline benchmark first."""
    base_loss: tuple[tuple[int, float], ...]
    stages: tuple[StageCost, ...]
    curation: dict[str, Any]
    fingerprints: tuple[Fingerprint, ...]
    differs: tuple[str, ...] = ()
    """How params.yaml differs now from what the run was made with, in sentences."""

    @property
    def headline(self) -> Comparison:
        return self.comparisons[0]


def collect(params: Params, root: Path = Path(), differs: tuple[str, ...] = ()) -> ReportData:
    """Read everything that the report shows.

    Args:
        params: what the run was made with (`pipeline.dependencies.made`).
        differs: how params.yaml differs now.

    Raises:
        DataError: an artifact is missing (names the stage), corrupted, or of another run.
    """
    artifacts = root / ARTIFACTS
    found = ReportData(
        params=params,
        history=_history(params, root / POLICIES),
        comparisons=_comparisons(params, root / EVALUATIONS),
        base_loss=_base_loss(root / BASE / "base_log.parquet"),
        stages=read_costs(params, root / TIMINGS),
        curation=_json(root / DATA / "curation.json", "curate"),
        fingerprints=read_fingerprints(params, artifacts),
        differs=differs,
    )
    check_one_run(params, artifacts)
    return found


def _missing(path: Path, stage: str) -> DataError:
    return DataError(
        "the report needs an artifact that is not there",
        where=str(path),
        remedy=f"`dvc checkout`, or `dvc repro {stage}`",
    )


def _json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise _missing(path, stage)
    found = read_json(path)
    if not isinstance(found, dict):
        raise DataError("not a JSON object", where=str(path), remedy=f"`dvc repro -f {stage}`")
    return found


def _table(path: Path, schema: Any, stage: str) -> pd.DataFrame:
    if not path.is_file():
        raise _missing(path, stage)
    return read_frame(path, schema)


# --- rounds -------------------------------------------------------------------------------------


def _history(params: Params, policy: Path) -> History:
    frames, groups = [], []
    for name, segment in params.segments.items():
        stage, folder = f"train@{name}", policy / name
        frame = _table(folder / "rounds.parquet", ROUNDS, stage)
        if not segment.fits(len(frame)):
            raise DataError(
                f"segment {name} has {len(frame)} rounds, the configuration says {segment.rounds}",
                where=str(folder / "rounds.parquet"),
                remedy=f"`dvc repro {stage}`",
            )
        tables = sorted((folder / "groups").glob("*.parquet"))
        if not tables and (frame["rollouts"] > 0).any():
            raise _missing(folder / "groups", stage)
        frames.append(frame)
        groups += [read_frame(path, GROUPS) for path in tables]
    rounds = pd.concat(frames, ignore_index=True)
    steps = rounds["round"].diff().dropna()
    if (steps != 1).any():
        at = int(rounds["round"].iloc[int((steps != 1).idxmax())])
        raise DataError(
            f"the segments' rounds do not follow each other (round {at} is out of place)",
            where=str(policy),
            remedy="the segments belong to different runs: `dvc repro`",
        )
    all_groups = pd.concat(groups, ignore_index=True) if groups else None
    visits = visits_of(all_groups)
    return History(
        frame=rounds,
        success_band=_success_bands(params, rounds, all_groups),
        prediction=predict_injection(params, rounds, all_groups),
        decisions={} if all_groups is None else Counter(all_groups["decision"].astype(str)),
        help=help_effect(visits),
        alarm=_alarm(params, policy / list(params.segments)[-1]),
        graduation=graduation(visits),
    )


def _alarm(params: Params, segment: Path) -> Spoken | None:
    if params.gate.stop_loss is None:
        return None
    path = segment / "state" / "counters.json"
    found = _json(path, f"train@{segment.name}").get("alarm")
    return AlarmState.from_json(found).spoken if found else None


def _success_bands(
    params: Params, rounds: pd.DataFrame, groups: pd.DataFrame | None
) -> tuple[tuple[float, float] | None, ...]:
    """Per round: the bootstrap interval of the on-policy success rate over its groups."""
    by_round = dict(tuple(groups.groupby("round"))) if groups is not None else {}
    bands: list[tuple[float, float] | None] = []
    for index, sampled in zip(rounds["round"], rounds["rollouts"] > 0, strict=True):
        part = by_round.get(index)
        if part is None or not sampled:
            bands.append(None)
            continue
        part = part[part["known"] > 0]
        scores = (part["successes"] / part["known"]).to_numpy()
        bands.append(mean_interval(scores, params.evaluate.confidence) if len(scores) else None)
    return tuple(bands)


def _base_loss(path: Path) -> tuple[tuple[int, float], ...]:
    if not path.is_file():
        return ()
    frame = read_frame(path, BASE_LOG)
    return tuple((int(s), float(v)) for s, v in zip(frame["step"], frame["loss"], strict=True))


# --- evaluation ---------------------------------------------------------------------------------


def _comparisons(params: Params, evaluation: Path) -> tuple[Comparison, ...]:
    metrics = {
        target: _json(evaluation / target / "metrics.json", f"evaluate@{target}")
        for target in (params.start, "final")
    }
    for target, content in metrics.items():
        wanted = params.targets[target].policy
        if content.get("policy") != wanted:
            raise DataError(
                f"policy {content.get('policy')!r} was evaluated, the configuration names "
                f"{wanted!r}",
                where=str(evaluation / target / "metrics.json"),
                remedy=f"`dvc repro evaluate@{target}`",
            )
    names = list(params.evaluate.benchmarks)
    probe = params.train.probe_benchmark
    names.sort(key=lambda name: name != probe)  # stable: the benchmark that training watched leads
    return tuple(_comparison(params, evaluation, metrics, name) for name in names)


def _comparison(
    params: Params, evaluation: Path, metrics: dict[str, dict[str, Any]], name: str
) -> Comparison:
    found = {}
    for target, content in metrics.items():
        entry = content.get("benchmarks", {}).get(name)
        if entry is None:
            raise DataError(
                f"benchmark {name!r} was not evaluated",
                where=str(evaluation / target / "metrics.json"),
                remedy=f"`dvc repro evaluate@{target}`",
            )
        found[target] = _measurement(entry, evaluation / target / "metrics.json", name)
    base, final = found[params.start], found["final"]
    for key in ("n", "k", "temperature", "top_p", "max_tokens"):
        if getattr(base, key) != getattr(final, key):
            raise DataError(
                f"{name}: {params.start} and final were measured differently "
                f"({key} {getattr(base, key)} against {getattr(final, key)})",
                where=str(evaluation),
                remedy=f"`dvc repro evaluate@{params.start} evaluate@final`",
            )
    paired = _paired(params, evaluation, name)
    return Comparison(name, base, final, paired, params.evaluate.confidence)


def _measurement(entry: dict[str, Any], path: Path, name: str) -> Measurement:
    verdicts = entry.get("verdicts") or {}
    try:
        low, high = entry["ci"]
        return Measurement(
            avg=entry["avg"],
            n=entry["n"],
            k=entry["k"],
            low=low,
            high=high,
            unknown=sum(int(verdicts.get(v, 0)) for v in UNKNOWN),
            **{
                key: entry.get(key)
                for key in (
                    "pass_k", "maj_k", "temperature", "top_p", "max_tokens",
                    "truncated_share", "unparsed_share", "mean_tokens",
                )
            },
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"benchmark {name!r} lacks avg, n, k or ci ({error})",
            where=str(path),
            remedy="it was written by another version: `dvc repro -f` its evaluation",
        ) from error


def _paired(params: Params, evaluation: Path, name: str) -> PairedResult | None:
    """The paired difference over problems, where both policies' generations are kept."""
    paths = [evaluation / target / f"{name}.parquet" for target in (params.start, "final")]
    if not all(path.is_file() for path in paths):
        return None
    scores = []
    for path in paths:
        frame = read_frame(path, GENERATIONS)
        correct = (frame["verdict"] == "correct").groupby(frame["problem_id"]).mean()
        scores.append({str(k): float(v) for k, v in correct.items()})
    a, b = align(scores[0], scores[1])
    protocol = params.evaluate
    return paired_test(a, b, protocol.confidence, protocol.bootstrap_draws, params.seed, name)
