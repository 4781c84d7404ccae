"""The round loop: sample and verify what the method wants, let the gate decide, update the policy.

`RoundRunner.run` is one round from top to bottom; `segment.py` opens what it needs, loops over
rounds and writes down what each returns; `resume.py` finds what to go on from after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.distributed import Ranks, unsharded
from hapo_core.graded import Graded
from hapo_core.groups import Extras, PlannedGroup, Request, Trace
from hapo_core.methods import Phase
from hapo_core.methods.base import Method
from hapo_core.metrics import UpdateMetrics
from hapo_core.objective import Objective
from hapo_core.prompt_order import prompts_of_round
from hapo_core.rollout import Engine, Prompt, Rollout, Sampling
from hapo_core.rows import likelihood_row
from hapo_core.surprise import P_MIN, Surprise, surprise
from hapo_core.update import Updater, supervised
from hapo_core.verify import VerifierPool
from pipeline.build.engine import training_sampling
from pipeline.config import Params
from pipeline.flows.observer import Observer
from pipeline.grading.streaming import Verifying, refuse_unknown
from pipeline.train import sampling
from pipeline.train.listening import Listening
from pipeline.train.probe import Probe
from pipeline.train.sampling import RoundGroups
from pipeline.train.shown import ShownTraces
from pipeline.train.trainset import TrainSet

T = TypeVar("T")


def first_rank_generates(params: Params) -> bool:
    """Servers answer the first rank alone; with `hf` every rank generates with its own model."""
    return params.rollout.engine != "hf"


class NoEngine:
    """The engine of ranks whose rollouts come from the first rank's servers."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Nothing: these ranks are given no prompts."""
        assert not prompts
        return iter(())

    def policy_changed(self) -> None:
        """The first rank tells its servers."""

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class RoundDone:
    """What a round leaves for the tables.

    Args:
        planned: groups with the gate's decision and their training rows.
        extra_rows: rows that trained beside the groups.
        probe: the probe's columns; empty where this round is not probed.
        surprise_tokens: what measuring the surprise of traces cost; None where it is not measured.
        heard: columns of the alarm, the watched benchmarks and the teacher that scores.
    """

    phase: Phase
    planned: list[PlannedGroup]
    metrics: UpdateMetrics
    extra_rows: int
    probe: dict[str, object]
    surprise_tokens: int | None = None
    heard: dict[str, object] = field(default_factory=dict)


