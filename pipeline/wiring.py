"""From checked parameters to the objects of `hapo_core`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    DAPO,
    DR_GRPO,
    GSPO,
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

    from hapo_core.groups import Demonstrations
    from hapo_core.methods import Method
    from hapo_core.methods.chord import CHORDOptions
    from hapo_core.methods.prefix_rft import PrefixRFTOptions
    from hapo_core.methods.sampling import DynamicSampling, SoftOverlong
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


PRESETS = {
    "paper": PAPER,
    "luffy": LUFFY_RELEASE,
    "dapo": DAPO,
    "dr_grpo": DR_GRPO,
    "gspo": GSPO,
}
DAPO_BATCHES, DAPO_BUFFER = 10, 0.2
"""Preset dapo: most batches that a round samples, and the penalised share of the budget."""


def objective(params: c.Params) -> Objective:
    """The preset, what the configuration names on top (METHOD 3.1), and what the method needs."""
    from hapo_core.methods.prefix_rft import prefix_rft_objective
    from hapo_core.methods.real import real_objective
    from hapo_core.methods.srft import srft_objective

    base = _named_objective(params)
    match params.method:
        case "srft":
            return srft_objective(base)
        case "prefix_rft":
            return prefix_rft_objective(base, _prefix_rft(params))
        case "real":
            return real_objective(base, params.objective.real.tau)
        case _:
            return base


def _named_objective(params: c.Params) -> Objective:
    o, t, u = params.objective, params.teacher, params.update
    preset = PRESETS[o.preset]
    clip = preset.clip if o.clip is None else (None if o.clip == "off" else o.clip)
    return replace(
        preset,
        advantage=AdvantageKind(o.advantage) if o.advantage else preset.advantage,
        clip=clip,
        aggregation=Aggregation(o.aggregation) if o.aggregation else preset.aggregation,
        ratio_level=RatioLevel(o.ratio_level) if o.ratio_level else preset.ratio_level,
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


def method(
    params: c.Params,
    state: GateState,
    demonstrations: Demonstrations | None = None,
    prompt_ids: Sequence[str] = (),
    waiting: Sequence[str] = (),
) -> Method:
    """The method of the configuration, its gate continuing from `state`.

    Args:
        demonstrations: all prompts with a usable trace (relift, chord).
        prompt_ids: all training prompts (dynamic sampling).
        waiting: prompts that the method remembers from earlier rounds (relift).
    """
    from hapo_core.methods import (
        BREAD,
        CHORD,
        GRPO,
        HAPO,
        HPT,
        LUFFY,
        REAL,
        SFT,
        SRFT,
        PrefixRFT,
        ReLIFT,
        SFTThenRL,
    )
    from hapo_core.methods.bread import BREADOptions
    from hapo_core.methods.hpt import HPTOptions
    from hapo_core.methods.relift import ReLIFTOptions
    from hapo_core.methods.srft import SRFTOptions

    gate, what, seed = Gate(gate_spec(params), params.seed, state), objective(params), params.seed
    known, t = demonstrations or {}, params.teacher
    match params.method:
        case "grpo":
            return GRPO(
                gate, what, seed, dynamic_sampling(params, prompt_ids), soft_overlong(params)
            )
        case "hapo":
            return HAPO(gate, what, seed, None, soft_overlong(params))
        case "luffy":
            return LUFFY(gate, what, seed, None, soft_overlong(params))
        case "sft":
            return SFT(gate)
        case "sft_then_rl":
            return SFTThenRL(gate, what, seed, params.sft.rounds, soft_overlong(params))
        case "srft":
            sign = -1 if t.srft.sft_entropy == "minus" else 1
            weights = SRFTOptions(t.srft.sft_weight, sign, t.srft.positive_weight)
            return SRFT(gate, what, seed, weights)
        case "hpt":
            choice = HPTOptions(t.hpt.successes, t.hpt.normaliser == "shared")
            return HPT(gate, what, seed, choice, soft_overlong(params))
        case "relift":
            buffer = ReLIFTOptions(t.relift.buffer)
            return ReLIFT(gate, what, seed, known, buffer, waiting, soft_overlong(params))
        case "chord":
            return CHORD(gate, what, seed, known, _chord(params), soft_overlong(params))
        case "prefix_rft":
            return PrefixRFT(gate, what, seed, _prefix_rft(params))
        case "bread":
            return BREAD(gate, what, seed, BREADOptions(t.bread.splits))
        case "real":
            return REAL(gate, what, seed)


def dynamic_sampling(params: c.Params, prompt_ids: Sequence[str]) -> DynamicSampling | None:
    """Refills of `objective.dynamic_sampling`, or of the preset; None where they are off."""
    from hapo_core.methods.sampling import DynamicSampling

    batches = params.objective.dynamic_sampling
    if batches is None and params.objective.preset == "dapo":
        batches = DAPO_BATCHES
    if not isinstance(batches, int):
        return None
    return DynamicSampling(tuple(prompt_ids), params.train.prompts_per_round, batches, params.seed)


def soft_overlong(params: c.Params) -> SoftOverlong | None:
    """The penalty of `objective.overlong_buffer`, or of the preset; None where it is off."""
    from hapo_core.methods.sampling import SoftOverlong

    o, budget = params.objective, params.rollout.max_tokens
    share = o.overlong_buffer
    if share is None and o.preset == "dapo":
        share = DAPO_BUFFER
    if not isinstance(share, float):
        return None
    return SoftOverlong(budget, max(1, round(share * budget)), o.overlong_weight)


def _chord(params: c.Params) -> CHORDOptions:
    from hapo_core.methods.chord import CHORD_MU, CHORD_PHI, CHORDOptions

    o = params.teacher.chord
    usual = CHORD_MU if o.variant == "mu" else CHORD_PHI
    mix = ScheduledThreshold(
        Shape(o.shape),
        usual.start if o.mix_start is None else o.mix_start,
        usual.end if o.mix_end is None else o.mix_end,
        o.horizon,
    )
    rollouts = params.train.prompts_per_round * params.rollout.group_size
    rows = round(rollouts * o.expert_share / (1 - o.expert_share))
    return CHORDOptions(mix, o.variant == "phi", max(1, rows))


def _prefix_rft(params: c.Params) -> PrefixRFTOptions:
    from hapo_core.methods.prefix_rft import PrefixRFTOptions

    o = params.teacher.prefix_rft
    low = ScheduledThreshold(Shape.COSINE, o.low_start, o.low_end, o.horizon)
    return PrefixRFTOptions(low, o.high, o.top_share, o.prefix_tokens == "teacher")


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


def adapt(params: c.Params, model: PreTrainedModel) -> None:
    """Put the configured adapters on a policy that has none yet.

    Raises:
        ConfigError: the policy has adapters, but the configuration trains all weights.
    """
    from hapo_core.lora import LoraSpec, add_adapters, has_adapters

    choice = params.update.lora
    if choice is None and has_adapters(model):
        raise ConfigError(
            "the policy consists of adapters, and without update.lora all weights would train",
            where="update.lora",
            remedy="keep update.lora in all segments of a chain",
        )
    if choice is not None and not has_adapters(model):
        add_adapters(model, LoraSpec(choice.rank, choice.alpha, choice.targets), params.seed)


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


def verifier_settings(r: c.Rewards) -> VerifierSettings:
    """The verifier of traces, rollouts and benchmarks."""
    return VerifierSettings(
        kind=r.verifier,
        workers=r.workers,
        timeout_seconds=r.timeout_seconds,
        memory_mb=r.memory_mb,
        require_box=r.require_box,
    )


def quiet_transformers() -> None:
    """No bars of transformers' own: stages report their progress themselves."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def prepare_compute(compute: c.Compute) -> tuple[torch.device, torch.dtype]:
    """Set threads and determinism for this process.

    Raises:
        ConfigError: the device is not there.
    """
    import torch

    quiet_transformers()
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
