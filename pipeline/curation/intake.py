"""Reading sources: rows are validated and normalised, traces go to the spool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hapo_core.errors import DataError
from pipeline.curation.account import Account, Drop, excerpt
from pipeline.curation.problems import Candidate
from pipeline.curation.spool import Spool
from pipeline.curation.text import content_id, normalise, unicode_fault
from pipeline.sources.record import Faulty, LooseTrace, Parts, RawTrace, Record


@dataclass
class Intake:
    """Candidates of all sources, in reading order.

    Args:
        account: receives the counts of `validate` and `normalise`.
        spool: receives the raw traces.
    """

    account: Account
    spool: Spool
    candidates: list[Candidate] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.validate = self.account.rule("validate", "rows", 0)
        self.normalise = self.account.rule("normalise", "rows", 0)
        self._rows = 0
        self._seen: dict[str, tuple[str, str, int]] = {}
        self._reward = "math"

    def read(
        self,
        source: str,
        records: Iterable[Record | Faulty],
        *,
        strict: bool,
        generated: bool = False,
        reward: str = "math",
    ) -> None:
        """Take all rows of a source.

        Args:
            strict: a row without what it needs is an error that names it, not a counted drop.
            generated: from a generator (see `Candidate.generated`).
            reward: what grades the source's problems.

        Raises:
            DataError: the source has no rows, or (strict) a row that cannot be used as it is.
        """
        self._reward = reward
        seen = self._seen = {}
        count = {"rows": 0, "problems": 0, "traces": 0, "traces_cut": 0}
        for record in records:
            count["rows"] += 1
            self.validate.rows_in += 1
            fault = _fault(record, strict)
            if fault is None:
                assert isinstance(record, Record)
                fault = self._take(source, record, seen, strict, generated, count)
            if fault is not None:
                if strict:
                    raise _strict_error(record, *fault)
                self._drop(source, record, *fault)
        if not count["rows"]:
            raise DataError(
                "the source holds no rows",
                where=f"source {source!r}",
                remedy="check its path, split and limit in params.yaml",
            )
        self.counts[source] = count

    def _take(
        self,
        source: str,
        record: Record,
        seen: dict[str, tuple[str, str, int]],
        strict: bool,
        generated: bool,
        count: dict[str, int],
    ) -> tuple[str, str] | None:
        parts, problem, answer = self._normalised(source, record)
        if parts.key is not None:
            first = seen.setdefault(parts.key, (problem, record.where, self._rows))
            if first[1] != record.where and (first[0] != problem or not parts.lenient_key):
                return "duplicate id", f"id {parts.key!r} is also that of {first[1]}"
        index = self._rows
        self._rows += 1
        self.candidates.append(
            Candidate(
                index=index,
                problem_id=f"{source}/{parts.key or content_id(problem)}",
                problem=problem,
                answer=answer,
                source=source,
                row=record.row,
                mark=parts.mark,
                kind=parts.kind,
                refusal=parts.refusal,
                traces=len(parts.traces),
                reward=self._reward,
                generated=generated,
            )
        )
        for trace in parts.traces:
            fault = None if strict else unicode_fault(trace.text)
            if fault:
                where = f"{source}/row-{record.row}"
                self.validate.mend(f"trace left out: {fault}", where, trace.text[:200])
                self.candidates[-1].traces -= 1
            else:
                self._spool(index, trace)
                count["traces_cut"] += trace.cut
        count["problems"] += 1
        count["traces"] += self.candidates[-1].traces
        return None

    def _spool(self, index: int, trace: RawTrace) -> None:
        row = {"index": index, "text": trace.text, "cut": trace.cut, "label": trace.label}
        self.spool.add(row, len(trace.text))

    def attach(self, source: str, traces: Iterable[LooseTrace]) -> None:
        """Join traces of a table of their own to the problems of the source just read.

        Raises:
            DataError: a trace whose problem the source does not have, or that is not Unicode.
        """
        for loose in traces:
            found = self._seen.get(loose.key)
            fault = unicode_fault(loose.trace.text)
            if found is None or fault:
                what = fault or f"trace without problem: source {source!r} has no id {loose.key!r}"
                remedy = "add the problem, or remove the trace" if found is None else "mend the row"
                raise DataError(what, where=loose.where, remedy=remedy)
            self._spool(found[2], loose.trace)
            self.candidates[found[2]].traces += 1
            self.counts[source]["traces"] += 1
            self.counts[source]["traces_cut"] += loose.trace.cut

    def _normalised(self, source: str, record: Record) -> tuple[Parts, str, str]:
        parts = record.parts
        problem, answer = normalise(parts.problem), normalise(parts.answer)
        row = f"{source}/row-{record.row}"
        self.normalise.rows_in += 1
        if problem != parts.problem or answer != parts.answer:
            self.normalise.mend("blanks, line ends or invisible characters", row, problem)
        for reason in parts.tolerated:
            self.normalise.mend(reason, row, parts.problem)
        return parts, problem, answer

    def _drop(self, source: str, record: Record | Faulty, reason: str, detail: str) -> None:
        text = record.excerpt if isinstance(record, Faulty) else excerpt(record.parts.problem)
        drop = Drop(
            f"{source}/row-{record.row}", source, record.row, "validate", reason, detail, text
        )
        self.account.drop(self.validate, drop)


def _fault(record: Record | Faulty, strict: bool) -> tuple[str, str] | None:
    """(reason, detail) of a row that cannot be used, whatever its source."""
    if isinstance(record, Faulty):
        return record.fault.reason, record.fault.detail
    parts = record.parts
    if not parts.problem.strip():
        return "trace without problem" if parts.traces else "no problem text", ""
    if not parts.answer.strip():
        return "problem without answer", ""
    texts = [parts.problem, parts.answer, *(t.text for t in parts.traces if strict)]
    return next(((fault, "") for text in texts if (fault := unicode_fault(text))), None)


_REMEDY: dict[str, str] = {
    "problem without answer": "give the row an answer, or remove it",
    "no problem text": "give the row a problem, or remove it",
    "trace without problem": "give the trace its problem, or remove the row",
    "duplicate id": "make the ids unique, or leave the id column out of `columns`",
    "null byte": "remove the null bytes from the row",
}


def _strict_error(record: Record | Faulty, reason: str, detail: str) -> DataError:
    return DataError(
        f"{reason}: {detail}" if detail else reason,
        where=record.where,
        remedy=_REMEDY.get(reason, "mend or remove the row"),
    )
