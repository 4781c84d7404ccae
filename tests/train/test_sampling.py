"""Samples for a method's requests: continuations keep to the budget and to draws of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import made_groups, tiny_policy

from hapo_core.graded import Graded
from hapo_core.groups import Request, Trace
from hapo_core.rollout import Finish, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.surprise import Surprise
from hapo_core.verify import Verdict, Verification, reward_of
from pipeline.train.sampling import RoundGroups, demonstrations, sample
from pipeline.train.trainset import TrainSet


@pytest.fixture
def setting():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = tiny_policy()
    made = made_groups(tokenizer, [0, 0, 0])
    ids = [g.prompt.prompt_id for g in made]
    data = TrainSet(
        {g.prompt.prompt_id: g.prompt for g in made},
        dict.fromkeys(ids, "1"),
        {g.prompt.prompt_id: (g.trace,) for g in made},
        dict.fromkeys(ids, "exact"),
    )
    yield HFEngine(model, tokenizer), tokenizer, data, ids
    torch.set_num_threads(threads)


def draw(setting, requests, max_tokens=64, round_index=2):
    engine, tokenizer, data, ids = setting
    waves = RoundGroups(data, max_tokens, seed=0, round_index=round_index)
    for i in ids:
        waves.open(i)
    decode = lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True)  # noqa: E731
    sampling = Sampling(4, 1.0, 1.0, max_tokens)
    return waves, sample(requests, waves, engine, sampling, decode, 0, round_index)


def of(samples, request):
    """The samples of one request."""
    wanted = (request.prompt_id, request.prefix)
    return [r for r in samples if (r.prompt_id, r.prefix) == wanted]


def test_rollouts_are_the_engines_own(setting):
    """Requests for N rollouts of every prompt give what one call of the engine gives."""
    engine, _, data, ids = setting
    _, samples = draw(setting, [Request(i, 4) for i in ids])
    prompts = [data.prompts[i] for i in ids]
    plain = engine.generate(prompts, Sampling(4, 1.0, 1.0, 64), 0, 2)
    order = {i: k for k, i in enumerate(ids)}
    expected = sorted(plain, key=lambda r: (order[r.prompt_id], r.sample))
    assert samples == expected


def test_a_continuation_does_not_depend_on_what_is_sampled_with_it(setting):
    """Alone or among others of all sizes and prefixes: the same tokens, and never more of them than
    the prefix leaves of the budget."""
    _, tokenizer, data, ids = setting
    wanted = [
        Request(ids[0], 3),
        Request(ids[0], 1, 5),
        Request(ids[1], 12, 1),
        Request(ids[2], 12, 9),
    ]
    _, together = draw(setting, wanted)
    assert [r.key for r in together] == [
        (r.prompt_id, r.prefix, j) for r in wanted for j in range(r.n)
    ]
    ends = {rollout.finish for rollout in of(together, wanted[3])}
    assert ends == {Finish.STOP, Finish.LENGTH}  # the budget does cut some
    for request in wanted:
        _, alone = draw(setting, [request])
        for a, b in zip(alone, of(together, request), strict=True):
            assert replace(a, logprobs=()) == replace(b, logprobs=())
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    for rollout in together:
        own = len(rollout.token_ids)
        assert own + rollout.prefix <= 64 and own == len(rollout.logprobs)
        if rollout.finish is Finish.LENGTH:
            assert own + rollout.prefix == 64
        head = data.traces[rollout.prompt_id][0].token_ids[: rollout.prefix]
        text = tokenizer.decode([*head, *rollout.token_ids], skip_special_tokens=True)
        assert rollout.text == text


def test_continuations_have_draws_of_their_own(setting):
    ids = setting[3]
    _, samples = draw(setting, [Request(ids[0], 4), Request(ids[0], 4, 1), Request(ids[0], 4, 2)])
    assert len({rollout.token_ids[:12] for rollout in samples}) == 12
    assert {rollout.prompt_id for rollout in samples} == {ids[0]}  # the id stays as it is


def test_every_sample_keeps_its_own_grade(setting):
    _, _, data, ids = setting
    wanted = [Request(ids[1], 2, 3), Request(ids[1], 2), Request(ids[0], 2)]
    waves, samples = draw(setting, wanted)
    kinds = [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG, Verdict.TIMEOUT, *[Verdict.CORRECT] * 2]
    found = [Verification(kind, None) for kind in kinds]
    waves.add([Graded(r, reward_of(v.verdict), v) for r, v in zip(samples, found, strict=True)])
    first, second, third = (waves.groups[i] for i in ids)
    assert (first.rewards, second.rewards, third.rewards) == ((1.0, 1.0), (0.0, None), ())
    assert [c.reward for c in second.continuations] == [1.0, 0.0]
    assert second.samples == tuple(
        Graded(samples[k], reward_of(kinds[k]), found[k]) for k in (2, 3)
    )
    assert [s.found.verdict for s in first.samples] == kinds[4:]
    assert second.successes == 0 and second.known == 1
    assert set(demonstrations(data, 64)) == set(ids) and demonstrations(data, 1) == {}


def test_several_traces_take_turns_by_a_draw_of_their_own(setting):
    """Every trace that fits comes up, each about as often; the draw belongs to prompt and round."""
    _, _, data, ids = setting
    traces = tuple(Trace(f"t{k}", (5,) * length, "") for k, length in enumerate((3, 9, 90, 4)))
    data = replace(data, traces={ids[0]: traces, ids[1]: traces, ids[2]: traces[2:3]})

    def chosen(prompt_id, round_index, seed=0, before=()):
        waves = RoundGroups(data, 64, seed, round_index)
        for opened in (*before, prompt_id):
            waves.open(opened)
        trace = waves.groups[prompt_id].trace
        return None if trace is None else trace.trace_id

    first = [chosen(ids[0], k) for k in range(300)]
    counts = {name: first.count(name) for name in set(first)}
    assert set(counts) == {"t0", "t1", "t3"} and min(counts.values()) > 70
    assert first == [chosen(ids[0], k, before=ids[1:]) for k in range(300)]
    assert first != [chosen(ids[1], k) for k in range(300)]
    assert first != [chosen(ids[0], k, seed=1) for k in range(300)]
    assert chosen(ids[2], 0) is None
    assert demonstrations(data, 64)[ids[0]][1].trace_id == "t0"


def test_the_likeliest_trace_is_chosen_and_what_it_cost_is_counted(setting):
    """One measuring of all new prompts; of several traces the least surprising one that fits."""
    _, _, data, ids = setting
    traces = tuple(Trace(f"t{k}", (5,) * length, "") for k, length in enumerate((3, 9, 90, 4)))
    data = replace(data, traces={ids[0]: traces, ids[1]: traces[:1], ids[2]: traces[2:3]})
    asked = []

    def measure(pairs):
        asked.append([(prompt.prompt_id, trace.trace_id) for prompt, trace in pairs])
        return [Surprise(0.0, 1.0 / len(trace.token_ids)) for _, trace in pairs]

    waves = RoundGroups(data, 64, 0, 0, measure=measure, likeliest=True)
    waves.open(*ids)
    waves.open(ids[0])
    assert asked == [[(ids[0], "t0"), (ids[0], "t1"), (ids[0], "t3"), (ids[1], "t0")]]
    first, second, third = (waves.groups[i] for i in ids)
    assert first.trace.trace_id == "t1" and first.surprise == Surprise(0.0, 1 / 9)
    assert second.surprise == Surprise(0.0, 1 / 3) and third.trace is third.surprise is None
    prompts = [len(data.prompts[i].token_ids) for i in ids]
    assert waves.measured_tokens == 3 * prompts[0] + 3 + 9 + 4 + prompts[1] + 3
    # Measured without a choice: the trace whose turn it is.
    plain, turns = RoundGroups(data, 64, 0, 5), RoundGroups(data, 64, 0, 5, measure=measure)
    for one in (plain, turns):
        one.open(*ids)
    assert [turns.groups[i].trace for i in ids] == [plain.groups[i].trace for i in ids]
    assert turns.groups[ids[0]].surprise is not None and plain.groups[ids[0]].surprise is None
