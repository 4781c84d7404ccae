"""Who calls the pool: threads, event loops, tasks of Prefect, alarms, pytest, and one that dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import PrefectServer, long
from pool_jobs import ENDLESS, FALSE, RIGHT, verdicts

from hapo_core.errors import HapoError
from hapo_core.verify import Job, Verdict, Verification, VerifierPool, VerifierSettings

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("real_workers")


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(VerifierSettings(timeout_seconds=1.0, memory_mb=1024)) as shared:
        yield shared


def test_from_several_threads_at_once(pool: VerifierPool) -> None:
    jobs = [[Job("", f"x+{i}", rf"\boxed{{{i % 3}+x}}") for i in range(n)] for n in (3, 6, 9, 12)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(pool.verify, jobs))
    for batch in found:
        expected = [Verdict.CORRECT if i < 3 else Verdict.WRONG for i in range(len(batch))]
        assert verdicts(batch) == expected


def test_started_in_a_thread_that_ends() -> None:
    with VerifierPool(VerifierSettings(workers=1)) as moved:
        starter = threading.Thread(target=lambda: moved.verify([RIGHT]))
        starter.start()
        starter.join()
        time.sleep(0.2)
        assert verdicts(moved.verify([FALSE])) == [Verdict.WRONG]


def test_in_an_event_loop(pool: VerifierPool) -> None:
    async def work() -> list[Verification]:
        return await asyncio.to_thread(pool.verify, [RIGHT, FALSE])

    assert verdicts(asyncio.run(work())) == [Verdict.CORRECT, Verdict.WRONG]


@pytest.mark.slow
def test_inside_a_task_of_a_prefect_task_runner(
    tmp_path: Path, prefect_server: PrefectServer
) -> None:
    pytest.importorskip("prefect")
    code = """
        from prefect import flow, task
        from prefect.task_runners import ThreadPoolTaskRunner
        from hapo_core.verify import Job, VerifierPool, VerifierSettings
        @task(persist_result=False)
        def check(pool):
            jobs = [Job('', 'x+1', chr(92) + 'boxed{1+x}'), Job('', '1',
                chr(92) + 'boxed{' + chr(92) + 'prod_{k=1}^{1000000} (1+1/k)}')]
            return [v.verdict.value for v in pool.verify(jobs)]
        @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
        def both():
            with VerifierPool(VerifierSettings(timeout_seconds=0.5)) as pool:
                return [f.result() for f in [check.submit(pool), check.submit(pool)]]
        print(both())
    """
    program = textwrap.dedent(code)  # no __main__ guard: workers must not import it
    mode = {"PREFECT_HOME": str(tmp_path), **prefect_server.env}
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**kept, **mode, **quiet},
        timeout=120,
    )
    assert done.stdout.strip() == str([["correct", "timeout"]] * 2), done.stderr


def test_the_callers_alarm_is_left_alone(pool: VerifierPool) -> None:
    rung: list[int] = []
    previous = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    try:
        found = pool.verify([RIGHT, ENDLESS, FALSE])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert verdicts(found) == [Verdict.CORRECT, Verdict.TIMEOUT, Verdict.WRONG]
    assert len(rung) >= 3


def test_an_alarm_that_raises_leaves_the_pool_usable(pool: VerifierPool) -> None:
    def ring(number: int, frame: object) -> None:
        raise TimeoutError("the caller's own limit")

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with pytest.raises(TimeoutError):
            pool.verify([ENDLESS])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert verdicts(pool.verify([RIGHT, FALSE])) == [Verdict.CORRECT, Verdict.WRONG]


PLAIN = """
import pytest
from hapo_core.verify import Job, VerifierPool, VerifierSettings
ENDLESS = Job("", "1", r"\\boxed{\\prod_{k=1}^{1000000} (1+1/k)}")
@pytest.fixture(scope="module")
def pool():
    with VerifierPool(VerifierSettings(timeout_seconds=0.5, workers=1)) as one:
        yield one
@pytest.fixture(scope="module")
def patient():
    with VerifierPool(VerifierSettings(timeout_seconds=6, workers=1)) as one:
        yield one
def test_verdicts(pool):
    found = pool.verify([Job("", "x+1", r"\\boxed{1+x}"), ENDLESS])
    assert [v.verdict.value for v in found] == ["correct", "timeout"]
"""
INTERRUPTED = """
@pytest.mark.timeout(1)
def test_that_takes_too_long(patient):
    patient.verify([ENDLESS])
def test_after_it(patient):
    found = patient.verify([Job("", "x+1", r"\\boxed{1+x}")])
    assert [v.verdict.value for v in found] == ["correct"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("thread", marks=long), "signal"])
def test_under_pytest_timeout(method: str, tmp_path: Path) -> None:
    """Neither method disturbs verdicts; a test that `signal` interrupts leaves a usable pool."""
    interrupted = method == "signal"
    (tmp_path / "test_inner.py").write_text(PLAIN + (INTERRUPTED if interrupted else ""))
    options = ["-p", "no:cacheprovider", "-q", "--timeout=60", f"--timeout-method={method}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "test_inner.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = "1 failed, 2 passed" if interrupted else "1 passed"
    assert expected in done.stdout, done.stdout + done.stderr
    if interrupted:
        assert "FAILED test_inner.py::test_that_takes_too_long - Failed: Timeout" in done.stdout


def test_closing_in_the_middle_of_a_job() -> None:
    closing = VerifierPool(VerifierSettings(timeout_seconds=60, workers=1))
    closing.verify([RIGHT])
    threading.Timer(0.5, closing.close).start()
    with pytest.raises(HapoError, match="closed"):
        closing.verify([ENDLESS])
    closing.close()
    with pytest.raises(HapoError, match="closed"):
        closing.verify([RIGHT])


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux")
def test_workers_die_with_the_parent() -> None:
    code = """
        import sys, time
        from hapo_core.verify import Job, VerifierPool, VerifierSettings
        pool = VerifierPool(VerifierSettings(timeout_seconds=300, workers=1))
        pool.verify([Job('', 'x+1', chr(92) + 'boxed{1+x}')])
        process = pool._processes[0]
        print(process._process.pid, process._child, flush=True)
        pool.verify([Job('', '1', chr(92) + 'boxed{' + chr(92) + 'prod_{k=1}^{1000000} (1+1/k)}')])
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert all(map(_alive, pids))
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, pids))
