"""The policy: loading, saving, and the log-probs of given tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hapo_core.errors import DataError
from hapo_core.head import ChunkedLogProbs
from hapo_core.lora import base_of, load_adapters, settle_description
from hapo_core.ranks import is_sharded, whole_state

HEAD_CHUNK_ELEMENTS = 32 * 1024 * 1024
"""Most logits held at once by the log-prob head (float32: 128 MiB)."""

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def load_policy(
    path: Path, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a Hugging Face causal LM and its tokenizer from a local folder, safetensors only.

    A folder with adapters gives their model with them on it; then only they can train.

    Raises:
        DataError: if the folder is no model, or a weight file is missing.
    """
    if (base := base_of(path)) is not None:
        model, tokenizer = load_policy(base, dtype, attn_implementation)
        load_adapters(model, path)
        return model, tokenizer
    check_model_folder(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the model folder cannot be loaded: {error}",
            where=str(path),
            remedy="rebuild it: delete it and run `dvc checkout`, or `dvc repro base`",
        ) from error
    model.requires_grad_(True)
    return model, tokenizer


def check_model_folder(path: Path) -> None:
    """Check that a folder holds a whole safetensors model before any of it is loaded.

    Raises:
        DataError: naming the missing file.
    """
    remedy = "restore it with `dvc checkout`, or point to a complete Hugging Face folder"
    if not (path / "config.json").is_file():
        raise DataError(
            "not a model folder: config.json is missing", where=str(path), remedy=remedy
        )
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise DataError(
                f"the shard index is unreadable: {error}", where=str(index), remedy=remedy
            ) from error
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        if not (path / shard).is_file():
            pickled = sorted(p.name for s in _PICKLES for p in path.glob(f"*{s}"))
            if pickled:
                raise DataError(
                    f"the weights are a pickle ({pickled[0]}): to load it would run whatever code "
                    "it holds",
                    where=str(path),
                    remedy="have its author save it as safetensors, or convert it where a wrong "
                    "one does no harm",
                )
            raise DataError(
                f"weight file {shard} is missing ({len(shards)} expected)",
                where=str(path),
                remedy=remedy,
            )


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write model and tokenizer as a Hugging Face folder (safetensors).

    Sharded weights must be whole meanwhile (`hapo_core.ranks.whole`).
    """
    model.save_pretrained(path, state_dict=whole_state(model) if is_sharded(model) else None)
    settle_description(path)
    tokenizer.save_pretrained(path)


def response_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probs of response tokens given their prompts, differentiable.

    The batch is padded on the right; under causal attention no real token sees a pad, so no mask
    is needed. The vocabulary head runs in chunks that are recomputed in the backward pass
    (`hapo_core.head`): the whole [tokens, vocabulary] matrix never exists.

    Args:
        sequences: (prompt ids, response ids) pairs, prompts and responses not empty.
        temperature: logits are divided by it.
        with_entropy: also return the entropy (nats) of every token's distribution.
    Returns:
        float32 [total response tokens], rows one after another; the entropies likewise or None.
    """
    device = model.device
    width = max(len(p) + len(r) for p, r in sequences) - 1
    ids = torch.zeros((len(sequences), width), dtype=torch.long)
    rows: list[torch.Tensor] = []
    targets: list[int] = []
    for i, (prompt, response) in enumerate(sequences):
        whole = [*prompt, *response]
        ids[i, : len(whole) - 1] = torch.tensor(whole[:-1])
        first = i * width + len(prompt) - 1
        rows.append(torch.arange(first, first + len(response)))
        targets.extend(response)
    hidden = model.base_model(input_ids=ids.to(device), use_cache=False).last_hidden_state
    picked = hidden.reshape(-1, hidden.shape[-1])[torch.cat(rows).to(device)]
    target = torch.tensor(targets, device=device)
    return _head_logprobs(model, picked, target, temperature, with_entropy)


def _head_logprobs(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    head = model.get_output_embeddings()

    def chunk_logprobs(h: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logp = torch.log_softmax(head(h).float() / temperature, dim=-1)
        entropy = -(logp.exp() * logp).sum(-1) if with_entropy else logp.new_zeros(())
        return logp.gather(-1, t[:, None]).squeeze(1), entropy

    size = max(1, HEAD_CHUNK_ELEMENTS // int(model.config.vocab_size))
    if hidden.shape[0] <= size:
        logp, entropy = chunk_logprobs(hidden, target)
        return logp, entropy if with_entropy else None
    if type(head) is torch.nn.Linear:
        weight: torch.Tensor = head.weight
        bias: torch.Tensor | None = head.bias
        if torch.is_autocast_enabled(hidden.device.type):
            # Autocast would cast in forward and not in backward, where the logits come again.
            low = torch.get_autocast_dtype(hidden.device.type)
            hidden, weight = hidden.to(low), weight.to(low)
            bias = None if bias is None else bias.to(low)
        logp, entropy = ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, target, temperature, size, with_entropy
        )
        return logp, entropy if with_entropy else None
    # Another kind of head (an adapter on it, sharded weights): through its own forward.
    parts = [
        checkpoint(chunk_logprobs, h, t, use_reentrant=False)
        for h, t in zip(hidden.split(size), target.split(size), strict=True)
    ]
    logp = torch.cat([p[0] for p in parts])
    return logp, torch.cat([p[1] for p in parts]) if with_entropy else None


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Indices grouped so that rows x longest <= `token_budget` (at least one row each).

    Rows are sorted by length, longest first, so that padding stays small and the largest
    allocation comes first.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
