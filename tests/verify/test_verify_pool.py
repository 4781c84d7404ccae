"""The pool: limits, replacement, order, hostile inputs."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import long
from pool_jobs import ENDLESS, FALSE, RIGHT, verdicts

from hapo_core.errors import ConfigError, HapoError
from hapo_core.verify import Job, Verdict, VerifierPool, VerifierSettings, reward_of
from hapo_core.verify.workers.process import GradingProcess

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("HAPO_SHARED_DATA", ROOT.parent / "shared" / "data"))

TESTS = Path(__file__).parents[1]
HERE = os.pathsep.join(str(p) for p in (TESTS / "verify", TESTS, TESTS / "support"))
"""Where a worker finds this file, the conftest and the jobs that it imports."""


pytestmark = pytest.mark.usefixtures("real_workers")


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(VerifierSettings(timeout_seconds=1.0, memory_mb=1024)) as shared:
        yield shared


def test_rewards() -> None:
    assert [reward_of(v) for v in Verdict] == [1.0, 0.0, 0.0, 0.0, None, None, None]


def test_settings_are_checked() -> None:
    for wrong in ({"kind": "proof"}, {"workers": 0}, {"timeout_seconds": 0.0}, {"memory_mb": 1}):
        with pytest.raises(ConfigError):
            VerifierSettings(**wrong)  # type: ignore[arg-type]


def test_plain_numbers_need_no_worker_and_are_fast() -> None:
    jobs = [Job(str(i), str(i % 7), rf"so \boxed{{{i % 5}}}") for i in range(5000)]
    with VerifierPool(VerifierSettings()) as fresh:
        start = time.perf_counter()
        found = fresh.verify(jobs)
        seconds = time.perf_counter() - start
        assert not fresh._threads
    assert len(jobs) / seconds > 5000
    assert all((f.verdict is Verdict.CORRECT) == (i % 7 == i % 5) for i, f in enumerate(found))


def test_importing_the_package_is_light() -> None:
    code = "import sys, hapo_core.verify; print([m for m in ('torch', 'sympy', 'transformers',"
    code += " 'prefect', 'math_verify', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_verdicts_that_need_no_grader(pool: VerifierPool) -> None:
    found = pool.verify(
        [
            Job("a", "5", "I think it is 5"),
            Job("b", "5", "I think it is", truncated=True),
            Job("c", "5", r"<think>\boxed{5}", truncated=True),
            Job("d", "5", r"\boxed{5} and then on and on", truncated=True),
            Job("e", "", r"\boxed{5}"),
            Job("f", "$1,200$", "#### 1200", mark="####"),
            Job("g", "5", rf"\boxed{{{'x+' * 20_000}}}"),
        ]
    )
    assert verdicts(found) == [
        *(Verdict.UNPARSED, Verdict.TRUNCATED, Verdict.TRUNCATED, Verdict.CORRECT),
        *(Verdict.BAD_GOLD, Verdict.CORRECT, Verdict.UNPARSED),
    ]
    assert found[3].extracted == "5"


def test_a_timeout_is_its_own_verdict_and_spares_the_neighbours(pool: VerifierPool) -> None:
    pool.verify([RIGHT])
    start = time.monotonic()
    found = pool.verify([RIGHT, ENDLESS, FALSE, RIGHT])
    assert time.monotonic() - start < 15
    assert verdicts(found) == [Verdict.CORRECT, Verdict.TIMEOUT, Verdict.WRONG, Verdict.CORRECT]
    assert found[1].extracted is not None


def test_fractions_of_a_second() -> None:
    with VerifierPool(VerifierSettings(timeout_seconds=0.3, workers=1)) as quick:
        quick.verify([RIGHT])
        start = time.monotonic()
        assert verdicts(quick.verify([ENDLESS])) == [Verdict.TIMEOUT]
        assert 0.6 <= time.monotonic() - start < 5


def grade_badly(gold: str, answer: str) -> tuple[Verdict, str]:
    """A plugged domain that crashes, eats memory or raises, on request."""
    if answer == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if answer == "memory":
        bytearray(4 << 30)
    if answer == "raise":
        raise KeyError("no such thing")
    return (Verdict.CORRECT if gold == answer else Verdict.WRONG), "plugged"


def test_crash_memory_and_errors_of_a_plugged_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", HERE)
    settings = VerifierSettings(kind="test_verify_pool:grade_badly", timeout_seconds=20)
    with VerifierPool(settings) as plugged:
        answers = ["a", "crash", "memory", "raise", "b", "a"]
        found = plugged.verify(Job(a, "a", rf"\boxed{{{a}}}") for a in answers)
    assert verdicts(found) == [
        *(Verdict.CORRECT, Verdict.ERROR, Verdict.ERROR),
        *(Verdict.ERROR, Verdict.WRONG, Verdict.CORRECT),
    ]
    assert "crashed" in found[1].detail
    assert found[2].detail == "memory limit"
    assert "KeyError" in found[3].detail


def grade_aloud(gold: str, answer: str) -> tuple[Verdict, str]:
    """A plugged domain that prints, starts a program that prints, and reads its standard input."""
    print("grading", answer, flush=True)
    os.write(1, b"\xff" * 5000)
    subprocess.run(["echo", answer], check=True)
    assert sys.stdin.read() == "" and subprocess.run(["cat"], check=True).returncode == 0
    return (Verdict.CORRECT if gold == answer else Verdict.WRONG), "aloud"


def test_a_domain_that_prints_does_not_talk_into_the_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """One printed line was taken for the length of a frame: all verdicts were timeouts."""
    monkeypatch.setenv("PYTHONPATH", HERE)
    settings = VerifierSettings(kind="test_verify_pool:grade_aloud", timeout_seconds=20, workers=1)
    with VerifierPool(settings) as plugged:
        found = plugged.verify(Job(str(i), "a", rf"\boxed{{{a}}}") for i, a in enumerate("aba"))
    assert verdicts(found) == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT]


def grade_oddly(gold: str, answer: str) -> object:
    """A plugged domain that gives what no domain gives, leaves, or comes back twice."""
    given = {"none": None, "yes": True, "text": ("correct", "x"), "rule": (Verdict.CORRECT, None)}
    if answer in given:
        return given[answer]
    if answer == "exit":
        sys.exit(0)
    if answer == "fork":
        os.fork()
    detail = "\U0001f600" * 1000 if answer == "long" else "oddly"
    return (Verdict.CORRECT if gold == answer else Verdict.WRONG), detail


def test_what_a_domain_must_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that forked was in the pipe twice: later jobs went to either, and timed out."""
    monkeypatch.setenv("PYTHONPATH", HERE)
    settings = VerifierSettings(kind="test_verify_pool:grade_oddly", timeout_seconds=20, workers=1)
    with VerifierPool(settings) as plugged:
        answers = ["none", "yes", "text", "rule", "exit", "fork", "long", "a", "b", "c"]
        found = plugged.verify(Job(a, a, rf"\boxed{{{a}}}") for a in answers)
    assert verdicts(found) == [*[Verdict.ERROR] * 5, *[Verdict.CORRECT] * 5]
    assert all("a grader returns (Verdict, text)" in f.detail for f in found[:4])
    assert "crashed" in found[4].detail
    assert 0 < len(json.dumps(found[6].detail)) < 4000


