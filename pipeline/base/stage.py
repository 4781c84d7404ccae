"""Stage `base`: the starting policy, built here or taken over, as a Hugging Face folder."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts import (
    Scratch,
    atomic_write_json,
    guard_disk,
    inputs_hash,
    read_json,
    record_timing,
    remove,
    sha256_file,
    write_manifest,
)
from pipeline.artifacts.places import BASE
from pipeline.artifacts.seals import drop_oldest, newest_whole, write_resume_point
from pipeline.artifacts.tables import BASE_LOG, write_table
from pipeline.config import Params, PretrainedBase, TinyBase
from pipeline.dependencies.provenance import PROVENANCE, begin
from pipeline.flows.observer import Observer
from pipeline.models import gguf_path, pretrained_path

if TYPE_CHECKING:
    from hapo_core.tasks.careless import CarelessSpec, SupervisedSpec

STAGE = "base"
RESUME_EVERY = 100
"""Supervised steps between resume points."""


# --- building -----------------------------------------------------------------------------------


def build_base(params: Params, observer: Observer, target: Path = BASE) -> None:
    """Write the starting policy to `target` (`model/` or `reference.json`, `base_log.parquet`)."""
    began = time.monotonic()
    made = begin(STAGE, params)
    scratch = Scratch(STAGE, inputs_hash(made.lock, []))
    scratch.discard_others()
    out = scratch.path / "out"
    remove(out)
    out.mkdir()
    if isinstance(params.base, TinyBase):
        tokens, names = _build_tiny(
            params, params.base, observer, scratch.path, out, made.unchanged
        )
    else:
        tokens, names = 0, observer.task("take over", _take_over, params.base, out)
    write_manifest(out, "policy", {"base": params.base.model_dump(mode="json")}, names)
    made.check()
    scratch.publish_copy(target, "out", observer.log)
    made.write(target.parents[1] / PROVENANCE.name)
    record_timing(STAGE, time.monotonic() - began, trained=tokens)


def _build_tiny(
    params: Params,
    base: TinyBase,
    observer: Observer,
    scratch: Path,
    out: Path,
    unchanged: Callable[[Callable[[str], None]], None],
) -> tuple[int, list[str]]:
    """Tokens that were trained on, and the files that were written to `out`."""
    import torch
    from safetensors.torch import load_file, save_file

    from hapo_core.policy import save_policy
    from hapo_core.tasks.careless import encode, supervised_optimizer, supervised_step
    from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer
    from pipeline.artifacts.optimizer import load_optimizer, save_optimizer
    from pipeline.build.device import prepare_compute

    device, _ = prepare_compute(params.compute)
    careless, supervised = _specs(base)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, base.hidden_size, base.layers, base.heads, base.seed)
    model.to(device)  # type: ignore[arg-type]
    optimizer = supervised_optimizer(model, supervised)
    log: list[dict[str, object]] = []
    tokens = 0
    resume = newest_whole(scratch, "step-*", "base-steps", observer.log, lambda _: None)
    if resume is not None:
        model.load_state_dict(load_file(resume / "model.safetensors"), strict=False)
        load_optimizer(model, optimizer, resume)
        facts = read_json(resume / "log.json")
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
        observer.progress(step + 1, base.steps, what="step", lines=10, loss=loss)
        if (step + 1) % RESUME_EVERY == 0 and step + 1 < base.steps:
            unchanged(observer.log)
            aside = scratch / ".step.partial"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            with guard_disk(aside), torch.no_grad():
                state = {k: v.detach().cpu().clone() for k, v in model.named_parameters()}
                save_file(state, aside / "model.safetensors")
                save_optimizer(model, optimizer, aside / "optimizer.safetensors")
                atomic_write_json(aside / "log.json", {"log": log, "tokens": tokens})
            write_resume_point(aside, "base-steps", {"step": step + 1})
            aside.rename(scratch / f"step-{step + 1:06d}")
            drop_oldest(scratch, "step-*", keep=2)
    with guard_disk(out):
        names = [f"model/{name}" for name in save_policy(model, tokenizer, out / "model")]
        write_table(log, BASE_LOG, out / "base_log.parquet")
    return tokens, [*names, "base_log.parquet"]


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


def _take_over(base: PretrainedBase, out: Path) -> list[str]:
    """Dequantise a packaged GGUF into `model/`, or pin a folder by the hashes of its files.

    Returns the names of the files that were written to `out`.
    """
    from pipeline.build.device import quiet_transformers

    quiet_transformers()
    if base.gguf_package is not None:
        return _dequantise(base, out)
    from hapo_core.model_folder import check_model_folder

    path = pretrained_path(base)
    check_model_folder(path)
    files = sorted(p for p in path.iterdir() if p.is_file())
    if base.context is not None or base.rope_theta is not None:
        _copy_changed(files, base, out / "model")
        return [f"model/{file.name}" for file in files]
    facts = {
        "path": str(path),
        "hub": base.hub,
        "commit": path.name if base.hub else None,
        "sha256": {p.name: sha256_file(p) for p in files},
        "bytes": {p.name: p.stat().st_size for p in files},
    }
    atomic_write_json(out / "reference.json", facts)
    return ["reference.json"]


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


def _dequantise(base: PretrainedBase, out: Path) -> list[str]:
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
        return [f"model/{name}" for name in save_policy(model, tokenizer, out / "model")]
