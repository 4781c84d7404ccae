"""Reading sources: rows are validated and normalised, traces go to the spool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hapo_core.errors import DataError
from pipeline.curate.account import Account, Drop, excerpt
from pipeline.curate.problems import Candidate
from pipeline.curate.sources.record import Faulty, LooseTrace, Parts, RawTrace, Record
from pipeline.curate.spool import Spool
from pipeline.curate.text import content_id, exact_key, normalise, unicode_fault


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
        self._first = 0

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
        self._first = len(self.candidates)
        count = {"rows": 0, "problems": 0, "traces": 0, "traces_cut": 0}
        for record in records:
            count["rows"] += 1
            self.validate.rows_in += 1
            fault = row_fault(record, strict)
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
        """Join traces of a table of their own to the problems of the source just read, by id or by
        the problem's text (equal but for blanks, case and LaTeX spacing).

        Raises:
            DataError: a trace whose problem the source does not have, or that is not Unicode.
        """
        texts: dict[bytes, int] = {}
        for loose in traces:
            if loose.by_text and not texts:
                for candidate in self.candidates[self._first :]:
                    texts.setdefault(exact_key(candidate.problem), candidate.index)
            index = self._index_of(loose, texts)
            fault = unicode_fault(loose.trace.text)
            if index is None:
                raise _without_problem(source, loose, has_ids=bool(self._seen))
            if fault:
                raise DataError(fault, where=loose.where, remedy="mend the row")
            self._spool(index, loose.trace)
            self.candidates[index].traces += 1
            self.counts[source]["traces"] += 1
            self.counts[source]["traces_cut"] += loose.trace.cut

    def _index_of(self, loose: LooseTrace, texts: dict[bytes, int]) -> int | None:
        if loose.by_text:
            return texts.get(exact_key(normalise(loose.key)))
        found = self._seen.get(loose.key)
        return None if found is None else found[2]

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


def row_fault(record: Record | Faulty, strict: bool) -> tuple[str, str] | None:
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


def _without_problem(source: str, loose: LooseTrace, has_ids: bool) -> DataError:
    if loose.by_text:
        return DataError(
            f"trace without problem: no problem of source {source!r} reads {loose.key[:60]!r}",
            where=loose.where,
            remedy="add the problem, remove the trace, or join by id: traces_columns: "
            "{problem_id: THEIR_COLUMN}",
        )
    remedy = "add the problem, or remove the trace"
    if not has_ids:
        remedy = "name the ids in `columns`, or join by text: traces_columns: {problem: COLUMN}"
    return DataError(
        f"trace without problem: source {source!r} has no id {loose.key!r}",
        where=loose.where,
        remedy=remedy,
    )


_REMEDY: dict[str, str] = {
    "problem without answer": "give the row an answer, or remove it",
    "no problem text": "give the row a problem, or remove it",
    "trace without problem": "give the trace its problem, or remove the row",
    "duplicate id": "make the ids unique, or leave the id column out of `columns`",
    "null byte": "remove the null bytes from the row",
}


def _strict_error(record: Record | Faulty, reason: str, detail: str) -> DataError:
    given = record.fault.remedy if isinstance(record, Faulty) else None
    return DataError(
        f"{reason}: {detail}" if detail else reason,
        where=record.where,
        remedy=given or _REMEDY.get(reason, "mend or remove the row"),
    )
