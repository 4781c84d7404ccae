"""params.yaml as a whole: what only all sections together can be checked for."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from hapo_core.errors import ConfigError
from hapo_core.methods.entry import MethodEntry, Teaching
from hapo_core.methods.registry import methods
from pipeline.config.data import Curate
from pipeline.config.engine import CPU_HEAD_WIDTHS, Compute, VllmServers
from pipeline.config.evaluation import Evaluate, Target
from pipeline.config.loggers import Loggers
from pipeline.config.method import Gate, MethodName, Objective, Sft, Teacher
from pipeline.config.nearest import nearest
from pipeline.config.policy import Base, ColdStart, TinyBase
from pipeline.config.presets import find_preset
from pipeline.config.section import Name, Section
from pipeline.config.training import Rewards, RolloutParams, Segment, Train, Update


class Params(Section):
    """params.yaml as a whole."""

    profile: Name
    seed: int = Field(ge=0)
    method: MethodName
    curate: Curate
    base: Base
    cold_start: dict[Name, ColdStart] = Field(
        default_factory=dict, max_length=1, exclude_if=lambda cold: not cold
    )
    """By the name of the policy that it makes, from which the first segment goes on; none by
    default. A mapping because DVC makes its stage from it (docs/architecture.md)."""
    gate: Gate
    teacher: Teacher = Teacher()
    objective: Objective = Objective()
    sft: Sft = Sft()
    rewards: Rewards = Rewards()
    rollout: RolloutParams
    update: Update
    train: Train
    segments: dict[Name, Segment] = Field(min_length=1)
    evaluate: Evaluate
    targets: dict[Name, Target]
    """What `evaluate@NAME` measures: `base` and `final`."""
    compute: Compute = Compute()
    loggers: Loggers = Loggers()

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, given: object) -> object:
        return _with_presets(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _whole(self) -> Params:
        self._check_cold_start()
        self._check_segments()
        self._check_benchmarks()
        self._check_method()
        self._check_heads()
        return self

    @property
    def start(self) -> str:
        """The policy from which the first segment goes on: `base`, or that of the cold start."""
        return next(iter(self.cold_start), "base")

    @property
    def set_aside(self) -> frozenset[str]:
        """The sources that only the cold start learns from."""
        return frozenset(s for c in self.cold_start.values() if not c.keep for s in c.sources)

    def _check_cold_start(self) -> None:
        for name, cold in self.cold_start.items():
            at = f"cold_start.{name}"
            if name == "base" or name in self.segments:
                raise ValueError(f"{at}: a policy of that name is there already; take another")
            for source in cold.sources:
                if source not in self.curate.sources:
                    near = nearest(source, list(self.curate.sources))
                    raise ValueError(f"{at}.sources: no source {source!r} in curate.sources{near}")
            if self.set_aside >= set(self.curate.sources):
                raise ValueError(
                    f"{at}.sources takes every source, and nothing is left for the segments: "
                    "add a source, or set `keep: true`"
                )
            if self.targets.get(name) != Target(policy=name):
                raise ValueError(
                    f"targets.{name}.policy must be {name!r}: what the cold start gives is measured"
                )

    def _check_segments(self) -> None:
        expected = self.start
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
        if "base" in self.segments:
            raise ValueError("segments: 'base' is the name of the policy before the first one")
        for name, target in self.targets.items():
            if target.policy not in ("base", *self.cold_start, *self.segments):
                near = nearest(target.policy, ["base", *self.cold_start, *self.segments])
                raise ValueError(f"targets.{name}.policy: no policy {target.policy!r}{near}")
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
        for name in self.train.watch:
            self._known_benchmark("train.watch", name)
        if len(set(self.train.watch)) < len(self.train.watch):
            raise ValueError("train.watch names a benchmark twice")

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
        if self.compute.dtype != "float32":
            raise ValueError(
                "compute.dtype: weights in bfloat16, adapters too, hardly move at small learning "
                "rates; keep them in float32, with update.mixed_precision: true for passes in "
                "bfloat16"
            )
        if self.rollout.dtype == "bfloat16" and self.compute.shard:
            raise ValueError(
                "rollout.dtype: a copy in bfloat16 is made of whole weights: leave it out, or set "
                "compute.shard to false"
            )
        if self.update.lora is not None and self.compute.shard:
            raise ValueError("update.lora trains too little to shard: set compute.shard to false")
        if self.entry.teaching is Teaching.FIRST and self.sft.rounds == 0:
            raise ValueError(f"method {self.method} needs sft.rounds >= 1")
        self._check_objective()
        if self.curate.max_trace_tokens > self.rollout.max_tokens:
            raise ValueError(
                "curate.max_trace_tokens exceeds rollout.max_tokens: a trace must fit the "
                "response budget"
            )

    def _check_objective(self) -> None:
        o, method, entry = self.objective, self.method, self.entry
        if isinstance(o.dynamic_sampling, int) and not entry.dynamic:
            able = " or ".join(name for name, other in methods().items() if other.dynamic)
            raise ValueError(
                f"objective.dynamic_sampling needs method {able}: it discards the very groups that "
                f"method {method} teaches from"
            )
        guard = self.gate.guard
        if guard and entry.teaching is not Teaching.GATED:
            keys = ", ".join(f"gate.{name}" for name in guard)
            off = " ".join(f"-S gate.{name}={word}" for name, word in guard.items())
            raise ValueError(
                f"{keys}: method {method} does not ask the gate; take it out ({off} for one run)"
            )
        if self.teacher.use == "distill" and entry.teaching is not Teaching.GATED:
            raise ValueError(f"teacher.use: method {method} does not ask the gate; take it out")
        self._check_stop_loss()
        if self.measures_surprise and not entry.enters_groups:
            key = "measure_surprise" if self.teacher.measure_surprise else "trace_choice"
            raise ValueError(
                f"teacher.{key}: the traces of method {method} enter no group; take it out"
            )
        if self.teacher.baseline == "own" and not entry.replaces:
            raise ValueError(
                f"teacher.baseline: method {method} puts no trace among the rollouts; take it out"
            )
        if o.negative_weight != 1.0 and not entry.ratios:
            raise ValueError(
                f"objective.negative_weight: the rows of method {method} have no advantages of "
                "their own to weigh; take it out"
            )
        if isinstance(o.overlong_buffer, float) and not entry.overlong:
            raise ValueError(
                f"objective.overlong_buffer: method {method} takes no penalty on long rollouts"
            )
        sequence = o.ratio_level == "sequence" or (o.ratio_level is None and o.preset == "gspo")
        if sequence and not entry.ratios:
            raise ValueError(
                f"objective.ratio_level: method {method} has no ratio of whole sequences"
            )
        wrong = entry.check(self.method_options, self.rollout.group_size)
        if wrong is not None:
            raise ValueError(f"{entry.section}.{method}.{wrong}")

    def _check_stop_loss(self) -> None:
        loss = self.gate.stop_loss
        if loss is None:
            return
        if loss.surprise is None and not self.gate.holdout and not self.train.watch:
            raise ValueError(
                "gate.stop_loss has no witness: set gate.stop_loss.surprise, gate.holdout or "
                "train.watch"
            )

    @property
    def entry(self) -> MethodEntry:
        """The chosen method's entry: all that is known of it beside these parameters."""
        return methods()[self.method]

    @property
    def distils(self) -> bool:
        """Whether the policy, shown traces, scores its own rollouts."""
        return self.entry.distils or self.teacher.use == "distill"

    @property
    def measures_surprise(self) -> bool:
        """Whether a round measures how far its traces surprise the policy."""
        teacher, limit = self.teacher, self.gate.max_surprise
        chosen = teacher.trace_choice == "likeliest"
        witness = self.gate.stop_loss is not None and self.gate.stop_loss.surprise is not None
        return chosen or limit is not None or witness or teacher.measure_surprise

    @property
    def method_options(self) -> Any:
        """The chosen method's own options; None where it has none."""
        return getattr(getattr(self, self.entry.section), self.method, None)

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
