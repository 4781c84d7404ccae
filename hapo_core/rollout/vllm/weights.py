"""Weights for an engine: a whole checkpoint folder that vLLM starts from or reloads by path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.distributed import unsharded_state
from hapo_core.lora import has_adapters, merged_state

HEAD = "lm_head.weight"


def export_weights(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write `folder` aside and rename it into place.

    Tied embeddings are written twice and declared untied: vLLM's CPU build, told that they are
    tied, keeps the head of its start through every reload, without a word (DESIGN 6).
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors = merged_state(model) if has_adapters(model) else unsharded_state(model)
    head = model.get_output_embeddings()
    if HEAD in tensors or head is not None:
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[HEAD] = head.weight.detach().clone()
    save_file(
        {name: value.cpu().contiguous() for name, value in tensors.items()},
        aside / "model.safetensors",
        metadata={"format": "pt"},
    )
    tokenizer.save_pretrained(aside)
    model.generation_config.save_pretrained(aside)
    config = model.config.to_dict() | {
        "tie_word_embeddings": False,
        "architectures": [type(model).__name__],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    (aside / "config.json").write_text(json.dumps(config, indent=1, default=str))
    aside.rename(folder)


def remove_weights(folder: Path, keep: Path | None = None) -> None:
    """Remove all exported checkpoints (and unfinished ones) of `folder` but `keep`."""
    for old in [*folder.glob("weights-*"), *folder.glob(".weights-*.partial")]:
        if old != keep:
            shutil.rmtree(old, ignore_errors=True)
