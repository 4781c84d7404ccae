"""The generated source: chains of additions and subtractions, each with a written solution."""

from __future__ import annotations

from collections.abc import Iterator

from hapo_core.rng import Purpose, uniforms
from hapo_core.tasks.chains import Chain, distinct_chains
from pipeline.config import ChainsSource
from pipeline.curate.sources.record import Parts, RawTrace, Record


def chain_records(
    name: str, source: ChainsSource, seed: int, role: str, taken: set[str]
) -> Iterator[Record]:
    """The problems of a chains source; adds each to `taken`, so that later ones are disjoint.

    Args:
        role: `train` or `benchmark`; the two never share a random stream.
    """
    chains = distinct_chains(
        source.count,
        seed,
        f"{role}/{name}",
        source.min_steps,
        source.max_steps,
        taken,
        source.start_low,
        source.start_high,
    )
    for row, chain in enumerate(chains, start=1):
        taken.add(chain.problem)
        drawn = uniforms(1, seed, Purpose.TRACES, prompt_id=f"{role}/{name}/{chain.problem}")
        traced = drawn[0] < source.trace_share
        parts = Parts(
            problem=chain.problem,
            answer=chain.answer,
            traces=(RawTrace(_trace(chain, source.trace_stride)),) if traced else (),
        )
        yield Record(parts, row, f"chains source {name!r}, problem {row}")


def _trace(chain: Chain, stride: int) -> str:
    return chain.solution() if stride == 1 else chain.leaping_solution(stride)
