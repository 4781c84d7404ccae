"""Judging traces: verified by the reward's own verifier, complete, within the budget, ranked."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from hapo_core.errors import HapoError
from hapo_core.verdicts import UNKNOWN
from hapo_core.verify import Job, Verdict, Verification, VerifierPool
from pipeline.artifacts.tables import TRACES, TableWriter
from pipeline.config.data import TraceChoice
from pipeline.curate.account import Account, Rule
from pipeline.curate.problems import Candidate
from pipeline.curate.prompts import Ids, PromptMaker
from pipeline.curate.spool import Spool

UNRANKED = -1
"""`rank` of an unusable trace."""

GRADED = pa.schema(
    [
        pa.field("index", pa.int64()),
        pa.field("ordinal", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("token_ids", pa.list_(pa.int32())),
        pa.field("verdict", pa.string()),
        pa.field("extracted", pa.string()),
        pa.field("note", pa.string()),
    ]
)
_TAGS = (
    ("<think>", "</think>"),
    ("<thought>", "</thought>"),
    ("<thinking>", "</thinking>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)


def open_tag(text: str, thought_opened: bool = False) -> str | None:
    """The first tag that the text opens (or that the prompt has opened) and never closes."""
    for begin, end in _TAGS:
        start = text.rfind(begin)
        if start >= 0 and text.find(end, start) < 0:
            return begin
    if thought_opened and "</think>" not in text and "<think>" not in text:
        return "<think>"
    return None


@dataclass(frozen=True, slots=True)
class TraceMeta:
    """What ranking needs to know of a usable trace."""

    ordinal: int
    tokens: int


@dataclass
class TraceRules:
    """The counts of the trace rules, and what ranking needs, while batches go by."""

    account: Account
    max_tokens: int
    usable: dict[int, list[TraceMeta]] = field(default_factory=lambda: defaultdict(list))
    verdicts: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    disagreements: list[dict[str, object]] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.verification = self.account.rule("trace verification", "traces", 0)
        self.completeness = self.account.rule("trace completeness", "traces", 0)
        self.length = self.account.rule("trace length", "traces", 0)
        self.repeats = self.account.rule("trace repeats", "traces", 0)

    def judge(self, trace_id: str, text: str, ids: Ids, found: Verification, faults: Faults) -> str:
        """The note of one trace: empty where it is usable, else the first rule that it fails."""
        self.verdicts[found.verdict.value] += 1
        self.tokens += len(ids)
        steps: list[tuple[Rule, str | None, str]] = [
            (self.verification, _verdict_fault(found), f"extracted {found.extracted!r}"),
            (self.completeness, faults.incomplete, text[-200:]),
            (
                self.length,
                "longer than the response budget" if len(ids) > self.max_tokens else None,
                f"{len(ids)} tokens, the budget is {self.max_tokens}",
            ),
            (self.repeats, "the text of an earlier trace" if faults.repeated else None, text[:200]),
        ]
        for rule, reason, detail in steps:
            rule.rows_in += 1
            if reason is not None:
                rule.take(reason, trace_id, detail)
                return f"{rule.name}: {reason}"
        return ""

    def compare_label(
        self, trace_id: str, label: bool | None, found: Verification, gold: str
    ) -> None:
        """Count the source's verdict against ours; list where they differ."""
        if label is None:
            return
        correct = found.verdict is Verdict.CORRECT
        self.labels[f"source {'right' if label else 'wrong'}, {found.verdict.value} here"] += 1
        if label != correct and len(self.disagreements) < 1000:
            self.disagreements.append(
                {
                    "trace_id": trace_id,
                    "source_says": label,
                    "verdict": found.verdict.value,
                    "gold": gold,
                    "extracted": found.extracted,
                }
            )


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a trace beside its answer."""

    incomplete: str | None
    repeated: bool


def check_known(verdicts: Mapping[str, int], share: float, what: str) -> None:
    """Stop where the verifier could not decide about too many.

    Args:
        verdicts: counts by verdict.
        share: the largest tolerated share of `timeout`, `error` and `bad_gold`.
        what: what was verified, in the plural.

    Raises:
        HapoError: more than this share is unknown.
    """
    unknown = {name: verdicts.get(name, 0) for name in UNKNOWN}
    total, lost = sum(verdicts.values()), sum(unknown.values())
    if lost > share * total:
        listed = ", ".join(f"{count} {name}" for name, count in unknown.items() if count)
        raise HapoError(
            f"{lost} of {total} {what} have no known verdict ({listed})",
            where="rewards",
            remedy="look at the golds and the verifier's limits (rewards.timeout_seconds, "
            "rewards.memory_mb, rewards.max_unknown_share)",
        )


def _verdict_fault(found: Verification) -> str | None:
    return None if found.verdict is Verdict.CORRECT else f"verdict {found.verdict.value}"


class TraceGrader:
    """Second pass: tokenise and verify spooled traces of the problems that are left.

    Args:
        owner: raw row index -> the candidate that its traces belong to now (duplicates merged).
    """

    def __init__(
        self,
        owner: Mapping[int, Candidate],
        maker: PromptMaker,
        pool: VerifierPool,
        rules: TraceRules,
    ) -> None:
        self.owner, self.maker, self.pool, self.rules = owner, maker, pool, rules
        self._next: Counter[int] = Counter()
        self._seen: set[bytes] = set()
        self.orphans = 0

    def run(self, raw: Spool, graded: Spool, progress: Callable[[int], None]) -> None:
        """Read `raw`, write `graded`, batch by batch; `progress` gets the traces done so far."""
        done = 0
        for batch in raw.batches():
            graded_batch = self._batch(batch)
            if graded_batch is not None:
                graded.add_batch(graded_batch)
            done += batch.num_rows
            progress(done)

    def _batch(self, batch: pa.RecordBatch) -> pa.RecordBatch | None:
        rows = [r for r in batch.to_pylist() if r["index"] in self.owner]
        self.orphans += batch.num_rows - len(rows)
        if not rows:
            return None
        owners = [self.owner[r["index"]] for r in rows]
        texts = [self.maker.response_text(r["text"]) for r in rows]
        tags = [open_tag(t, self.maker.opens_thought) for t in texts]
        cut = [r["cut"] or tag is not None for r, tag in zip(rows, tags, strict=True)]
        ids = self.maker.responses(texts)
        found = self.pool.verify(
            Job(o.problem_id, o.answer, t, truncated=c, kind=o.reward)
            for o, t, c in zip(owners, texts, cut, strict=True)
        )
        out: dict[str, list[object]] = {name: [] for name in GRADED.names}
        for row, owner, text, tag, tokens, verdict in zip(
            rows, owners, texts, tags, ids, found, strict=True
        ):
            ordinal = self._next[owner.index]
            self._next[owner.index] += 1
            trace_id = f"{owner.problem_id}#{ordinal}"
            faults = Faults(
                self._incomplete(row["cut"], tag, text, tokens), self._repeated(owner, text)
            )
            note = self.rules.judge(trace_id, text, tokens, verdict, faults)
            self.rules.compare_label(trace_id, row["label"], verdict, owner.answer)
            if not note:
                self.rules.usable[owner.index].append(TraceMeta(ordinal, len(tokens)))
            values = (
                owner.index, ordinal, text, tokens, verdict.verdict.value, verdict.extracted, note,
            )  # fmt: skip
            for name, value in zip(GRADED.names, values, strict=True):
                out[name].append(value)
        return pa.RecordBatch.from_pydict(out, GRADED)

    def _incomplete(self, cut: bool, tag: str | None, text: str, tokens: Ids) -> str | None:
        if cut:
            return "cut, says the source"
        if tag is not None:
            return f"{tag} is never closed"
        if self.maker.has_unknown(tokens):
            return "characters that the tokenizer does not know"
        return self.maker.text_fault(text)

    def _repeated(self, owner: Candidate, text: str) -> bool:
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        key = owner.index.to_bytes(8, "little") + digest
        if key in self._seen:
            return True
        self._seen.add(key)
        return False


def rank_traces(
    usable: Mapping[int, Sequence[TraceMeta]], choice: TraceChoice
) -> dict[tuple[int, int], int]:
    """Ranks of usable traces by (problem index, ordinal); those of rank 0 are trained on."""
    ranks: dict[tuple[int, int], int] = {}
    for index, metas in usable.items():
        ordered = (
            sorted(metas, key=lambda m: (m.tokens, m.ordinal)) if choice == "shortest" else metas
        )
        for rank, meta in enumerate(ordered):
            ranks[index, meta.ordinal] = 0 if choice == "all" else rank
    return ranks


def write_traces(
    graded: Spool, kept: Mapping[int, Candidate], ranks: Mapping[tuple[int, int], int], path: Path
) -> int:
    """Third pass: the traces of the problems that stayed, ranked; returns how many.

    Within a problem the order is that of the source; problems follow their first trace.
    """
    with TableWriter(TRACES, path) as writer:
        for batch in graded.batches():
            table = pa.Table.from_batches([batch])
            index, ordinal = table["index"].to_pylist(), table["ordinal"].to_pylist()
            stays = [i in kept for i in index]
            table = table.filter(pa.array(stays))
            pairs = [(i, o) for i, o, s in zip(index, ordinal, stays, strict=True) if s]
            if not pairs:
                continue
            rank = [ranks.get(pair, UNRANKED) for pair in pairs]
            ids = [kept[i].problem_id for i, _ in pairs]
            columns = {
                "trace_id": pa.array([f"{p}#{o}" for p, (_, o) in zip(ids, pairs, strict=True)]),
                "problem_id": pa.array(ids),
                "text": table["text"],
                "token_ids": table["token_ids"],
                "verdict": table["verdict"],
                "extracted": table["extracted"],
                "rank": pa.array(rank, pa.int64()),
                "usable": pa.array([r != UNRANKED for r in rank]),
                "note": table["note"],
            }
            writer.write(pa.Table.from_arrays([columns[n] for n in TRACES.names], schema=TRACES))
        return writer.rows
