"""Next-token logits of many rows, one token after another, for any causal LM of transformers.

Three ways, the cheapest that a model can go being found by trying it once on a few tokens against
its own forward pass without cache and padding:

- `Padded`: prompts of any length padded on the left, one pass per prompt shared by its rows.
- `Aligned`: only prompts of equal length together, no padding: state space models and hybrids
  (Mamba, FalconH1, Qwen3-Next) carry a state through the padding.
- `Recomputed`: no cache either; every step is a whole pass (RWKV, XLNet and others whose cache
  is their own). Right and slow.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from transformers import DynamicCache, PreTrainedModel

from hapo_core.errors import HapoError
from hapo_core.logits import FOREIGN, no_room

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION = 0.3
"""Mean |delta log p| over a few tokens and the vocabulary. Two right ways differ by 1e-6 in float32
and by .03 in bfloat16; a state that went through padding differs by tenths or whole nats."""


class Stepping(Protocol):
    """Rows that grow by a token at a time."""

    equal_lengths: bool
    """Whether the prompts of a batch must have one length."""

    def start(self, prompts: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """Begin `n` rows of each prompt; logits [rows, vocabulary] of their next tokens."""
        ...

    def keep(self, index: torch.Tensor) -> None:
        """Go on with these rows only (int64 [rows])."""
        ...

    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        """Add a token to every row (int64 [rows]); logits of the tokens after."""
        ...


class Padded:
    """Left padding, masks and positions."""

    equal_lengths = False

    def __init__(self, model: PreTrainedModel, pad: int) -> None:
        self._model, self._pad = model, pad
        self._takes = _parameters(model)
        self._positions = "position_ids" in self._takes

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """One forward pass per prompt, shared by its `n` rows."""
        device = self._model.device
        width = max(len(p) for p in prompts)
        ids = torch.full((len(prompts), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        self._cache = DynamicCache(config=self._model.config)
        out = self._pass(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), _last(self._takes))
        self._cache.batch_repeat_interleave(n)
        self._mask = mask.repeat_interleave(n, dim=0)
        logits: torch.Tensor = out.logits[:, -1].repeat_interleave(n, dim=0)
        return logits

    def keep(self, index: torch.Tensor) -> None:
        """Drop the other rows from cache and mask."""
        self._mask = self._mask[index]
        self._cache.batch_select_indices(index)

    @torch.inference_mode()
    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        """One pass over the new tokens."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        out = self._pass(tokens[:, None], self._mask, self._mask.sum(1, keepdim=True) - 1, {})
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _pass(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, last: dict[str, int]
    ) -> Any:
        where = {"position_ids": positions} if self._positions else {}
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **where,
            **last,
        )


class Aligned:
    """Prompts of one length: nothing is padded, the cache may be of any kind."""

    equal_lengths = True

    def __init__(self, model: PreTrainedModel, _: int) -> None:
        self._model, self._takes = model, _parameters(model)
        self._name = next((n for n in ("past_key_values", "cache_params") if n in self._takes), "")
        if not self._name:
            raise TypeError("no cache can be given")

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """One forward pass per prompt, shared by its `n` rows."""
        self._cache = DynamicCache(config=self._model.config)
        logits = self._pass(torch.tensor(list(prompts), device=self._model.device))
        rows = torch.arange(len(prompts), device=self._model.device).repeat_interleave(n)
        # Not `batch_repeat_interleave`: layers with both kinds of state repeat only one of them.
        self._cache.reorder_cache(rows)  # type: ignore[arg-type]
        return logits[rows]

    def keep(self, index: torch.Tensor) -> None:
        """Drop the other rows from the cache."""
        self._cache.reorder_cache(index)  # type: ignore[arg-type]

    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        """One pass over the new tokens."""
        return self._pass(tokens[:, None])

    @torch.inference_mode()
    def _pass(self, ids: torch.Tensor) -> torch.Tensor:
        given = {self._name: self._cache}
        out = self._model(input_ids=ids, use_cache=True, **given, **_last(self._takes))
        logits: torch.Tensor = out.logits[:, -1]
        return logits


class Recomputed:
    """Prompts of one length, every step a whole pass."""

    equal_lengths = True

    def __init__(self, model: PreTrainedModel, _: int) -> None:
        self._model, self._takes = model, _parameters(model)

    def start(self, prompts: Sequence[Sequence[int]], n: int) -> torch.Tensor:
        """The first whole pass."""
        ids = torch.tensor(list(prompts), device=self._model.device)
        self._ids = ids.repeat_interleave(n, dim=0)
        return self._pass()

    def keep(self, index: torch.Tensor) -> None:
        """Drop the other rows."""
        self._ids = self._ids[index]

    def next(self, tokens: torch.Tensor) -> torch.Tensor:
        """A whole pass over the longer rows."""
        self._ids = torch.cat([self._ids, tokens[:, None]], dim=1)
        return self._pass()

    @torch.inference_mode()
    def _pass(self) -> torch.Tensor:
        out = self._model(input_ids=self._ids, use_cache=False, **_last(self._takes))
        logits: torch.Tensor = out.logits[:, -1]
        return logits


