"""Stage `curate`: sources and benchmarks in, a checked training set and an account of it out.

    python -m pipeline.curate

The rules are plain functions in `pipeline.curate`, in the order of `docs/data.md`. Problems are
held in memory (without their traces); traces stream through files in the scratch folder.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedTokenizerBase

from hapo_core.errors import DataError
from hapo_core.verify import VerifierPool
from pipeline.artifacts import (
    Scratch,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    guard_disk,
    inputs_hash,
    record_timing,
    remove,
    write_manifest,
)
from pipeline.artifacts.places import DATA, PROBE
from pipeline.artifacts.tables import DROPPED, PROBLEMS, write_table
from pipeline.build.teacher import check_teacher, curated_teacher
from pipeline.build.verifier import verifier_settings
from pipeline.config import Params
from pipeline.curate.account import Account
from pipeline.curate.account_json import account_json
from pipeline.curate.benchmarks import Benchmark, read_benchmark, write_benchmark
from pipeline.curate.check import Sample, check_verifier
from pipeline.curate.intake import Intake
from pipeline.curate.problems import Candidate, apply_rule
from pipeline.curate.prompts import PromptMaker
from pipeline.curate.rules.contamination import drop_contaminated
from pipeline.curate.rules.duplicates import Owners, drop_exact, drop_near
from pipeline.curate.rules.golds import check_golds
from pipeline.curate.rules.gradable import drop_refused, drop_ungradable
from pipeline.curate.rules.split import assign_splits
from pipeline.curate.rules.traces import (
    GRADED,
    TraceGrader,
    TraceRules,
    check_known,
    rank_traces,
    write_traces,
)
from pipeline.curate.sources import open_source
from pipeline.curate.sources.record import Faulty, Record, Records
from pipeline.curate.spool import Spool
from pipeline.dependencies.provenance import PROVENANCE, begin
from pipeline.flows.observer import Observer

STAGE = "curate"
T = TypeVar("T")


class Curation:
    """One run of the stage: the state that its steps hand on."""

    def __init__(
        self, params: Params, tokenizer: PreTrainedTokenizerBase, out: Path, observer: Observer
    ) -> None:
        self.params, self.config, self.out, self.observer = params, params.curate, out, observer
        config = self.config
        self.maker = PromptMaker(
            tokenizer, config.prompt_suffix, config.system_prompt, date=config.prompt_date
        )
        self.account = Account()
        self.owners = Owners()
        self.taken: set[str] = set()
        self.sources: dict[str, dict[str, object]] = {}
        self.splits: dict[str, int] = {}
        self.rows = self.trace_rows = 0
        self.raw = Spool(out / "spool" / "raw.arrow")
        self.graded = Spool(out / "spool" / "graded.arrow", GRADED)
        self.pool = VerifierPool(verifier_settings(params.rewards))

    # --- the steps, in order ------------------------------------------------------------------

    def read(self) -> list[Candidate]:
        """All training sources; their traces go to the spool."""
        intake = Intake(self.account, self.raw)
        for name, source in self.config.sources.items():
            opened = open_source(name, source, self.params.seed, "train", self.taken)
            records = _watched(opened.records, self.observer, name, opened.total)
            intake.read(
                name,
                records,
                strict=opened.strict,
                generated=opened.generated,
                reward=source.reward or self.params.rewards.verifier,
            )
            if opened.traces is not None:
                intake.attach(name, opened.traces)
            self.sources[name] = {**opened.facts, **intake.counts[name]}
        self.raw.close()
        self.rows = self.account.rules[0].rows_in
        return intake.candidates

    def benchmarks(self) -> dict[str, Benchmark]:
        """All benchmarks; generated ones avoid the training problems."""
        found = {
            name: read_benchmark(
                name,
                open_source(name, source, self.params.seed, "benchmark", self.taken),
                self.maker,
                self.pool,
                source.reward or self.params.rewards.verifier,
            )
            for name, source in self.config.benchmarks.items()
        }
        for name, benchmark in found.items():
            check_known(
                benchmark.gold_verdicts(),
                self.params.rewards.max_unknown_share,
                f"golds of the benchmark {name!r}",
            )
        return found

    def select(
        self, candidates: list[Candidate], benchmarks: dict[str, Benchmark]
    ) -> list[Candidate]:
        """The rules about problems."""
        account, config = self.account, self.config
        kept = drop_refused(account, candidates)
        kept = drop_exact(account, kept, self.owners)
        kept = drop_near(account, kept, self.owners, config.near_duplicates, self.observer)
        kept = drop_ungradable(account, kept)
        kept = drop_contaminated(
            account, kept, benchmarks, config.decontaminate_ngram, config.decontaminate_coverage
        )
        kept = check_golds(account, kept, self.pool, self.observer)
        asked = [
            Sample(c.problem_id, c.answer, c.reward)
            for c in kept
            if not c.generated and c.reward != "reasoning_gym"
        ]
        check_verifier(asked, self.pool, self._warn)
        kept = self._tokenise(kept)
        if not kept:
            raise DataError(
                "no problem is left after the rules: " + _last_reasons(account),
                where="curate.sources",
                remedy="`hapo data peek SOURCE` shows the rows; loosen the rule that took them",
            )
        return kept

    def _tokenise(self, kept: list[Candidate]) -> list[Candidate]:
        for candidate, ids in zip(kept, self.maker.prompts([c.problem for c in kept]), strict=True):
            candidate.prompt_ids = ids
        return apply_rule(self.account, "prompt length", kept, self._prompt_fault)

    def _prompt_fault(self, candidate: Candidate) -> tuple[str, str] | None:
        ids = candidate.prompt_ids
        assert ids is not None
        if len(ids) > self.config.max_prompt_tokens:
            budget = self.config.max_prompt_tokens
            return "longer than max_prompt_tokens", f"{len(ids)} tokens, the limit is {budget}"
        if self.maker.has_unknown(ids):
            return "characters that the tokenizer does not know", candidate.problem
        fault = self.maker.text_fault(candidate.problem)
        return (fault, candidate.problem) if fault else None

    def grade_traces(self, kept: list[Candidate]) -> TraceRules:
        """The rules about traces, one batch after the other."""
        rules = TraceRules(self.account, self.config.max_trace_tokens)
        grader = TraceGrader(self.owners.owner_of(kept), self.maker, self.pool, rules)
        total, start = self.raw.rows, time.monotonic()

        def progress(done: int) -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            self.observer.progress(done, total, what="traces", traces_per_second=rate)

        with self.graded:
            grader.run(self.raw, self.graded, progress)
        check_known(rules.verdicts, self.params.rewards.max_unknown_share, "traces")
        return rules

    def choose(self, kept: list[Candidate], rules: TraceRules) -> list[Candidate]:
        """Ranks, problems without a usable trace, the split; writes problems and traces."""
        ranks = rank_traces(rules.usable, self.config.trace_choice)
        choice = self.account.rule("trace choice", "traces", len(ranks))
        behind = sum(rank > 0 for rank in ranks.values())
        if behind:
            choice.mended[f"kept behind the {self.config.trace_choice} one"] = behind
        kept = apply_rule(
            self.account,
            "usable trace",
            kept,
            lambda c: (
                ("no usable trace", "require_trace is on")
                if self.config.require_trace and c.index not in rules.usable
                else None
            ),
        )
        if not kept:
            raise DataError(
                "no problem has a usable trace: " + _last_reasons(self.account),
                where="curate.require_trace",
                remedy="set require_trace: false, or raise max_trace_tokens",
            )
        self.splits = assign_splits(kept, self.config.validation_share, self.params.seed)
        write_table([_problem_row(c) for c in kept], PROBLEMS, self.out / "problems.parquet")
        by_index = {c.index: c for c in kept}
        self.trace_rows = write_traces(self.graded, by_index, ranks, self.out / "traces.parquet")
        self._check_teacher()
        return kept

    def _check_teacher(self) -> None:
        """A method that learns from traces must have some. The tables are the same for all methods,
        so curation does not depend on `method`; a later change of it is caught where training
        starts."""
        method = getattr(self.params, "method", None)
        if method is not None:
            found = curated_teacher(self.out)
            check_teacher(method, found, "curate.sources", self._warn)

    def _warn(self, text: str) -> None:
        self.observer.log(text, logging.WARNING)

    def finish(
        self, kept: list[Candidate], benchmarks: dict[str, Benchmark], rules: TraceRules
    ) -> dict[str, object]:
        """Benchmarks, dropped problems, the account and the manifest."""
        for benchmark in benchmarks.values():
            write_benchmark(benchmark, self.out / "benchmarks")
        drops = [
            {
                "problem_id": d.problem_id,
                "source": d.source,
                "row": d.row,
                "rule": d.rule,
                "reason": d.reason,
                "detail": d.detail,
                "problem": d.problem,
            }
            for d in self.account.drops
        ]
        write_table([_storable(d) for d in drops], DROPPED, self.out / "dropped.parquet")
        shutil.rmtree(self.out / "spool")
        facts = {
            "problems": len(kept),
            **self.splits,
            "traces": self.trace_rows,
            "problems_with_usable_trace": sum(c.index in rules.usable for c in kept),
            "benchmarks": {name: len(b.rows) for name, b in benchmarks.items()},
        }
        account = account_json(self.account, self.sources, benchmarks, rules, facts)
        atomic_write_json(self.out / "curation.json", account)
        names = ["problems.parquet", "traces.parquet", "dropped.parquet", "curation.json"]
        names += [f"benchmarks/{benchmark.name}.parquet" for benchmark in benchmarks.values()]
        write_manifest(self.out, "data", facts, names)
        return facts

    def close(self) -> None:
        """Stop the verifier's workers."""
        self.pool.close()


