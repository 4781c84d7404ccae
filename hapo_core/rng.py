"""Counter-based randomness (METHOD 8).

Every draw is a pure function of (seed, purpose, round, prompt id, sample index), never of how many
draws came before. A resumed, resharded or reordered run therefore draws the same numbers.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Purpose(StrEnum):
    """What a draw is for; two purposes never share a stream."""

    PROMPT_ORDER = "prompt-order"
    TOKENS = "tokens"
    TIE_BREAK = "tie-break"
    THOMPSON = "thompson"
    TASK = "task"
    INIT = "init"
    BASE_BATCH = "base-batch"
    SPLIT = "split"
    BOOTSTRAP = "bootstrap"
    PREFIX = "prefix"
    REFILL = "refill"
    EXPERT_ORDER = "expert-order"
    TRACES = "traces"
    TRACE_TURN = "trace-turn"
    TRACE_TIE = "trace-tie"
    HOLDOUT = "holdout"


def key_of(
    seed: int, purpose: Purpose, round_index: int = 0, prompt_id: str = "", sample: int = 0
) -> tuple[int, int]:
    """The 128-bit Philox key of one stream, as two unsigned 64-bit integers."""
    text = f"{seed}\x1f{purpose.value}\x1f{round_index}\x1f{prompt_id}\x1f{sample}"
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def generator(
    seed: int, purpose: Purpose, round_index: int = 0, prompt_id: str = "", sample: int = 0
) -> np.random.Generator:
    """A numpy generator on the stream of this key."""
    key = np.array(key_of(seed, purpose, round_index, prompt_id, sample), dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def uniforms(
    count: int,
    seed: int,
    purpose: Purpose,
    round_index: int = 0,
    prompt_id: str = "",
    sample: int = 0,
) -> FloatArray:
    """`count` float64 draws from [0, 1); the first n of a longer call are the same n numbers."""
    return generator(seed, purpose, round_index, prompt_id, sample).random(count)


def seed31(
    seed: int, purpose: Purpose, round_index: int = 0, prompt_id: str = "", sample: int = 0
) -> int:
    """A non-negative 31-bit integer for libraries that take one integer seed (torch, vLLM)."""
    return key_of(seed, purpose, round_index, prompt_id, sample)[0] & 0x7FFFFFFF
