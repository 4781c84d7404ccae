"""Which responses of a run to show: read from its tables, filtered, a bounded choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hapo_core.errors import DataError
from pipeline.artifacts import MANIFEST, SCRATCH
from pipeline.artifacts.places import DATA, EVALUATIONS, POLICIES
from pipeline.artifacts.tables import (
    BENCHMARK,
    GENERATIONS,
    GROUPS,
    PROBLEMS,
    ROLLOUTS,
    read_frame,
)
from pipeline.config import Params

KINDS = ("policy", "continuation", "teacher")


@dataclass(frozen=True)
class Sample:
    """One response, with all that a reader wants beside it.

    `where`: `round 12` or `final heldout`; `advantage`: None on what does not train; `rule`: of
    the verifier, filled in by `pipeline.samples.verdicts`; `note`: what the teacher did here.
    """

    where: str
    round: int | None
    prompt_id: str
    sample: int
    kind: str
    problem: str
    text: str
    extracted: str | None
    gold: str
    reward_name: str
    verdict: str
    advantage: float | None
    finish: str
    tokens: int
    note: str = ""
    rule: str = ""
    group: str = ""


@dataclass(frozen=True)
class Wanted:
    """What to show; None and empty mean no restriction."""

    rounds: tuple[int, ...] = ()
    prompt: str | None = None
    verdicts: tuple[str, ...] = ()
    injected: bool = False
    limit: int = 5


def rollout_files(params: Params, root: Path = Path()) -> dict[int, Path]:
    """Round (from 1) -> its table of rollouts; the rounds of a running segment too.

    Raises:
        DataError: there is none.
    """
    homes = []
    for name in params.segments:
        folder = root / POLICIES / name
        if (folder / MANIFEST).is_file():
            homes.append(folder)
        else:
            unfinished = sorted(
                (root / SCRATCH).glob(f"train@{name}-*/out"), key=lambda p: p.stat().st_mtime
            )
            homes += unfinished[-1:]
    found = {
        int(path.stem.split("-")[1]): path
        for home in homes
        for path in sorted(home.glob("rollouts/round-*.parquet"))
    }
    if not found:
        raise DataError(
            "no round has rollouts here",
            where=str(root / POLICIES),
            remedy="`hapo run` first; a method without rollouts (sft) has evaluations only: "
            "`hapo samples --target final`",
        )
    return dict(sorted(found.items()))


def read_problems(root: Path = Path()) -> Mapping[str, Mapping[str, Any]]:
    """Training and validation problems by id."""
    frame = read_frame(root / DATA / "problems.parquet", PROBLEMS)
    return by_id(frame)


def by_id(frame: pd.DataFrame) -> Mapping[str, Mapping[str, Any]]:
    """Rows of a table of problems by `problem_id`."""
    return {str(row["problem_id"]): row for row in frame.to_dict("records")}


def of_round(
    path: Path, problems: Mapping[str, Mapping[str, Any]], number: int
) -> Iterator[Sample]:
    """All responses of one round in the order of its table."""
    groups = path.parents[1] / "groups" / path.name
    said = _groups(groups) if groups.is_file() else {}
    for row in read_frame(path, ROLLOUTS).to_dict("records"):
        problem = _problem(problems, str(row["prompt_id"]), path)
        note = ""
        if row["injected"]:
            note = "the teacher's trace, in the place of the rollout marked as replaced"
        elif row["replaced"]:
            note = "replaced by the teacher's trace: it does not train"
        elif row["kind"] == "continuation":
            note = f"continues the first {int(row['prefix_tokens'])} tokens of the trace"
        yield Sample(
            where=f"round {number}",
            round=number,
            prompt_id=str(row["prompt_id"]),
            sample=int(row["sample"]),
            kind=str(row["kind"]),
            problem=str(problem["problem"]),
            text=str(row["text"]),
            extracted=None if pd.isna(row["extracted"]) else str(row["extracted"]),
            gold=str(problem["answer"]),
            reward_name=str(problem["reward"]),
            verdict=str(row["verdict"]),
            advantage=None if pd.isna(row["advantage"]) else float(row["advantage"]),
            finish=str(row["finish"]),
            tokens=len(row["token_ids"]),
            note=note,
            group=said.get(str(row["prompt_id"]), ""),
        )


def _problem(
    problems: Mapping[str, Mapping[str, Any]], name: str, table: Path
) -> Mapping[str, Any]:
    if name not in problems:
        raise DataError(
            f"it holds responses to a problem that the data here do not have ({name}): it was "
            "made from other data, or copied here from another run",
            where=str(table),
            remedy="`dvc checkout` restores what was made here; `hapo status` says what changed",
        )
    return problems[name]


def _groups(path: Path) -> dict[str, str]:
    """What the gate saw of each group: `S = 0 of 8, c .10 < gamma .50: injected`."""
    said = {}
    for row in read_frame(path, GROUPS).to_dict("records"):
        words = f"S = {row['successes']} of {row['known']}"
        if not pd.isna(row["confidence"]) and not pd.isna(row["gamma"]):
            sign = "<" if row["confidence"] < row["gamma"] else ">="
            words += f", c {row['confidence']:.3f} {sign} gamma {row['gamma']:.3f}"
        said[str(row["prompt_id"])] = f"{words}: {str(row['decision']).replace('_', ' ')}"
    return said


def of_evaluation(root: Path, target: str, benchmark: str) -> Iterator[Sample]:
    """All responses of an evaluated policy to one benchmark.

    Raises:
        DataError: the target or the benchmark was not evaluated.
    """
    folder = root / EVALUATIONS / target
    if not folder.is_dir():
        known = sorted(p.name for p in (root / EVALUATIONS).glob("*") if p.is_dir())
        raise DataError(
            f"no evaluation of {target!r}",
            where=str(folder),
            remedy=f"one of {', '.join(known)}" if known else "`hapo run` first",
        )
    if not (folder / f"{benchmark}.parquet").is_file():
        raise DataError(
            f"{target} was not measured on {benchmark!r}",
            where=str(folder),
            remedy="one of " + ", ".join(sorted(p.stem for p in folder.glob("*.parquet"))),
        )
    frame = read_frame(folder / f"{benchmark}.parquet", GENERATIONS)
    problems = by_id(read_frame(root / DATA / "benchmarks" / f"{benchmark}.parquet", BENCHMARK))
    for row in frame.to_dict("records"):
        problem = _problem(problems, str(row["problem_id"]), folder / f"{benchmark}.parquet")
        yield Sample(
            where=f"{target} {benchmark}",
            round=None,
            prompt_id=str(row["problem_id"]),
            sample=int(row["sample"]),
            kind="policy",
            problem=str(problem["problem"]),
            text=str(row["text"]),
            extracted=None if pd.isna(row["extracted"]) else str(row["extracted"]),
            gold=str(problem["answer"]),
            reward_name=str(problem["reward"]),
            verdict=str(row["verdict"]),
            advantage=None,
            finish=str(row["finish"]),
            tokens=len(row["token_ids"]),
        )


def chosen(samples: Iterator[Sample], wanted: Wanted) -> list[Sample]:
    """The first `limit` samples that fit; with `injected`, traces and what they replaced."""
    kept: list[Sample] = []
    for sample in samples:
        if wanted.prompt is not None and sample.prompt_id != wanted.prompt:
            continue
        if wanted.verdicts and sample.verdict not in wanted.verdicts:
            continue
        if wanted.injected and "teacher's trace" not in sample.note:
            continue
        kept.append(sample)
        if len(kept) == wanted.limit:
            break
    return kept


def of_one(files: Mapping[int, Path], number: int, wanted: Wanted) -> list[Sample]:
    """What fits of one round; `files` as `rollout_files` finds them."""
    return chosen(of_round(files[number], read_problems(), number), wanted)


def latest(files: Mapping[int, Path], wanted: Wanted) -> list[Sample]:
    """What fits of the last round in which anything does: the teacher has left the last ones."""
    problems = read_problems()
    rounds = (chosen(of_round(files[n], problems, n), wanted) for n in sorted(files, reverse=True))
    return next(filter(None, rounds), [])


def beside(samples: Sequence[Sample], others: Iterator[Sample]) -> list[Sample]:
    """Each sample, and under it the other policy's response to the same problem of that number."""
    found = {(s.prompt_id, s.sample): s for s in others}
    pairs = ((s, found.get((s.prompt_id, s.sample))) for s in samples)
    return [one for pair in pairs for one in pair if one is not None]