@dataclass
class RoundRunner:
    """Runs rounds with the parts that a segment opened.

    Args:
        parts: seconds by part of a round (rollout, verify, ...), added to in place.
        ranks: all hold the same round; rollouts, verification and the update are shared.
    """

    params: Params
    data: TrainSet
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    pool: VerifierPool
    method: Method
    updater: Updater
    objective: Objective
    probe: Probe | None
    observer: Observer
    ranks: Ranks
    parts: dict[str, float]
    listening: Listening = field(default_factory=Listening)
    shown: ShownTraces | None = None
    """Where the policy, shown traces, scores its own rollouts."""

    def run(self, index: int) -> RoundDone:
        """One round (counted from 0 over all segments)."""
        ids = prompts_of_round(
            self.data.prompt_ids, self.params.train.prompts_per_round, self.params.seed, index
        )
        phase = self.method.phase(index)
        if self.listening.starts:
            self._watch(index)
        sampled = self._sample(ids, index)
        planned = self.timed("gate", self.method.plan, list(sampled.groups.values()), index)
        self.listening.groups(planned, index)
        if self.shown is not None:
            scored = self.shown.scored
            planned = self.timed(
                "score", scored, planned, self.updater, self.objective, direct=True
            )
        extras = self.method.take_extras(index)
        metrics = self.timed("update", self._update, planned, extras, phase, index)
        probe = self._probe(index)
        if self._measures(index):
            self._watch(index + 1)
        tokens = sampled.measured_tokens if self.params.measures_surprise else None
        heard = self.listening.columns()
        if self.shown is not None:
            heard["teacher_tokens"] = self.shown.take_tokens()
        return RoundDone(phase, planned, metrics, extras.rows, probe, tokens, heard)

    def _sample(self, ids: list[str], index: int) -> RoundGroups:
        """Ask the method what it wants until it has it."""
        measure = self._surprises if self.params.measures_surprise else None
        found = RoundGroups(
            self.data,
            self.params.rollout.max_tokens,
            self.params.seed,
            index,
            measure=measure,
            likeliest=self.params.teacher.trace_choice == "likeliest",
        )
        found.open(*ids)
        size = self.params.rollout.group_size
        while wanted := self.method.wants(list(found.groups.values()), size, index):
            with unsharded(self.model):
                samples = self._sample_and_verify(wanted, found, index)
            found.add(samples)
        return found

    def _sample_and_verify(
        self, wanted: list[Request], found: RoundGroups, index: int
    ) -> list[Graded]:
        """The graded samples of all requests, in their order; every rank makes its share."""
        found.open(*(request.prompt_id for request in wanted))
        data, mine = self.data, self.ranks.share(wanted)
        if first_rank_generates(self.params):
            mine = wanted if self.ranks.first else []
        with Verifying(self.pool, data.answers, data.rewards, data.opening) as verifying:
            rollouts = self.timed("rollout", self._rollout, mine, found, index, verifying)
            graded = self.timed("verify", self._verify, rollouts, verifying)
        order = sampling.places(wanted)
        return sorted(graded, key=lambda g: order[g.rollout.prompt_id, g.rollout.prefix])

    def _surprises(self, pairs: Sequence[tuple[Prompt, Trace]]) -> list[Surprise]:
        """How far traces surprise the present policy: one pass, shared by the ranks."""
        rows = [likelihood_row(prompt, trace) for prompt, trace in pairs]
        scored = self.timed("surprise", self.updater.score, rows, self.objective, direct=True)
        return [surprise(logprobs.numpy(), P_MIN) for logprobs in scored]

    def _rollout(
        self, wanted: list[Request], found: RoundGroups, index: int, verifying: Verifying
    ) -> list[Rollout]:
        return sampling.sample(
            wanted,
            found,
            self.engine,
            training_sampling(self.params),
            lambda ids: str(self.tokenizer.decode(list(ids), skip_special_tokens=True)),
            self.params.seed,
            index,
            verifying.put,
        )

    def _verify(self, rollouts: list[Rollout], verifying: Verifying) -> list[Graded]:
        """The samples of all ranks with their grades."""
        parts = self.ranks.all_gather(verifying.of(rollouts))
        graded = [one for part in parts for one in part]
        refuse_unknown(graded, self.params.rewards.max_unknown_share)
        return graded

    def _update(
        self, planned: list[PlannedGroup], extras: Extras, phase: Phase, index: int
    ) -> UpdateMetrics:
        objective, imitate = self.objective, supervised(self.objective)
        budget, rate = self.params.rollout.max_tokens, self.updater.spec.rate
        supervised_rate = rate(index, self.params.sft.learning_rate_scale)
        if phase is Phase.SFT:
            metrics = self.updater.update(planned, imitate, budget, supervised_rate)
        else:
            metrics = self.updater.update(planned, objective, budget, rate(index), extras.beside)
        for rows in extras.after:
            step = self.updater.supervise(rows, imitate, budget, supervised_rate)
            metrics = metrics.with_step(step)
        if metrics.optimizer_steps:
            self.engine.policy_changed()
        return metrics

    def _measures(self, index: int) -> bool:
        return (index + 1) % self.params.train.probe_every == 0

    def _watch(self, done: int) -> None:
        """Measure the watched benchmarks after `done` rounds."""
        for name, probe in self.listening.watched.items():

            def scores(probe: Probe = probe) -> dict[str, float]:
                return probe.result(self.engine, self.pool, self.data.opening).by_problem()

            with unsharded(self.model):
                found = self.ranks.broadcast(
                    lambda scores=scores: self.timed("watch", scores, direct=True)  # type: ignore[misc]
                )
            self.listening.measured(name, found, done)

    def _probe(self, index: int) -> dict[str, object]:
        if self.probe is None or not self._measures(index):
            return {}
        with unsharded(self.model):
            return self.ranks.broadcast(lambda: self.timed("probe", self._measure, direct=True))

    def _measure(self) -> dict[str, object]:
        assert self.probe is not None
        return self.probe.measure(self.engine, self.pool, self.data.opening)

    def timed(self, part: str, fn: Callable[..., T], *args: object, direct: bool = False) -> T:
        """`fn(*args)` as a task of the observer (or `direct`), its seconds added to `parts`."""
        began = time.monotonic()
        result = fn(*args) if direct else self.observer.task(part, fn, *args)
        self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - began
        return result
