"""From hidden states to logits: what a model does there, found by trying, never by its name.

Most models apply one linear layer. Gemma-2 and others then squash the logits, Granite and Cohere
scale them, MiniCPM3 scales the hidden states before, and the next family does what nobody knows
yet. The memory-saving head (`hapo_core.logprob_head`) is right for the linear layer alone, so each
model is tried once on a few tokens, against its own forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from hapo_core.errors import DataError
from hapo_core.modes import evaluating

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
_LOW_PRECISION = 0.25
"""Largest |delta log p| between two ways to compute the same log-probs on a few tokens. Two ways
differ by order of summation only: 1e-5 in float32, up to .1 where bfloat16 rounds logits of 20."""
_LOUD = 64.0
"""Hidden states are multiplied by this to see functions that are nearly linear around 0."""
_PROBE = 12
"""Tokens of the probe."""
FOREIGN = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)
"""What a model's own code may raise where it is used in a way its author did not foresee: another
way is tried. `no_room` comes first, as a full memory says nothing about the way."""


class HeadPath(StrEnum):
    """How the log-probs of a model's tokens are computed."""

    LINEAR = "linear"
    """The output layer alone, in chunks."""
    OWN = "own"
    """The end of the model's own forward pass on given hidden states, in chunks."""
    WHOLE = "whole"
    """The model's own forward pass; all logits of a micro-batch exist at once."""


_FOUND: WeakKeyDictionary[PreTrainedModel, HeadPath] = WeakKeyDictionary()


def no_room(error: BaseException) -> None:
    """Raises `error` again where it is a full memory, which is a RuntimeError too."""
    if isinstance(error, torch.OutOfMemoryError):
        raise error


def head_path(model: PreTrainedModel) -> HeadPath:
    """The cheapest way to this model's own log-probs, tried once per model.

    Sharded models: all ranks must ask together the first time.

    Raises:
        DataError: its log-probs of a token depend on later tokens.
    """
    if (known := _FOUND.get(model)) is None:
        with evaluating(model), torch.no_grad():
            known = _FOUND[model] = _try(model)
    return known


def vocabulary(model: PreTrainedModel) -> int:
    """Number of logits of the model: rows of its output layer."""
    head = model.get_output_embeddings()
    if isinstance(head, torch.nn.Module) and (weight := getattr(head, "weight", None)) is not None:
        return int(weight.shape[0])
    return int(model.config.get_text_config().vocab_size)


def hidden_states(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states [rows, tokens, width] of token ids [rows, tokens], without a cache."""
    hidden: torch.Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden


def whole_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The model's own logits [rows, tokens, vocabulary]."""
    logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits


def own_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """What the model's own forward pass makes of last hidden states [tokens, width]: its logits
    [tokens, vocabulary]. Differentiable."""
    ids = torch.zeros((1, hidden.shape[0]), dtype=torch.long, device=hidden.device)
    with _given(model, hidden[None]):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


class _Answer:
    """A base model's output of which only the last hidden state is known."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> torch.Tensor:
        if index:
            raise IndexError("only the last hidden state is known")
        return self.last_hidden_state

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Stand(torch.nn.Module):
    """In the place of the base model: gives `hidden` whatever it is asked; its attributes are the
    base model's, which forward passes read factors from."""

    def __init__(self, base: torch.nn.Module, hidden: torch.Tensor) -> None:
        super().__init__()
        self.__dict__["_behind"], self.__dict__["_hidden"] = base, hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_behind"], name)

    def forward(self, *_: object, **__: object) -> _Answer:
        return _Answer(self.__dict__["_hidden"])


@contextmanager
def _given(model: PreTrainedModel, hidden: torch.Tensor) -> Iterator[None]:
    name, base = model.base_model_prefix, model.base_model
    model._modules[name] = _Stand(base, hidden)
    try:
        yield
    finally:
        model._modules[name] = base


def _try(model: PreTrainedModel) -> HeadPath:
    size = vocabulary(model)
    ids = (torch.arange(_PROBE, device=model.device) * 7 % max(1, size - 4) + 3)[None] % size
    own = whole_logits(model, ids)
    _refuse_foresight(model, ids, own)
    head = model.get_output_embeddings()
    if model.base_model is model or model.base_model_prefix not in model._modules:
        return HeadPath.WHOLE
    try:
        hidden = hidden_states(model, ids)
    except FOREIGN as reason:
        no_room(reason)
        return HeadPath.WHOLE  # a base model that wants more than tokens, or gives something else
    stand = _stands(model, hidden[0], own[0])
    if isinstance(head, torch.nn.Module):
        plain = head(hidden)
        if plain.shape == own.shape and _agree(plain, own) and _linear(model, hidden, own, stand):
            return HeadPath.LINEAR
    return HeadPath.OWN if stand else HeadPath.WHOLE


def _stands(model: PreTrainedModel, hidden: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether the end of the forward pass can be had alone."""
    try:
        logits = own_logits(model, hidden)
    except FOREIGN as reason:
        no_room(reason)
        return False
    return logits.shape == own.shape and _agree(logits, own)


def _linear(model: PreTrainedModel, hidden: torch.Tensor, own: torch.Tensor, stand: bool) -> bool:
    """Whether the output layer gives the model's logits for loud hidden states too: around 0 a
    squashed logit is nearly its own value. Where that cannot be asked, whether it gives the same
    bits."""
    head = model.get_output_embeddings()
    if not stand:
        return torch.equal(head(hidden).float(), own.float())
    loud = hidden[0] * _LOUD
    return _agree(head(loud), own_logits(model, loud))


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    limit = _TOLERANCE.get(b.dtype, _LOW_PRECISION)
    scale = max(1.0, float(b.float().abs().max()) / 30)
    apart = torch.log_softmax(a.float(), -1) - torch.log_softmax(b.float(), -1)
    return bool(apart.abs().max() <= limit * scale)


def _refuse_foresight(model: PreTrainedModel, ids: torch.Tensor, own: torch.Tensor) -> None:
    other = torch.cat([ids, torch.zeros_like(ids[:, :3])], dim=1)  # and padded on the right
    other[:, _PROBE - 1] = (other[:, _PROBE - 1] + 1) % vocabulary(model)
    if not _agree(whole_logits(model, other)[:, : _PROBE - 1], own[:, :-1]):
        raise DataError(
            "the model is not a causal language model: what it gives a token depends on later "
            "tokens",
            where=type(model).__name__,
            remedy="choose a decoder; for encoders such as BERT set is_decoder in config.json",
        )
