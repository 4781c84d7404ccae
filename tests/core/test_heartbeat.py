"""A rank that stands still ends itself; one that works, however long, does not."""

from __future__ import annotations

from hapo_core import heartbeat
from hapo_core.heartbeat import BUSY, Watch, beat, waiting


class Process:
    """A pretended one, with a clock."""

    def __init__(self) -> None:
        self.now = self.cpu = 0.0
        self.beats = self.moved = 0
        self.waits = False
        self.watch = Watch(100.0, lambda: (self.beats, self.waits, self.cpu, self.moved), 0.0)

    def goes(self, seconds: float, beats: int = 0, cpu: float = 0.0, moved: int = 0) -> str | None:
        """The first problem in this time, looked for every 5 s; the rest is given per look."""
        end = self.now + seconds
        while self.now < end:
            self.now += 5
            self.beats, self.cpu, self.moved = (
                self.beats + beats,
                self.cpu + cpu,
                self.moved + moved,
            )
            if (problem := self.watch.look(self.now)) is not None:
                return problem
        return None


def test_one_that_does_nothing_is_found_in_time() -> None:
    process = Process()
    assert process.goes(1000, beats=1) is None
    assert process.goes(95) is None
    assert process.goes(10) == "has done nothing for 105 s"


def test_waking_up_now_and_then_is_nothing() -> None:
    """`while True: sleep(1)` uses a thousandth of a processor; logs of other threads some bytes."""
    assert Process().goes(200, cpu=0.005, moved=2000) == "has done nothing for 105 s"


def test_long_work_is_not_ended() -> None:
    process = Process()
    assert process.goes(BUSY * 100, cpu=4.0) is None  # computes
    process.beats += 1
    assert process.goes(BUSY * 100, moved=1 << 20) is None  # reads a large model
    process.beats += 1
    assert process.goes(10_000, beats=1) is None  # waits for servers that answer


def test_computing_without_getting_on_ends_too_and_later() -> None:
    assert Process().goes(10_000, cpu=5.0) == "has computed for 405 s without getting on"


def test_one_that_waits_for_the_others_is_not_ended() -> None:
    process = Process()
    process.waits = True
    assert process.goes(100_000) is None
    process.waits = False
    assert process.goes(95) is None
    assert process.goes(10) is not None


def test_one_that_was_stopped_starts_afresh() -> None:
    process = Process()
    assert process.goes(95) is None
    process.now += 10_000
    assert process.goes(95) is None


def test_beats_and_waits_are_counted() -> None:
    before = heartbeat._beats
    beat()
    with waiting():
        assert heartbeat._waits == 1
    assert heartbeat._waits == 0 and heartbeat._beats == before + 3
