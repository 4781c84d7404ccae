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
from pathlib import Path
from typing import TypeVar

from hapo_core.groups import Extras, PlannedGroup, Request, success_rate
from hapo_core.methods import Phase
from hapo_core.ranks import ALONE, Ranks, join, shard, whole
from hapo_core.rollout import Engine
from hapo_core.schedule import prompts_of_round
from hapo_core.update import UpdateMetrics, Updater, supervised
from hapo_core.verify import Verification, VerifierPool
from pipeline import records, several, waves, wiring
from pipeline.checkpoint import (
    drop_older,
    load_optimizer,
    optimizer_folder,
    write_parts,
    write_state,
)
from pipeline.config import Loggers, Params, load_params
from pipeline.difficulty import within_band
from pipeline.loggers import Curves
from pipeline.measure import Probe, load_probe
from pipeline.observe import Observer, run_stage, stage_main
from pipeline.places import DATA, POLICIES
from pipeline.segment_start import same_run, start_of
from pipeline.several import Elsewhere
from pipeline.shown import Board
from pipeline.store import (
    Scratch,
    atomic_write_json,
    guard_disk,
    inputs_hash,
    read_json,
    record_timing,
    write_manifest,
)
from pipeline.tables import ROUNDS, write_table
from pipeline.verifying import Verifying, refuse_unknown
from pipeline.waves import Sampled, Waves

