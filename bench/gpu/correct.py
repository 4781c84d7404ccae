"""Parts of the kit that ask whether the device computes the right thing."""

from __future__ import annotations

import hashlib
import platform
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tiny import NAMES, chain_prompts, made_groups, planned_round, tiny_policy

from hapo_core.groups import Extras, PlannedGroup
from hapo_core.objective import Objective
from hapo_core.policy import response_logprobs
from hapo_core.rollout import Rollout, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.update import Updater, UpdateSpec, supervised
from pipeline.artifacts.optimizer import load_optimizer, save_optimizer

SUCCESSES = [0, 1, 3, 0, 7, 8, 0]
"""Right rollouts, of 8, of the groups of a round."""
FLOAT32 = 2e-4
"""Largest |difference| of two gradients in float32 over their largest entry: sums in another
order."""
BFLOAT16 = 0.1
"""Norm of the difference of a gradient of bfloat16 passes from that of float32, over its norm."""
ENGINE32, ENGINE16 = 1e-3, 0.1
"""Sampler against trainer: largest |delta log p| in float32, mean in bfloat16."""


def machine(device: str, small: bool) -> dict[str, Any]:
    """What there is."""
    found: dict[str, Any] = {"python": platform.python_version(), "device": _name(device)}
    for name in ("torch", "transformers", "trl", "peft", "vllm", "dvc", "prefect", "pydantic"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device != "cpu":
        found["memory_gib"] = torch.cuda.get_device_properties(0).total_memory / 2**30
        found["cuda"] = torch.version.cuda
    return found


def _name(device: str) -> str:
    return platform.machine() if device == "cpu" else torch.cuda.get_device_name()


def settle(device: str) -> None:
    """Determinism as a stage has it."""
    from pipeline.build.device import prepare_compute
    from pipeline.config import Compute

    prepare_compute(Compute(device=device, threads=torch.get_num_threads()))


Round = tuple[list[PlannedGroup], Extras, Objective]


def gradients(device: str, planned: Round, mixed: bool) -> tuple[torch.Tensor | None, float]:
    """(gradient on the CPU, mean loss after two updates) of one method's round."""
    groups, extras, objective = planned
    model, _ = tiny_policy()
    model.to(device)
    # Two minibatches: the second is scored by the policy before the first.
    spec = UpdateSpec(1e-3, minibatches=2, micro_batch_tokens=512, mixed_precision=mixed)
    updater = Updater(model, spec)
    gradient = updater.gradient(groups, objective, 64, extras.beside)
    metrics = updater.update(groups, objective, 64, 1e-3, extras.beside)
    for rows in extras.after:
        metrics = metrics.with_step(updater.supervise(rows, supervised(objective), 64, 1e-3))
    loss = metrics["loss"]
    return None if gradient is None else gradient.cpu(), 0.0 if loss is None else float(loss)


def update(device: str, small: bool) -> dict[str, Any]:
    """Every method's update on the device, in float32 and bfloat16, against the CPU in float32."""
    settle(device)
    names = NAMES[:4] if small else NAMES
    lines, wrong = dict[str, dict[str, float]](), list[str]()
    for name in names:
        _, tokenizer = tiny_policy()
        planned = planned_round(name, made_groups(tokenizer, SUCCESSES))
        right, loss = gradients("cpu", planned, mixed=False)
        found, its_loss = gradients(device, planned, mixed=False)
        low, _ = gradients(device, planned, mixed=True)
        if right is None or found is None or low is None:
            if not right is found is low is None:
                wrong.append(f"{name}: a gradient on one side only")
            continue
        line = {
            "float32": float((found - right).abs().max() / right.abs().max()),
            "loss": abs(loss - its_loss),
            "bfloat16": float((low - right).norm() / right.norm()),
        }
        lines[name] = line
        if not line["float32"] <= FLOAT32:
            wrong.append(f"{name}: float32 gradient {line['float32']:.1e} apart")
        if not line["bfloat16"] <= BFLOAT16:
            wrong.append(f"{name}: bfloat16 gradient {line['bfloat16']:.1e} apart")
    return {
        "methods": len(lines),
        "float32 worst": max(line["float32"] for line in lines.values()),
        "bfloat16 worst": max(line["bfloat16"] for line in lines.values()),
        "lines": lines,
        "wrong": wrong,
    }


def _drawn(device: str, sampling: Sampling, dtype: torch.dtype | None, count: int) -> list[Rollout]:
    model, tokenizer = tiny_policy()
    engine = HFEngine(model.to(device), tokenizer, dtype=dtype)
    found = engine.generate(chain_prompts(tokenizer, count), sampling, 7, 3)
    return sorted(found, key=lambda r: (r.prompt_id, r.sample))


def engine(device: str, small: bool) -> dict[str, Any]:
    """The hf engine's log-probs against the trainer's on the CPU; its draws beside the CPU's."""
    settle(device)
    count, wrong, lines = 3 if small else 12, list[str](), dict[str, dict[str, float]]()
    cases = [(1.0, 1.0, None), (0.6, 0.9, None), (1.0, 1.0, torch.bfloat16)]
    for temperature, top_p, dtype in cases:
        sampling = Sampling(4, temperature, top_p, 24)
        found = _drawn(device, sampling, dtype, count)
        model, tokenizer = tiny_policy()
        prompts = {p.prompt_id: p.token_ids for p in chain_prompts(tokenizer, count)}
        with torch.no_grad():
            pairs = [(prompts[r.prompt_id], r.token_ids) for r in found]
            own, _ = response_logprobs(model, pairs, temperature)
        theirs = torch.tensor([x for r in found for x in r.logprobs])
        apart = (theirs - own).abs()
        same = [
            a.token_ids == b.token_ids
            for a, b in zip(found, _drawn("cpu", sampling, dtype, count), strict=True)
        ]
        low = dtype is not None
        label = f"T {temperature:g}, top-p {top_p:g}" + (", bfloat16" if low else "")
        lines[label] = {
            "largest": float(apart.max()),
            "mean": float(apart.mean()),
            "responses as on the CPU": sum(same) / len(same),
        }
        if low and not float(apart.mean()) <= ENGINE16:
            wrong.append(f"{label}: mean {float(apart.mean()):.1e}")
        if not low and not float(apart.max()) <= ENGINE32:
            wrong.append(f"{label}: largest {float(apart.max()):.1e}")
    return {"lines": lines, "wrong": wrong}


def _trained(device: str, mixed: bool, rounds: int, small: bool) -> tuple[str, list[Any]]:
    """Some rounds of rollouts and updates of a fresh policy: (hash of its weights, tokens)."""
    from pace import SHAPES, made_model

    model, tokenizer = made_model(SHAPES["small" if small else "wide"], device), None
    _, tokenizer = tiny_policy()
    low = torch.bfloat16 if mixed else None
    engine = HFEngine(model, tokenizer, dtype=low)
    updater = Updater(model, UpdateSpec(1e-3, micro_batch_tokens=512, mixed_precision=mixed))
    tokens = list[Any]()
    for index in range(rounds):
        drawn = engine.generate(chain_prompts(tokenizer, 2), Sampling(4, 1.0, 1.0, 16), 0, index)
        tokens += sorted((r.prompt_id, r.sample, r.token_ids) for r in drawn)
        groups, extras, objective = planned_round("hapo", made_groups(tokenizer, SUCCESSES))
        updater.update(groups, objective, 64, 1e-3, extras.beside)
        engine.policy_changed()
    return weights_hash(model), tokens


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of all weights, in the order of their names."""
    seen = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        seen.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return seen.hexdigest()


def repeat(device: str, small: bool) -> dict[str, Any]:
    """The same rounds twice: equal bits, or what torch says is not deterministic."""
    settle(device)
    lines, wrong = dict[str, dict[str, object]](), list[str]()
    for mixed in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            first, second = (_trained(device, mixed, 2 if small else 3, small) for _ in range(2))
        reasons = sorted({str(w.message).split(".")[0] for w in caught if "determin" in str(w)})
        label = "bfloat16" if mixed else "float32"
        lines[label] = {
            "equal weights": first[0] == second[0],
            "equal tokens": first[1] == second[1],
            "not deterministic": "; ".join(reasons) or "nothing",
        }
        if first != second:
            wrong.append(f"{label}: two equal runs differ")
    return {"lines": lines, "wrong": wrong}


def resume(device: str, small: bool) -> dict[str, Any]:
    """Weights and moments written, read back, and one more round: the bits of the same without."""
    settle(device)
    wrong = list[str]()
    with tempfile.TemporaryDirectory() as folder:
        whole = _rounds(device, lambda model, updater: updater)
        broken = _rounds(device, lambda model, updater: _again(model, updater, Path(folder)))
    if whole != broken:
        wrong.append("a resumed run ends with other weights")
    return {"equal weights": whole == broken, "wrong": wrong}


def _rounds(device: str, between: Callable[[Any, Updater], Updater]) -> str:
    model, tokenizer = tiny_policy()
    updater = Updater(model.to(device), UpdateSpec(1e-3))
    for index in range(4):
        if index == 2:
            updater = between(model, updater)
        groups, extras, objective = planned_round(
            "hapo", made_groups(tokenizer, SUCCESSES, seed=index)
        )
        updater.update(groups, objective, 64, 1e-3, extras.beside)
    return weights_hash(updater.model)


def _again(model: Any, updater: Updater, folder: Path) -> Updater:
    """What a killed segment does: everything from the disk."""
    from hapo_core.policy import load_policy, save_policy

    _, tokenizer = tiny_policy()
    save_policy(model, tokenizer, folder / "model")
    (folder / "state").mkdir()
    save_optimizer(model, updater.optimizer, folder / "state" / "optimizer.safetensors")
    found, _ = load_policy(folder / "model")
    found.to(model.device)
    new = Updater(found, updater.spec)
    load_optimizer(found, new.optimizer, folder / "state")
    return new
