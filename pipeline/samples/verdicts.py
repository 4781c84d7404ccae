"""The rule that decided a verdict: the shown samples are verified once more.

Tables keep the verdict and the extracted answer, not the rule. Verifying again costs milliseconds
for the few that are shown, and also tells when today's verifier judges differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hapo_core.verify import Job, Verification, VerifierPool
from pipeline.build.verifier import verifier_settings
from pipeline.config import Params
from pipeline.grading.jobs import THOUGHT
from pipeline.samples.select import Sample


def with_rules(samples: Sequence[Sample], params: Params) -> list[Sample]:
    """The samples with `rule` filled in; traces of the teacher were verified by curation."""
    jobs = [_job(s) for s in samples if s.kind != "teacher"]
    if not jobs:
        return list(samples)
    with VerifierPool(verifier_settings(params.rewards)) as pool:
        found = iter(pool.verify(jobs))
        return [s if s.kind == "teacher" else _told(s, next(found)) for s in samples]


def _job(sample: Sample) -> Job:
    # A template may have opened the thought: then the text closes one that it does not open.
    opened = "</think>" in sample.text and THOUGHT not in sample.text
    return Job(
        key=sample.prompt_id,
        gold=sample.gold,
        response=(THOUGHT if opened else "") + sample.text,
        truncated=sample.finish == "length",
        kind=sample.reward_name,
    )


def _told(sample: Sample, found: Verification) -> Sample:
    if found.verdict.value == sample.verdict:
        return replace(sample, rule=found.detail)
    now = found.verdict.value
    return replace(sample, rule=f"{found.detail} (today's verifier says {now})")
