"""What curation would refuse or drop, asked of local files before anything runs: its own intake on
their first rows, and the length of their prompts and traces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline.checks.data import AnySource, is_local
from pipeline.checks.finding import Finding, problem
from pipeline.config import Params, PresetSource, TableSource
from pipeline.curate.account import Account
from pipeline.curate.benchmarks import read_rows
from pipeline.curate.intake import Intake
from pipeline.curate.prompts import PromptMaker
from pipeline.curate.sources import open_source
from pipeline.curate.spool import Spool
from pipeline.models import tokenizer_here

MOST = 20_000
"""Rows of a file that are read; a trace of a later problem is then no fault."""
TOKENISED = 200
_MANY = 0.5


def refusals(params: Params, name: str, source: AnySource, role: str) -> Iterator[Finding]:
    """The error with which curation would stop at a local file, as a line; none where it would
    not."""
    table = source.table() if isinstance(source, PresetSource) else source
    if not isinstance(table, TableSource) or not is_local(table):
        return
    try:
        if role == "benchmark":
            read_rows(name, open_source(name, source, params.seed, "benchmark", set()))
        else:
            _read(params, name, source)
    except HapoError as error:
        yield problem(f"{role} {name}", error)


def _read(params: Params, name: str, source: AnySource) -> tuple[Intake, list[str]]:
    """Read the first rows as curation would; the candidates, and the texts of their traces.

    Raises:
        HapoError: as curation would.
    """
    opened = open_source(name, source, params.seed, "train", set())
    with tempfile.TemporaryDirectory(prefix="hapo-dry-") as folder:
        spool = Spool(Path(folder) / "raw.arrow")
        intake = Intake(Account(), spool)
        records = islice(opened.records, MOST)
        reward = source.reward or params.rewards.verifier
        intake.read(name, records, strict=opened.strict, reward=reward)
        if opened.traces is not None and intake.counts[name]["rows"] < MOST:
            intake.attach(name, opened.traces)
        spool.close()
        texts: list[str] = []
        for batch in spool.batches():
            texts += batch["text"].to_pylist()[: TOKENISED - len(texts)]
    return intake, texts


def lengths(params: Params) -> Iterator[Finding]:
    """How many of the first problems and traces are too long, or hold characters that the
    tokenizer lacks, where files and tokenizer are here."""
    try:
        tokenizer = tokenizer_here(params)
        if tokenizer is None:
            return
        maker = PromptMaker(tokenizer, params.curate.prompt_suffix, params.curate.system_prompt)
    except HapoError:
        return  # said where the prompts are looked at
    for name, source in params.curate.sources.items():
        if not isinstance(source, TableSource) or not is_local(source):
            continue
        try:
            intake, texts = _read(params, name, source)
        except HapoError:
            continue  # said already
        yield from _too_long(params, name, [c.problem for c in intake.candidates], texts, maker)


def _too_long(
    params: Params, name: str, problems: list[str], traces: list[str], maker: PromptMaker
) -> Iterator[Finding]:
    c = params.curate
    prompts = maker.prompts(problems[:TOKENISED])
    responses = maker.responses([maker.response_text(t) for t in traces])
    for what, ids, most, key in (
        ("prompts", prompts, c.max_prompt_tokens, "curate.max_prompt_tokens"),
        ("traces", responses, c.max_trace_tokens, "curate.max_trace_tokens"),
    ):
        long = [len(i) for i in ids if len(i) > most]
        unknown = sum(maker.has_unknown(i) for i in ids)
        for count, why, remedy in (
            (
                len(long),
                f"are longer than {key} ({most})",
                f"the longest has {max(long, default=0)}",
            ),
            (unknown, "hold characters that the tokenizer does not know", "another model"),
        ):
            if not count:
                continue
            text = f"{count} of {len(ids)} {what} {why} and would be left out: {remedy}"
            every = what == "prompts" and count == len(ids)
            yield Finding("PROBLEM" if every else "note", f"source {name}", text)
