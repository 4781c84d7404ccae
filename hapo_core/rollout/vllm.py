"""The vLLM engine: rollouts of one or several vLLM servers, behind the protocol of the others.

Token ids in and out over vLLM's own `/v1/completions`; a request per rollout, each with its own
counter-based seed, so that a rollout is yielded as soon as it is finished. In float32 its tokens
depend neither on the batch nor on the server: a shard that is done again gives the same tokens.
"""

from __future__ import annotations

import itertools
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.draws import Purpose, seed32
from hapo_core.errors import ConfigError, HapoError
from hapo_core.laps import Laps
from hapo_core.rollout.hf import stop_ids
from hapo_core.rollout.protocol import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.vllm_guard import (
    LEVEL_TOLERANCE,
    Check,
    Sequence_,
    StalePolicyError,
    check_level,
    check_motion,
    trainer_logprobs,
)
from hapo_core.rollout.vllm_http import Client, ServerGone
from hapo_core.rollout.vllm_server import MODEL, ServerProcess, ServerSpec
from hapo_core.rollout.vllm_weights import export_weights, remove_weights

_GUARD_PROMPTS, _GUARD_TOKENS = 4, 24
_PATIENCE_SECONDS = 10.0
"""A silent server is asked for its health this often; it is given up after three bad answers."""
_RETURN_SECONDS = 30.0
"""How long a server of somebody else may stay away before its shard goes to another."""


@dataclass(frozen=True)
class VLLMSettings:
    """How the engine uses its servers.

    `servers` of ours are started by `spec`; with `urls` those are used instead, and none is
    started. `gpus` gives each server of ours its devices. `tolerance` is of the guard's level test
    (default by dtype). `restarts` is how often one server may be started again in one round.
    """

    spec: ServerSpec | None
    servers: int = 1
    urls: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    tolerance: float | None = None
    restarts: int = 2
    request_seconds: float = 3600.0