def test_a_domain_that_does_not_exist_says_so() -> None:
    with (
        VerifierPool(VerifierSettings(kind="no.such:grader", workers=1)) as broken,
        pytest.raises(HapoError, match="did not start"),
    ):
        broken.verify([RIGHT])


def test_exact() -> None:
    with VerifierPool(VerifierSettings(kind="exact")) as exact:
        found = exact.verify(
            [
                Job("a", "ab  c", r"\boxed{ab c }"),
                Job("b", "ab c", r"\boxed{AB c}"),
                Job("c", " ", r"\boxed{x}"),
            ]
        )
        assert not exact._threads
    assert verdicts(found) == [Verdict.CORRECT, Verdict.WRONG, Verdict.BAD_GOLD]


def test_the_iterable_is_consumed_while_workers_grade(pool: VerifierPool) -> None:
    pool.verify([RIGHT])
    graded_before_end: list[bool] = []

    def slowly() -> Iterator[Job]:
        yield Job("first", r"\sqrt{8}", r"\boxed{2\sqrt{2}}")
        time.sleep(0.7)
        graded_before_end.append((r"\sqrt{8}", r"2\sqrt{2}") in pool._memo)
        yield RIGHT

    assert verdicts(pool.verify(slowly())) == [Verdict.CORRECT] * 2
    assert graded_before_end == [True]


