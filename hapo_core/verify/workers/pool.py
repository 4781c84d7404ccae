"""The verifier: extraction and cheap rules in the caller, grading in killable processes.

One thread per worker process takes jobs from a shared queue, so grading goes on while the caller's
iterable still generates. Processes start with the first job that needs one. A job that times out
or crashes is tried once more with every other worker idle and its own processor time counted; a
verdict therefore depends neither on its neighbours nor on the load.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType

from hapo_core.errors import HapoError
from hapo_core.heartbeat import beat
from hapo_core.verify import exact
from hapo_core.verify.extract import extract_answer
from hapo_core.verify.math import fastpath
from hapo_core.verify.verdict import Job, Verdict, Verification, VerifierSettings
from hapo_core.verify.workers.process import GradingProcess, Reply

_QUEUE_LIMIT = 1024
"""The caller waits when so many jobs are queued: memory stays bounded on any stream."""
_ANSWER_LIMIT = 20_000
"""Characters; a longer answer is no answer. Golds are not limited: theirs is the wall limit."""
_MEMO_ENTRIES, _MEMO_CHARACTERS = 20_000, 1_000
"""Known verdicts of (gold, answer) pairs that are kept; they are pure functions of the pair."""

Pair = tuple[str, str]


class _Batch:
    """The pairs that one `verify` call waits for."""

    def __init__(self) -> None:
        self.waiting: dict[Pair, list[int]] = {}
        self.results: dict[Pair, tuple[Verdict, str]] = {}
        self.failure: HapoError | None = None
        self.cancelled = False


class _Task:
    """One pair to grade for a batch; `alone` on the second attempt."""

    def __init__(self, batch: _Batch, pair: Pair, alone: bool = False) -> None:
        self.batch, self.pair, self.alone = batch, pair, alone


class VerifierPool:
    """Verifies responses; a context manager, usable from any thread.

    Args:
        settings: what counts as an answer, and the limits of the workers.
    """

    def __init__(self, settings: VerifierSettings) -> None:
        self.settings = settings
        self._change = threading.Condition()
        self._tasks: deque[_Task] = deque()
        self._second: deque[_Task] = deque()
        self._memo: OrderedDict[Pair, tuple[Verdict, str]] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._processes: list[GradingProcess] = []
        self._running = 0
        self._exclusive = False
        self._closed = False
        self._others: dict[str, VerifierPool] = {}

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def verify(self, jobs: Iterable[Job]) -> list[Verification]:
        """Verify every job; the iterable is consumed while workers grade what it gave.

        Jobs of another kind than the pool's own are set aside and graded after these, by a pool
        of their kind.

        Returns:
            One verification per job, in the order of the jobs.

        Raises:
            HapoError: the pool is closed, or its workers cannot be started.
        """
        if self._closed:
            raise HapoError("the verifier pool is closed")
        aside: dict[str, list[tuple[int, Job]]] = {}
        found = self._verify(self._own(jobs, aside))
        results: dict[int, Verification] = {}
        for kind, placed in aside.items():
            answers = self._other(kind).verify(job for _, job in placed)
            results |= {place: v for (place, _), v in zip(placed, answers, strict=True)}
        own = iter(found)
        return [results[i] if i in results else next(own) for i in range(len(found) + len(results))]

    def _own(self, jobs: Iterable[Job], aside: dict[str, list[tuple[int, Job]]]) -> Iterator[Job]:
        for place, job in enumerate(jobs):
            if job.kind is None or job.kind == self.settings.kind:
                yield job
            else:
                aside.setdefault(job.kind, []).append((place, replace(job, kind=None)))

    def _other(self, kind: str) -> VerifierPool:
        with self._change:
            if kind not in self._others:
                self._others[kind] = VerifierPool(replace(self.settings, kind=kind))
            return self._others[kind]

    def _verify(self, jobs: Iterable[Job]) -> list[Verification]:
        batch = _Batch()
        done: list[Verification | None] = []
        extracted: list[str | None] = []
        try:
            for job in jobs:
                answer, early = self._without_worker(job)
                extracted.append(answer)
                done.append(early)
                if early is None:
                    assert answer is not None
                    self._submit(batch, (job.gold, answer), len(done) - 1)
            self._collect(batch, done, extracted)
        finally:
            with self._change:
                batch.cancelled = True  # what is still queued is dropped by the workers
        return [result for result in done if result is not None]

    def close(self) -> None:
        """Kill the workers and wait for their threads. Calling it twice is fine."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            processes, others = list(self._processes), list(self._others.values())
        for other in others:
            other.close()
        for process in processes:
            process.interrupt()
        for thread in self._threads:
            thread.join()

    def _without_worker(self, job: Job) -> tuple[str | None, Verification | None]:
        """The extracted answer, and the verdict if no worker is needed for it."""
        found = extract_answer(job.response, job.mark, self.settings.require_box)
        answer = found.answer
        if job.truncated and not found.marked:
            return answer, Verification(Verdict.TRUNCATED, None, "cut before a final answer")
        if answer is None:
            return None, Verification(Verdict.UNPARSED, None, "no marked answer")
        verdict: Verdict | None
        if self.settings.kind == "exact":
            verdict, detail = exact.grade(job.gold, answer)
            return answer, Verification(verdict, answer, detail)
        if self.settings.kind == "math":
            verdict = fastpath.decide(job.gold, answer)
            if verdict is not None:
                return answer, Verification(verdict, answer, fastpath.NAME)
            if not job.gold.strip().strip("$").strip():
                return answer, Verification(Verdict.BAD_GOLD, answer, "the gold is empty")
        if len(answer) > _ANSWER_LIMIT and answer.strip() != job.gold.strip().strip("$"):
            detail = f"an answer of {len(answer)} characters"
            return answer, Verification(Verdict.UNPARSED, answer, detail)
        return answer, None

    def _submit(self, batch: _Batch, pair: Pair, index: int) -> None:
        self._start_threads()
        with self._change:
            if pair in batch.waiting:
                batch.waiting[pair].append(index)
                return
            batch.waiting[pair] = [index]
            known = self._memo.get(pair)
            if known is not None:
                batch.results[pair] = known
                return
            while len(self._tasks) >= _QUEUE_LIMIT and batch.failure is None:
                self._change.wait()
            self._tasks.append(_Task(batch, pair))
            self._change.notify_all()

    def _collect(
        self, batch: _Batch, done: list[Verification | None], extracted: list[str | None]
    ) -> None:
        for pair, indices in batch.waiting.items():
            with self._change:
                while pair not in batch.results:
                    if batch.failure is not None:
                        raise batch.failure
                    if self._closed:
                        raise HapoError("the verifier pool was closed while it was verifying")
                    self._change.wait()
                verdict, detail = batch.results[pair]
            for index in indices:
                done[index] = Verification(verdict, extracted[index], detail)

    def _start_threads(self) -> None:
        with self._change:
            if self._threads:
                return
            for number in range(self.settings.workers):
                process = GradingProcess(self.settings)
                thread = threading.Thread(
                    target=self._work, args=(process,), name=f"verify-{number}", daemon=True
                )
                self._processes.append(process)
                self._threads.append(thread)
                thread.start()

    def _work(self, process: GradingProcess) -> None:
        """The life of one worker thread; the process is started by it and dies with it."""
        try:
            while (task := self._take()) is not None:
                reply: Reply | None = None
                failure = HapoError("a verification thread ended unexpectedly")
                try:
                    reply = process.attempt(*task.pair, patient=task.alone)
                except HapoError as error:
                    failure = error
                finally:
                    with self._change:
                        if reply is None:
                            task.batch.failure = failure
                        else:
                            self._finish(task, reply)
                        self._leave(task)
        finally:
            process.close()

    def _take(self) -> _Task | None:
        """The next task, counted as running; None when the pool closes."""
        with self._change:
            while True:
                if self._closed:
                    return None
                if not self._exclusive:
                    if self._tasks:
                        task = self._tasks.popleft()
                        self._change.notify_all()
                    elif self._second:
                        task = self._second.popleft()
                    else:
                        self._change.wait()
                        continue
                    if task.batch.cancelled:
                        continue
                    break
                self._change.wait()
            if task.alone:
                self._exclusive = True
                while self._running and not self._closed:
                    self._change.wait()
            self._running += 1
            return task

    def _leave(self, task: _Task) -> None:
        self._running -= 1
        if task.alone:
            self._exclusive = False
        self._change.notify_all()

    def _finish(self, task: _Task, reply: Reply) -> None:
        """Record a verdict, or put the task back for its second, lonely attempt."""
        beat()
        failed = reply.status != "done" or reply.verdict == Verdict.ERROR
        if failed and not task.alone:
            self._second.append(_Task(task.batch, task.pair, alone=True))
            return
        if reply.status == "done":
            outcome = Verdict(reply.verdict), reply.detail
        elif reply.status == "timeout":
            outcome = Verdict.TIMEOUT, f"over {self.settings.timeout_seconds:g} s, twice"
        else:
            outcome = Verdict.ERROR, reply.detail
        task.batch.results[task.pair] = outcome
        if not failed and sum(map(len, task.pair)) <= _MEMO_CHARACTERS:
            self._memo[task.pair] = outcome
            if len(self._memo) > _MEMO_ENTRIES:
                self._memo.popitem(last=False)
