"""Is a folder a whole model: asked before anything is loaded, torch included."""

from __future__ import annotations

from pathlib import Path

from hapo_core.errors import DataError
from hapo_core.json_text import parse_json

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_MERGE = (
    "merge them into their model, in the folder where they were trained: python -c "
    '"from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; '
    "M.from_pretrained('{0}').merge_and_unload().save_pretrained('merged'); "
    "T.from_pretrained('{0}').save_pretrained('merged')\""
)


_GENERATION = "generation_config.json"


def end_ids(path: Path) -> tuple[int, ...]:
    """The ids at which the model's generation ends, by the folder's generation_config.json.

    Raises:
        DataError: the file is no JSON object, or names something else than ids.
    """
    file = path / _GENERATION
    if not file.is_file():
        return ()
    try:
        raw = parse_json(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise _bad_generation(file, f"it is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise _bad_generation(file, f"it is a JSON {type(raw).__name__}, not an object")
    given = raw.get("eos_token_id")
    ids = given if isinstance(given, list) else [] if given is None else [given]
    if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
        raise _bad_generation(file, f"eos_token_id is {given!r:.60}, no id and no list of ids")
    return tuple(ids)


def _bad_generation(file: Path, what: str) -> DataError:
    return DataError(
        f"how generation ends cannot be read: {what}",
        where=str(file),
        remedy="mend the file; of it the ids of end tokens count here, and nothing else",
        topic="policy:folder",
    )


def check_model_folder(path: Path) -> None:
    """Check that a folder holds a whole safetensors model before any of it is loaded.

    Raises:
        DataError: naming the missing file.
    """
    remedy, topic = "point to a complete Hugging Face folder", "policy:folder"
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise DataError(
            "the folder holds adapters (LoRA) and no whole model",
            where=str(path),
            remedy=_MERGE.format(path),
        )
    if not (path / "config.json").is_file():
        raise DataError(
            "not a model folder: config.json is missing",
            where=str(path),
            remedy=remedy,
            topic=topic,
        )
    end_ids(path)
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(parse_json(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"the shard index is unreadable: {error}",
                where=str(index),
                remedy=remedy,
                topic=topic,
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
                topic=topic,
            )
