"""Grading a file of generations that exist already: what `hapo score` does."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from hapo_core.errors import ConfigError, DataError
from hapo_core.stats.benchmark import avg_at_k, maj_at_k, mean_interval, pass_at_k
from hapo_core.verdicts import VERDICTS
from hapo_core.verify import Job, Verdict, Verification, VerifierPool
from pipeline.artifacts import atomic_write_json, guard_disk, sha256_file, write_manifest
from pipeline.artifacts.tables import SCORES, TableWriter
from pipeline.build.verifier import verifier_settings
from pipeline.config import Rewards, parse_section
from pipeline.curate.sources.files import LocatedRow, data_files, file_rows, has_header, row_count
from pipeline.curate.sources.record import Row
from pipeline.curate.text import content_id, normalise
from pipeline.evaluate.evaluator import verifier_facts
from pipeline.flows.observer import Observer
from pipeline.measure.columns import Columns, Sample, all_columns, find_columns, samples
from pipeline.measure.score_text import summary_lines

OUT = Path("scores")
_CHUNK_ROWS, _CHUNK_CHARACTERS = 2000, 64_000_000
"""Generations that are held at once."""
_PART = 250
"""Generations that are graded between two reports of progress."""
_EXCERPT = 300
_FILES = ("scores.parquet", "scores.parquet.partial", "summary.json", "manifest.json")


@dataclass
class Tally:
    """What is remembered of all rows: verdicts by problem, never the generations."""

    verdicts: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[bool]] = field(default_factory=dict)
    answers: dict[str, list[str | None]] = field(default_factory=dict)
    golds: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Gold and place of the first row of every problem."""
    agreement: Counter[tuple[bool, str]] = field(default_factory=Counter)
    differences: list[dict[str, object]] = field(default_factory=list)
    bad_golds: list[dict[str, str]] = field(default_factory=list)
    unlabelled: int = 0


