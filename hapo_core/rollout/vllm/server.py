"""A vLLM server as a process of ours: started, watched and ended; its log kept.

The server runs in an environment of its own (DESIGN 6: vLLM and Prefect cannot share one), on
loopback only: its development routes, which load weights, ask for no password.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from hapo_core.heartbeat import beat
from hapo_core.rollout.vllm.client import Client

HOST = "127.0.0.1"
MODEL = "policy"
"""The name under which a server of ours serves."""
_LOOK_SECONDS = 0.2
_STOP_SECONDS = 10.0
_DROPPED = ("PYTHON", "VIRTUAL_ENV", "PREFECT", "HAPO", "DVC", "VLLM")


@dataclass(frozen=True)
class ServerSpec:
    """How a server is started.

    `environment` is a folder with `bin/python` that has vLLM; `context` the longest prompt plus
    response in tokens; `rows` the most responses decoded at once; `cache_gb` the memory of the
    key-value cache on a CPU, `memory_share` the share of a GPU that the engine may take.
    `processed` asks for the log-probs of the distribution that is really sampled from (the
    temperature applied); otherwise they are those of temperature 1.
    """

    environment: Path
    device: str
    dtype: str
    context: int
    rows: int
    seed: int = 0
    threads: int = 1
    cache_gb: int = 1
    memory_share: float = 0.9
    processed: bool = True
    start_seconds: float = 300.0
    arguments: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.environment.absolute() / "bin" / "python"

    def check(self) -> None:
        """Raise ConfigError if the environment has no interpreter or no vLLM."""
        packages = self.environment.glob("lib/python*/site-packages/vllm/__init__.py")
        if not self.python.exists() or not any(packages):
            raise ConfigError(
                "no engine environment (an interpreter with vLLM)",
                where=str(self.environment),
                remedy="make a virtual environment with vLLM and name its folder",
                topic="engine:environment",
            )


class ServerProcess:
    """One server process. Start it in a thread that lives as long as it is needed.

    Args:
        spec: how to start it.
        number: which of several it is (its log's name, its GPU).
        log: its output is appended here.
        gpu: the device it may see, on CUDA.
        bind: pin the threads to cores (a lone CPU server).
    """

    def __init__(
        self, spec: ServerSpec, number: int, log: Path, gpu: str | None = None, bind: bool = True
    ) -> None:
        self.spec, self.number, self.log = spec, number, log
        self._gpu, self._bind = gpu, bind
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def launch(self, weights: Path) -> Client:
        """Start the process on `weights`; returns at once, `wait` waits until it answers."""
        self.stop()
        self.spec.check()
        port = free_port()
        supervisor = str(Path(__file__).with_name("supervise.py"))
        command = [
            sys.executable,
            "-I",
            supervisor,
            str(os.getpid()),
            *self._command(weights, port),
        ]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(_open_log(self.log), "ab") as sink:
            self._log_start = sink.tell()
            self._process = subprocess.Popen(
                command,
                env=self._environment(),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours; the supervisor ends the whole session
            )
        return Client(f"http://{HOST}:{port}")

    def wait(self, client: Client) -> None:
        """Wait until the server answers.

        Raises:
            HapoError: it ended, or does not answer in `start_seconds`; with the end of its log.
        """
        end = time.monotonic() + self.spec.start_seconds
        while time.monotonic() < end:
            if not self.alive():
                raise HapoError(
                    f"the engine server ended while it started:\n{self.story()}",
                    where=str(self.log),
                    remedy="read the log",
                    topic="engine:start",
                )
            beat()
            if client.answers(timeout=2.0):
                return
            time.sleep(_LOOK_SECONDS)
        self.stop()
        raise HapoError(
            f"the engine server did not answer within {self.spec.start_seconds:.0f} s:\n"
            f"{self.story()}",
            where=str(self.log),
            remedy="read the log; a larger `start_seconds` allows more time",
            topic="engine:slow_start",
        )

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The supervisor's process id, which is its session's and group's too."""
        return None if self._process is None else self._process.pid

    def story(self, lines: int = 12) -> str:
        """The end of this start's log: its errors, or its last lines."""
        with suppress(OSError), self.log.open("rb") as source:
            source.seek(self._log_start)
            text = source.read().decode("utf-8", "replace").splitlines()
            errors = [
                line for line in text if "Error: " in line and "see stack" not in line.lower()
            ]
            return "\n".join(line[-300:] for line in (errors or text)[-lines:])
        return ""

    def stop(self) -> None:
        """End the process and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()

    def _command(self, weights: Path, port: int) -> list[str]:
        spec = self.spec
        # `vllm serve` fails on the CPU build; the module is what it would call.
        command = [str(spec.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(weights.absolute()), "--served-model-name", MODEL]
        command += ["--host", HOST, "--port", str(port), "--uvicorn-log-level", "warning"]
        command += ["--dtype", spec.dtype, "--max-model-len", str(spec.context)]
        command += ["--max-num-seqs", str(spec.rows), "--seed", str(spec.seed)]
        # Sampling settings of the model's own generation_config.json must not slip in.
        command += ["--generation-config", "vllm"]
        command += ["--logprobs-mode", "processed_logprobs" if spec.processed else "raw_logprobs"]
        if spec.device == "cpu":
            # Chunked prefill crashes the CPU build on seeded requests (DESIGN 6).
            command += ["--enforce-eager", "--no-enable-chunked-prefill"]
            command += ["--max-num-batched-tokens", str(max(8192, spec.context))]
        else:
            command += ["--gpu-memory-utilization", str(spec.memory_share)]
        return [*command, *spec.arguments]

    def _environment(self) -> dict[str, str]:
        spec = self.spec
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_DROPPED)}
        kept |= {
            "VLLM_SERVER_DEV_MODE": "1",  # reload_weights, reset_prefix_cache, weight_info
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_HOST_IP": HOST,
            "PYTHONUNBUFFERED": "1",
        }
        if spec.device == "cpu":
            kept["VLLM_CPU_KVCACHE_SPACE"] = str(spec.cache_gb)
            kept["OMP_NUM_THREADS"] = str(spec.threads)
            if not self._bind:
                kept["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        elif self._gpu is not None:
            kept["CUDA_VISIBLE_DEVICES"] = self._gpu
        return kept | dict(spec.variables)


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _open_log(path: Path) -> int:
    """A descriptor that appends to a log, which only this user reads: it may hold prompts."""
    log = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
    os.fchmod(log, 0o600)
    return log
