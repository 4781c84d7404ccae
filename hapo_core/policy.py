"""The policy: loading, saving, and the log-probs of given tokens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hapo_core.distributed import is_sharded, unsharded_state
from hapo_core.errors import DataError
from hapo_core.fit import refuse_empty_tokenizer, refuse_vocabulary
from hapo_core.logits import (
    HeadPath,
    head_path,
    hidden_states,
    own_logits,
    vocabulary,
    whole_logits,
)
from hapo_core.logprob_head import ChunkedLogProbs
from hapo_core.lora import base_of, load_adapters, settle_description
from hapo_core.model_folder import check_model_folder, end_ids
from hapo_core.umask import umask

HEAD_CHUNK_ELEMENTS = 32 * 1024 * 1024
"""Most logits held at once by the log-prob head (float32: 128 MiB)."""


_FAULTS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(ImportError, SafetensorError),
)


def load_policy(
    path: Path, dtype: torch.dtype = torch.float32, attn_implementation: str = "sdpa"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a Hugging Face causal LM and its tokenizer from a local folder, safetensors only.

    A folder with adapters gives their model with them on it; then only they can train.

    Raises:
        DataError: if the folder is no model, a weight file is missing, or the tokenizer has tokens
            that the model has not.
    """
    if (base := base_of(path)) is not None:
        model, tokenizer = load_policy(base, dtype, attn_implementation)
        load_adapters(model, path)
        return model, tokenizer
    check_model_folder(path)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            output_loading_info=True,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            generation_config=_ids_alone(path),
        )
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except _FAULTS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(
            f"the model folder cannot be loaded: {error}",
            where=str(path),
            remedy="point to a complete Hugging Face folder",
            topic="policy:folder",
        ) from error
    model, found = loaded
    if found["missing_keys"]:
        names = sorted(found["missing_keys"])
        raise DataError(
            f"none of the files holds {names[0]}, which the model needs ({len(names)} missing)",
            where=str(path),
            remedy="point to a complete Hugging Face folder",
            topic="policy:folder",
        )
    refuse_empty_tokenizer(tokenizer, path)
    refuse_vocabulary(model, tokenizer)
    model.requires_grad_(True)
    _settle_generation(model)
    return model, tokenizer


def _ids_alone(path: Path) -> GenerationConfig | None:
    """The end tokens of a generation_config.json that transformers refuses to load (eight answers
    where it thinks that one is asked for); None where it loads it."""
    try:
        GenerationConfig.from_pretrained(path, local_files_only=True)
    except (ValueError, TypeError, AttributeError):
        return GenerationConfig(eos_token_id=list(end_ids(path)) or None)
    except OSError:  # there is none
        return None
    return None


def _settle_generation(model: PreTrainedModel) -> None:
    """Drop the settings of generation that transformers loads and then refuses to save, such as
    Vicuna's temperature beside `do_sample: false`. It ignores them in generation, and so do we;
    the ids of end tokens stay."""
    config = model.generation_config
    if config is None or _savable(config):
        return
    given = config.to_diff_dict()
    mode = {"do_sample": given["do_sample"]} if "do_sample" in given else {}
    kept = {k: v for k, v in given.items() if _savable(GenerationConfig(**{**mode, k: v}))}
    settled = GenerationConfig(**kept)
    if not _savable(settled):  # settings that contradict each other only together
        settled = GenerationConfig(eos_token_id=config.eos_token_id)
    model.generation_config = settled


def _savable(config: GenerationConfig) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path
) -> list[str]:
    """Write model and tokenizer as a Hugging Face folder (safetensors); names of what was written.

    It is written in a folder of its own beside `path`, which it then replaces: what somebody else
    puts into `path` meanwhile is no part of it. Sharded weights must be whole meanwhile
    (`hapo_core.distributed.unsharded`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        aside.chmod(0o777 & ~umask())
        state = unsharded_state(model) if is_sharded(model) else None
        model.save_pretrained(aside, state_dict=state)
        settle_description(aside)
        tokenizer.save_pretrained(aside)
        names = sorted(p.relative_to(aside).as_posix() for p in aside.rglob("*") if p.is_file())
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        aside.rename(path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return names


def response_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probs of response tokens given their prompts, differentiable.

    The batch is padded on the right; under causal attention no real token sees a pad, so no mask
    is needed. The vocabulary head runs in chunks that are recomputed in the backward pass
    (`hapo_core.logprob_head`): the whole [tokens, vocabulary] matrix never exists.

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
    path = head_path(model)
    get = whole_logits if path is HeadPath.WHOLE else hidden_states
    found = get(model, ids.to(device))
    picked = found.reshape(-1, found.shape[-1])[torch.cat(rows).to(device)]
    target = torch.tensor(targets, device=device)
    return _head_logprobs(model, path, picked, target, temperature, with_entropy)


def _head_logprobs(
    model: PreTrainedModel,
    path: HeadPath,
    hidden: torch.Tensor,
    target: torch.Tensor,
    temperature: float,
    with_entropy: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`hidden` [tokens, width]; with `HeadPath.WHOLE` it holds the logits already."""
    head = model.get_output_embeddings()

    def logits_of(h: torch.Tensor) -> torch.Tensor:
        if path is HeadPath.LINEAR:
            plain: torch.Tensor = head(h)
            return plain
        return own_logits(model, h) if path is HeadPath.OWN else h

    def chunk_logprobs(h: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logp = torch.log_softmax(logits_of(h).float() / temperature, dim=-1)
        entropy = -(logp.exp() * logp).sum(-1) if with_entropy else logp.new_zeros(())
        return logp.gather(-1, t[:, None]).squeeze(1), entropy

    size = max(1, HEAD_CHUNK_ELEMENTS // vocabulary(model))
    if hidden.shape[0] <= size:
        logp, entropy = chunk_logprobs(hidden, target)
        return logp, entropy if with_entropy else None
    if path is HeadPath.LINEAR and type(head) is torch.nn.Linear:
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
    # Another kind of head (squashed or scaled logits, an adapter on it, sharded weights): through
    # its own forward.
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
