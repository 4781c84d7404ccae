"""Weights for an engine: a whole checkpoint folder that vLLM starts from or reloads by path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.distributed import whole_tensors
from hapo_core.lora import has_adapters, merged_state
from hapo_core.tensor_file import file_pieces

HEAD = "lm_head.weight"


def export_weights(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `folder` aside and rename it into place, holding one tensor beside the model at a time.

    An engine that computes in bfloat16 rounds float32 weights when it reads them; `dtype` rounds
    them here in the same way, and half the bytes are written and read. Sharded weights must be
    whole meanwhile (`hapo_core.distributed.unsharded`).

    Tied embeddings are written twice and declared untied: vLLM's CPU build, told that they are
    tied, keeps the head of its start through every reload, without a word (DESIGN 6).
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = merged_state(model) if has_adapters(model) else whole_tensors(model)
    head = model.get_output_embeddings()
    if HEAD in tensors or head is not None:
        tensors[HEAD] = head.weight
    with (aside / "model.safetensors").open("wb") as sink:
        sink.writelines(file_pieces(tensors, dtype=dtype, metadata={"format": "pt"}))
    tokenizer.save_pretrained(aside)
    model.generation_config.save_pretrained(aside)
    config = model.config.to_dict() | {
        "tie_word_embeddings": False,
        "architectures": [type(model).__name__],
        "dtype": str(dtype or model.dtype).removeprefix("torch."),
    }
    (aside / "config.json").write_text(json.dumps(config, indent=1, default=str))
    aside.rename(folder)


def remove_weights(folder: Path, keep: Path | None = None) -> None:
    """Remove all exported checkpoints (and unfinished ones) of `folder` but `keep`."""
    for old in [*folder.glob("weights-*"), *folder.glob(".weights-*.partial")]:
        if old != keep:
            shutil.rmtree(old, ignore_errors=True)
