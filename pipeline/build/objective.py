"""The objective: a preset, what the configuration names on top, what the method needs."""

from __future__ import annotations

from dataclasses import replace

from hapo_core.advantage import AdvantageKind
from hapo_core.objective import (
    DAPO,
    DR_GRPO,
    GSPO,
    LUFFY_RELEASE,
    PAPER,
    Aggregation,
    Mismatch,
    Objective,
    RatioLevel,
    TeacherBaseline,
    TeacherShape,
    TeacherWeight,
)
from pipeline import config as c

PRESETS = {
    "paper": PAPER,
    "luffy": LUFFY_RELEASE,
    "dapo": DAPO,
    "dr_grpo": DR_GRPO,
    "gspo": GSPO,
}


def objective(params: c.Params) -> Objective:
    """The preset, what the configuration names on top (METHOD 3.1), and what the method needs."""
    return params.entry.objective(_named_objective(params), params.method_options)


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
        trust_alpha=t.trust_alpha,
        teacher_baseline=TeacherBaseline(t.baseline),
        distill_clip=None if t.distill.clip == "off" else t.distill.clip,
        negative_weight=None if o.negative_weight == "adaptive" else o.negative_weight,
        negative_floor=o.negative_floor,
        mismatch=Mismatch(u.mismatch_correction),
        mismatch_cap=u.mismatch_cap,
        temperature=params.rollout.temperature,
    )
