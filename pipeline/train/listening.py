"""What a run listens to beside its probe: watched benchmarks, and the alarm of `gate.stop_loss`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hapo_core.alarm import Alarm, AlarmState, Spoken, StopLoss
from hapo_core.gate import GateState
from hapo_core.groups import PlannedGroup
from pipeline.config import Params
from pipeline.train.probe import Probe


@dataclass
class Listening:
    """Takes in groups and measurements of a segment and gives columns of the rounds' table.

    Args:
        alarm: None where `gate.stop_loss` is not set.
        watched: the benchmarks of `train.watch`.
        starts: the starting policy's scores are still to be measured.
    """

    alarm: Alarm | None = None
    watched: Mapping[str, Probe] = field(default_factory=dict)
    starts: bool = False
    _scores: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, params: Params, state: GateState, watched: Mapping[str, Probe]) -> Listening:
        """Goes on from the gate's state, and keeps its own there."""
        loss = params.gate.stop_loss
        if loss is None:
            return cls(None, watched)
        spec = StopLoss(loss.false_alarms, loss.surprise, len(watched), loss.action == "shut")
        if state.alarm is None:
            state.alarm = AlarmState()
        alarm = Alarm(spec, state.alarm, params.seed)
        return cls(alarm, watched, bool(watched) and not state.alarm.start)

    @property
    def spoken(self) -> Spoken | None:
        """The alarm, once it has spoken."""
        return self.alarm.state.spoken if self.alarm else None

    def groups(self, planned: Sequence[PlannedGroup], index: int) -> None:
        """The groups of a round (counted from 0), in their order."""
        self._scores = {}
        if self.alarm is None:
            return
        for p in planned:
            group = p.group
            self.alarm.visit(
                group.prompt.prompt_id,
                p.decision.value,
                group.successes,
                group.known,
                group.excess_surprise,
            )
        self.alarm.look(index + 1)

    def measured(self, benchmark: str, scores: Mapping[str, float], done: int) -> None:
        """A watched benchmark after `done` rounds; 0: the starting policy."""
        self.starts = False
        self._scores[benchmark] = sum(scores.values()) / len(scores)
        if self.alarm is not None:
            self.alarm.measured(benchmark, scores, done)

    def columns(self) -> dict[str, object]:
        """Of the round; nothing where nothing is listened to."""
        found: dict[str, object] = {
            f"watch_{re.sub(r'[^0-9A-Za-z_]', '_', name)}": self._scores.get(name)
            for name in self.watched
        }
        if self.alarm is not None:
            found["alarm"] = float(self.spoken is not None)
            found["help_effect"] = self.alarm.effect
        return found
