"""The alarm that a teacher does harm: by hand, against scipy, false alarms, what it shuts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from hapo_core.alarm import Alarm, AlarmState, Looks, Spoken, StopLoss
from hapo_core.gate import AdaptiveThreshold, ConstantThreshold, Decision, Gate, GateSpec, GateState
from hapo_core.methods import GRPO, HAPO
from hapo_core.objective import PAPER


def made(**spec: object) -> Alarm:
    return Alarm(StopLoss(**spec), AlarmState(), seed=5)  # type: ignore[arg-type]


def test_looks_come_when_numbers_double_and_share_one_chance() -> None:
    looks = Looks()
    shares = [looks.share(n) for n in (7, 8, 9, 16, 31, 100, 127, 128)]
    assert shares == [None, 1 / 2, None, 1 / 6, None, 1 / 12, None, 1 / 20]
    assert sum(1 / (k * (k + 1)) for k in range(1, 10_000)) < 1


def test_surprise_speaks() -> None:
    """The first eight traces of open groups; closed ones and those without a trace do not count."""
    values = [0.9, 1.1, 1.3, 0.7, 1.0, 1.2, 0.8, 1.4]
    alarm = made(limit=0.8)
    for k, value in enumerate(values):
        alarm.visit(f"c{k}", "closed", 0, 8, 99.0)
        alarm.visit(f"n{k}", "no_trace", 0, 8, None)
        alarm.visit(f"p{k}", ("injected", "held_out", "refused")[k % 3], 0, 8, value)
        alarm.look(3)
        assert (alarm.state.spoken is None) == (k < 7)
    spoken = alarm.state.spoken
    expected = stats.ttest_1samp(values, 0.8, alternative="greater")
    assert spoken is not None and spoken.witness == "surprise" and spoken.round == 3
    assert spoken.value == pytest.approx(1.05) and spoken.level == 0.025
    assert spoken.p_value == pytest.approx(expected.pvalue) and expected.pvalue < 0.025
    quiet = made(limit=0.95)
    for k, value in enumerate(values):
        quiet.visit(f"p{k}", "injected", 0, 8, value)
    quiet.look(3)
    assert stats.ttest_1samp(values, 0.95, alternative="greater").pvalue > 0.025
    assert quiet.state.spoken is None


def test_help_speaks_at_next_visits() -> None:
    """Each visit counts for the decision before it; a visit without a known reward counts for
    nothing."""
    alarm, rng = made(), np.random.default_rng(0)
    sides: dict[str, list[float]] = {"injected": [], "held_out": []}
    for k in range(16):
        decision = ("injected", "held_out")[k % 2]
        s = int(rng.binomial(8, 0.2 if k % 2 == 0 else 0.9))
        alarm.visit(f"p{k}", decision, 0, 8, None)
        alarm.visit(f"p{k}", "closed", s, 8, None)
        alarm.visit(f"p{k}", "closed", 8, 8, None)  # follows a closed one
        sides[decision].append(s / 8)
    alarm.visit("u", "injected", 0, 8, None)
    alarm.visit("u", "unknown", 0, 0, None)
    alarm.visit("u", "closed", 8, 8, None)
    assert alarm.state.helped.n == alarm.state.left.n == 8
    assert alarm.effect == pytest.approx(np.mean(sides["injected"]) - np.mean(sides["held_out"]))
    alarm.look(9)
    expected = stats.ttest_ind(*sides.values(), equal_var=False, alternative="less")
    spoken = alarm.state.spoken
    assert spoken is not None and spoken.witness == "help" and spoken.value == alarm.effect
    assert spoken.p_value == pytest.approx(expected.pvalue)


def test_a_benchmark_speaks_that_fell() -> None:
    """Ten problems from right to wrong: 1 of 2^10 sign patterns is as low."""
    scores = {f"q{k}": 1.0 for k in range(10)}
    fallen = dict.fromkeys(scores, 0.0)
    alarm = made(watched=2)
    alarm.measured("short", scores, 0)
    alarm.measured("short", scores, 10)
    assert alarm.state.spoken is None
    alarm.measured("short", dict(reversed(fallen.items())), 20)
    spoken = alarm.state.spoken
    assert spoken == Spoken("benchmark", 20, -1.0, 1 / 1024, 0.05 / 6 / 2, "short", True)
    alarm.measured("short", fallen, 30)
    assert alarm.state.spoken is spoken  # the first alarm stands
    risen = made(watched=1)
    risen.measured("short", fallen, 0)
    risen.measured("short", scores, 10)
    assert risen.state.spoken is None


def test_false_alarms_keep_to_their_chance() -> None:
    """Nothing is wrong in 200 runs of five looks: each witness speaks in no more than 5 %."""
    rng, spoken, runs = np.random.default_rng(1), {"surprise": 0, "help": 0}, 200
    for _ in range(runs):
        alarm = made(limit=0.3)
        excess, helped = rng.normal(0.3, 0.5, 128), rng.random(128) < 0.5
        right = rng.binomial(8, 0.4, 128)
        for k in range(128):
            decision = "injected" if helped[k] else "held_out"
            alarm.visit(str(k), decision, 0, 8, float(excess[k]))
            alarm.visit(str(k), "closed", int(right[k]), 8, None)
            if k % 8 == 7:
                alarm.look(k + 1)
        if alarm.state.spoken is not None:
            spoken[alarm.state.spoken.witness] += 1
    limit = 0.05 * runs + 2 * (0.05 * 0.95 * runs) ** 0.5
    assert all(count <= limit for count in spoken.values()) and sum(spoken.values()) > 0


def test_it_goes_on_from_json_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    events = [
        (f"p{k % 40}", ("injected", "held_out", "closed")[int(d)], int(s), float(e))
        for k, (d, s, e) in enumerate(
            zip(rng.integers(0, 3, 400), rng.integers(0, 9, 400), rng.random(400), strict=True)
        )
    ]
    ends = []
    for cut in (0, 137):
        alarm = made(limit=0.4)
        alarm.measured("short", {"a": 1 / 3, "b": 0.1}, 0)
        for k, (prompt, decision, s, excess) in enumerate(events):
            if k == cut:
                state = AlarmState.from_json(json.loads(json.dumps(alarm.state.as_json())))
                assert state == alarm.state
                alarm = Alarm(alarm.spec, state, 5)
            alarm.visit(prompt, decision, s, 8, excess)
            alarm.look(k)
        ends.append(alarm.state)
    assert ends[0] == ends[1] and ends[0].spoken is not None


@pytest.mark.parametrize("threshold", [ConstantThreshold(0.5), AdaptiveThreshold(0.5)])
def test_a_shut_gate_never_opens_again(threshold: ConstantThreshold | AdaptiveThreshold) -> None:
    from test_golden_hapo import group

    spoken = Spoken("help", 1, -0.1, 0.001, 0.025)
    groups = [group(k, [0.0] * 6 + [float(k % 2)] * 2, 1, 5) for k in range(6)]
    plain = GRPO(Gate(GateSpec(threshold), 3), PAPER, 3).plan(groups, 4)
    for said, shut in ((spoken, True), (replace(spoken, shuts=False), False), (None, False)):
        gate = Gate(GateSpec(threshold), 3, GateState(alarm=AlarmState(spoken=said)))
        planned = HAPO(gate, PAPER, 3).plan(groups, 4)
        assert (gate.state.gamma == 0.0) == shut
        assert ({p.decision for p in planned} == {Decision.CLOSED}) == shut
        assert ([p.rows for p in planned] == [p.rows for p in plain]) == shut
