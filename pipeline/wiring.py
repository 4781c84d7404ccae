"""From checked parameters to the objects of `hapo_core`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hapo_core.advantage import AdvantageKind
from hapo_core.errors import ConfigError
from hapo_core.gate import (
    AdaptiveThreshold,
    ConstantThreshold,
    Evidence,
    Gate,
    GateSpec,
    GateState,
    ScheduledThreshold,
    Shape,
    Statistic,
    Threshold,
    check_reachable,
)
from hapo_core.loss import (
    LUFFY_RELEASE,
    PAPER,
    Aggregation,
    Mismatch,
    Objective,
    RatioLevel,
    TeacherShape,
    TeacherWeight,
)
from hapo_core.verify import VerifierSettings
from pipeline import config as c

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hapo_core.methods import Method
    from hapo_core.rollout import Engine, Sampling
    from hapo_core.rollout.vllm_server import ServerSpec
    from hapo_core.update import UpdateSpec


def gate_spec(params: c.Params) -> GateSpec:
    """The gate of the configuration.

    Raises:
        ConfigError: gamma is out of reach and `gate.allow_unreachable` is not set.
    """
    gate = params.gate
    spec = GateSpec(
        threshold=_threshold(gate.threshold),
        evidence=Evidence(gate.evidence),
        statistic=Statistic(gate.statistic),
        quantile=0.5 if gate.quantile is None else gate.quantile,
        prior_a=gate.prior_successes,
        prior_b=gate.prior_failures,
        forgetting=gate.forgetting,
    )
    if params.method == "hapo" and not gate.allow_unreachable:
        check_reachable(spec, params.rollout.group_size)
    return spec


def _threshold(t: c.ConstantThreshold | c.ScheduledThreshold | c.AdaptiveThreshold) -> Threshold:
    match t:
        case c.ConstantThreshold():
            return ConstantThreshold(t.gamma)
        case c.ScheduledThreshold():
            return ScheduledThreshold(
                Shape(t.kind), t.gamma_start, t.gamma_end, t.horizon, t.step_at
            )
        case c.AdaptiveThreshold():
            return AdaptiveThreshold(t.gamma_start, t.kappa, t.smoothing)


def objective(params: c.Params) -> Objective:
    """The preset with what the configuration names on top (METHOD 3.1)."""
    o, t, u = params.objective, params.teacher, params.update
    preset = PAPER if o.preset == "paper" else LUFFY_RELEASE
    clip = preset.clip if o.clip is None else (None if o.clip == "off" else o.clip)
    return replace(
        preset,
        advantage=AdvantageKind(o.advantage) if o.advantage else preset.advantage,
        clip=clip,
        aggregation=Aggregation(o.aggregation) if o.aggregation else preset.aggregation,
        ratio_level=RatioLevel(o.ratio_level),
        entropy_coefficient=(
            preset.entropy_coefficient if o.entropy_coefficient is None else o.entropy_coefficient
        ),
        teacher_shape=TeacherShape(t.shape),
        teacher_weight=TeacherWeight(t.weight),
        shaping_lambda=t.shaping_lambda,
        mismatch=Mismatch(u.mismatch_correction),
        mismatch_cap=u.mismatch_cap,
        temperature=params.rollout.temperature,
    )


def method(params: c.Params, state: GateState) -> Method:
    """The method of the configuration, its gate continuing from `state`."""
    from hapo_core.methods import GRPO, HAPO, LUFFY, SFT, SFTThenRL

    gate, what, seed = Gate(gate_spec(params), params.seed, state), objective(params), params.seed
    match params.method:
        case "grpo":
            return GRPO(gate, what, seed)
        case "hapo":
            return HAPO(gate, what, seed)
        case "luffy":
            return LUFFY(gate, what, seed)
        case "sft":
            return SFT(gate)
        case "sft_then_rl":
            return SFTThenRL(gate, what, seed, params.sft.rounds)


def update_spec(params: c.Params) -> UpdateSpec:
    """Optimizer settings."""
    from hapo_core.update import UpdateSpec

    u = params.update
    return UpdateSpec(
        learning_rate=u.learning_rate,
        warmup_rounds=u.warmup_rounds,
        weight_decay=u.weight_decay,
        betas=u.betas,
        max_grad_norm=u.max_grad_norm,
        minibatches=u.minibatches,
        epochs=u.epochs,
        micro_batch_tokens=u.micro_batch_tokens,
        mixed_precision=u.mixed_precision,
    )


def training_sampling(params: c.Params) -> Sampling:
    """How a round's rollouts are drawn."""
    from hapo_core.rollout import Sampling

    r = params.rollout
    return Sampling(r.group_size, r.temperature, r.top_p, r.max_tokens)


ENGINES = Path(".hapo/engine")
"""Logs of engine servers, and the weights written for them, by stage."""


def rollout_engine(
    choice: c.RolloutParams | c.Evaluate,
    compute: c.Compute,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    stage: str,
    context: int,
    tell: Callable[[str], None],
) -> Engine:
    """The engine of the configuration, on `model`.

    Args:
        stage: names the folder of its servers' logs.
        context: longest prompt plus response, tokens.
        tell: gets lines about servers.

    Raises:
        ConfigError: the engine's environment is not there.
    """
    if choice.engine == "hf":
        from hapo_core.rollout.hf import HFEngine

        return HFEngine(model, tokenizer, choice.max_rows)
    from hapo_core.rollout.vllm import VLLMEngine, VLLMSettings

    servers = choice.vllm or c.VllmServers()
    processed = not isinstance(choice, c.RolloutParams) or choice.top_p == 1
    rows = -(-choice.max_rows // servers.servers)
    settings = VLLMSettings(
        None if servers.urls else server_spec(servers, compute.dtype, context, rows, processed),
        servers.servers,
        servers.urls or (),
        servers.gpus or (),
        servers.guard_tolerance,
        servers.restarts,
    )
    return VLLMEngine(model, tokenizer, settings, ENGINES / stage, choice.max_rows, tell)


def server_spec(
    servers: c.VllmServers, dtype: str, context: int, rows: int, processed: bool = True
) -> ServerSpec:
    """How a server of the configuration is started."""
    from hapo_core.rollout.vllm_server import ServerSpec

    return ServerSpec(
        environment=Path(servers.environment).expanduser(),
        device=servers.device,
        dtype=servers.dtype or dtype,
        context=context,
        rows=rows,
        threads=servers.threads,
        cache_gb=servers.cache_gb,
        memory_share=servers.memory_share,
        processed=processed,
        start_seconds=servers.start_seconds,
        arguments=servers.arguments,
        variables=servers.variables,
    )


def verifier_settings(params: c.Params) -> VerifierSettings:
    """The verifier of traces, rollouts and benchmarks."""
    r = params.rewards
    return VerifierSettings(
        kind=r.verifier,
        workers=r.workers,
        timeout_seconds=r.timeout_seconds,
        memory_mb=r.memory_mb,
        require_box=r.require_box,
    )


def prepare_compute(compute: c.Compute) -> tuple[torch.device, torch.dtype]:
    """Set threads and determinism for this process.

    Raises:
        ConfigError: the device is not there.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # stages report their own progress
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        device = torch.device(compute.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {compute.device!r} cannot be used: {error}",
            where="compute.device",
            remedy="set it to cpu, or install a torch build for your accelerator",
        ) from error
    return device, torch.float32 if compute.dtype == "float32" else torch.bfloat16
