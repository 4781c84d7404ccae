"""`hapo data check`, and what the dry run asks of data that is not curated yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hapo_core.verify import Job, Verdict, VerifierPool
from pipeline.artifacts.places import DATA
from pipeline.build.teacher import Teacher, curated_teacher, needs_traces
from pipeline.build.verifier import verifier_settings
from pipeline.config import (
    PARAMS,
    ChainsSource,
    GymSource,
    Params,
    PresetSource,
    Rewards,
    StoriesSource,
    TableSource,
    load_params,
)
from pipeline.curate.check import USELESS, DataCheck, Limits, Sample, check_data
from pipeline.curate.check_source import samples_of

AnySource = TableSource | ChainsSource | StoriesSource | GymSource | PresetSource


def check_source(
    name: str,
    source: TableSource | ChainsSource | StoriesSource | GymSource,
    reward: str | None,
    most: int | None,
    limits: Limits,
) -> DataCheck:
    """Put a source to the verifier that would grade it.

    Args:
        reward: None is the one of the source, else of params.yaml, else `math`.
        most: problems to check; None is all.

    Raises:
        HapoError: the source or the verifier cannot be read.
    """
    params = load_params() if PARAMS.is_file() else None
    rewards = params.rewards if params else Rewards()
    kind = reward or source.reward or rewards.verifier
    settings = replace(verifier_settings(rewards), kind=kind)
    rows = DataCheck(limits)
    with VerifierPool(settings) as pool:
        seed = params.seed if params else 0
        samples = samples_of(name, source, kind, seed, most, rows)
        found = check_data(samples, pool, limits)
    found.rows = rows.rows
    return found


# --- the dry run --------------------------------------------------------------------------------

SAMPLE = 50
"""First rows of a local source that the dry run puts to the verifier."""


@dataclass
class DrySample:
    """What the dry run finds in the first rows of local sources. `unseen`: sources not read."""

    teacher: Teacher = field(default_factory=Teacher)
    unseen: list[str] = field(default_factory=list)

    def look(self, params: Params, name: str, source: AnySource) -> tuple[str, bool]:
        """Check a source on a sample: (a sentence, empty where there is nothing to say; whether it
        is a problem). Traces are counted in `teacher`.

        Raises:
            HapoError: the source cannot be read.
        """
        if isinstance(source, ChainsSource | StoriesSource):
            self.teacher.problems += SAMPLE
            self.teacher.taught += round(SAMPLE * source.trace_share)
            return "", False
        if not isinstance(source, TableSource):
            self.teacher.problems += SAMPLE if isinstance(source, GymSource) else 0
            return "", False
        if not is_local(source):
            self.unseen.append(name)
            return "", False
        kind = source.reward or params.rewards.verifier
        rows = DataCheck(Limits())
        samples = list(samples_of(name, source, kind, params.seed, SAMPLE, rows))
        with VerifierPool(replace(verifier_settings(params.rewards), kind=kind)) as pool:
            limits = Limits(respelled=1.0, traces=1.0)  # traces are the teacher's own line
            found = check_data(samples, pool, limits)
            self._count(name, samples, pool)
        found.rows = rows.rows
        wrong = found.mutated.share > USELESS or found.golds.share > USELESS
        return "; ".join(found.problems), wrong or not samples

    def _count(self, name: str, samples: list[Sample], pool: VerifierPool) -> None:
        asked = [(s, t) for s in samples for t in s.traces]
        verdicts = pool.verify(Job("trace", s.gold, t, kind=s.reward) for s, t in asked)
        taught = set()
        for (sample, text), found in zip(asked, verdicts, strict=True):
            if found.verdict is Verdict.CORRECT:
                taught.add(sample.where)
            else:
                self.teacher.refuse(f"verdict {found.verdict}", f"{name} {sample.where}", text)
        self.teacher.problems += len(samples)
        self.teacher.taught += len(taught)

    def verdict(self, params: Params) -> tuple[str, str] | None:
        """(kind of finding, sentence) about the traces, where the method learns from them."""
        if not needs_traces(params.method) or not self.teacher.problems:
            return None
        text = f"method {params.method} learns from traces: {self.teacher}"
        text = text.replace("training problems", "sampled problems")
        if not self.teacher.lacking:
            return "ok", text
        none = not self.teacher.taught and not self.unseen
        return ("PROBLEM" if none else "note"), f"{text}; {self.teacher.remedy}"


def is_local(source: TableSource) -> bool:
    """Whether its rows are read from this machine's disk."""
    from pipeline.curate.sources.files import expand

    return source.path is not None and expand(source.path).exists()


def curated_verdict(params: Params) -> Iterator[tuple[str, str]]:
    """The same for data that is curated already."""
    if not (DATA / "traces.parquet").is_file():
        return
    found = DrySample(curated_teacher(DATA, params.rollout.max_tokens)).verdict(params)
    if found is not None:
        yield found[0], found[1].replace("sampled problems", "training problems")
