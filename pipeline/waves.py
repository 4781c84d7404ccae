"""What a method asks for, sampled and verified: requests in, groups out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from hapo_core.groups import Continuation, Group, Request, Trace, trace_of_round
from hapo_core.rollout import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.protocol import Engine
from hapo_core.verify import Verification, reward_of
from pipeline.trainset import TrainSet

Sampled = tuple[Request, Rollout]
Decode = Callable[[Sequence[int]], str]


@dataclass
class Waves:
    """The groups of a round while they grow, with the verdict of every sample.

    Args:
        data: prompts and traces.
        max_tokens: longer traces do not count as usable.
        seed, round_index: key of the draw among a prompt's traces.
    """

    data: TrainSet
    max_tokens: int
    seed: int
    round_index: int
    groups: dict[str, Group] = field(default_factory=dict)
    _verdicts: dict[str, list[Verification]] = field(default_factory=dict)
    _branch_verdicts: dict[str, list[Verification]] = field(default_factory=dict)

    def open(self, prompt_id: str) -> None:
        """Add an empty group, unless the prompt has one."""
        if prompt_id not in self.groups:
            trace = trace_of_visit(
                self.data, prompt_id, self.max_tokens, self.seed, self.round_index
            )
            self.groups[prompt_id] = Group(self.data.prompts[prompt_id], (), (), trace)

    def add(self, samples: Sequence[Sampled], verdicts: Sequence[Verification]) -> None:
        """Put verified samples, in order, into their groups."""
        for (request, rollout), verdict in zip(samples, verdicts, strict=True):
            self.open(request.prompt_id)
            group, reward = self.groups[request.prompt_id], reward_of(verdict.verdict)
            if request.prefix:
                branch = Continuation(request.prefix, rollout, reward)
                group = replace(group, continuations=(*group.continuations, branch))
                self._branch_verdicts.setdefault(request.prompt_id, []).append(verdict)
            else:
                group = replace(
                    group, rollouts=(*group.rollouts, rollout), rewards=(*group.rewards, reward)
                )
                self._verdicts.setdefault(request.prompt_id, []).append(verdict)
            self.groups[request.prompt_id] = group

    @property
    def verdicts(self) -> list[Verification]:
        """Group by group: those of the rollouts, then those of the continuations."""
        return [
            verdict
            for i in self.groups
            for verdict in (*self._verdicts.get(i, ()), *self._branch_verdicts.get(i, ()))
        ]


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
    groups: Waves,
    engine: Engine,
    sampling: Sampling,
    decode: Decode,
    seed: int,
    round_index: int,
    arrived: Callable[[Rollout], None] = lambda rollout: None,
) -> list[Sampled]:
    """The samples of all requests, in their order. A continuation's rollout has the whole response
    as its text, and its tokens fill what the prefix leaves of the budget.

    Requests of like kind and size share a call of the engine; draws are keyed by prompt, prefix and
    sample, so the calls' make-up changes none of them.

    Args:
        arrived: told of every sample as it is finished, before the others are.
    """
    found: dict[Request, list[Rollout]] = {request: [] for request in requests}
    for kind in dict.fromkeys((request.n, request.prefix > 0) for request in requests):
        batch = {
            _stream(request): request
            for request in found
            if (request.n, request.prefix > 0) == kind
        }
        longest = sampling.max_tokens - min(request.prefix for request in batch.values())
        wanted = replace(sampling, n=kind[0], max_tokens=longest)
        prompts = [_start(groups, stream, request) for stream, request in batch.items()]
        for rollout in engine.generate(prompts, wanted, seed, round_index):
            request = batch[rollout.prompt_id]
            if request.prefix:
                rollout = _whole(groups, request, rollout, sampling.max_tokens, decode)
            found[request].append(rollout)
            arrived(rollout)
    return [
        (request, rollout)
        for request, rollouts in found.items()
        for rollout in sorted(rollouts, key=lambda r: r.sample)
    ]


def _stream(request: Request) -> str:
    """The name under which the engine draws: continuations must not repeat the rollouts' draws."""
    return f"{request.prompt_id}|{request.prefix}" if request.prefix else request.prompt_id


def _start(groups: Waves, stream: str, request: Request) -> Prompt:
    return Prompt(
        stream, (*groups.data.prompts[request.prompt_id].token_ids, *_head(groups, request))
    )


def _head(groups: Waves, request: Request) -> tuple[int, ...]:
    if not request.prefix:
        return ()
    trace = groups.groups[request.prompt_id].trace
    assert trace is not None  # a method asks for prefixes of traces that there are
    return trace.token_ids[: request.prefix]


def _whole(
    groups: Waves, request: Request, rollout: Rollout, max_tokens: int, decode: Decode
) -> Rollout:
    """The continuation cut to its own budget: the same tokens that a smaller budget would give,
    because every position has its own draw."""
    budget = max_tokens - request.prefix
    own = rollout.token_ids[:budget]
    cut = len(rollout.token_ids) > budget
    return replace(
        rollout,
        prompt_id=request.prompt_id,
        token_ids=own,
        logprobs=rollout.logprobs[:budget],
        finish=Finish.LENGTH if cut else rollout.finish,
        text=decode([*_head(groups, request), *own]),
    )
