"""What a method asks for: its requests, and the groups that the graded responses make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hapo_core.graded import Graded
from hapo_core.groups import Group, Request, Trace, trace_of_round
from hapo_core.rollout import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.surprise import Surprise, likeliest
from pipeline.train.trainset import TrainSet

Decode = Callable[[Sequence[int]], str]
Measure = Callable[[Sequence[tuple[Prompt, Trace]]], list[Surprise]]
"""How far traces of prompts surprise the present policy, in their order."""


@dataclass
class RoundGroups:
    """The groups of a round while they grow.

    Args:
        data: prompts and traces.
        max_tokens: longer traces do not count as usable.
        seed, round_index: key of the draw among a prompt's traces.
        measure: how traces surprise the policy; None measures nothing.
        likeliest: a visit gets the trace that surprises least, not one by chance.
        measured_tokens: what the measuring cost so far, prompts included.
    """

    data: TrainSet
    max_tokens: int
    seed: int
    round_index: int
    groups: dict[str, Group] = field(default_factory=dict)
    measure: Measure | None = None
    likeliest: bool = False
    measured_tokens: int = 0

    def open(self, *prompt_ids: str) -> None:
        """Add an empty group for each prompt that has none; their traces are measured in one go."""
        new = [i for i in dict.fromkeys(prompt_ids) if i not in self.groups]
        candidates = {i: self._candidates(i) for i in new}
        pairs = [(self.data.prompts[i], t) for i, traces in candidates.items() for t in traces]
        found = iter(self.measure(pairs) if self.measure and pairs else ())
        for i, traces in candidates.items():
            trace, one = traces[0] if traces else None, None
            if self.measure:
                self.measured_tokens += sum(
                    len(self.data.prompts[i].token_ids) + len(t.token_ids) for t in traces
                )
                surprises = [next(found) for _ in traces]
                if surprises:
                    chosen = likeliest(surprises, self.seed, self.round_index, i)
                    trace, one = traces[chosen], surprises[chosen]
            self.groups[i] = Group(self.data.prompts[i], (), trace, surprise=one)

    def _candidates(self, prompt_id: str) -> list[Trace]:
        """The traces of which the visit gets one: all usable ones, or the one whose turn it is."""
        if self.measure and self.likeliest:
            return usable_traces(self.data, prompt_id, self.max_tokens)
        turn = trace_of_visit(self.data, prompt_id, self.max_tokens, self.seed, self.round_index)
        return [] if turn is None else [turn]

    def add(self, samples: Sequence[Graded]) -> None:
        """Put graded samples, in order, into their groups."""
        for sample in samples:
            prompt_id = sample.rollout.prompt_id
            self.open(prompt_id)
            group = self.groups[prompt_id]
            if sample.rollout.prefix:
                group = replace(group, continuations=(*group.continuations, sample))
            else:
                group = replace(group, samples=(*group.samples, sample))
            self.groups[prompt_id] = group


def usable_traces(data: TrainSet, prompt_id: str, max_tokens: int) -> list[Trace]:
    """The prompt's traces that fit the response budget."""
    return [t for t in data.traces.get(prompt_id, ()) if len(t.token_ids) <= max_tokens]


def trace_of_visit(
    data: TrainSet, prompt_id: str, max_tokens: int, seed: int, round_index: int
) -> Trace | None:
    """The usable trace that a round may use of a prompt."""
    return trace_of_round(usable_traces(data, prompt_id, max_tokens), seed, prompt_id, round_index)


def demonstrations(data: TrainSet, max_tokens: int) -> dict[str, tuple[Prompt, Trace]]:
    """All training prompts with a trace that fits the response budget, and the first such trace."""
    usable = ((i, usable_traces(data, i, max_tokens)) for i in data.prompt_ids)
    return {i: (data.prompts[i], traces[0]) for i, traces in usable if traces}


def sample(
    requests: Sequence[Request],
    groups: RoundGroups,
    engine: Engine,
    sampling: Sampling,
    decode: Decode,
    seed: int,
    round_index: int,
    arrived: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Rollout]:
    """The samples of all requests, in their order. A continuation's rollout has the whole response
    as its text, and its tokens fill what the prefix leaves of the budget.

    Requests of like kind and size share a call of the engine; draws are keyed by prompt, prefix and
    sample, so the calls' make-up changes none of them.

    Args:
        arrived: told of every sample as it is finished, before the others are.
    """
    found: list[Rollout] = []
    for kind in dict.fromkeys((request.n, request.prefix > 0) for request in requests):
        batch = [r for r in dict.fromkeys(requests) if (r.n, r.prefix > 0) == kind]
        longest = sampling.max_tokens - min(request.prefix for request in batch)
        wanted = replace(sampling, n=kind[0], max_tokens=longest)
        prompts = [_start(groups, request) for request in batch]
        for rollout in engine.generate(prompts, wanted, seed, round_index):
            if rollout.prefix:
                rollout = _whole(groups, rollout, sampling.max_tokens, decode)
            found.append(rollout)
            arrived(rollout)
    order = places(requests)
    return sorted(found, key=lambda r: (order[r.prompt_id, r.prefix], r.sample))


def places(requests: Sequence[Request]) -> dict[tuple[str, int], int]:
    """(prompt id, prefix) of each request -> its place among them."""
    return {(request.prompt_id, request.prefix): k for k, request in enumerate(requests)}


def _start(groups: RoundGroups, request: Request) -> Prompt:
    tokens = groups.data.prompts[request.prompt_id].token_ids
    head = _head(groups, request.prompt_id, request.prefix)
    return Prompt(request.prompt_id, (*tokens, *head), request.prefix)


def _head(groups: RoundGroups, prompt_id: str, prefix: int) -> tuple[int, ...]:
    if not prefix:
        return ()
    trace = groups.groups[prompt_id].trace
    assert trace is not None  # a method asks for prefixes of traces that there are
    return trace.token_ids[:prefix]


def _whole(groups: RoundGroups, rollout: Rollout, max_tokens: int, decode: Decode) -> Rollout:
    """The continuation cut to its own budget: the same tokens that a smaller budget would give,
    because every position has its own draw."""
    budget = max_tokens - rollout.prefix
    own = rollout.token_ids[:budget]
    cut = len(rollout.token_ids) > budget
    return replace(
        rollout,
        token_ids=own,
        logprobs=rollout.logprobs[:budget],
        finish=Finish.LENGTH if cut else rollout.finish,
        text=decode([*_head(groups, rollout.prompt_id, rollout.prefix), *own]),
    )
