"""Where a policy lies and how it is fetched: artifacts, folders, the cache of the hub, GGUF."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError, DataError
from pipeline.artifacts import (
    need_part,
    read_json,
    sha256_file,
)
from pipeline.artifacts.places import expanded
from pipeline.config import Params, PretrainedBase, TinyBase

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def policy_model(folder: Path) -> Path:
    """The model folder of `artifacts/policy/NAME`: its own, or the one that it pins.

    Raises:
        DataError: a pinned file is missing or has changed since `base` ran, or `hapo clean`
            removed the policy.
    """
    need_part(folder, "model")
    reference = folder / "reference.json"
    if not reference.is_file():
        return folder / "model"
    facts = read_json(reference)
    path = Path(facts["path"])
    for name, size in facts["bytes"].items():
        file = path / name
        whole = file.is_file() and file.stat().st_size == size
        if not whole or sha256_file(file) != facts["sha256"][name]:
            raise DataError(
                "a file of the pinned starting policy is missing or has changed",
                where=str(file),
                remedy="restore it, or run `dvc repro -f base` to pin the model anew",
            )
    return path


def load_tokenizer(params: Params) -> PreTrainedTokenizerBase:
    """The starting policy's tokenizer, before the policy itself is built.

    Raises:
        DataError: the folder, package or hub model is not there.
    """
    from transformers import AutoTokenizer

    from hapo_core.tasks.tiny import tiny_tokenizer

    base = params.base
    if isinstance(base, TinyBase):
        return tiny_tokenizer()
    if base.gguf_package is not None and base.gguf_file is not None:
        file = gguf_path(base)
        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return load_tokenizer_of(pretrained_path(base, weights=False))


def load_tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder.

    Raises:
        DataError: there is none that can be loaded.
    """
    from transformers import AutoTokenizer

    from hapo_core.fit import refuse_empty_tokenizer

    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise DataError(f"the tokenizer cannot be loaded: {error}", where=str(path)) from error
    refuse_empty_tokenizer(found, path)
    return found


def tokenizer_here(params: Params) -> PreTrainedTokenizerBase | None:
    """The starting policy's tokenizer if it is on this machine: nothing is fetched.

    Raises:
        DataError: it is here and cannot be loaded.
    """
    from huggingface_hub import try_to_load_from_cache

    base = params.base
    if isinstance(base, PretrainedBase) and base.hub is not None:
        cached = try_to_load_from_cache(base.hub, "tokenizer_config.json", revision=base.revision)
        return load_tokenizer_of(Path(cached).parent) if isinstance(cached, str) else None
    return load_tokenizer(params)


def gguf_path(base: PretrainedBase) -> Path:
    """The GGUF file that a Python package ships.

    Raises:
        ConfigError: the package or the file is not installed.
    """
    assert base.gguf_package is not None and base.gguf_file is not None
    # Only looked up, not imported: such a package may need an inference library that is not here.
    spec = importlib.util.find_spec(base.gguf_package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"the package {base.gguf_package!r} is not installed",
            where="base.gguf_package",
            remedy="`make smollm2` installs it (see README: a real language model)",
        )
    path = Path(spec.submodule_search_locations[0]) / base.gguf_file
    if not path.is_file():
        raise ConfigError(
            f"the package ships no {base.gguf_file!r}",
            where=str(path),
            remedy="mend base.gguf_file",
        )
    return path


def pretrained_path(base: PretrainedBase, weights: bool = True) -> Path:
    """The local folder of a pretrained model, fetched through the hub's cache if it is an id."""
    if base.path is not None:
        path = expanded(base.path)
        if not path.is_dir():
            raise DataError("the model folder does not exist", where=str(path), remedy="base.path")
        return path.resolve()
    return fetch_model(str(base.hub), base.revision, "base.hub", weights)


def fetch_model(hub: str, revision: str | None, key: str, weights: bool = True) -> Path:
    """The cached folder of a hub model, fetched if the cache lacks it.

    Args:
        key: where the id was given, for messages.

    Raises:
        DataError: no such model or revision, or it is not cached and the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "*.jinja"] + (["*.safetensors"] if weights else [])
    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise DataError(
            f"the model cannot be fetched: {error}",
            where=f"{key}: {hub} (revision {revision or 'newest'})",
            remedy="check name, revision and network, or give the path of a local folder",
        ) from error