class Scoring:
    """One `hapo score`.

    Args:
        options: of `pipeline.commands.score`.

    Raises:
        HapoError: an option out of range, or a file that cannot be read.
    """

    def __init__(self, options: argparse.Namespace, observer: Observer) -> None:
        self.options, self.observer = options, observer
        if options.mark not in ("box", "####"):
            raise ConfigError(
                f"there is no mark {options.mark!r}", where="--mark", remedy="box or ####"
            )
        rewards = parse_section(
            Rewards,
            {
                "verifier": options.verifier,
                "require_box": not options.no_box,
                "timeout_seconds": options.timeout,
                "workers": options.workers,
            },
            "--verifier, --timeout, --workers",
        )
        self.settings = verifier_settings(rewards)
        self.files = data_files(options.file)
        self.golds = benchmark_golds(options.benchmark, options.columns)
        self.out: Path = options.out or OUT / options.file.name.split(".")[0]
        self.columns: Columns | None = None
        self.tally = Tally()
        self._seconds, self._done = 0.0, 0
        self._total: int | None = None
        self._all_read = False
        self._filter: str | None = None

    def run(self) -> dict[str, object]:
        """Grade everything, write `scores.parquet` and `summary.json`, print the summary."""
        _own_folder(self.out)
        with (
            VerifierPool(self.settings) as pool,
            guard_disk(self.out),
            TableWriter(SCORES, self.out / "scores.parquet") as table,
        ):
            for chunk in chunks(self._samples()):
                verdicts = self._graded(pool, chunk)
                rows = [self._scored(s, v) for s, v in zip(chunk, verdicts, strict=True)]
                columns = {name: [row[name] for row in rows] for name in SCORES.names}
                table.write(pa.table(columns, schema=SCORES))
            if not self.tally.verdicts:
                raise DataError(
                    "there is no row in it",
                    where=str(self.options.file),
                    remedy="export it again, or name another file",
                )
        summary = self._summary()
        atomic_write_json(self.out / "summary.json", summary)
        write_manifest(self.out, "scores", {"generations": summary["generations"]})
        print("\n".join(["", *summary_lines(summary, self.options.show), f"kept in {self.out}"]))
        return summary

    def _graded(self, pool: VerifierPool, chunk: list[Sample]) -> list[Verification]:
        """Verdicts of a chunk; tells after every part of it how many are graded, and how fast: the
        time in which rows are read is not in it."""
        found: list[Verification] = []
        for start in range(0, len(chunk), _PART):
            part = chunk[start : start + _PART]
            jobs = [self._job(sample) for sample in part]
            before = time.monotonic()
            found += pool.verify(jobs)
            self._seconds += time.monotonic() - before
            self._done += len(part)
            speed = self._done / max(self._seconds, 1e-3)
            rows = part[-1].row
            total = rows if self._all_read else max(self._total or 0, rows + 1)
            self.observer.progress(rows, total, what="row", graded_per_second=speed)
        return found

    # --- rows ---------------------------------------------------------------------------------

    def _samples(self) -> Iterator[Sample]:
        """All generations in order."""
        counts = [_row_count(path) for path in self.files if path.stat().st_size]
        total = None if None in counts else sum(c or 0 for c in counts)
        rows: Iterable[LocatedRow] = (row for path in self.files for row in file_rows(path))
        if self.options.limit is not None:
            rows = islice(rows, self.options.limit)
            total = min(total, self.options.limit) if total is not None else None
        self._total = total
        number = 0
        for number, located in enumerate(rows, start=1):
            if self.columns is None or located.first:
                self.columns = find_columns(
                    self._first_row(located),
                    self.options,
                    located.where,
                    own_gold=self.golds is None,
                )
                self.observer.log(f"columns: {self.columns.line()}")
            if self._other_filter(located):
                continue
            yield from samples(located, number, self.columns)
        self._all_read = True

    def _first_row(self, located: LocatedRow) -> Row:
        """The first row of a file, with the columns that only later lines of JSON have."""
        path = next(p for p in self.files if located.where.startswith(f"{p} "))
        if has_header(path):
            return located.row
        rows = islice(file_rows(path), self.options.limit)
        return all_columns((row.row for row in rows), self.options)

    def _other_filter(self, located: LocatedRow) -> bool:
        """lm-eval writes every generation once for each of its answer filters; the first is read,
        as `resps` are the same in all of them."""
        name = located.row.get("filter")
        if not isinstance(name, str) or "resps" not in located.row:
            return False
        if self._filter is None:
            self._filter = name
            self.observer.log(f"filter: {name}; rows of other filters repeat its generations")
        return name != self._filter

    def _job(self, sample: Sample) -> Job:
        gold = self._gold(sample)
        return Job(self._key(sample), gold, sample.response, sample.truncated, self.options.mark)

    def _key(self, sample: Sample) -> str:
        """The problem that a sample belongs to."""
        if sample.problem_id is not None:
            return sample.problem_id
        return content_id(normalise(sample.problem)) if sample.problem else f"row {sample.row}"

    def _gold(self, sample: Sample) -> str:
        if self.golds is None:
            return sample.gold or ""
        for key in (sample.problem_id, content_id(normalise(sample.problem))):
            if key is not None and key in self.golds:
                return self.golds[key]
        raise DataError(
            "the benchmark has no such problem (looked for by text and by id)",
            where=sample.where,
            remedy="name the benchmark that these generations answer",
        )

    def _scored(self, sample: Sample, found: Verification) -> dict[str, object]:
        """Count one sample; returns its row of SCORES."""
        tally, key, gold = self.tally, self._key(sample), self._gold(sample)
        verdict = found.verdict.value
        known_gold, first_seen = tally.golds.setdefault(key, (gold, sample.where))
        if known_gold != gold:
            raise DataError(
                f"problem {key!r} has two golds, {known_gold!r:.60} and {gold!r:.60}",
                where=f"{first_seen} and {sample.where}",
                remedy="--id names a column that is different for different problems",
            )
        right = found.verdict is Verdict.CORRECT
        number = len(tally.problems.setdefault(key, []))
        tally.problems[key].append(right)
        tally.answers.setdefault(key, []).append(found.extracted)
        tally.verdicts[verdict] += 1
        if (found.verdict is Verdict.BAD_GOLD or not gold.strip()) and number == 0:
            tally.bad_golds.append({"where": sample.where, "gold": gold[:_EXCERPT]})
        row = {
            "row": sample.row,
            "problem_id": storable(key),
            "sample": number,
            "gold": storable(gold),
            "verdict": verdict,
            "extracted": None if found.extracted is None else storable(found.extracted),
            "detail": storable(found.detail),
            "label": sample.label,
        }
        self._compare(sample, row, right)
        return row

    def _compare(self, sample: Sample, row: Mapping[str, object], right: bool) -> None:
        if sample.label is None:
            self.tally.unlabelled += 1
            return
        self.tally.agreement[sample.label, str(row["verdict"])] += 1
        if sample.label != right:
            end = storable(" ".join(sample.response[-120:].split()))
            shown = {k: v[:_EXCERPT] if isinstance(v, str) else v for k, v in row.items()}
            self.tally.differences.append({**shown, "where": sample.where, "response_end": end})

    # --- the account --------------------------------------------------------------------------

    def _summary(self) -> dict[str, object]:
        tally = self.tally
        labelled = sum(tally.agreement.values())
        agreed = sum(
            count
            for (label, verdict), count in tally.agreement.items()
            if label == (verdict == "correct")
        )
        assert self.columns is not None
        return {
            "file": str(self.options.file),
            "sha256": {p.name: sha256_file(p) for p in self.files},
            "columns": self.columns.line(),
            "golds_from": self.options.benchmark,
            "limit": self.options.limit,
            "generations": sum(tally.verdicts.values()),
            "problems": len(tally.problems),
            "verdicts": {v: tally.verdicts[v] for v in VERDICTS},
            "verifier": {**verifier_facts(self.settings), "mark": self.options.mark},
            **statistics(tally),
            "bad_golds": tally.bad_golds,
            "agreement": [
                {"label": label, "verdict": verdict, "count": tally.agreement[label, verdict]}
                for label in (True, False)
                for verdict in VERDICTS
                if tally.agreement[label, verdict]
            ],
            "labelled": labelled,
            "agreed": agreed,
            "differences": tally.differences,
        }


