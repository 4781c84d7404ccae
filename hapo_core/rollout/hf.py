"""The in-process engine: transformers' forward pass with counter-based sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.draws import Purpose, uniforms
from hapo_core.rollout.protocol import Finish, Prompt, Rollout, Sampling

_SHRINK_AT = 0.75
"""Finished rows leave the batch once at most this share of it is still running."""


@dataclass
class _Row:
    prompt: Prompt
    sample: int
    draws: np.ndarray
    tokens: list[int]
    logprobs: list[float]


class HFEngine:
    """Generates with the very model that is being trained.

    Args:
        model: a causal LM in evaluation-safe state (no dropout is used).
        tokenizer: decodes responses; its EOS and the model's generation EOS ids end a response.
        max_rows: most responses decoded at once (memory bound; whole groups stay together).
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_rows: int = 256
    ) -> None:
        self._model, self._tokenizer, self._max_rows = model, tokenizer, max_rows
        self._stops = stop_ids(model, tokenizer)
        pad = tokenizer.pad_token_id
        self._pad = int(pad) if pad is not None else min(self._stops)

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Yield the rollouts of `prompts`; see `Engine.generate`."""
        per_batch = max(1, self._max_rows // sampling.n)
        # Prompts of like length share a batch, so that little of the prefill is padding.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].token_ids))
        was_training = self._model.training
        self._model.eval()
        try:
            for start in range(0, len(order), per_batch):
                batch = [prompts[i] for i in order[start : start + per_batch]]
                yield from self._batch(batch, sampling, seed, round_index)
        finally:
            self._model.train(was_training)

    def policy_changed(self) -> None:
        """Nothing to do: the engine generates with the trained model itself."""

    def close(self) -> None:
        """Nothing to give back."""

    def _batch(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        rows = [
            _Row(
                prompt,
                j,
                uniforms(
                    sampling.max_tokens, seed, Purpose.TOKENS, round_index, prompt.prompt_id, j
                ),
                [],
                [],
            )
            for prompt in prompts
            for j in range(sampling.n)
        ]
        logits, mask, cache = self._prefill(prompts, sampling.n)
        for step in range(sampling.max_tokens):
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
                index = torch.tensor(running, device=mask.device)
                rows = [rows[i] for i in running]
                tokens, mask = tokens[index], mask[index]
                cache.batch_select_indices(index)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._decode(tokens, mask, cache)

    @torch.inference_mode()
    def _prefill(
        self, prompts: Sequence[Prompt], n: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache]:
        """One forward pass per prompt, shared by the `n` rows of its group."""
        device = self._model.device
        width = max(len(p.token_ids) for p in prompts)
        ids = torch.full((len(prompts), width), self._pad, dtype=torch.long)
        mask = torch.zeros((len(prompts), width), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt.token_ids) :] = torch.tensor(prompt.token_ids)
            mask[i, width - len(prompt.token_ids) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = DynamicCache(config=self._model.config)
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(n)
        logits = out.logits[:, -1].repeat_interleave(n, dim=0)
        return logits, mask.repeat_interleave(n, dim=0), cache

    @torch.inference_mode()
    def _decode(
        self, tokens: torch.Tensor, mask: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        out = self._model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _finished(self, row: _Row, finish: Finish) -> Rollout:
        text = self._tokenizer.decode(row.tokens, skip_special_tokens=True)
        return Rollout(
            prompt_id=row.prompt.prompt_id,
            sample=row.sample,
            token_ids=tuple(row.tokens),
            logprobs=tuple(row.logprobs),
            finish=finish,
            text=str(text),
        )


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Token ids that end a response: the tokenizer's EOS and the generation config's."""
    ids: set[int] = set()
    if tokenizer.eos_token_id is not None:
        ids.add(int(tokenizer.eos_token_id))
    generation = getattr(model, "generation_config", None)
    eos = getattr(generation, "eos_token_id", None)
    if isinstance(eos, int):
        ids.add(eos)
    elif eos is not None:
        ids.update(int(e) for e in eos)
    return frozenset(ids)


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
    """
    with torch.inference_mode():
        scaled = logits.float() / temperature if temperature > 0 else logits.float()
        logprobs = torch.log_softmax(scaled, dim=-1)
        if temperature == 0:
            tokens = scaled.argmax(dim=-1)
        else:
            probs = logprobs.exp().double()
            if top_p < 1:
                ordered, index = probs.sort(dim=-1, descending=True, stable=True)
                ordered[ordered.cumsum(-1) - ordered >= top_p] = 0
                probs = torch.zeros_like(probs).scatter_(-1, index, ordered)
            cdf = probs.cumsum(-1)
            target = (u * cdf[:, -1]).unsqueeze(1)
            tokens = torch.searchsorted(cdf, target, right=True).squeeze(1)
            # u * total can round up to total: fall back to the last token with any mass.
            last = probs.shape[1] - 1 - (probs > 0).flip(-1).int().argmax(-1)
            tokens = torch.minimum(tokens, last)
        chosen = logprobs.gather(-1, tokens[:, None]).squeeze(1)
    return tokens, chosen
