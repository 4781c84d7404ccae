"""Rollouts as jobs of the verifier."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hapo_core.rollout import Finish, Prompt, Rollout
from hapo_core.verify import Job

THOUGHT = "<think>"


def opened_thought(tokenizer: Any, prompts: Iterable[Prompt]) -> str:
    """`<think>` where the prompts end with it, else an empty string; the first one tells.

    The policy's response then starts inside a thought, which the verifier has to know: an answer
    in a thought that is never closed is no final answer.
    """
    tail = tokenizer.decode(list(next(iter(prompts)).token_ids[-16:])).rstrip()
    return THOUGHT if tail.endswith(THOUGHT) else ""


def verify_jobs(
    rollouts: Iterable[Rollout],
    answers: Mapping[str, str],
    *,
    rewards: Mapping[str, str],
    opening: str = "",
) -> Iterator[Job]:
    """One verification job per rollout, in order; gold and reward by problem id.

    Args:
        opening: what the prompt already wrote of the response (`<think>`, in some templates).
    """
    for rollout in rollouts:
        yield Job(
            key=f"{rollout.prompt_id}/{rollout.sample}",
            gold=answers[rollout.prompt_id],
            response=opening + rollout.text,
            truncated=rollout.finish is Finish.LENGTH,
            kind=rewards[rollout.prompt_id],
        )
