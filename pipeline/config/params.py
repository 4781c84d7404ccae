"""params.yaml as a whole: what only all sections together can be checked for."""

from __future__ import annotations

from pydantic import Field, model_validator

from hapo_core.errors import ConfigError
from pipeline.config.data import Curate
from pipeline.config.engine import CPU_HEAD_WIDTHS, Compute, VllmServers
from pipeline.config.evaluation import Evaluate, Target
from pipeline.config.loggers import Loggers
from pipeline.config.method import Gate, MethodName, Objective, Sft, Teacher
from pipeline.config.nearest import nearest
from pipeline.config.policy import Base, TinyBase
from pipeline.config.section import Section
from pipeline.config.training import Rewards, RolloutParams, Segment, Train, Update
from pipeline.presets import find_preset


class Params(Section):
    """params.yaml as a whole."""

    profile: str
    seed: int = Field(ge=0)
    method: MethodName
    curate: Curate
    base: Base
    gate: Gate
    teacher: Teacher = Teacher()
    objective: Objective = Objective()
    sft: Sft = Sft()
    rewards: Rewards = Rewards()
    rollout: RolloutParams
    update: Update
    train: Train
    segments: dict[str, Segment] = Field(min_length=1)
    evaluate: Evaluate
    targets: dict[str, Target]
    """What `evaluate@NAME` measures: `base` and `final`."""
    compute: Compute = Compute()
    loggers: Loggers = Loggers()

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, given: object) -> object:
        return _with_presets(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _whole(self) -> Params:
        self._check_segments()
        self._check_benchmarks()
        self._check_method()
        self._check_heads()
        return self

    def _check_segments(self) -> None:
        expected = "base"
        for name, segment in self.segments.items():
            if segment.prev != expected:
                raise ValueError(
                    f"segments.{name}.prev is {segment.prev!r}, but the chain needs {expected!r}"
                )
            expected = name
        for name, segment in list(self.segments.items())[:-1]:
            for key in ("generated", "trained"):
                if getattr(segment, key) is not None:
                    raise ValueError(
                        f"segments.{name}.{key}: only the last segment may have a budget of "
                        "tokens, as the next one must know in which round it starts"
                    )
        if self.targets.get("base") != Target(policy="base"):
            raise ValueError("targets.base.policy must be 'base'")
        if self.targets.get("final") != Target(policy=expected):
            raise ValueError(
                f"targets.final.policy must name the last segment, {expected!r} "
                "(`hapo segments` keeps both in step)"
            )

    def _check_benchmarks(self) -> None:
        for name in self.evaluate.benchmarks:
            self._known_benchmark(f"evaluate.benchmarks.{name}", name)
        if self.train.probe_benchmark is not None:
            self._known_benchmark("train.probe_benchmark", self.train.probe_benchmark)

    def _known_benchmark(self, path: str, name: str) -> None:
        if name not in self.curate.benchmarks:
            near = nearest(name, list(self.curate.benchmarks))
            raise ValueError(f"{path}: no benchmark {name!r} in curate.benchmarks{near}")

    def _check_heads(self) -> None:
        """Say before the base is trained what a CPU server would say after it."""
        base = self.base
        if not isinstance(base, TinyBase):
            return
        for section, choice in (("rollout", self.rollout), ("evaluate", self.evaluate)):
            servers = choice.vllm or VllmServers()
            if choice.engine == "hf" or servers.device != "cpu" or servers.urls is not None:
                continue
            size = base.hidden_size
            if size / base.heads not in CPU_HEAD_WIDTHS:
                fit = [str(n) for n in range(1, size) if size / n in CPU_HEAD_WIDTHS]
                mend = f"heads: {' or '.join(fit)}" if fit else "another hidden_size"
                raise ValueError(
                    f"base.heads: {section}.engine vllm has no attention on a CPU for heads of "
                    f"width {size / base.heads:g} ({size} / {base.heads}), but with {mend}"
                )

    def _check_method(self) -> None:
        if self.update.mixed_precision and self.compute.dtype != "float32":
            raise ValueError("update.mixed_precision needs compute.dtype: float32 (the weights')")
        if self.update.lora is not None and self.compute.shard:
            raise ValueError("update.lora trains too little to shard: set compute.shard to false")
        if self.method == "sft_then_rl" and self.sft.rounds == 0:
            raise ValueError("method sft_then_rl needs sft.rounds >= 1")
        self._check_objective()
        if self.curate.max_trace_tokens > self.rollout.max_tokens:
            raise ValueError(
                "curate.max_trace_tokens exceeds rollout.max_tokens: a trace must fit the "
                "response budget"
            )

    def _check_objective(self) -> None:
        o, method = self.objective, self.method
        if isinstance(o.dynamic_sampling, int) and method != "grpo":
            raise ValueError(
                "objective.dynamic_sampling needs method grpo: it discards the very groups that "
                f"method {method} teaches from"
            )
        unshaped = ("srft", "prefix_rft", "bread", "real", "sft")
        if isinstance(o.overlong_buffer, float) and method in unshaped:
            raise ValueError(
                f"objective.overlong_buffer: method {method} takes no penalty on long rollouts"
            )
        sequence = o.ratio_level == "sequence" or (o.ratio_level is None and o.preset == "gspo")
        if sequence and method in ("srft", "prefix_rft", "real"):
            raise ValueError(
                f"objective.ratio_level: method {method} has no ratio of whole sequences"
            )
        if method == "hpt" and self.teacher.hpt.successes >= self.rollout.group_size:
            raise ValueError(
                "teacher.hpt.successes: S <= k always holds with k >= rollout.group_size; "
                "method sft does the same without rollouts"
            )

    def rounds_before(self, segment: str) -> int:
        """Rounds done by the segments in front of `segment`."""
        done = 0
        for name, spec in self.segments.items():
            if name == segment:
                return done
            done += spec.rounds
        raise ConfigError(
            f"no segment {segment!r}{nearest(segment, list(self.segments))}",
            where="params.yaml: segments",
            remedy="name one of " + ", ".join(self.segments),
        )


def _with_presets(given: dict[str, object]) -> dict[str, object]:
    """`evaluate.benchmarks.NAME.preset` from the kind of `curate.benchmarks.NAME`."""
    kinds, evaluate = _inside(given, "curate", "benchmarks"), given.get("evaluate")
    protocols = _inside(given, "evaluate", "benchmarks")
    if not isinstance(evaluate, dict):
        return given
    filled = {}
    for name, protocol in protocols.items():
        kind = str(_inside(kinds, name).get("kind"))
        own = {} if protocol is None else protocol
        known = isinstance(own, dict) and "preset" not in own and find_preset(kind)
        filled[name] = {"preset": kind, **own} if known and isinstance(own, dict) else protocol
    return {**given, "evaluate": {**evaluate, "benchmarks": filled}} if protocols else given


def _inside(value: object, *path: str) -> dict[str, object]:
    """The mapping at a path; empty where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
