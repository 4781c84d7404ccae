"""First against last visit, by hand."""

from __future__ import annotations

from hapo_core.stats.graduation import graduation
from hapo_core.stats.visits import Visit


def test_by_hand() -> None:
    def visits(prompt: str, *shares: tuple[int, int], decision: str = "closed") -> list[Visit]:
        return [Visit(prompt, i, s, k, decision) for i, (s, k) in enumerate(shares)]

    rows = [
        *visits("a", (0, 8), (3, 8), (8, 8), decision="injected"),  # none -> all, helped
        *visits("b", (0, 8), (4, 8)),  # none -> up to half
        *visits("c", (5, 8), (0, 8)),  # over half -> none: lost
        *visits("d", (8, 8), (0, 0), (0, 7), (0, 0)),  # unknown visits are passed over: lost
        *visits("e", (0, 8)),  # once
        *visits("f", (0, 0), (0, 8), (0, 0)),  # known once
        *visits("g", (1, 8), (7, 8), decision="injected"),
    ]
    found = graduation(reversed(rows))
    assert found is not None
    assert found.counts == ((0, 1, 0, 1), (0, 0, 1, 0), (1, 0, 0, 0), (1, 0, 0, 0))
    assert found.helped == (1, 1, 0, 0)
    assert (found.prompts, found.solved, found.lost) == (5, 1, 2)
    assert graduation(rows[8:9]) is None