T = TypeVar("T")
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
        ranks: the processes that train together. All hold the same round; rollouts, verification
            and the passes of the update are shared, the first writes and reports.
    """

    def __init__(self, params: Params, name: str, observer: Observer, ranks: Ranks = ALONE) -> None:
        spec = params.segments[name]
        self.params, self.name, self.observer, self.ranks = params, name, observer, ranks
        self.first = params.rounds_before(name)
        self.rounds, self.spec = spec.rounds, spec
        previous = POLICIES / spec.prev
        self.before = same_run(params, previous, spec.prev)
        subset = {key: getattr(params, key) for key in READS} | {"segment": spec}
        # Another number of processes goes on where this one stopped.
        subset["compute"] = params.compute.model_copy(update={"processes": 1, "shard": False})
        self.scratch = Scratch(f"train@{name}", inputs_hash(subset, [DATA, previous]))
        if ranks.first:
            self.scratch.discard_others()
            Scratch.settle(f"train@{name}")
        self.out = self.scratch.path / "out"
        self.states = self.scratch.path / "states"
        self.parts: dict[str, float] = {}
        self._open(previous)

    def _open(self, previous: Path) -> None:
        params, ranks = self.params, self.ranks
        if ranks.first:
            self.states.mkdir(parents=True, exist_ok=True)
        start = start_of(params, self.name, self.states, ranks, self.observer.log)
        self.data, self.model, self.tokenizer = start.data, start.model, start.tokenizer
        self.done = start.done
        if start.resumed:
            self.parts = dict(read_json(self.scratch.path / "parts.json"))
        self.tokens = dict.fromkeys(("generated_tokens", "trained_tokens"), 0)
        before = self._finished_rows()
        for row in before:
            self._count(row)
        self._open_engine()
        self._choose_problems(None if self.spec.prev == "base" else previous)
        if params.compute.shard and ranks.count > 1:
            shard(self.model, ranks)
        self.updater = Updater(self.model, wiring.update_spec(params), ranks)
        if start.source is not None:
            load_optimizer(self.model, self.updater.optimizer, optimizer_folder(start.source))
        self.method = wiring.method(
            params,
            start.gate,
            waves.demonstrations(self.data, params.rollout.max_tokens),
            self.data.prompt_ids,
            start.waiting,
        )
        self.objective = wiring.objective(params)
        self.board = Board(self.observer, self.name, before)
        loggers = params.loggers if ranks.first else Loggers(tensorboard=None)
        self.curves = Curves(loggers, self.scratch.path.name, before)

    def _open_engine(self) -> None:
        params = self.params
        self.probe: Probe | None = load_probe(params, DATA)
        asked = [*self.data.prompts.values(), *(self.probe.benchmark.prompts if self.probe else ())]
        # All ranks generate with the trained model itself; servers answer the first.
        self.alone = params.rollout.engine != "hf"
        self.engine: Engine = Elsewhere()
        if self.ranks.first or not self.alone:
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

    def _choose_problems(self, previous: Path | None) -> None:
        """Keep the problems of the difficulty band; `previous`: the segment before, if any."""
        params, band = self.params, self.params.train.difficulty
        if band is None:
            return
        self.data = self.ranks.from_first(
            lambda: within_band(
                params,
                band,
                self.data,
                self.engine,
                self.pool,
                self.out,
                previous,
                self.scratch.path,
                self.observer,
            )
        )

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
        self.observer.part = str(index + 1)
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
        seconds = time.monotonic() - began
        self._show(index, planned, int(str(row["generated_tokens"])), seconds)
        self.board.add(row | probe, seconds)
        self.curves.add(row | probe)

    def _sample(self, ids: list[str], index: int) -> Waves:
        """Ask the method what it wants until it has it."""
        data = self.data
        found = Waves(data, self.params.rollout.max_tokens, self.params.seed, index)
        for prompt_id in ids:
            found.open(prompt_id)
        size = self.params.rollout.group_size
        while wanted := self.method.wants(list(found.groups.values()), size, index):
            with whole(self.model):
                pairs = self._wave(wanted, found, index)
            found.add([sample for sample, _ in pairs], [verdict for _, verdict in pairs])
        return found

    def _wave(
        self, wanted: list[Request], found: Waves, index: int
    ) -> list[tuple[Sampled, Verification]]:
        """Samples and verdicts of all requests, in their order; every rank makes its share."""
        for request in wanted:
            found.open(request.prompt_id)
        data, mine = self.data, self.ranks.share(wanted)
        if self.alone:
            mine = wanted if self.ranks.first else []
        with Verifying(self.pool, data.answers, data.rewards, data.opening) as verifying:
            samples = self._timed("rollout", self._rollout, mine, found, index, verifying)
            pairs = self._timed("verify", self._verify, samples, verifying)
        order = {request: k for k, request in enumerate(wanted)}
        return sorted(pairs, key=lambda pair: order[pair[0][0]])

    def _rollout(
        self, wanted: list[Request], found: Waves, index: int, verifying: Verifying
    ) -> list[Sampled]:
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

    def _verify(
        self, samples: list[Sampled], verifying: Verifying
    ) -> list[tuple[Sampled, Verification]]:
        """The samples of all ranks with their verdicts."""
        own = verifying.of([rollout for _, rollout in samples])
        parts = self.ranks.gather(list(zip(samples, own, strict=True)))
        pairs = [pair for part in parts for pair in part]
        refuse_unknown([verdict for _, verdict in pairs], self.params.rewards.max_unknown_share)
        return pairs

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
        with whole(self.model):
            return self.ranks.from_first(lambda: self._timed("probe", self._measure, direct=True))

    def _measure(self) -> dict[str, object]:
        assert self.probe is not None
        return self.probe.measure(self.engine, self.pool, self.data.opening)

    # --- what stays ---------------------------------------------------------------------------

    def _save(
        self,
        index: int,
        planned: list[PlannedGroup],
        verdicts: list[Verification],
        row: dict[str, object],
    ) -> None:
        number = f"round-{index + 1:05d}"
        if self.ranks.first:
            with guard_disk(self.out):
                gate = self.method.gate.state
                records.write_round(self.out, index, planned, verdicts, gate, self.objective)
                write_table([row], ROUNDS, self.scratch.path / "rounds" / f"{number}.parquet")
        self._count(row)
        self.done = done = index + 1
        if self.ended or done % self.params.train.checkpoint_every == 0:
            if self.ranks.first:
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
                self.ranks,
            )
            if self.ranks.first:
                drop_older(self.states, keep=state)

    def publish(self) -> None:
        """Assemble the segment and move it to `artifacts/policy/K/`."""
        out = self.out
        if self.ranks.first:
            for part in ("model", "state"):
                shutil.rmtree(out / part, ignore_errors=True)
        with guard_disk(out):
            write_parts(
                out,
                self.model,
                self.tokenizer,
                self.updater.optimizer,
                self.method.gate.state,
                self.done,
                self.method.waiting,
                self.ranks,
            )
        if self.ranks.first:
            self._publish_first()

    def _publish_first(self) -> None:
        out = self.out
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
                "rounds": [self.first, self.done],
                **self.before,
            },
        )
        self.scratch.publish_copy(POLICIES / self.name, "out")
        self.board.close()
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
        """Stop the verifier's workers, the engine's servers and the loggers."""
        self.pool.close()
        self.engine.close()
        self.curves.close()


def train_segment(params: Params, name: str, observer: Observer, ranks: Ranks = ALONE) -> None:
    """Run (or finish) a segment; with several ranks, in every one of them.

    Raises:
        HapoError: bad configuration or artifacts, too many unknown rewards, a full disk.
    """
    params.rounds_before(name)
    segment = Segment(params, name, observer, ranks)
    try:
        while not segment.ended:
            segment.round(segment.done)
        segment.publish()
    finally:
        segment.close()


def main() -> None:
    """The stage's entry point: `python -m pipeline.train --segment K`, which starts
    `compute.processes` of itself, or the same under torchrun."""
    parser = argparse.ArgumentParser(prog="pipeline.train")
    parser.add_argument("--segment", required=True, help="key of `segments` in params.yaml")
    name = parser.parse_args().segment
    params = load_params()
    stage, processes = f"train@{name}", params.compute.processes
    if processes > 1 and not several.is_rank():
        several.launch(processes, "pipeline.train", "--segment", name)
        return
    several.stay_with_launcher()
    ranks = join(params.compute.device)
    if ranks.first:
        run_stage(stage, lambda observer: train_segment(params, name, observer, ranks))
    else:
        train_segment(params, name, several.Silent(stage), ranks)
    ranks.leave()


if __name__ == "__main__":
    stage_main(main)
