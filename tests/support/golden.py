"""Small groups written down, for tests that derive values on paper."""

from __future__ import annotations

from dataclasses import replace

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.groups import Group, Trace
from hapo_core.rollout.protocol import Finish, Prompt, Rollout


def gate() -> Gate:
    return Gate(GateSpec(ConstantThreshold(0.5)), seed=0)


def rollout(prompt: str, j: int, tokens: int, prefix: int = 0) -> Rollout:
    ids = tuple(range(10 + j, 10 + j + tokens))
    return Rollout(prompt, j, ids, (-1.0,) * tokens, Finish.STOP, "", prefix)


def group(rewards: list[float | None], name: str = "p", trace: int = 10, tokens: int = 2) -> Group:
    rollouts = tuple(rollout(name, j, tokens) for j in range(len(rewards)))
    demonstration = Trace(f"t-{name}", tuple(range(50, 50 + trace)), "") if trace else None
    return Group(Prompt(name, (1, 2)), graded(rollouts, rewards), demonstration)


def asked(name: str, trace: int = 10) -> Group:
    """A group before anything was sampled."""
    return replace(group([], name), trace=Trace("t", tuple(range(50, 50 + trace)), ""))


def continued(g: Group, prefix: int, rewards: list[float | None]) -> Group:
    """The group with continuations of 3 tokens from this prefix."""
    extra = graded([rollout("p", j, 3, prefix) for j in range(len(rewards))], rewards)
    return replace(g, continuations=(*g.continuations, *extra))
