"""The generated source of word problems, each with a worked solution."""

from __future__ import annotations

from collections.abc import Iterator

from hapo_core.rng import Purpose, uniforms
from hapo_core.tasks.stories import distinct_stories
from pipeline.config import StoriesSource
from pipeline.curate.sources.record import Parts, RawTrace, Record


def story_records(
    name: str, source: StoriesSource, seed: int, role: str, taken: set[str]
) -> Iterator[Record]:
    """The problems of a stories source; adds each to `taken`, so that later ones are disjoint.

    Args:
        seed: the run's, used where the source has none of its own.
        role: `train` or `benchmark`; the two never share a random stream.
    """
    seed = seed if source.seed is None else source.seed
    stories = distinct_stories(
        source.count, seed, f"{role}/{name}", source.min_steps, source.max_steps, taken
    )
    for row, story in enumerate(stories, start=1):
        taken.add(story.problem)
        drawn = uniforms(1, seed, Purpose.TRACES, prompt_id=f"{role}/{name}/{story.problem}")
        traces = (RawTrace(story.solution),) if drawn[0] < source.trace_share else ()
        parts = Parts(problem=story.problem, answer=story.answer, traces=traces)
        yield Record(parts, row, f"stories source {name!r}, problem {row}")