def test_an_exception_of_the_iterable_leaves_the_pool_usable(pool: VerifierPool) -> None:
    def failing() -> Iterator[Job]:
        yield Job("x", "x+3", r"\boxed{3+x}")
        raise RuntimeError("generation failed")

    with pytest.raises(RuntimeError, match="generation failed"):
        pool.verify(failing())
    assert verdicts(pool.verify([RIGHT, FALSE])) == [Verdict.CORRECT, Verdict.WRONG]


def grade_slowly_once(gold: str, answer: str) -> tuple[Verdict, str]:
    """Hangs on the first attempt at `hangs`, then grades it; logs when each job ran."""
    log = Path(os.environ["HAPO_TEST_LOG"])
    first = answer == "hangs" and not log.with_suffix(".seen").exists()
    if first:
        log.with_suffix(".seen").touch()
        time.sleep(600)
    start = time.monotonic()
    time.sleep(0.05)
    with log.open("a") as lines:
        lines.write(f"{answer} {start} {time.monotonic()}\n")
    return Verdict.CORRECT, "plugged"


def test_a_timeout_is_retried_once_and_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("PYTHONPATH", HERE)
    monkeypatch.setenv("HAPO_TEST_LOG", str(log))
    settings = VerifierSettings(
        kind="test_verify_pool:grade_slowly_once", timeout_seconds=1.0, workers=3
    )
    answers = ["hangs", *(f"job{i}" for i in range(60))]
    with VerifierPool(settings) as plugged:
        plugged.verify([Job("", "warm", r"\boxed{warm}")])
        log.unlink()
        log.with_suffix(".seen").unlink(missing_ok=True)
        found = plugged.verify(Job(a, "x", rf"\boxed{{{a}}}") for a in answers)
    assert set(verdicts(found)) == {Verdict.CORRECT}
    spans = {
        name: (float(start), float(end))
        for name, start, end in (line.rsplit(" ", 2) for line in log.read_text().splitlines())
    }
    assert len(spans) == 61  # the hanging attempt left no line, the second one did
    alone = spans.pop("hangs")
    assert not any(start < alone[1] and end > alone[0] for start, end in spans.values())


def test_strange_text_survives_the_pipe(pool: VerifierPool) -> None:
    found = pool.verify(
        [
            Job("a", "x\ud800+1", "\\boxed{1+x\udfff}"),
            Job("b", "x+1", "\\boxed{1+\x00x}"),
            Job("c", "x+1", "\u202e" * 1_000_000 + r"\boxed{x+2}"),
            Job("d", "x+1" + " " * 1_000_000, r"\boxed{1+x}"),
        ]
    )
    assert verdicts(found) == [
        *(Verdict.CORRECT, Verdict.CORRECT),
        *(Verdict.WRONG, Verdict.CORRECT),
    ]


HOSTILE = {
    "deep fractions": "\\frac{1}{" * 400 + "2" + "}" * 400,
    "deep parentheses": "(" * 5000 + "x" + ")" * 5000,
    "deep roots": "\\sqrt{" * 500 + "2" + "}" * 500,
    "deep sets": "\\{" * 1500 + "1" + "\\}" * 1500,
    "a tower of powers": "9^{9^{9^{9}}}",
    "twos": "2^{2^{100}}",
    "a large power": "(x+1)^{100000}",
    "a small number": "\\sqrt{2} + 10^{-100000}",
    "powers within": "e^{10^{50}} - e^{10^{50}}",
    "a factorial": "(10^{9})!",
    "a long sum": "\\sum_{k=1}^{10^{12}} \\sin(k)",
    "many terms": "+".join(["x^{2}"] * 4000),
    "bars": "|z " * 6000,
    "angles": "\\langle " + ", " * 9000,
    "digits in a grid": "\\text{grid} " + "1" * 19000,
    "many items": ", ".join(map(str, range(4000))),
    "blanks": "1" + " " * 900_000 + "2",
    "commas": "," * 19_000,
    "signs": "\\pm 1 " * 3000,
    "a text": "word " * 4000,
    "for all": "x for all x, " * 1500,
}


