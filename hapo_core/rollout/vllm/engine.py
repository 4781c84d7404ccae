"""The vLLM engine: rollouts of one or several vLLM servers, behind the protocol of the others.

Token ids in and out over vLLM's own `/v1/completions`; a request per rollout, each with its own
counter-based seed, so that a rollout is yielded as soon as it is finished. In float32 its tokens
depend neither on the batch nor on the server: a shard that is done again gives the same tokens.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import HapoError
from hapo_core.heartbeat import beat
from hapo_core.rng import Purpose, seed31
from hapo_core.rollout.protocol import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.transformers_engine import stop_ids
from hapo_core.rollout.vllm.client import ServerGone, room_for
from hapo_core.rollout.vllm.fleet import Fleet, Server, VLLMSettings
from hapo_core.rollout.vllm.guard import (
    LEVEL_TOLERANCE,
    Check,
    Sequence_,
    StalePolicyError,
    check_level,
    check_motion,
    trainer_logprobs,
)
from hapo_core.timing import Laps

_GUARD_PROMPTS, _GUARD_TOKENS = 4, 24
_PATIENCE_SECONDS = 10.0
"""A silent server is asked for its health this often; it is given up after three bad answers."""


@dataclass(frozen=True)
class _Request:
    prompt: Prompt
    sample: int
    seed: int
    shard: int


@dataclass
class _Round:
    """The requests of one `generate` call, and what is needed to do some of them again."""

    sampling: Sampling
    salt: str
    done: queue.SimpleQueue[tuple[_Request, int, int, Future[Rollout]]] = field(
        default_factory=queue.SimpleQueue
    )


class VLLMEngine:
    """Rollouts by vLLM servers; see `Engine`. Servers start with the first `generate`.

    Args:
        model: the policy that is trained; its weights are what the servers must hold.
        tokenizer: decodes responses; its EOS and the model's generation EOS ids end a response.
        settings: the servers.
        folder: weights for the servers and their logs go there; one engine uses it at a time.
        max_rows: most responses asked for at once, over all servers.
        tell: gets a line about starts, restarts and lost servers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: VLLMSettings,
        folder: Path,
        max_rows: int = 256,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._settings, self._max_rows = settings, max_rows
        self._stops = sorted(stop_ids(model, tokenizer))
        self._known: tuple[list[Sequence_], torch.Tensor] | None = None
        self.checks: list[Check] = []
        self._fleet = Fleet(model, tokenizer, settings, folder, tell)

    # --- the protocol -------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Yield the rollouts of `prompts`; see `Engine.generate`.

        Prompt k belongs to shard k modulo the number of servers, and a rollout's seed to its
        prompt and sample.

        Raises:
            StalePolicyError: a server does not hold the policy's weights.
            HapoError: no server is left, or one refuses a request.
        """
        if not prompts:
            return
        self._fleet.synchronise()
        with self.laps("guard"):
            self._guard(prompts, sampling.temperature)
        for server in self._fleet.servers:
            server.restarts = 0
        requests = [
            _Request(p, j, seed31(seed, Purpose.TOKENS, round_index, p.stream, j), k)
            for k, p in enumerate(prompts)
            for j in range(sampling.n)
        ]
        yield from self._answers(requests, sampling, prompts)

    def policy_changed(self) -> None:
        """The policy has moved: the next `generate` samples from its present weights."""
        self._fleet.policy_changed()

    def close(self) -> None:
        """End the servers that were started here, and remove the weights written for them."""
        self._fleet.close()

    @property
    def laps(self) -> Laps:
        """Seconds by part of the work."""
        return self._fleet.laps

    # --- the guard ----------------------------------------------------------------------------

    def _guard(self, prompts: Sequence[Prompt], temperature: float) -> None:
        """Compare log-probs of every server that got weights since its last check."""
        fresh = [s for s in self._fleet.living() if not s.guarded]
        if not fresh:
            return
        spec = self._settings.spec
        dtype = spec.dtype if spec else str(self._model.dtype).removeprefix("torch.")
        tolerance = self._settings.tolerance or LEVEL_TOLERANCE[dtype]
        sampling = Sampling(1, temperature, 1.0, _GUARD_TOKENS)
        known, before = self._known or ([], torch.zeros(0))
        now = trainer_logprobs(self._model, known, 1.0) if known else before
        for server in fresh:
            try:
                sequences, level = self._sampled(server, prompts[:_GUARD_PROMPTS], sampling)
                motion = self._motion(server, known, before, now)
            except ServerGone as error:
                self._fleet.revive(server, f"during the check of its weights: {error}")
                if not server.lost:
                    self._guard(prompts, temperature)
                continue
            trainer = trainer_logprobs(self._model, sequences, temperature or 1.0)
            mean, largest = check_level(level, trainer, tolerance, server.name)
            self.checks.append(Check(len(level), mean, largest, motion))
            server.guarded = True
            self._known = sequences, trainer_logprobs(self._model, sequences, 1.0)

    def _sampled(
        self, server: Server, prompts: Sequence[Prompt], sampling: Sampling
    ) -> tuple[list[Sequence_], list[float]]:
        sequences: list[Sequence_] = []
        level: list[float] = []
        for k, prompt in enumerate(prompts):
            rollout = self._complete(
                server, _Request(prompt, 0, k, 0), sampling, self._fleet.version
            )
            sequences.append((prompt.token_ids, rollout.token_ids))
            level.extend(rollout.logprobs)
        return sequences, level

    def _motion(
        self, server: Server, known: list[Sequence_], before: torch.Tensor, now: torch.Tensor
    ) -> float | None:
        if not known:
            return None
        assert server.client is not None
        scores: list[float] = []
        for prompt, response in known:
            whole = [*prompt, *response]
            body = {
                "model": server.model,
                "prompt": whole,
                "max_tokens": 1,
                "prompt_logprobs": 0,
                "temperature": 1.0,
                "cache_salt": self._fleet.version,
            }
            reply = server.client.post("/v1/completions", body, self._settings.request_seconds)
            given = reply["choices"][0]["prompt_logprobs"]
            scores += [
                float(entry[str(token)]["logprob"])
                for entry, token in zip(given[len(prompt) :], response, strict=True)
            ]
        return check_motion(scores, before, now, server.name)

    # --- requests -----------------------------------------------------------------------------

    def _answers(
        self, requests: list[_Request], sampling: Sampling, prompts: Sequence[Prompt]
    ) -> Iterator[Rollout]:
        """Every request's rollout once, as the answers arrive.

        Each attempt carries the epoch of the server it went to. A server that is restarted gets the
        next epoch, so that of many requests that die with it only the first restarts it: for the
        others the epoch has moved on, and they are just sent again, with the seed they had.
        """
        this = _Round(sampling, self._fleet.version)
        waiting = len(requests)
        rows = min(self._max_rows, waiting)
        # A thread keeps a connection to each server that it has asked.
        servers = len(self._fleet.servers)
        rows = max(1, room_for(rows * servers) // servers)
        pool = ThreadPoolExecutor(rows, thread_name_prefix="rollout")
        try:
            for request in requests:
                self._submit(pool, this, request)
            while waiting:
                beat()  # answers come, or the servers are looked after
                try:
                    request, number, epoch, answer = this.done.get(timeout=_PATIENCE_SECONDS)
                except queue.Empty:  # nothing for a while: is every server alive?
                    self._fleet.look()
                    continue
                try:
                    rollout = answer.result()
                except ServerGone as error:
                    server = self._fleet.servers[number]
                    if server.epoch == epoch and not server.lost:  # the first to notice
                        self._fleet.revive(server, str(error))  # with the policy's weights
                        self._guard(prompts, sampling.temperature)
                    self._submit(pool, this, request)
                    continue
                waiting -= 1
                yield rollout
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if waiting:  # given up in the middle: the servers drop what nobody waits for
                for server in self._fleet.servers:
                    if server.client is not None:
                        server.client.abort()

    def _submit(self, pool: ThreadPoolExecutor, this: _Round, request: _Request) -> None:
        """To the server of the request's shard, or, if that is lost, to one that is left."""
        server = self._fleet.servers[request.shard % len(self._fleet.servers)]
        if server.lost:
            living = self._fleet.living()
            server = living[request.shard % len(living)]
        number, epoch = server.number, server.epoch
        future = pool.submit(self._attempt, server, epoch, request, this)
        future.add_done_callback(lambda f: this.done.put((request, number, epoch, f)))

    def _attempt(self, server: Server, epoch: int, request: _Request, this: _Round) -> Rollout:
        if server.epoch != epoch or server.lost:
            raise ServerGone("it went away before this request was sent")
        return self._complete(server, request, this.sampling, this.salt)

    def _complete(
        self, server: Server, request: _Request, sampling: Sampling, salt: str
    ) -> Rollout:
        client = server.client
        if client is None:
            raise ServerGone("it is being started")
        body = {
            "model": server.model,
            "prompt": list(request.prompt.token_ids),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": request.seed,
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "stop_token_ids": self._stops,
            "cache_salt": salt,  # blocks computed with other weights never match
        }
        reply = client.post("/v1/completions", body, self._settings.request_seconds)
        choice = reply["choices"][0]
        tokens = tuple(int(t) for t in choice["token_ids"])
        logprobs = tuple(float(x) for x in choice["logprobs"]["token_logprobs"])
        if choice["finish_reason"] not in ("stop", "length") or len(tokens) != len(logprobs):
            raise HapoError(
                f"the server ended a response by {choice['finish_reason']!r} with {len(tokens)} "
                f"tokens and {len(logprobs)} log-probs",
                where=server.name,
            )
        return Rollout(
            prompt_id=request.prompt.prompt_id,
            sample=request.sample,
            token_ids=tokens,
            logprobs=logprobs,
            finish=Finish(choice["finish_reason"]),
            text=str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)),
            prefix=request.prompt.prefix,
        )


__all__ = ["Check", "StalePolicyError", "VLLMEngine", "VLLMSettings"]
