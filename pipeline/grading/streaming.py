"""Verification that goes on while rollouts are still generated."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from hapo_core.errors import HapoError
from hapo_core.graded import Graded
from hapo_core.rollout import Rollout
from hapo_core.verify import Verification, VerifierPool, reward_of
from pipeline.grading.jobs import verify_jobs


class Verifying:
    """A round's verification; a context manager. Rollouts are put in as they finish.

    Args:
        pool: grades them; one round uses it at a time.
        answers: gold answers by prompt id.
        rewards: what grades each prompt, by id.
        opening: what the prompts already wrote of the responses (`<think>`, in some templates).
    """

    def __init__(
        self,
        pool: VerifierPool,
        answers: Mapping[str, str],
        rewards: Mapping[str, str],
        opening: str = "",
    ) -> None:
        self._pool, self._answers, self._rewards = pool, answers, rewards
        self._opening = opening
        self._given: queue.SimpleQueue[Rollout | None] = queue.SimpleQueue()
        self._order: list[Rollout] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verifying")
        self._verdicts: Future[list[Verification]] | None = None

    def __enter__(self) -> Verifying:
        jobs = verify_jobs(
            self._arriving(), self._answers, rewards=self._rewards, opening=self._opening
        )
        self._verdicts = self._thread.submit(self._pool.verify, jobs)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._given.put(None)
        self._thread.shutdown(wait=False)

    def put(self, rollout: Rollout) -> None:
        """Verify this one soon; returns at once."""
        self._order.append(rollout)
        self._given.put(rollout)

    def of(self, rollouts: Sequence[Rollout]) -> list[Graded]:
        """`rollouts`, all of which were put in, with their grades and in this order.

        Raises:
            HapoError: what the pool raised.
        """
        self._given.put(None)
        assert self._verdicts is not None
        pairs = zip(self._order, self._verdicts.result(), strict=True)
        found = {r.key: Graded(r, reward_of(v.verdict), v) for r, v in pairs}
        return [found[rollout.key] for rollout in rollouts]

    def _arriving(self) -> Iterator[Rollout]:
        while (rollout := self._given.get()) is not None:
            yield rollout


def refuse_unknown(samples: Sequence[Graded], most: float) -> None:
    """Stop a round whose rewards are not known.

    Args:
        most: largest share of samples without a reward.

    Raises:
        HapoError: it is exceeded.
    """
    unknown = [s for s in samples if s.reward is None]
    if len(unknown) > most * len(samples):
        example = unknown[0].found
        raise HapoError(
            f"{len(unknown)} of {len(samples)} rollouts have no known reward "
            f"({example.verdict.value}: {example.detail or 'no detail'})",
            where="rewards",
            remedy="look at the golds and the verifier's limits (rewards.timeout_seconds, "
            "rewards.max_unknown_share); finished rounds are kept",
        )
