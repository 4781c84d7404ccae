"""What a rollout engine takes and gives: token ids in, token ids and log-probs out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from hapo_core.errors import ConfigError
from hapo_core.exchange import exchanged


@exchanged
class Finish(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    """The policy emitted its end token (which is the last of `token_ids`)."""
    LENGTH = "length"
    """The token budget ran out; the answer may be missing."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, tokenised once. `token_ids` holds the whole templated prompt, and the first
    `prefix` tokens of a trace behind it, where a response of the teacher's is to be continued."""

    prompt_id: str
    token_ids: tuple[int, ...]
    prefix: int = 0

    @property
    def stream(self) -> str:
        """The name under which its responses are drawn: continuations must not repeat the draws
        of the rollouts."""
        return f"{self.prompt_id}|{self.prefix}" if self.prefix else self.prompt_id


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. `temperature` 0 is greedy; `max_tokens` counts the end token."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise ConfigError(f"sampling needs n >= 1 and max_tokens >= 1, got {self}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(f"sampling needs temperature >= 0 and 0 < top_p <= 1, got {self}")


@exchanged
@dataclass(frozen=True)
class Rollout:
    """One response of the policy. `logprobs[t]` is log pi(token t) at the sampling temperature
    (float32 values), aligned with `token_ids`; the end token is counted, the prompt is not, and
    neither is a `prefix` (tokens of a trace that the response continues)."""

    prompt_id: str
    sample: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    text: str
    prefix: int = 0

    @property
    def key(self) -> tuple[str, int, int]:
        """(prompt id, prefix, sample): one of a round has it."""
        return self.prompt_id, self.prefix, self.sample

    @property
    def length(self) -> int:
        """Tokens of its own."""
        return len(self.token_ids)


class Engine(Protocol):
    """Draws responses. The draws are keyed by (seed, round, `Prompt.stream`, sample), so neither
    the batch nor the order of the prompts changes them."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Yield `sampling.n` rollouts for every prompt, each as soon as it is finished."""
        ...

    def policy_changed(self) -> None:
        """The policy's weights were updated; later rollouts must come from them."""
        ...

    def close(self) -> None:
        """Give back what the engine holds: servers, memory, files."""
        ...
