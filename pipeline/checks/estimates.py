"""How large a configured run is: parameters, bytes on disk and in memory, seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hapo_core.errors import DataError
from pipeline.artifacts.places import BASE, expanded
from pipeline.artifacts.timings import MEASURED
from pipeline.checks.memory import BYTES, Blocks
from pipeline.config import Params, TinyBase
from pipeline.models import policy_model

_TOKEN_BYTES = 12
"""Of a response token in a ROLLOUTS table: id, log-prob, and its text; before compression."""


@dataclass(frozen=True)
class Size:
    """Parameters of the policy: all, and those outside of its blocks (which sharding repeats); and
    the longest sequence that it takes, where it says so; how many token ids it knows; its shape."""

    parameters: int
    ends: int
    context: int | None
    tokens: int | None = None
    blocks: Blocks | None = None


def policy_size(params: Params) -> Size | None:
    """From the model's shape, without loading weights; None where the shape is not here yet.

    Raises:
        DataError: it is no causal language model.
        ConfigError: it cannot compute its activations again, and is asked to.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hapo_core.fit import positions, refuse_checkpointing, token_rows

    with torch.device("meta"):
        if isinstance(params.base, TinyBase):
            from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer

            b = params.base
            model: Any = tiny_model(tiny_tokenizer(), b.hidden_size, b.layers, b.heads, 0)
        else:
            given = params.base.path or params.base.hub
            place = str(policy_model(BASE)) if BASE.is_dir() else given
            if place is None:
                return None
            try:
                config = AutoConfig.from_pretrained(
                    expanded(place) if params.base.path else place,
                    revision=params.base.revision,
                    trust_remote_code=False,
                )
            except (OSError, ValueError):
                return None
            try:
                model = AutoModelForCausalLM.from_config(config)
            except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
                raise DataError(
                    f"no model can be made of its config.json: {str(error).splitlines()[0]:.160}",
                    where=place,
                    remedy="base takes a causal language model of transformers",
                ) from error
    if params.update.gradient_checkpointing:
        refuse_checkpointing(model)
    kinds = set(model._no_split_modules or ())
    blocks = [m for m in model.modules() if type(m).__name__ in kinds]
    inside = sum(p.numel() for block in blocks for p in block.parameters())
    total = sum(p.numel() for p in model.parameters())
    context = getattr(params.base, "context", None) or positions(model.config)
    return Size(total, total - inside, context, token_rows(model), Blocks.of(model.config))


def bytes_on_disk(params: Params, size: Size, stages: Iterable[str]) -> int:
    """Most bytes that the stages write: artifacts, their copies in DVC's cache, resume points."""
    wanted, weight = list(stages), BYTES[params.compute.dtype] * size.parameters
    checkpoint = 3 * weight  # the moments are as large as the weights, twice
    base = params.base
    copied = isinstance(base, TinyBase) or base.context is not None or base.rope_theta is not None
    total = 2 * weight if "base" in wanted and copied else 0
    total += 2 * weight * sum(s.startswith("cold_start@") for s in wanted)
    segments = [s.removeprefix("train@") for s in wanted if s.startswith("train@")]
    for name in segments:
        r = params.rollout
        responses = params.segments[name].rounds * params.train.prompts_per_round * r.group_size
        total += 2 * (checkpoint + responses * r.max_tokens * _TOKEN_BYTES)
    if segments:
        total += 2 * checkpoint  # the newest resume point, and the next one beside it
        total += 2 * weight if params.rollout.engine == "vllm" else 0
    return total


def seconds(params: Params, stage: str, timings: Mapping[str, Mapping[str, Any]]) -> float | None:
    """What the stage took when it last ran; a segment by the rounds of any segment, an evaluation
    by another one, both by what was measured; None if unknown.

    Args:
        timings: of `pipeline.artifacts.known_timings`.
    """
    kind, _, name = stage.partition("@")
    measured = timings.get(MEASURED, {})
    if kind == "train":
        known = [
            (n, timings[f"train@{n}"]["wall_s"]) for n in params.segments if f"train@{n}" in timings
        ]
        rounds = sum(params.segments[n].rounds for n, _ in known)
        each = sum(float(s) for _, s in known) / rounds if rounds else measured.get("round_s")
        return float(each) * params.segments[name].rounds if each else None
    if stage in timings:
        return float(timings[stage]["wall_s"])
    others = [float(t["wall_s"]) for n, t in timings.items() if n.startswith(f"{kind}@")]
    if kind == "evaluate" and others:
        return sum(others) / len(others)
    measured_s = measured.get("evaluation_s") if kind == "evaluate" else None
    return float(measured_s) if measured_s is not None else None  # `--profile` measures none


def round_parts(
    params: Params, timings: Mapping[str, Mapping[str, Any]]
) -> dict[str, float] | None:
    """Seconds of a round by part (rollout, verify, gate, update, save, probe, `other`), over the
    segments that ran here, else of the round that was measured; None if neither is known.

    Args:
        timings: of `pipeline.artifacts.known_timings`.
    """
    ran = [
        (s.rounds, timings[f"train@{n}"])
        for n, s in params.segments.items()
        if f"train@{n}" in timings
    ]
    if ran:
        rounds, wall = sum(n for n, _ in ran), sum(float(t["wall_s"]) for _, t in ran)
        names = {name for _, t in ran for name in t["parts"]}
        total = {n: sum(float(t["parts"].get(n, 0.0)) for _, t in ran) for n in names}
    else:
        measured = timings.get(MEASURED, {})
        if not measured.get("parts"):
            return None
        rounds, wall = 1, float(measured["round_s"])
        total = {name: float(s) for name, s in measured["parts"].items()}
    total["other"] = max(0.0, wall - sum(total.values()))
    return {name: s / rounds for name, s in total.items()}


def idle_cards(params: Params, parts: Mapping[str, float]) -> list[tuple[str, float]]:
    """(which cards, their idle share of a round): those of the trainer and those of vLLM's servers
    wait for each other; where both are the same there is one entry.

    Args:
        parts: seconds of a round (`round_parts`).
    """
    whole = sum(parts.values())
    drawing, learning = parts.get("rollout", 0.0), parts.get("update", 0.0)
    probing = parts.get("probe", 0.0)
    trainers = f"{params.compute.processes} card(s) of the trainer"
    servers = params.rollout.vllm
    if params.rollout.engine == "hf":
        return [(trainers, 1 - (drawing + learning + probing) / whole)]
    count = 1 if servers is None else len(servers.urls or ()) or servers.servers
    return [
        (trainers, 1 - learning / whole),
        (f"{count} vLLM server(s)", 1 - (drawing + probing) / whole),
    ]
