"""The vLLM engine on the real server (CPU build): tokens, weights, the guard, and servers that die.

`make test-vllm` builds the engine environment; without it these tests are skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import eventually
from tiny import chain_prompts
from vllm_support import ENVIRONMENT, REPO, by_key, engine, needs_engine, policy, spec

from hapo_core.errors import HapoError
from hapo_core.policy import response_logprobs
from hapo_core.rollout import Finish, Sampling
from hapo_core.rollout.vllm.client import Client
from hapo_core.rollout.vllm.engine import StalePolicyError, VLLMEngine, VLLMSettings
from pipeline.system.processes import group_alive

pytestmark = needs_engine
SAMPLING = Sampling(n=4, temperature=1.0, top_p=1.0, max_tokens=40)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    """An engine with two servers of its own, on the policy of seed 0 (module state: its weights
    move in the tests)."""
    made = engine(*policy(), tmp_path_factory.mktemp("engine"), servers=2)
    try:
        made._fleet.synchronise()
        yield made
    finally:
        made.close()


def _nudge(made: VLLMEngine, size: float, seed: int = 0) -> None:
    """Move all weights by noise of this size, as an update would, and tell the engine."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made._model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    made.policy_changed()


def _clients(made: VLLMEngine) -> list[Client]:
    return [server.client for server in made._fleet.servers if server.client is not None]


def _api_process(made: VLLMEngine, number: int) -> int:
    """The process id of a server's API process (the child of its supervisor)."""
    process = made._fleet.servers[number].process
    assert process is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])


def _assert_trainers(made: VLLMEngine, asked, rollouts, temperature: float) -> None:
    known = {p.prompt_id: p.token_ids for p in asked}
    for r in rollouts:
        with torch.no_grad():
            logp, _ = response_logprobs(
                made._model, [(known[r.prompt_id], r.token_ids)], temperature
            )
        np.testing.assert_allclose(r.logprobs, logp.numpy(), atol=1e-4)


def test_rollouts_are_whole_and_their_logprobs_the_trainers(two: VLLMEngine) -> None:
    asked = chain_prompts(two._tokenizer, 6)
    for temperature in (1.0, 0.6):
        sampling = Sampling(4, temperature, 1.0, 40)
        rollouts = list(two.generate(asked, sampling, 7, 0))
        assert by_key(rollouts).keys() == {(p.prompt_id, j) for p in asked for j in range(4)}
        _assert_trainers(two, asked, rollouts, temperature)
        for r in rollouts:
            ended = r.token_ids[-1] == two._tokenizer.eos_token_id
            assert (r.finish is Finish.STOP) == ended
            assert ended or len(r.token_ids) == 40
            assert two._tokenizer.eos_token_id not in r.token_ids[:-1]
            assert r.text == two._tokenizer.decode(r.token_ids, skip_special_tokens=True)
    assert {r.finish for r in rollouts} == {Finish.STOP, Finish.LENGTH}


def test_tokens_depend_on_seed_round_and_sample_alone(two: VLLMEngine) -> None:
    asked = chain_prompts(two._tokenizer, 6)
    together = by_key(two.generate(asked, SAMPLING, 7, 3))
    alone = by_key(r for p in reversed(asked) for r in two.generate([p], SAMPLING, 7, 3))
    assert {k: r.token_ids for k, r in together.items()} == {
        k: r.token_ids for k, r in alone.items()
    }
    assert len({r.token_ids for r in together.values()}) > 20
    for seed, index in ((8, 3), (7, 4)):
        other = by_key(two.generate(asked, SAMPLING, seed, index))
        assert all(other[k].token_ids != together[k].token_ids for k in list(together)[:8])


def test_a_server_by_url_gives_the_same_tokens_as_two_of_ours(
    two: VLLMEngine, tmp_path: Path
) -> None:
    asked = chain_prompts(two._tokenizer, 6)
    ours = by_key(two.generate(asked, SAMPLING, 1, 1))
    url = _clients(two)[1].url
    other = VLLMEngine(two._model, two._tokenizer, VLLMSettings(None, urls=(url,)), tmp_path)
    theirs = by_key(other.generate(asked, SAMPLING, 1, 1))
    assert {k: r.token_ids for k, r in ours.items()} == {k: r.token_ids for k, r in theirs.items()}
    other.close()
    assert Client(url).answers(5.0), "a server that is not ours is left running"
    # The other engine's weights had another version: ours notices and gives its own again.
    assert by_key(two.generate(asked, SAMPLING, 1, 1)) == ours


def test_new_weights_reach_every_server(two: VLLMEngine) -> None:
    asked = chain_prompts(two._tokenizer, 6)
    before = by_key(two.generate(asked, SAMPLING, 2, 0))
    _nudge(two, 0.03)
    checks = len(two.checks)
    after = list(two.generate(asked, SAMPLING, 2, 0))
    _assert_trainers(two, asked, after, 1.0)
    assert {k: r.token_ids for k, r in by_key(after).items()} != {
        k: r.token_ids for k, r in before.items()
    }
    fresh = two.checks[checks:]
    assert len(fresh) == 2 and all(c.motion == pytest.approx(1, abs=0.01) for c in fresh)
    assert len(list(two._fleet._folder.glob("weights-*"))) == 1


