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


_GGUF = (
    "write it as safetensors (pip install gguf): python -c "
    '"from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
    "M.from_pretrained('{0}', gguf_file='{1}').save_pretrained('whole'); "
    "T.from_pretrained('{0}', gguf_file='{1}').save_pretrained('whole')\", and take `whole`"
)
_UNQUANTISED = "take the model with its weights in bfloat16, float16 or float32"
_POINTER = b"version https://git-lfs"
_FLOATS = {"F64", "F32", "F16", "BF16"}
_MOST_HEADER = 100_000_000
"""Bytes; safetensors itself reads no longer header."""
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
        DataError: naming the file that is missing, cut off, or holds no weights that can train.
    """
    remedy, topic = "point to a complete Hugging Face folder", "policy:folder"
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise DataError(
            "the folder holds adapters (LoRA) and no whole model",
            where=str(path),
            remedy=_MERGE.format(path),
        )
    if not (path / "config.json").is_file():
        raise _no_config(path)
    _refuse_pointers(path)
    _refuse_quantised(path)
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
    quantised = [name for shard in shards for name in _check_weights(path / shard)]
    if quantised:
        raise DataError(
            f"the weights are quantised ({quantised[0]}), and such cannot train",
            where=str(path),
            remedy=_UNQUANTISED,
        )


def gguf_remedy(folder: Path, name: str) -> str:
    """How a GGUF file becomes a model folder."""
    return _GGUF.format(folder, name)


def _no_config(path: Path) -> DataError:
    """What a folder without config.json is, as far as its files tell."""
    inside = sorted(p.parent for below in ("*", "*/*") for p in path.glob(f"{below}/config.json"))
    packed = sorted(p.name for p in path.glob("*.gguf"))
    remedy = "point to a complete Hugging Face folder"
    if inside:
        remedy = f"a model lies below: {inside[0]}"
    elif packed:
        remedy = gguf_remedy(path, packed[0])
    return DataError(
        "not a model folder: config.json is missing",
        where=str(path),
        remedy=remedy,
        topic="" if inside or packed else "policy:folder",
    )


def _refuse_pointers(path: Path) -> None:
    """Raises DataError where a file only says which one belongs there: `git clone` without LFS."""
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        with file.open("rb") as opened:
            pointer = opened.read(len(_POINTER)) == _POINTER
        if pointer:
            raise DataError(
                "the file is a pointer of Git LFS: what it stands for was not fetched",
                where=str(file),
                remedy=f"git -C {file.parent} lfs pull (with git-lfs installed), or download the "
                "file itself",
            )


def _refuse_quantised(path: Path) -> None:
    """Raises DataError where config.json says that the weights are quantised."""
    try:
        config = parse_json((path / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return  # said when it is loaded
    how = config.get("quantization_config") if isinstance(config, dict) else None
    if isinstance(how, dict):
        raise DataError(
            f"the model is quantised ({how.get('quant_method', 'quantization_config')}), and such "
            "weights cannot train",
            where=str(path / "config.json"),
            remedy=_UNQUANTISED,
        )


def _check_weights(file: Path) -> list[str]:
    """Matrices of a safetensors file that are no floats, with their type.

    Raises:
        DataError: it is no safetensors file, or not all of it is there.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length) if 8 + length <= size and length <= _MOST_HEADER else b""
    try:
        tensors = {k: v for k, v in parse_json(text.decode()).items() if k != "__metadata__"}
        end = max((int(about["data_offsets"][1]) for about in tensors.values()), default=0)
        kinds = {k: str(v["dtype"]) for k, v in tensors.items() if len(v["shape"]) == 2}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _cut_off(file, f"{size:,} bytes, and no whole header") from error
    if 8 + length + end > size:
        raise _cut_off(file, f"{size:,} of {8 + length + end:,} bytes")
    return [f"{name}: {kind}" for name, kind in kinds.items() if kind not in _FLOATS]


def _cut_off(file: Path, what: str) -> DataError:
    return DataError(
        f"the weight file is cut off or damaged ({what})",
        where=str(file),
        remedy="download or copy it again",
    )