def _watched(
    records: Records, observer: Observer, name: str, total: int | None
) -> Iterator[Record | Faulty]:
    """The records, with a progress report every thousand."""
    for done, record in enumerate(records, start=1):
        yield record
        if done % 1000 == 0:
            observer.progress(done, max(done + 1, total or 0), what=f"rows of {name}")


def _last_reasons(account: Account) -> str:
    takers = [r for r in account.rules if r.unit != "traces" and r.out]
    return "; ".join(f"{r.name} took {sum(r.out.values())}" for r in takers) or "none was read"


def _storable(row: dict[str, object]) -> dict[str, object]:
    """Text that parquet can hold: lone surrogates are written out as escapes."""
    return {
        k: v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v
        for k, v in row.items()
    }


def _write_probe(params: Params, data: Path, target: Path) -> None:
    """`artifacts/probe/`: the benchmarks that training watches, or a line that there is none."""
    remove(target)
    if not params.train.watched:
        atomic_write_text(target / "off", "train.probe_benchmark is not set\n")
    for name in params.train.watched:
        source = data / "benchmarks" / f"{name}.parquet"
        atomic_write_bytes(target / f"{name}.parquet", source.read_bytes())


def _summary(facts: dict[str, object]) -> str:
    return (
        f"{facts['problems']} problems ({facts['validation']} for validation), "
        f"{facts['problems_with_usable_trace']} with a usable trace"
    )