def test_an_update_far_below_the_tolerance_is_seen_to_arrive(two: VLLMEngine) -> None:
    asked = chain_prompts(two._tokenizer, 6)
    list(two.generate(asked, SAMPLING, 3, 0))
    _nudge(two, 1e-6)
    checks = len(two.checks)
    list(two.generate(asked, SAMPLING, 3, 1))
    assert all(c.motion == pytest.approx(1, abs=0.2) for c in two.checks[checks:])


@pytest.mark.parametrize("size", [0.03, 1e-5])
def test_a_stale_server_is_an_error(two: VLLMEngine, size: float, tmp_path: Path) -> None:
    """One of two servers keeps the weights of before the update, under the new version's name:
    a large update fails by level, a small one by motion."""
    asked = chain_prompts(two._tokenizer, 6)
    list(two.generate(asked, SAMPLING, 4, 0))
    kept = tmp_path / "kept"
    two._fleet._weights.rename(kept)
    kept_again = two._fleet._weights
    kept_again.symlink_to(kept)
    _nudge(two, size)
    two._fleet.synchronise()
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(kept)}}
    _clients(two)[1].post("/collective_rpc", body, 60.0)
    with pytest.raises(StalePolicyError, match="server 1"):
        list(two.generate(asked, SAMPLING, 4, 1))
    two.policy_changed()
    _assert_trainers(two, asked, list(two.generate(asked, SAMPLING, 4, 1)), 1.0)


def test_weights_that_the_server_cannot_read_restart_it(two: VLLMEngine) -> None:
    """A failed reload leaves the CPU engine without weights: the server is started anew."""
    asked = chain_prompts(two._tokenizer, 4)
    body = {"method": "reload_weights", "kwargs": {"weights_path": "/nowhere"}}
    with pytest.raises(Exception, match="collective_rpc"):
        _clients(two)[0].post("/collective_rpc", body, 60.0)
    rollouts = list(two.generate(asked, SAMPLING, 5, 0))
    assert len(rollouts) == 16
    _assert_trainers(two, asked, rollouts, 1.0)
    assert two._fleet.servers[0].epoch == 1


def test_kill_9_in_the_middle_of_a_round_costs_no_token(two: VLLMEngine) -> None:
    asked = chain_prompts(two._tokenizer, 24)
    sampling = Sampling(8, 1.0, 1.0, 100)
    whole = by_key(two.generate(asked, sampling, 6, 0))
    epoch = two._fleet.servers[1].epoch
    broken = {}
    for rollout in two.generate(asked, sampling, 6, 0):
        if not broken:
            os.kill(_api_process(two, 1), signal.SIGKILL)
        broken[rollout.prompt_id, rollout.sample] = rollout
    assert two._fleet.servers[1].epoch == epoch + 1 and not two._fleet.servers[1].lost
    assert {k: (r.token_ids, r.finish) for k, r in broken.items()} == {
        k: (r.token_ids, r.finish) for k, r in whole.items()
    }


def test_a_shard_goes_to_the_other_server_when_its_own_does_not_come_back(
    two: VLLMEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = chain_prompts(two._tokenizer, 24)
    sampling = Sampling(8, 1.0, 1.0, 100)
    whole = by_key(two.generate(asked, sampling, 6, 0))
    settings, two._fleet._settings = (
        two._fleet._settings,
        VLLMSettings(spec(), servers=2, restarts=0),
    )
    process = two._fleet.servers[0].process
    assert process is not None and process.pid is not None
    leader = process.pid
    broken = {}
    for rollout in two.generate(asked, sampling, 6, 0):
        if not broken:
            os.kill(_api_process(two, 0), signal.SIGKILL)
        broken[rollout.prompt_id, rollout.sample] = rollout
    two._fleet._settings = settings
    assert two._fleet.servers[0].lost
    eventually(lambda: not group_alive(leader))
    assert "server 0" in capsys.readouterr().out
    assert {k: r.token_ids for k, r in broken.items()} == {k: r.token_ids for k, r in whole.items()}


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    model, tokenizer = policy()
    bad = VLLMSettings(spec(arguments=("--max-num-seqs", "none")))
    made = VLLMEngine(model, tokenizer, bad, tmp_path)
    with pytest.raises(HapoError, match=r"ended while it started[\s\S]*max-num-seqs"):
        list(made.generate(chain_prompts(tokenizer, 1), SAMPLING, 0, 0))
    made.close()


def test_servers_do_not_outlive_a_killed_trainer(tmp_path: Path) -> None:
    """kill -9 of the process that started a server ends the server's whole session."""
    program = (
        "import os, sys, time; sys.path.insert(0, 'tests/support')\n"
        "from pathlib import Path; from vllm_support import engine, policy\n"
        f"made = engine(*policy(), Path({str(tmp_path)!r}))._fleet\n"
        "from hapo_core.rollout.vllm.weights import export_weights\n"
        "made._weights = made._folder / 'weights-x'\n"
        "export_weights(made._model, made._tokenizer, made._weights)\n"
        "made._launch(made.servers[0]); print(made.servers[0].process.pid, flush=True)\n"
        "time.sleep(6); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), "HAPO_ENGINE": str(ENVIRONMENT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    leader = int(done.stdout.split()[-1])
    end = time.monotonic() + 10
    while group_alive(leader):
        assert time.monotonic() < end, "the server outlived its trainer"
        time.sleep(0.1)
