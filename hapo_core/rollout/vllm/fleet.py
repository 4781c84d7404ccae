"""The vLLM servers behind the engine: started, given weights, revived, or counted as lost."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import ConfigError, HapoError
from hapo_core.heartbeat import beat
from hapo_core.rollout.vllm.client import Client, ServerGone
from hapo_core.rollout.vllm.server import MODEL, ServerProcess, ServerSpec
from hapo_core.rollout.vllm.weights import export_weights, remove_weights
from hapo_core.timing import Laps

_PATIENCE_SECONDS = 10.0
"""How long one question after a server's health may take; the third bad answer gives it up."""
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
class Server:
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


class Fleet:
    """Servers that all hold the policy's present weights; see `VLLMEngine` for the arguments."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: VLLMSettings,
        folder: Path,
        tell: Callable[[str], None],
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._settings, self._folder, self._tell = settings, folder.absolute(), tell
        self._versions = itertools.count(1)
        self._nonce = secrets.token_hex(4)  # tells our versions from those of another run
        self.version, self._weights = "", self._folder
        self._moved = True
        self.laps = Laps()
        if settings.urls:
            self.servers = [Server(k, Client(url)) for k, url in enumerate(settings.urls)]
        else:
            self.servers = [Server(k) for k in range(settings.servers)]
            if settings.spec is None:
                raise ConfigError("an engine needs server addresses or a way to start servers")
            settings.spec.check()

    def policy_changed(self) -> None:
        """The next `synchronise` writes and sends the weights."""
        self._moved = True

    def close(self) -> None:
        """End the servers that were started here, and remove the weights written for them."""
        for server in self.servers:
            if server.client is not None:
                server.client.abort()
            if server.process is not None:
                server.process.stop()
                server.client, server.version = None, ""
        remove_weights(self._folder)

    def synchronise(self) -> None:
        """Start the servers that do not run, and give all of them the policy's weights."""
        if self._moved:
            self.version = f"{self._nonce}-{next(self._versions)}"
            self._weights = self._folder / f"weights-{self.version}"
            with self.laps("weights to the engine"):
                export_weights(self._model, self._tokenizer, self._weights, self._dtype())
            self._moved = False
        absent = [s for s in self.servers if s.client is None and not s.lost]
        began = time.monotonic()
        for server in absent:
            self._launch(server)
        for server in absent:
            self._await(server)
        if absent:
            seconds = time.monotonic() - began
            self._tell(f"{len(absent)} engine server(s) ready after {seconds:.0f} s")
        for server in self.living():
            if server.version != self.version or not self._holds(server):
                try:
                    with self.laps("weights to the engine"):
                        self._push(server)
                except ServerGone as error:
                    self.revive(server, str(error))
        remove_weights(self._folder, keep=self._weights)

    def _dtype(self) -> torch.dtype | None:
        """Of the weights that servers compute with, where that is known: those started here."""
        spec = self._settings.spec
        return torch.bfloat16 if spec is not None and spec.dtype == "bfloat16" else None

    def living(self) -> list[Server]:
        """The servers that are not lost.

        Raises:
            HapoError: none is left.
        """
        living = [s for s in self.servers if not s.lost]
        if not living:
            raise HapoError(
                "no engine server is left",
                where=", ".join(s.name for s in self.servers),
                remedy=f"read the logs in {self._folder}",
                topic="engine:lost",
            )
        return living

    def _launch(self, server: Server) -> None:
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

    def _await(self, server: Server) -> None:
        assert server.process is not None and server.client is not None
        server.process.wait(server.client)
        try:
            self._name_version(server, server.client)
        except ServerGone as error:
            raise HapoError(f"the engine server ended at once: {error}") from error

    def _push(self, server: Server) -> None:
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

    def _name_version(self, server: Server, client: Client) -> None:
        client.post("/update_weight_version", {"new_version": self.version}, 60.0)
        if server.process is None:
            server.model = str(client.get("/v1/models", 60.0)["data"][0]["id"])
        server.version, server.guarded = self.version, False

    def _holds(self, server: Server) -> bool:
        """Whether the server says that it holds our version: a restarted one does not."""
        assert server.client is not None
        try:
            said = server.client.get("/weight_info", 60.0)["weight_version"]
        except ServerGone:
            return False
        return bool(said == server.version)

    def revive(self, server: Server, why: str) -> None:
        """Bring a server back with the present weights, or count it as lost."""
        server.epoch += 1
        self._tell(f"{server.name} is gone: {why}")
        if server.client is not None:
            server.client.abort()
        if server.process is None:
            if not self._wait_for_return(server):
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
            self.revive(server, f"the restart failed: {error}")
        else:
            self._tell(f"{server.name} was started again")

    def _wait_for_return(self, server: Server) -> bool:
        """Whether somebody else's server comes back, and takes our weights."""
        assert server.client is not None
        end = time.monotonic() + _RETURN_SECONDS
        while time.monotonic() < end:
            beat()
            if server.client.answers(timeout=5.0):
                try:
                    with self.laps("weights to the engine"):
                        self._push(server)
                except ServerGone:
                    return False
                return True
            time.sleep(1.0)
        return False

    def look(self) -> None:
        """Nothing came for a while: make the requests of a dead or hung server fail."""
        for server in self.living():
            client, process = server.client, server.process
            if client is None or (process is not None and not process.alive()):
                pass
            elif any(client.answers(timeout=_PATIENCE_SECONDS) for _ in range(3)):
                continue
            if client is not None:
                client.abort()