@long
def test_made_up_hostile_inputs_are_all_answered_in_time() -> None:
    limit = 1.0
    golds = ("2", "x+1", "|z|^2", "\\{1, 2\\}")
    jobs = [Job(n, g, f"\\boxed{{{a}}}") for n, a in HOSTILE.items() for g in golds]
    jobs += [Job(n, a, "\\boxed{2}") for n, a in HOSTILE.items() if len(a) < 20_000]
    with VerifierPool(VerifierSettings(timeout_seconds=limit, memory_mb=1024)) as hostile:
        start = time.monotonic()
        found = hostile.verify(jobs)
        seconds = time.monotonic() - start
        assert verdicts(hostile.verify([RIGHT, FALSE])) == [Verdict.CORRECT, Verdict.WRONG]
    known = {Verdict.WRONG, Verdict.UNPARSED, Verdict.BAD_GOLD, Verdict.TIMEOUT}
    assert {v.verdict for v in found} <= known
    slow = [j.key for j, v in zip(jobs, found, strict=True) if v.verdict is Verdict.TIMEOUT]
    # an attempt, then one alone of at most four times the limit of wall time
    assert seconds < len(jobs) + 5 * limit * len(slow), (seconds, slow)


@pytest.mark.slow
def test_hostile_inputs() -> None:
    path = SHARED / "verifier" / "pathological.jsonl.gz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    jobs: list[Job] = []
    for row in rows:
        jobs += [Job(row["name"], row["gold"], row["pred"]), RIGHT, FALSE]
    # each neighbour gets its own text, so that none is answered from the memo
    for i in range(1, len(jobs), 3):
        jobs[i] = Job("right", f"x+{i}", rf"\boxed{{{i}+x}}")
        jobs[i + 1] = Job("false", f"x+{i}", rf"\boxed{{{i + 1}+x}}")
    with VerifierPool(VerifierSettings(timeout_seconds=0.5, memory_mb=1024)) as hostile:
        hostile.verify([RIGHT])
        start = time.monotonic()
        found = hostile.verify(jobs)
        seconds = time.monotonic() - start
        assert verdicts(hostile.verify([RIGHT, FALSE])) == [Verdict.CORRECT, Verdict.WRONG]
    assert {v.verdict for v in found[1::3]} == {Verdict.CORRECT}
    assert {v.verdict for v in found[2::3]} == {Verdict.WRONG}
    answers = {row["name"]: v.verdict for row, v in zip(rows, found[::3], strict=True)}
    unknown = [name for name, v in answers.items() if reward_of(v) is None]
    assert len(unknown) <= 30, unknown
    # two attempts each, the second ones one after the other
    assert seconds < 150
    for name in ("two boxed", "hedge list", "hedge or", "chain =", "variable x vs 5"):
        assert answers[name] is Verdict.WRONG, name
    for name in ("python code injection", "dunder", "empty", "unclosed boxed"):
        assert answers[name] is Verdict.UNPARSED, name
    for name in ("null bytes", "lone surrogate", "fullwidth digits", "5k digits"):
        assert answers[name] is Verdict.CORRECT, name
    assert answers["empty gold"] is Verdict.BAD_GOLD


def test_verdicts_do_not_depend_on_order_worker_or_load() -> None:
    path = SHARED / "verifier" / "cases.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()][::6]
    jobs = [Job(row["id"], row["gold"], rf"\boxed{{{row['pred']}}}") for row in rows]
    shuffled = random.Random(5).sample(jobs, len(jobs))
    runs = []
    for workers, order in ((1, jobs), (3, shuffled)):
        with VerifierPool(VerifierSettings(workers=workers, timeout_seconds=20)) as one:
            runs.append(dict(zip([j.key for j in order], one.verify(order), strict=True)))
    assert runs[0] == runs[1]


def test_a_worker_killed_while_it_starts_is_started_anew() -> None:
    """Found by the kill matrix: such a kill stopped the whole run."""
    process = GradingProcess(VerifierSettings(kind="exact"))
    process._start()
    assert process._process is not None
    process._process.kill()  # long before it has said that it is ready
    try:
        assert process.attempt("1", "1").status == "done"
    finally:
        process.close()
