"""The in-process engine: transformers' forward pass with counter-based sampling."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import HapoError
from hapo_core.fit import token_rows
from hapo_core.heartbeat import beat
from hapo_core.modes import evaluating
from hapo_core.rng import Purpose, uniforms
from hapo_core.rollout.protocol import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.stepping import Stepping, stepping
from hapo_core.turns import turn_end

_SHRINK_AT = 0.75
"""Finished rows leave the batch once at most this share of it is still running."""
_LIKELIEST = 256
"""Tokens that are looked at first for the top-p cut; more only where a row needs them."""


@dataclass
class _Row:
    prompt: Prompt
    sample: int
    draws: np.ndarray
    tokens: list[int]
    logprobs: list[float]


class HFEngine:
    """Generates with the very model that is being trained, or with a copy in another dtype.

    Args:
        model: a causal LM in evaluation-safe state (no dropout is used).
        tokenizer: decodes responses; its EOS and the model's generation EOS ids end a response.
        max_rows: most responses decoded at once (memory bound; whole groups stay together).
        dtype: of the weights that generate. Another one than the model's is a copy, made when it
            is first needed after `policy_changed`; the model must not be sharded then. In bfloat16
            the composition of a batch may change tokens, as rounding differs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_rows: int = 256,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._model, self._tokenizer, self._max_rows = model, tokenizer, max_rows
        self._dtype = dtype or model.dtype
        self._copy: PreTrainedModel | None = None
        self._stops = stop_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        # Any id that the model knows: pad tokens that somebody added may lie beyond its table.
        known = range(token_rows(model))
        self._pad = next((int(i) for i in (pad, *sorted(self._stops)) if i in known), 0)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Yield the rollouts of `prompts`; see `Engine.generate`."""
        per_batch = max(1, self._max_rows // sampling.n)
        with evaluating(self._model):
            steps = stepping(self._sampler(), self._pad)
            for batch in _batches(prompts, per_batch, steps.equal_lengths):
                yield from self._batch(batch, sampling, seed, round_index, steps)

    def policy_changed(self) -> None:
        """A copy in another dtype is old now; the trained model itself is always current."""
        if self._copy is not None:
            with torch.no_grad():
                for mine, new in zip(
                    self._copy.parameters(), self._model.parameters(), strict=True
                ):
                    mine.copy_(new)

    def close(self) -> None:
        """Give back the copy, if there is one."""
        self._copy = None

    def _sampler(self) -> PreTrainedModel:
        if self._dtype == self._model.dtype:
            return self._model
        if self._copy is None:
            self._copy = copy_in(self._model, self._dtype)
        return self._copy

    def _batch(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
        round_index: int,
        steps: Stepping,
    ) -> Iterator[Rollout]:
        rows = [
            _Row(
                prompt,
                j,
                uniforms(sampling.max_tokens, seed, Purpose.TOKENS, round_index, prompt.stream, j),
                [],
                [],
            )
            for prompt in prompts
            for j in range(sampling.n)
        ]
        logits = steps.start([p.token_ids for p in prompts], sampling.n)
        for step in range(sampling.max_tokens):
            beat()
            u = torch.from_numpy(np.array([row.draws[step] for row in rows]))
            tokens, logprobs = sample_tokens(
                logits, u.to(logits.device), sampling.temperature, sampling.top_p
            )
            running: list[int] = []
            for i, (row, token, logprob) in enumerate(
                zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
            ):
                if row.tokens and row.tokens[-1] in self._stops:
                    continue
                row.tokens.append(token)
                row.logprobs.append(logprob)
                if token in self._stops:
                    yield self._finished(row, Finish.STOP)
                elif step + 1 == sampling.max_tokens:
                    yield self._finished(row, Finish.LENGTH)
                else:
                    running.append(i)
            if not running:
                return
            if len(running) <= _SHRINK_AT * len(rows):
                index = torch.tensor(running, device=tokens.device)
                rows = [rows[i] for i in running]
                tokens = tokens[index]
                steps.keep(index)
            logits = steps.next(tokens)

    def _finished(self, row: _Row, finish: Finish) -> Rollout:
        text = self._tokenizer.decode(row.tokens, skip_special_tokens=True)
        return Rollout(
            prompt_id=row.prompt.prompt_id,
            sample=row.sample,
            token_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish=finish,
            text=str(text),
            prefix=row.prompt.prefix,
        )


def _batches(prompts: Sequence[Prompt], most: int, equal_lengths: bool) -> Iterator[list[Prompt]]:
    """Prompts of like length share a batch, so that little of the prefill is padding."""
    batch: list[Prompt] = []
    for prompt in sorted(prompts, key=lambda p: len(p.token_ids)):
        other = batch and len(batch[0].token_ids) != len(prompt.token_ids)
        if len(batch) == most or (equal_lengths and other):
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def copy_in(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of a model, in evaluation mode, whose floating-point weights are `dtype`; buffers
    stay as they are, as where a model is loaded in `dtype`. No second whole copy exists meanwhile.
    """
    made = {
        id(p): torch.nn.Parameter(
            p.detach().to(dtype if p.is_floating_point() else p.dtype, copy=True),
            requires_grad=False,
        )
        for p in model.parameters()
    }
    # deepcopy takes from `made` what it would copy; tied weights stay tied.
    found: PreTrainedModel = copy.deepcopy(model, made)
    found.eval()
    return found


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end a response: the tokenizer's EOS, the generation config's, and what the
    chat template ends an assistant's turn with."""
    ids: set[int] = set()
    for end in (tokenizer.eos_token_id, turn_end(tokenizer)):
        if end is not None:
            ids.add(int(end))
    generation = getattr(model, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if isinstance(eos, int):
        ids.add(eos)
    elif eos is not None:
        ids.update(int(e) for e in eos)
    return frozenset(ids)


def nucleus(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """Which tokens the top-p cut keeps: of a row's tokens, the most probable first and equal ones
    in their order, all before which less than `top_p` lies.

    Only the most probable ones are sorted, more where a row needs more: the whole vocabulary at
    every step costs more than a small model's pass.

    Args:
        probs: [rows, vocabulary] float64.
    Returns:
        bool [rows, vocabulary].
    """
    size = min(_LIKELIEST, probs.shape[1])
    while True:
        top = probs.topk(size, dim=-1).values
        kept = (top.cumsum(-1) - top < top_p).sum(-1, keepdim=True)
        # A row that keeps all that were looked at may keep more. (One with NaN keeps none.)
        if size == probs.shape[1] or bool((kept < size).all()):
            break
        size = min(8 * size, probs.shape[1])
    last = top.gather(-1, (kept - 1).clamp(min=0))
    above, equal = probs > last, probs == last
    return above | (equal & (equal.cumsum(-1) <= kept - above.sum(-1, keepdim=True)))


def sample_tokens(
    logits: torch.Tensor, u: torch.Tensor, temperature: float, top_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token a row by inverting the cumulative distribution at `u`.

    Args:
        logits: [rows, vocabulary], any float dtype.
        u: [rows] float64 in [0, 1).
    Returns:
        token ids [rows] int64, and their log-probs [rows] float32 under the distribution at
        `temperature` before the top-p cut (temperature 0 is greedy, log-probs at temperature 1).
    Raises:
        HapoError: a row has a NaN, an infinite logit, or nothing above minus infinity (which alone
            is no fault: some models rule tokens out).
    """
    with torch.inference_mode():
        scaled = logits.float() / temperature if temperature > 0 else logits.float()
        logprobs = torch.log_softmax(scaled, dim=-1)
        if temperature == 0:
            tokens = scaled.argmax(dim=-1)
        else:
            probs = logprobs.exp().double()
            if top_p < 1:
                probs = probs.masked_fill_(~nucleus(probs, top_p), 0)
            cdf = probs.cumsum(-1)
            target = (u * cdf[:, -1]).unsqueeze(1)
            tokens = torch.searchsorted(cdf, target, right=True).squeeze(1)
            # u * total can round up to total: fall back to the last token with any mass.
            last = probs.shape[1] - 1 - (probs > 0).flip(-1).int().argmax(-1)
            tokens = torch.minimum(tokens, last)
        chosen = logprobs.gather(-1, tokens[:, None]).squeeze(1)
    # One NaN or infinity makes all log-probs of its row NaN.
    if bool(chosen.isnan().any()):
        raise HapoError(
            "the model's logits are not finite: there is nothing to sample from",
            remedy="look for NaN in its weights; lower the learning rate, or compute in float32",
            topic="sampling:not_finite",
        )
    return tokens, chosen
