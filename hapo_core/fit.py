"""Does a tokenizer, and does a text, fit a model: token ids within its tables, enough positions?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import ConfigError, DataError
from hapo_core.turns import turn_end


def number(config: PreTrainedConfig, name: str) -> int | None:
    """A size that a configuration states; None where it states none. Where it differs by layer
    (Gemma-4's head_dim), the one that most layers have."""
    try:
        found = getattr(config, name, None)
    except RuntimeError:  # transformers will not say one for all
        found = vars(config).get(name)
    return found if isinstance(found, int) else None


def key_width(config: PreTrainedConfig) -> int | None:
    """Numbers of a token's keys in a layer, over all its heads (values have as many); None for
    models without such heads (state space models)."""
    text = config.get_text_config()
    heads, hidden = number(text, "num_attention_heads"), number(text, "hidden_size")
    if not heads or not hidden:
        return None
    width = number(text, "head_dim") or hidden // heads
    return (number(text, "num_key_value_heads") or heads) * width


def positions(config: PreTrainedConfig) -> int | None:
    """The longest sequence that a model says it takes; None where it says nothing."""
    found = number(config.get_text_config(), "max_position_embeddings")
    return found if found is not None and found > 0 else None


def token_rows(model: PreTrainedModel) -> int:
    """How many token ids the model knows: the rows of its smaller table, of inputs or outputs."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    weights = [getattr(t, "weight", None) for t in tables]
    rows = [int(w.shape[0]) for w in weights if w is not None]
    return min(rows, default=int(model.config.get_text_config().vocab_size))


def vocabulary_fault(tokenizer: PreTrainedTokenizerBase, rows: int) -> str | None:
    """Why texts cannot be given to a model of that many token ids, or None.

    Added tokens beyond the table, a pad token of somebody's for one, are no fault as long as
    nothing writes them: texts are looked at one by one (`refuse_ids`).
    """
    vocabulary = tokenizer.get_vocab()
    beyond = {text: i for text, i in vocabulary.items() if i >= rows}
    if not beyond:
        return None
    added = set(tokenizer.get_added_vocab())
    ends = {tokenizer.eos_token_id, tokenizer.bos_token_id, turn_end(tokenizer)}
    lost = sorted((i, text) for text, i in beyond.items() if text not in added or i in ends)
    if not lost:
        return None
    return (
        f"the tokenizer writes ids up to {max(beyond.values())}, the model knows {rows}: "
        f"{len(lost)} tokens have no row, such as {lost[0][1]!r} ({lost[0][0]})"
    )


def refuse_empty_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raises DataError where none of the files that hold a vocabulary is there: the model's type
    still gives a tokenizer then, of a few control tokens."""
    names = {str(name) for name in tokenizer.vocab_files_names.values()}
    if names and not any((folder / name).is_file() for name in names):
        raise DataError(
            f"the model's folder holds no tokenizer ({' or '.join(sorted(names))})",
            where=str(folder),
            remedy="put the files of the model's own tokenizer beside its weights",
        )


def refuse_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises DataError where the tokenizer belongs to a larger model."""
    fault = vocabulary_fault(tokenizer, token_rows(model))
    if fault is not None:
        raise DataError(
            fault,
            where=str(getattr(tokenizer, "name_or_path", "") or type(model).__name__),
            remedy="put the model's own tokenizer beside it, or resize its embeddings "
            "(`model.resize_token_embeddings(len(tokenizer))`) and train the new rows",
            topic="fit:vocabulary",
        )


def refuse_ids(model: PreTrainedModel, texts: Iterable[tuple[str, Sequence[int]]]) -> None:
    """Raises DataError where a text (name, ids) holds an id that the model has no row for."""
    rows = token_rows(model)
    for name, ids in texts:
        if len(ids) and not 0 <= min(ids) <= max(ids) < rows:
            bad = next(i for i in ids if not 0 <= i < rows)
            raise DataError(
                f"token id {bad} has no row in the model, which knows {rows}",
                where=name,
                remedy="put the model's own tokenizer beside it and curate the data anew",
                topic="fit:ids",
            )


def refuse_length(model: PreTrainedModel, longest: int, where: str) -> None:
    """Raises DataError where prompt and response of `longest` tokens exceed the positions."""
    most = positions(model.config)
    if most is not None and longest > most:
        raise DataError(
            f"prompt and response may take {longest} tokens, the model has {most} positions",
            where=where,
            remedy="lower the budget of the response or the length of prompts; where the model "
            "is known to take more, say so in its max_position_embeddings",
            topic="fit:positions",
        )


def refuse_checkpointing(model: PreTrainedModel) -> None:
    """Raises ConfigError where the family cannot compute its activations again (CTRL, JetMoe)."""
    if not model.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(model).__name__} cannot compute its activations again",
            remedy="keep them, and take fewer tokens a pass where memory is short",
            topic="fit:recompute",
        )


def has_position_table(model: PreTrainedModel) -> bool:
    """Whether positions are rows of a table (GPT-2, OPT): there is nothing beyond its end. Rotary
    positions go on, with answers that get worse."""
    most, inputs = positions(model.config), model.get_input_embeddings()
    tables = (m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not inputs)
    # OPT and others keep a few rows for padding.
    return most is not None and any(most <= t.num_embeddings <= most + 8 for t in tables)