def spread(numbers: Sequence[int], most: int) -> list[int]:
    """At most `most` of the rounds, first and last among them, evenly apart."""
    if len(numbers) <= most:
        return list(numbers)
    step = (len(numbers) - 1) / (most - 1)
    return [numbers[round(i * step)] for i in range(most)]


def choice_of_round(samples: Sequence[Sample], prompts: int, most: int = 16) -> list[Sample]:
    """The groups of a few prompts, those where the teacher entered first, then the mixed ones.

    Args:
        most: responses of a group; what the teacher did in it is among them.
    """
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt_id, []).append(sample)

    def interest(group: list[Sample]) -> tuple[bool, bool]:
        verdicts = {s.verdict for s in group if s.kind == "policy"}
        return not any(s.kind == "teacher" for s in group), len(verdicts) < 2

    ordered = sorted(by_prompt.values(), key=interest)
    return [sample for group in ordered[:prompts] for sample in _few(group, most)]


def _few(group: Sequence[Sample], most: int) -> list[Sample]:
    """The first responses of a large group, and those with a note, in their order."""
    told = [i for i, s in enumerate(group) if s.note][:most]
    others = [i for i in range(len(group)) if i not in set(told)]
    return [group[i] for i in sorted([*told, *others[: most - len(told)]])]


def shortened(sample: Sample, most: int) -> Sample:
    """The middle of very long texts left out, and said so."""
    return replace(
        sample,
        text=_cut(sample.text, most),
        problem=_cut(sample.problem, most),
        gold=_cut(sample.gold, most // 4),
        extracted=None if sample.extracted is None else _cut(sample.extracted, most // 4),
    )


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    left = f"[... {len(text) - 2 * half:,} characters left out ...]"
    return f"{text[:half]}\n{left}\n{text[-half:]}"
