"""Stage `base`: the starting policy, built here or taken over, as a Hugging Face folder."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError, DataError
from pipeline.config import Params, PretrainedBase, TinyBase, load_params
from pipeline.observe import Observer, run_stage, stage_main
from pipeline.places import BASE
from pipeline.store import (
    Scratch,
    atomic_write_json,
    check_manifest,
    guard_disk,
    inputs_hash,
    need_part,
    record_timing,
    sha256_file,
    write_manifest,
)
from pipeline.tables import BASE_LOG, write_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hapo_core.tasks.careless import CarelessSpec, SupervisedSpec

STAGE = "base"
RESUME_EVERY = 100
"""Supervised steps between resume points."""


# --- where a policy lies ------------------------------------------------------------------------


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
    facts = json.loads(reference.read_text(encoding="utf-8"))
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
    path = pretrained_path(base, weights=False)
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"the tokenizer cannot be loaded: {error}", where=str(path)) from error


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
        path = Path(base.path).expanduser()
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


# --- building -----------------------------------------------------------------------------------


def build_base(params: Params, observer: Observer, target: Path = BASE) -> None:
    """Write the starting policy to `target` (`model/` or `reference.json`, `base_log.parquet`)."""
    began = time.monotonic()
    subset = {k: getattr(params, k) for k in ("base", "compute")}
    scratch = Scratch(STAGE, inputs_hash(subset, []))
    scratch.discard_others()
    out = scratch.path / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    if isinstance(params.base, TinyBase):
        tokens = _build_tiny(params, params.base, observer, scratch.path, out)
    else:
        observer.task("take over", _take_over, params.base, out)
        tokens = 0
    write_manifest(out, "policy", {"base": params.base.model_dump(mode="json")})
    scratch.publish_copy(target, "out")
    record_timing(STAGE, time.monotonic() - began, trained=tokens)


def _build_tiny(
    params: Params, base: TinyBase, observer: Observer, scratch: Path, out: Path
) -> int:
    import torch
    from safetensors.torch import load_file, save_file

    from hapo_core.policy import save_policy
    from hapo_core.tasks.careless import encode, supervised_optimizer, supervised_step
    from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer
    from pipeline.checkpoint import load_optimizer, save_optimizer
    from pipeline.wiring import prepare_compute

    device, _ = prepare_compute(params.compute)
    careless, supervised = _specs(base)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, base.hidden_size, base.layers, base.heads, base.seed)
    model.to(device)
    optimizer = supervised_optimizer(model, supervised)
    log: list[dict[str, object]] = []
    tokens = 0
    resume = scratch / "resume"
    if resume.is_dir():
        check_manifest(resume, "base-steps")
        model.load_state_dict(load_file(resume / "model.safetensors"), strict=False)
        load_optimizer(model, optimizer, resume)
        facts = json.loads((resume / "log.json").read_text(encoding="utf-8"))
        log, tokens = facts["log"], facts["tokens"]
        observer.log(f"continues at step {len(log)}")
    for step in range(len(log), base.steps):
        rows = [
            encode(tokenizer, *careless.example(base.seed, step, k)) for k in range(base.batch_size)
        ]
        rate = supervised.rate(step)
        loss = supervised_step(
            model, optimizer, rows, rate, token_budget=params.update.micro_batch_tokens
        )
        log.append({"step": step, "loss": loss, "learning_rate": rate})
        tokens += sum(len(r) for _, r in rows)
        observer.progress(step + 1, base.steps, what="step", loss=loss)
        if (step + 1) % RESUME_EVERY == 0 and step + 1 < base.steps:
            aside = scratch / ".resume.partial"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            with guard_disk(aside), torch.no_grad():
                state = {k: v.detach().cpu().clone() for k, v in model.named_parameters()}
                save_file(state, aside / "model.safetensors")
                save_optimizer(model, optimizer, aside / "optimizer.safetensors")
                atomic_write_json(aside / "log.json", {"log": log, "tokens": tokens})
            write_manifest(aside, "base-steps", {"step": step + 1})
            shutil.rmtree(resume, ignore_errors=True)
            aside.rename(resume)
    with guard_disk(out):
        save_policy(model, tokenizer, out / "model")
        write_table(log, BASE_LOG, out / "base_log.parquet")
    return tokens


def _specs(base: TinyBase) -> tuple[CarelessSpec, SupervisedSpec]:
    from hapo_core.tasks.careless import CarelessSpec, SupervisedSpec
    from hapo_core.tasks.chains import Habit

    habit = Habit(
        base.long_steps[0],
        base.slip_first_step,
        base.slip_probability,
        base.slip_max_offset,
        base.blind_from,
        base.blind_probability,
    )
    careless = CarelessSpec(
        base.short_steps, base.long_steps, base.long_share, base.start_low, base.start_high, habit
    )
    return careless, SupervisedSpec(
        base.steps, base.batch_size, base.learning_rate, base.warmup_steps
    )


def _take_over(base: PretrainedBase, out: Path) -> None:
    """Dequantise a packaged GGUF into `model/`, or pin a folder by the hashes of its files."""
    from pipeline.wiring import quiet_transformers

    quiet_transformers()
    if base.gguf_package is not None:
        _dequantise(base, out)
        return
    from hapo_core.policy import check_model_folder

    path = pretrained_path(base)
    check_model_folder(path)
    files = sorted(p for p in path.iterdir() if p.is_file())
    if base.context is not None or base.rope_theta is not None:
        _copy_changed(files, base, out / "model")
        return
    facts = {
        "path": str(path),
        "hub": base.hub,
        "commit": path.name if base.hub else None,
        "sha256": {p.name: sha256_file(p) for p in files},
        "bytes": {p.name: p.stat().st_size for p in files},
    }
    atomic_write_json(out / "reference.json", facts)


def _copy_changed(files: Sequence[Path], base: PretrainedBase, out: Path) -> None:
    """A copy of the model with another context or rotary base."""
    with guard_disk(out, needed=sum(f.stat().st_size for f in files)):
        out.mkdir()
        for file in files:
            shutil.copyfile(file, out / file.name)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    if base.context is not None:
        config["max_position_embeddings"] = base.context
    if base.rope_theta is not None:
        inner = config.get("rope_parameters")  # where transformers 5 writes it
        (config if inner is None else inner)["rope_theta"] = base.rope_theta
    atomic_write_json(out / "config.json", config)


def _dequantise(base: PretrainedBase, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from hapo_core.policy import save_policy

    file = gguf_path(base)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    with guard_disk(out):
        save_policy(model, tokenizer, out / "model")


def main() -> None:
    """The stage's entry point."""
    params = load_params()
    run_stage(STAGE, lambda observer: build_base(params, observer))


if __name__ == "__main__":
    stage_main(main)
