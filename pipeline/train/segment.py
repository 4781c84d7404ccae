"""Stage `train@K`: a segment of rounds, each rollout -> verify -> gate -> update.

Every `train.checkpoint_every` rounds the whole state goes to the scratch folder; a killed segment
continues there and ends with the same bytes. At the end the segment moves to
`artifacts/policy/K/`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hapo_core.distributed import ALONE, Ranks, shard, unsharded
from hapo_core.fit import refuse_length
from hapo_core.groups import PlannedGroup, success_rate
from hapo_core.rollout import Engine
from hapo_core.update import Updater
from hapo_core.verify import VerifierPool
from pipeline.artifacts import (
    Scratch,
    atomic_write_json,
    guard_disk,
    inputs_hash,
    record_timing,
    remove,
    write_manifest,
)
from pipeline.artifacts.optimizer import load_optimizer
from pipeline.artifacts.places import DATA, POLICIES
from pipeline.artifacts.seals import drop_oldest
from pipeline.artifacts.tables import ROUNDS, whole, write_table
from pipeline.build import method
from pipeline.build.engine import rollout_dtype, rollout_engine
from pipeline.build.objective import objective
from pipeline.build.optimizer import update_spec
from pipeline.build.teacher import check_teacher, curated_teacher
from pipeline.build.verifier import verifier_settings
from pipeline.config import Loggers, Params
from pipeline.dependencies.provenance import begin
from pipeline.flows.observer import Observer
from pipeline.show.alarm import alarm_words
from pipeline.show.loggers import Curves
from pipeline.show.rounds_page import RoundsPage
from pipeline.train import sampling, table_rows
from pipeline.train.checkpoint import (
    KEPT,
    check_rounds,
    optimizer_folder,
    seal_round,
    tables_of_rounds,
    write_parts,
    write_state,
)
from pipeline.train.difficulty import TABLE, within_band
from pipeline.train.listening import Listening
from pipeline.train.probe import Probe, load_probe, load_watched
from pipeline.train.resume import inputs_of, same_run, seconds_before, start_of
from pipeline.train.round import NoEngine, RoundRunner, first_rank_generates
from pipeline.train.shown import GAIN, ShownTraces, drop_states_without_gain, gain_problem


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
        self.first_round, self.rounds, self.spec = params.rounds_before(name), spec.rounds, spec
        previous = POLICIES / spec.prev
        if ranks.first:
            Scratch.settle(f"train@{name}")  # takes names from the inputs' files: first
        self.made = begin(f"train@{name}", params, [*inputs_of(params), previous])
        self.before = same_run(params, previous, spec.prev)
        key = {**self.made.lock, "parameters": dict(self.made.lock["parameters"])}
        # Another number of processes goes on where this one stopped.
        key["parameters"]["compute"] = {**key["parameters"]["compute"], "processes": 1, "shard": 0}
        self.scratch = Scratch(f"train@{name}", inputs_hash(key, []))
        if ranks.first:
            self.scratch.discard_others()
        self.out = self.scratch.path / "out"
        self.states = self.scratch.path / "states"
        self.parts: dict[str, float] = {}
        self._open(previous)

    def _open(self, previous: Path) -> None:
        params, ranks = self.params, self.ranks
        if ranks.first:
            if self._gains:
                drop_states_without_gain(self.scratch.path, self.observer.log)
            self.states.mkdir(parents=True, exist_ok=True)
        start = start_of(params, self.name, self.scratch.path, ranks, self.observer.log)
        self.data, self.model, self.tokenizer = start.data, start.model, start.tokenizer
        self.done = start.done
        if start.resumed:
            self.parts = seconds_before(self.scratch.path / "parts.json", self.observer.log)
        self.tokens = dict.fromkeys(("generated_tokens", "trained_tokens"), 0)
        before = self._finished_rows()
        for row in before:
            self._count(row)
        check_teacher(
            params.method,
            curated_teacher(DATA, params.rollout.max_tokens),
            str(DATA),
            lambda text: self.observer.log(text, logging.WARNING),
        )
        self._open_engine()
        self._choose_problems(None if self.spec.prev == params.start else previous)
        if params.compute.shard and ranks.count > 1:
            shard(self.model, ranks)
        self.updater = Updater(self.model, update_spec(params), ranks)
        if start.source is not None:
            load_optimizer(self.model, self.updater.optimizer, optimizer_folder(start.source))
        self.method = method.method(
            params,
            start.gate,
            sampling.demonstrations(self.data, params.rollout.max_tokens),
            self.data.prompt_ids,
            start.waiting,
        )
        self.objective = objective(params)
        self.loop = RoundRunner(
            params,
            self.data,
            self.model,
            self.tokenizer,
            self.engine,
            self.pool,
            self.method,
            self.updater,
            self.objective,
            self.probe,
            self.observer,
            ranks,
            self.parts,
            Listening.of(params, self.method.gate.state, self.watched),
            self._shown(),
        )
        self.page = RoundsPage(self.observer, self.name, before)
        for row in before:
            self._note_probe(row)
        loggers = params.loggers if ranks.first else Loggers(tensorboard=None)
        self.curves = Curves(loggers, self.scratch.path.name, before)

    def _open_engine(self) -> None:
        params = self.params
        self.probe: Probe | None = load_probe(params, DATA)
        self.probed: str | None = None
        """What the probe found last, as people read it."""
        self.watched = load_watched(params, DATA)
        measured = [*([self.probe] if self.probe else []), *self.watched.values()]
        asked = [*self.data.prompts.values(), *(p for m in measured for p in m.benchmark.prompts)]
        self.engine: Engine = NoEngine()
        if self.ranks.first or not first_rank_generates(params):
            self.engine = rollout_engine(
                params.rollout,
                params.compute,
                self.model,
                self.tokenizer,
                stage=f"train@{self.name}",
                context=max(len(p.token_ids) for p in asked) + params.rollout.max_tokens,
                tell=self.observer.log,
                dtype=rollout_dtype(params),
            )
        self.pool = VerifierPool(verifier_settings(params.rewards))

    def _choose_problems(self, previous: Path | None) -> None:
        """Keep the problems of the difficulty band; `previous`: the segment before, if any."""
        params, band = self.params, self.params.train.difficulty
        if band is None:
            return
        kept = self.ranks.broadcast(
            lambda: (
                within_band(
                    params,
                    band,
                    self.data,
                    self.engine,
                    self.pool,
                    self.out,
                    previous,
                    self.scratch.path,
                    self.observer,
                    self.made.unchanged,
                ).prompt_ids
            )
        )
        self.data = self.data.only(set(kept))

    def _shown(self) -> ShownTraces | None:
        """The teacher that scores; its gain is measured once, before the first round of a run.

        Raises:
            HapoError: it gains nothing, or a prompt with a trace does not fit the model.
        """
        params = self.params
        if not params.distils:
            return None
        shown = ShownTraces(params, self.data, self.tokenizer)
        longest = max((len(p.token_ids) for p in shown.all_prompts()), default=0)
        where = "teacher.distill: a prompt with its trace"
        refuse_length(self.model, longest + params.rollout.max_tokens, where)
        path = self.scratch.path
        if not self.ranks.broadcast(lambda: not self._gains or gain_problem(path) is None):
            with unsharded(self.model):
                measure = partial(shown.measure_gain, self.engine, self.pool, path)
                self.observer.log(self.ranks.broadcast(measure))
        return shown

    @property
    def _gains(self) -> bool:
        """Whether this segment measures what showing the trace gains."""
        return self.params.distils and self.first_round == 0

    @property
    def ended(self) -> bool:
        """Whether all rounds are done, or a budget of tokens is spent."""
        spent = self.spec.spent(self.tokens["generated_tokens"], self.tokens["trained_tokens"])
        return self.done == self.first_round + self.rounds or (
            spent and self.done > self.first_round
        )

    def _finished_rows(self) -> list[table_rows.Row]:
        return table_rows.read_rounds(
            self.scratch.path / "rounds", self.first_round, self.done - self.first_round
        )

    def _count(self, row: Mapping[str, object]) -> None:
        for name in self.tokens:
            self.tokens[name] += whole(row, name)

    def round(self, index: int) -> None:
        """One round (counted from 0 over all segments): run it, write it down, show it."""
        began = time.monotonic()
        self.observer.part = str(index + 1)
        done = self.loop.run(index)
        planned = done.planned
        row = table_rows.round_row(
            self.name,
            self.params,
            index,
            done.phase,
            planned,
            done.metrics,
            self.objective,
            done.extra_rows,
            done.surprise_tokens,
        )
        shown = row | done.probe | done.heard
        self._note_probe(shown)
        if (spoken := self.loop.listening.spoken) and spoken.round == index + 1:
            self.observer.alarm(alarm_words(spoken))
        self.loop.timed("save", self._save, index, planned, shown, direct=True)
        seconds = time.monotonic() - began
        self._show(index, planned, whole(row, "generated_tokens"), seconds)
        self.page.add(shown, seconds)
        self.curves.add(shown)

    # --- what stays ---------------------------------------------------------------------------

    def _save(
        self,
        index: int,
        planned: list[PlannedGroup],
        row: dict[str, object],
    ) -> None:
        number = f"round-{index + 1:05d}"
        if self.ranks.first:
            self.made.unchanged(lambda text: self.observer.log(text, logging.WARNING))
            with guard_disk(self.out):
                gate = self.method.gate.state
                table_rows.write_round(self.out, index, planned, gate, self.objective, self.params)
                write_table([row], ROUNDS, self.scratch.path / "rounds" / f"{number}.parquet")
                seal_round(self.scratch.path, index + 1, self.first_round)
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
                drop_oldest(self.states, "round-*", keep=KEPT)

    def publish(self) -> None:
        """Assemble the segment and move it to `artifacts/policy/K/`."""
        out = self.out
        if self.ranks.first:
            for part in ("model", "state"):
                remove(out / part)
        with guard_disk(out):
            names = write_parts(
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
            self._publish_first(names)

    def _publish_first(self, names: list[str]) -> None:
        """`names`: of the files that are written already; the rounds' tables are sealed."""
        out = self.out
        problem = gain_problem(self.scratch.path) if self._gains else None
        check_rounds(self.scratch.path, self.first_round, self.done, problem)
        with guard_disk(out):
            rows = self._finished_rows()
            write_table(rows, ROUNDS, out / "rounds.parquet")
        names += ["rounds.parquet"]
        names += tables_of_rounds(range(self.first_round + 1, self.done + 1))
        names += [TABLE] if self.params.train.difficulty is not None else []
        names += [GAIN] if self._gains else []
        write_manifest(
            out,
            "segment",
            {
                "segment": self.name,
                "method": self.params.method,
                "seed": self.params.seed,
                "rounds": [self.first_round, self.done],
                **self.before,
            },
            names,
        )
        self.made.check()
        self.scratch.publish_copy(POLICIES / self.name, "out", self.observer.log)
        self.made.write()
        self.page.close()
        record_timing(
            f"train@{self.name}",
            self.parts.pop("wall", 0.0),
            generated=sum(whole(r, "generated_tokens") for r in rows),
            trained=sum(whole(r, "trained_tokens") for r in rows),
            parts=self.parts,
        )

    # --- people look --------------------------------------------------------------------------

    def _note_probe(self, row: Mapping[str, object]) -> None:
        if row.get("probe_avg") is not None:
            self.probed = f"{100 * float(str(row['probe_avg'])):.1f} %"

    def _show(self, index: int, planned: list[PlannedGroup], tokens: int, seconds: float) -> None:
        self.parts["wall"] = self.parts.get("wall", 0.0) + seconds
        groups = [p.group for p in planned]
        self.observer.progress(
            index + 1 - self.first_round,
            self.rounds,
            success=success_rate(groups),
            injected=table_rows.injection_rate(planned) if tokens else None,
            dead=table_rows.dead_rate(planned, self.objective) if tokens else None,
            probe=self.probed,
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