def statistics(tally: Tally) -> dict[str, object]:
    """avg@k, its interval, pass@k and maj@k where every problem has the same number of samples;
    otherwise the reason why there is none."""
    counts = {key: len(row) for key, row in tally.problems.items()}
    low, high = min(counts.values()), max(counts.values())
    if low != high:
        fewest = min(counts, key=lambda key: counts[key])
        return {
            "avg": None,
            "no_avg": f"problems have {low} to {high} generations (fewest: {fewest}); an average "
            "over missing ones would be another number",
        }
    table = [tally.problems[key] for key in counts]
    right = [sum(row) for row in table]
    return {
        "avg": avg_at_k(table),
        "k": high,
        "ci": list(mean_interval([r / high for r in right])),
        "confidence": 0.95,
        "pass_k": float(pass_at_k(right, high, high).mean()),
        "maj_k": float(maj_at_k([tally.answers[key] for key in counts], table).mean()),
    }


def chunks(found: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples in lists of bounded size."""
    chunk: list[Sample] = []
    size = 0
    for sample in found:
        chunk.append(sample)
        size += len(sample.response)
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def benchmark_golds(given: str | None, columns: str) -> dict[str, str] | None:
    """Golds of a benchmark by the content id of the problem's text, and by row id.

    Raises:
        HapoError: as for `hapo evaluate --benchmark`.
    """
    if given is None:
        return None
    from pipeline.curate.sources import open_source
    from pipeline.curate.sources.record import Faulty
    from pipeline.measure.given import ask, column_map

    asked = ask(given, column_map(columns), {})
    golds: dict[str, str] = {}
    for record in open_source(asked.name, asked.source, 0, "benchmark", set()).records:
        if isinstance(record, Faulty):
            raise DataError(str(record.fault), where=record.where, remedy="mend the row")
        parts = record.parts
        golds[content_id(normalise(parts.problem))] = parts.answer
        if parts.key is not None:
            golds[parts.key] = golds[f"{asked.name}/{parts.key}"] = parts.answer
        else:
            golds[f"{asked.name}/{content_id(normalise(parts.problem))}"] = parts.answer
    return golds


def _row_count(path: Path) -> int | None:
    """Rows of a file, where that is cheap to know (blank lines of jsonl are counted along)."""
    if path.suffix.lower() != ".jsonl":
        return row_count(path)
    with path.open("rb") as source:
        return sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))


def _own_folder(out: Path) -> None:
    """Make the folder of the result; the result of an earlier scoring there is replaced.

    Raises:
        DataError: there is something else in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    foreign = sorted({p.name for p in out.iterdir()} - set(_FILES))
    if foreign:
        raise DataError(
            f"the folder of the result holds {foreign[0]!r}, which is not of `hapo score`",
            where=str(out),
            remedy="name another --out",
        )
    (out / "manifest.json").unlink(missing_ok=True)


def storable(text: str) -> str:
    """Text that parquet and JSON can hold: lone surrogates are written out as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