_WAYS: tuple[type[Padded] | type[Aligned] | type[Recomputed], ...] = (Padded, Aligned, Recomputed)
_FOUND: WeakKeyDictionary[PreTrainedModel, type[Padded] | type[Aligned] | type[Recomputed]] = (
    WeakKeyDictionary()
)


def stepping(model: PreTrainedModel, pad: int) -> Stepping:
    """The cheapest right way for this model (in evaluation mode), tried once per model.

    Args:
        pad: the token id that fills the padding; what it is does not matter where the way is right.

    Raises:
        HapoError: no way agrees with the model's own forward pass.
    """
    if (known := _FOUND.get(model)) is None:
        known = _FOUND[model] = _try(model, pad)
    return known(model, pad)


def _try(model: PreTrainedModel, pad: int) -> type[Padded] | type[Aligned] | type[Recomputed]:
    refuse_numberless(model)
    stateful = bool(getattr(model, "_is_stateful", False))
    apart: list[str] = []
    for way in _WAYS:
        if stateful and way is Padded:
            continue
        try:
            error = _error(model, way(model, pad))
        except FOREIGN as reason:
            no_room(reason)
            apart.append(f"{way.__name__}: {type(reason).__name__}")
            continue
        # `not <=`: NaN agrees with nothing.
        if error <= _TOLERANCE.get(model.dtype, _LOW_PRECISION):
            return way
        apart.append(f"{way.__name__}: {error:.3g} nats")
    raise HapoError(
        f"the model's log-probs differ from those of its own forward pass ({'; '.join(apart)})",
        where=type(model).__name__,
        remedy="sample with vLLM, or use another attention or another transformers version",
        topic="sampling:way",
    )


@torch.inference_mode()
def refuse_numberless(model: PreTrainedModel) -> None:
    """Raises HapoError where the logits of a few tokens are NaN or infinite."""
    ids = torch.tensor([[3, 1, 4, 1, 5]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits
    if not bool(logits.isfinite().any(-1).all()) or bool(logits.isnan().any()):
        raise HapoError(
            "the model's logits are not finite: there is nothing to sample from",
            where=type(model).__name__,
            remedy="look for NaN in its weights; a model trained in bfloat16 overflows in float16",
        )


def _error(model: PreTrainedModel, steps: Stepping) -> float:
    """Mean |delta log p| over the vocabulary of a few steps against passes without cache, padding
    or batch."""
    from hapo_core.logits import vocabulary

    size = vocabulary(model)

    def token(k: int) -> int:
        # The pad token too: some families count positions by it (RoBERTa).
        if pad is not None and k == 45:
            return int(pad)
        return int(k * 7 % max(1, size - 4) + 3) % size

    pad = getattr(model.config.get_text_config(), "pad_token_id", None)
    pad = pad if pad in range(size) else 0

    prompts = [[token(k) for k in range(6)], [token(k + 20) for k in range(6)]]
    if not steps.equal_lengths:
        prompts[0] = prompts[0][:3]
    rows = [list(p) for p in prompts for _ in range(2)]
    logits = steps.start(prompts, 2)
    apart = [_apart(model, rows, logits)]
    for step in range(3):
        if step == 1:  # as when a row has ended
            index = torch.tensor([0, 2, 3], device=model.device)
            steps.keep(index)
            rows = [rows[0], rows[2], rows[3]]
        tokens = [token(40 + 5 * step + i) for i in range(len(rows))]
        for row, new in zip(rows, tokens, strict=True):
            row.append(new)
        logits = steps.next(torch.tensor(tokens, device=model.device))
        apart.append(_apart(model, rows, logits))
    return max(apart)


@torch.inference_mode()
def _apart(model: PreTrainedModel, rows: Sequence[Sequence[int]], logits: torch.Tensor) -> float:
    worst = 0.0
    for row, found in zip(rows, logits, strict=True):
        ids = torch.tensor([list(row)], device=model.device)
        own = model(input_ids=ids, use_cache=False).logits[0, -1]
        apart = torch.log_softmax(found.float(), -1) - torch.log_softmax(own.float(), -1)
        mean = float(apart.abs().mean())
        worst = mean if not mean <= worst else worst
    return worst


def _parameters(model: PreTrainedModel) -> frozenset[str]:
    return frozenset(inspect.signature(model.forward).parameters)


def _last(takes: frozenset[str]) -> dict[str, int]:
    return {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