@dataclass
class _Server:
    """A server as the engine sees it. `epoch` counts its lives; `version` is of its weights."""

    number: int
    client: Client | None = None
    process: ServerProcess | None = None
    epoch: int = 0
    version: str = ""
    guarded: bool = False
    lost: bool = False
    restarts: int = 0
    model: str = MODEL

    @property
    def name(self) -> str:
        return f"server {self.number}" + (f" ({self.client.url})" if self.client else "")


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
        self._settings, self._folder, self._tell = settings, folder.absolute(), tell
        self._max_rows = max_rows
        self._stops = sorted(stop_ids(model, tokenizer))
        self._versions = itertools.count(1)
        self._nonce = secrets.token_hex(4)  # tells our versions from those of another run
        self._version, self._weights = "", self._folder
        self._moved = True
        self._known: tuple[list[Sequence_], torch.Tensor] | None = None
        self.checks: list[Check] = []
        self.laps = Laps()
        if settings.urls:
            self._servers = [_Server(k, Client(url)) for k, url in enumerate(settings.urls)]
        else:
            self._servers = [_Server(k) for k in range(settings.servers)]
            if settings.spec is None:
                raise ConfigError("an engine needs server addresses or a way to start servers")
            settings.spec.check()

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
        self.synchronise()
        with self.laps("guard"):
            self._guard(prompts, sampling.temperature)
        for server in self._servers:
            server.restarts = 0
        requests = [
            _Request(p, j, seed32(seed, Purpose.TOKENS, round_index, p.prompt_id, j), k)
            for k, p in enumerate(prompts)
            for j in range(sampling.n)
        ]
        yield from self._answers(requests, sampling, prompts)

    def policy_changed(self) -> None:
        """The policy has moved: the next `generate` samples from its present weights."""
        self._moved = True

    def close(self) -> None:
        """End the servers that were started here, and remove the weights written for them."""
        for server in self._servers:
            if server.client is not None:
                server.client.abort()
            if server.process is not None:
                server.process.stop()
                server.client, server.version = None, ""
        remove_weights(self._folder)

    # --- servers and weights ------------------------------------------------------------------

    def synchronise(self) -> None:
        """Start the servers that do not run, and give all of them the policy's weights."""
        if self._moved:
            self._version = f"{self._nonce}-{next(self._versions)}"
            self._weights = self._folder / f"weights-{self._version}"
            with self.laps("weights to the engine"):
                export_weights(self._model, self._tokenizer, self._weights)
            self._moved = False
        absent = [s for s in self._servers if s.client is None and not s.lost]
        began = time.monotonic()
        for server in absent:
            self._launch(server)
        for server in absent:
            self._await(server)
        if absent:
            seconds = time.monotonic() - began
            self._tell(f"{len(absent)} engine server(s) ready after {seconds:.0f} s")
        for server in self._living():
            if server.version != self._version or not self._holds(server):
                try:
                    with self.laps("weights to the engine"):
                        self._push(server)
                except ServerGone as error:
                    self._revive(server, str(error))
        remove_weights(self._folder, keep=self._weights)

    def _living(self) -> list[_Server]:
        living = [s for s in self._servers if not s.lost]
        if not living:
            raise HapoError(
                "no engine server is left",
                where=", ".join(s.name for s in self._servers),
                remedy=f"read the logs in {self._folder}; finished rounds are kept, `hapo run` "
                "goes on after them",
            )
        return living

    def _launch(self, server: _Server) -> None:
        settings, spec = self._settings, self._settings.spec
        assert spec is not None
        if server.process is None:
            gpu = settings.gpus[server.number] if settings.gpus else None
            log = self._folder / f"server-{server.number}.log"
            server.process = ServerProcess(
                spec, server.number, log, gpu, bind=settings.servers == 1
            )
        server.client = server.process.launch(self._weights)
        server.version = ""

    def _await(self, server: _Server) -> None:
        assert server.process is not None and server.client is not None
        server.process.wait(server.client)
        try:
            self._name_version(server, server.client)
        except ServerGone as error:
            raise HapoError(f"the engine server ended at once: {error}") from error

    def _push(self, server: _Server) -> None:
        """New weights by path. The prefix cache knows nothing of weights: it must be emptied."""
        client, limit = server.client, self._settings.request_seconds
        assert client is not None
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(self._weights)}}
        try:
            client.post("/collective_rpc", body, limit)
        except HapoError as error:
            raise HapoError(
                f"{server.name} cannot load weights: {error.what}",
                remedy="start it with VLLM_SERVER_DEV_MODE=1, on a network of your own: those "
                "routes ask for no password",
            ) from error
        for _ in range(50):
            if client.post("/reset_prefix_cache", {}, limit)["success"]:
                break
            time.sleep(0.1)  # blocks of requests that were just aborted
        else:
            raise ServerGone(f"{server.name} does not empty its prefix cache")
        self._name_version(server, client)

    def _name_version(self, server: _Server, client: Client) -> None:
        client.post("/update_weight_version", {"new_version": self._version}, 60.0)
        if server.process is None:
            server.model = str(client.get("/v1/models", 60.0)["data"][0]["id"])
        server.version, server.guarded = self._version, False

    def _holds(self, server: _Server) -> bool:
        """Whether the server says that it holds our version: a restarted one does not."""
        assert server.client is not None
        try:
            said = server.client.get("/weight_info", 60.0)["weight_version"]
        except ServerGone:
            return False
        return bool(said == server.version)

    def _revive(self, server: _Server, why: str) -> None:
        """Bring a server back with the present weights, or count it as lost."""
        server.epoch += 1
        self._tell(f"{server.name} is gone: {why}")
        if server.client is not None:
            server.client.abort()
        if server.process is None:
            if not self._returns(server):
                server.lost = True
            return
        if server.restarts >= self._settings.restarts:
            server.lost = True
            server.process.stop()
            self._tell(f"{server.name} is not started again:\n{server.process.story()}")
            return
        server.restarts += 1
        try:
            self._launch(server)
            self._await(server)
        except (HapoError, ServerGone) as error:
            self._revive(server, f"the restart failed: {error}")
        else:
            self._tell(f"{server.name} was started again")

    def _returns(self, server: _Server) -> bool:
        """Whether somebody else's server comes back, and takes our weights."""
        assert server.client is not None
        end = time.monotonic() + _RETURN_SECONDS
        while time.monotonic() < end:
            if server.client.answers(timeout=5.0):
                try:
                    with self.laps("weights to the engine"):
                        self._push(server)
                except ServerGone:
                    return False
                return True
            time.sleep(1.0)
        return False

    # --- the guard ----------------------------------------------------------------------------

    def _guard(self, prompts: Sequence[Prompt], temperature: float) -> None:
        """Compare log-probs of every server that got weights since its last check."""
        fresh = [s for s in self._living() if not s.guarded]
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
                self._revive(server, f"during the check of its weights: {error}")
                if not server.lost:
                    self._guard(prompts, temperature)
                continue
            trainer = trainer_logprobs(self._model, sequences, temperature or 1.0)
            mean, largest = check_level(level, trainer, tolerance, server.name)
            self.checks.append(Check(len(level), mean, largest, motion))
            server.guarded = True
            self._known = sequences, trainer_logprobs(self._model, sequences, 1.0)

    def _sampled(
        self, server: _Server, prompts: Sequence[Prompt], sampling: Sampling
    ) -> tuple[list[Sequence_], list[float]]:
        sequences: list[Sequence_] = []
        level: list[float] = []
        for k, prompt in enumerate(prompts):
            rollout = self._complete(server, _Request(prompt, 0, k, 0), sampling, self._version)
            sequences.append((prompt.token_ids, rollout.token_ids))
            level.extend(rollout.logprobs)
        return sequences, level

    def _motion(
        self, server: _Server, known: list[Sequence_], before: torch.Tensor, now: torch.Tensor
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
                "cache_salt": self._version,
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
        this = _Round(sampling, self._version)
        waiting = len(requests)
        rows = min(self._max_rows, waiting)
        pool = ThreadPoolExecutor(rows, thread_name_prefix="rollout")
        try:
            for request in requests:
                self._submit(pool, this, request)
            while waiting:
                try:
                    request, number, epoch, answer = this.done.get(timeout=_PATIENCE_SECONDS)
                except queue.Empty:
                    self._look_at_servers()
                    continue
                try:
                    rollout = answer.result()
                except ServerGone as error:
                    server = self._servers[number]
                    if server.epoch == epoch and not server.lost:
                        self._revive(server, str(error))
                        self._guard(prompts, sampling.temperature)
                    self._submit(pool, this, request)
                    continue
                waiting -= 1
                yield rollout
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if waiting:  # given up in the middle: the servers drop what nobody waits for
                for server in self._servers:
                    if server.client is not None:
                        server.client.abort()

    def _submit(self, pool: ThreadPoolExecutor, this: _Round, request: _Request) -> None:
        """To the server of the request's shard, or, if that is lost, to one that is left."""
        server = self._servers[request.shard % len(self._servers)]
        if server.lost:
            living = self._living()
            server = living[request.shard % len(living)]
        number, epoch = server.number, server.epoch
        future = pool.submit(self._attempt, server, epoch, request, this)
        future.add_done_callback(lambda f: this.done.put((request, number, epoch, f)))

    def _attempt(self, server: _Server, epoch: int, request: _Request, this: _Round) -> Rollout:
        if server.epoch != epoch or server.lost:
            raise ServerGone("it went away before this request was sent")
        return self._complete(server, request, this.sampling, this.salt)

    def _complete(
        self, server: _Server, request: _Request, sampling: Sampling, salt: str
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
        )

    def _look_at_servers(self) -> None:
        """Nothing came for a while: make the requests of a dead or hung server fail."""
        for server in self._living():
            client, process = server.client, server.process
            if client is None or (process is not None and not process.alive()):
                pass
            elif any(client.answers(timeout=_PATIENCE_SECONDS) for _ in range(3)):
                continue
            if client is not None:
                client.abort()


__all__ = ["Check", "StalePolicyError", "VLLMEngine", "VLLMSettings"]
