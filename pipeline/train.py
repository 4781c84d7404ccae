"""Stage `train@K`: a segment of rounds, each rollout -> verify -> gate -> update.

Every `train.checkpoint_every` rounds the whole state goes to the scratch folder; a killed segment
continues there and ends with the same bytes. At the end the segment moves to
`artifacts/policy/K/`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from hapo_core.errors import DataError, HapoError
from hapo_core.gate import GateState
from hapo_core.groups import Extras, PlannedGroup, Request, success_rate
from hapo_core.methods import Phase
from hapo_core.policy import load_policy
from hapo_core.schedule import prompts_of_round
from hapo_core.update import UpdateMetrics, Updater, supervised
from hapo_core.verify import Verification, VerifierPool, reward_of
from pipeline import records, waves, wiring
from pipeline.base import policy_model
from pipeline.checkpoint import (
    drop_older,
    load_optimizer,
    newest_state,
    read_gate_state,
    read_waiting,
    write_parts,
    write_state,
)
from pipeline.config import Params, load_params
from pipeline.difficulty import within_band
from pipeline.measure import Probe, load_probe
from pipeline.observe import Observer, run_stage, stage_main
from pipeline.store import (
    Scratch,
    atomic_write_json,
    check_manifest,
    guard_disk,
    inputs_hash,
    read_json,
    record_timing,
    write_manifest,
)
from pipeline.tables import GROUPS, ROLLOUTS, ROUNDS, write_table
from pipeline.trainset import TrainSet, load_trainset, opened_thought
from pipeline.verifying import Verifying
from pipeline.waves import Sampled, Waves

T = TypeVar("T")
DATA = Path("artifacts/data")
POLICIES = Path("artifacts/policy")
READS = (
    "seed",
    "method",
    "gate",
    "teacher",
    "objective",
    "sft",
    "rewards",
    "rollout",
    "update",
    "train",
    "compute",
)
"""Sections of params.yaml that a segment depends on (dvc.yaml lists the same)."""


class Segment:
    """One segment in this process: the policy, its optimizer, the method, and what it writes.

    Args:
        params: the checked configuration.
        name: the segment's key.
        observer: tasks, progress and log lines go there.
    """

    def __init__(self, params: Params, name: str, observer: Observer) -> None:
        spec = params.segments[name]
        self.params, self.name, self.observer = params, name, observer
        self.first = params.rounds_before(name)
        self.rounds, self.spec = spec.rounds, spec
        previous = POLICIES / spec.prev
        check_manifest(previous)
        subset = {key: getattr(params, key) for key in READS} | {"segment": spec}
        self.scratch = Scratch(f"train@{name}", inputs_hash(subset, [DATA, previous]))
        self.scratch.discard_others()
        Scratch.settle(f"train@{name}")
        self.out = self.scratch.path / "out"
        self.states = self.scratch.path / "states"
        self.parts: dict[str, float] = {}
        self._open(previous, first_segment=spec.prev == "base")

    def _open(self, previous: Path, first_segment: bool) -> None:
        params = self.params
        device, dtype = wiring.prepare_compute(params.compute)
        self.data: TrainSet = load_trainset(DATA)
        self.states.mkdir(parents=True, exist_ok=True)
        resumed = newest_state(self.states)
        source = resumed or previous
        self.model, self.tokenizer = load_policy(
            source / "model" if resumed else policy_model(previous),
            dtype,
            params.compute.attention,
        )
        self.model.to(device)
        opening = opened_thought(self.tokenizer, self.data.prompts.values())
        self.data = replace(self.data, opening=opening)
        if params.update.gradient_checkpointing:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.updater = Updater(self.model, wiring.update_spec(params))
        state, self.done, waiting = GateState(), self.first, list[str]()
        if resumed or not first_segment:
            state, self.done = read_gate_state(source)
            waiting = read_waiting(source)
            load_optimizer(
                self.model, self.updater.optimizer, source / "state" / "optimizer.safetensors"
            )
        if not self.first <= self.done <= self.first + self.rounds:
            raise DataError(
                f"the state has {self.done} rounds, the segment starts after {self.first}",
                where=str(source),
                remedy=f"`dvc repro -f train@{self.name}`",
            )
        if resumed:
            self.observer.log(f"continues after round {self.done}")
            self.parts = dict(read_json(self.scratch.path / "parts.json"))
        self.tokens = dict.fromkeys(("generated_tokens", "trained_tokens"), 0)
        for row in self._finished_rows():
            self._count(row)
        self.probe: Probe | None = load_probe(params, DATA)
        asked = [*self.data.prompts.values(), *(self.probe.benchmark.prompts if self.probe else ())]
        self.engine = wiring.rollout_engine(
            params.rollout,
            params.compute,
            self.model,
            self.tokenizer,
            stage=f"train@{self.name}",
            context=max(len(p.token_ids) for p in asked) + params.rollout.max_tokens,
            tell=self.observer.log,
        )
        self.pool = VerifierPool(wiring.verifier_settings(params.rewards))
        if params.train.difficulty is not None:
            self.data = within_band(
                params,
                params.train.difficulty,
                self.data,
                self.engine,
                self.pool,
                self.out,
                None if first_segment else previous,
                self.scratch.path,
                self.observer,
            )
        self.method = wiring.method(
            params,
            state,
            waves.demonstrations(self.data, params.rollout.max_tokens),
            self.data.prompt_ids,
            waiting,
        )
        self.objective = wiring.objective(params)

    # --- a round ------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether all rounds are done, or a budget of tokens is spent."""
        spent = self.spec.spent(self.tokens["generated_tokens"], self.tokens["trained_tokens"])
        return self.done == self.first + self.rounds or (spent and self.done > self.first)

    def _finished_rows(self) -> list[records.Row]:
        return records.read_rounds(self.scratch.path / "rounds", self.first, self.done - self.first)

    def _count(self, row: Mapping[str, object]) -> None:
        for name in self.tokens:
            self.tokens[name] += int(str(row[name]))

    def round(self, index: int) -> None:
        """One round (counted from 0 over all segments)."""
        began = time.monotonic()
        ids = prompts_of_round(
            self.data.prompt_ids, self.params.train.prompts_per_round, self.params.seed, index
        )
        phase = self.method.phase(index)
        sampled = self._sample(ids, index)
        planned = self._timed("gate", self.method.plan, list(sampled.groups.values()), index)
        extras = self.method.extras(index)
        metrics = self._timed("update", self._update, planned, extras, phase, index)
        probe = self._probe(index)
        row = records.round_row(
            self.name,
            self.params,
            index,
            phase,
            planned,
            sampled.verdicts,
            metrics,
            self.objective,
            extras.rows,
        )
        verdicts = sampled.verdicts
        self._timed("save", self._save, index, planned, verdicts, row | probe, direct=True)
        self._show(index, planned, int(str(row["generated_tokens"])), time.monotonic() - began)

    def _sample(self, ids: list[str], index: int) -> Waves:
        """Ask the method what it wants until it has it."""
        data = self.data
        found = Waves(data, self.params.rollout.max_tokens)
        for prompt_id in ids:
            found.open(prompt_id)
        size = self.params.rollout.group_size
        while wanted := self.method.wants(list(found.groups.values()), size, index):
            with Verifying(self.pool, data.answers, data.rewards, data.opening) as verifying:
                samples = self._timed("rollout", self._rollout, wanted, found, index, verifying)
                found.add(samples, self._timed("verify", self._verify, samples, verifying))
        return found

    def _rollout(
        self, wanted: list[Request], found: Waves, index: int, verifying: Verifying
    ) -> list[Sampled]:
        for request in wanted:
            found.open(request.prompt_id)
        return waves.sample(
            wanted,
            found,
            self.engine,
            wiring.training_sampling(self.params),
            lambda ids: str(self.tokenizer.decode(list(ids), skip_special_tokens=True)),
            self.params.seed,
            index,
            verifying.put,
        )

    def _verify(self, samples: list[Sampled], verifying: Verifying) -> list[Verification]:
        verdicts = verifying.of([rollout for _, rollout in samples])
        unknown = sum(1 for v in verdicts if reward_of(v.verdict) is None)
        if unknown > self.params.rewards.max_unknown_share * len(verdicts):
            example = next(v for v in verdicts if reward_of(v.verdict) is None)
            raise HapoError(
                f"{unknown} of {len(verdicts)} rollouts have no known reward "
                f"({example.verdict.value}: {example.detail or 'no detail'})",
                where="rewards",
                remedy="look at the golds and the verifier's limits (rewards.timeout_seconds, "
                "rewards.max_unknown_share); finished rounds are kept",
            )
        return verdicts

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

    def _probe(self, index: int) -> dict[str, object]:
        if self.probe is None or (index + 1) % self.params.train.probe_every:
            return {}
        return self._timed(
            "probe", self.probe.measure, self.engine, self.pool, self.data.opening, direct=True
        )

    # --- what stays ---------------------------------------------------------------------------

    def _save(
        self,
        index: int,
        planned: list[PlannedGroup],
        verdicts: list[Verification],
        row: dict[str, object],
    ) -> None:
        number = f"round-{index + 1:05d}"
        with guard_disk(self.out):
            write_table(
                records.rollout_rows(index, planned, verdicts),
                ROLLOUTS,
                self.out / "rollouts" / f"{number}.parquet",
            )
            write_table(
                records.group_rows(index, planned, self.method.gate.state, self.objective),
                GROUPS,
                self.out / "groups" / f"{number}.parquet",
            )
            write_table([row], ROUNDS, self.scratch.path / "rounds" / f"{number}.parquet")
        self._count(row)
        self.done = done = index + 1
        if self.ended or done % self.params.train.checkpoint_every == 0:
            atomic_write_json(self.scratch.path / "parts.json", self.parts)
            state = self.states / number
            write_state(
                state,
                self.model,
                self.tokenizer,
                self.updater.optimizer,
                self.method.gate.state,
                done,
                self.method.waiting,
            )
            drop_older(self.states, keep=state)

    def publish(self) -> None:
        """Assemble the segment and move it to `artifacts/policy/K/`."""
        out = self.out
        for part in ("model", "state"):
            shutil.rmtree(out / part, ignore_errors=True)
        done, gate = self.done, self.method.gate.state
        waiting = self.method.waiting
        write_parts(out, self.model, self.tokenizer, self.updater.optimizer, gate, done, waiting)
        with guard_disk(out):
            rows = self._finished_rows()
            write_table(rows, ROUNDS, out / "rounds.parquet")
        write_manifest(
            out,
            "segment",
            {
                "segment": self.name,
                "method": self.params.method,
                "seed": self.params.seed,
                "rounds": [self.first, done],
            },
        )
        self.observer.table_artifact(
            f"segment-{self.name}", records.summary_rows(rows), f"rounds of segment {self.name}"
        )
        self.scratch.publish_copy(POLICIES / self.name, "out")
        record_timing(
            f"train@{self.name}",
            self.parts.pop("wall", 0.0),
            generated=sum(int(str(r["generated_tokens"])) for r in rows),
            trained=sum(int(str(r["trained_tokens"])) for r in rows),
            parts=self.parts,
        )

    # --- people look --------------------------------------------------------------------------

    def _timed(self, part: str, fn: Callable[..., T], *args: object, direct: bool = False) -> T:
        began = time.monotonic()
        result = fn(*args) if direct else self.observer.task(part, fn, *args)
        self.parts[part] = self.parts.get(part, 0.0) + time.monotonic() - began
        return result

    def _show(self, index: int, planned: list[PlannedGroup], tokens: int, seconds: float) -> None:
        self.parts["wall"] = self.parts.get("wall", 0.0) + seconds
        groups = [p.group for p in planned]
        self.observer.progress(
            index + 1 - self.first,
            self.rounds,
            success=success_rate(groups),
            injected=records.injection_rate(planned) if tokens else None,
            dead=records.dead_rate(planned, self.objective) if tokens else None,
            tokens_per_second=tokens / seconds if tokens else None,
        )

    def close(self) -> None:
        """Stop the verifier's workers and the engine's servers."""
        self.pool.close()
        self.engine.close()


def train_segment(params: Params, name: str, observer: Observer) -> None:
    """Run (or finish) a segment.

    Raises:
        HapoError: bad configuration or artifacts, too many unknown rewards, a full disk.
    """
    params.rounds_before(name)
    segment = Segment(params, name, observer)
    try:
        while not segment.ended:
            segment.round(segment.done)
        segment.publish()
    finally:
        segment.close()


def main() -> None:
    """The stage's entry point: `python -m pipeline.train --segment K`."""
    parser = argparse.ArgumentParser(prog="pipeline.train")
    parser.add_argument("--segment", required=True, help="key of `segments` in params.yaml")
    name = parser.parse_args().segment
    params = load_params()
    run_stage(f"train@{name}", lambda observer: train_segment(params, name, observer))


if __name__ == "__main__":
    stage_main(main)
