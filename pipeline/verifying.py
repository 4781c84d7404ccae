"""Verification that goes on while rollouts are still generated."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from hapo_core.rollout import Rollout
from hapo_core.verify import Verification, VerifierPool
from pipeline.trainset import verify_jobs


class Verifying:
    """A round's verification; a context manager. Rollouts are put in as they finish.

    Args:
        pool: grades them; one round uses it at a time.
        answers: gold answers by prompt id.
    """

    def __init__(self, pool: VerifierPool, answers: dict[str, str]) -> None:
        self._pool, self._answers = pool, answers
        self._given: queue.SimpleQueue[Rollout | None] = queue.SimpleQueue()
        self._order: list[tuple[str, int]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="verifying")
        self._verdicts: Future[list[Verification]] | None = None

    def __enter__(self) -> Verifying:
        jobs = verify_jobs(self._arriving(), self._answers)
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
        self._order.append((rollout.prompt_id, rollout.sample))
        self._given.put(rollout)

    def of(self, rollouts: Sequence[Rollout]) -> list[Verification]:
        """The verdicts of `rollouts`, which are all that were put in, in this order.

        Raises:
            HapoError: what the pool raised.
        """
        self._given.put(None)
        assert self._verdicts is not None
        found = dict(zip(self._order, self._verdicts.result(), strict=True))
        return [found[rollout.prompt_id, rollout.sample] for rollout in rollouts]

    def _arriving(self) -> Iterator[Rollout]:
        while (rollout := self._given.get()) is not None:
            yield rollout