def _problem_row(candidate: Candidate) -> dict[str, object]:
    return {
        "problem_id": candidate.problem_id,
        "problem": candidate.problem,
        "answer": candidate.answer,
        "source": candidate.source,
        "split": candidate.split,
        "reward": candidate.reward,
        "prompt_ids": candidate.prompt_ids,
    }


def curate(
    params: Params,
    observer: Observer,
    target: Path = DATA,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> dict[str, object]:
    """Curate the sources of `params` into `target`.

    Args:
        tokenizer: of the starting policy; None asks `pipeline.models.load_tokenizer`.

    Returns:
        Counts of what was written (also in the manifest).

    Raises:
        HapoError: a source cannot be read, or a row breaks its source's contract.
    """
    began = time.monotonic()
    made = begin(STAGE, params)
    if tokenizer is None:
        from pipeline.models import load_tokenizer

        tokenizer = load_tokenizer(params)
    scratch = Scratch(STAGE, inputs_hash(made.lock, []))
    scratch.discard_others()
    out = scratch.path / "data"
    remove(out)
    parts: dict[str, float] = {}

    def timed(name: str, step: Callable[..., T], *args: object) -> T:
        start = time.monotonic()
        result = observer.task(name, step, *args)
        parts[name] = time.monotonic() - start
        return result

    with guard_disk(out):
        run = Curation(params, tokenizer, out, observer)
        try:
            candidates = timed("read sources", run.read)
            benchmarks = timed("read benchmarks", run.benchmarks)
            kept = timed("select problems", run.select, candidates, benchmarks)
            rules = timed("grade traces", run.grade_traces, kept)
            kept = timed("choose traces", run.choose, kept, rules)
            facts = timed("write account", run.finish, kept, benchmarks, rules)
        finally:
            run.close()
        made.check()
        _write_probe(params, out, target.parent / PROBE.name)
        scratch.publish(target, "data", observer.log)
        made.write(target.parent / PROVENANCE.name)
        scratch.discard()
    observer.table_artifact("curation", run.account.table(), "rows in and out of every rule")
    observer.log(_summary(facts))
    wall = time.monotonic() - began
    record_timing(STAGE, wall, rows=run.rows, parts=parts, root=target.parent / "timings")
    return facts
