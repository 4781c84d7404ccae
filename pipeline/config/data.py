"""Where problems, traces and benchmarks come from, and which of them stay."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.presets import PRESETS, PresetName
from pipeline.config.section import Name, RewardName, Section

DATE = "2025-01-01"
"""What a chat template that asks for today's date is told, unless a date is set."""


class ChainsSource(Section):
    """Problems and traces from the chains generator (`hapo_core.tasks.chains`)."""

    kind: Literal["chains"]
    count: int = Field(ge=1)
    min_steps: int = Field(ge=1)
    max_steps: int = Field(ge=1)
    start_low: int = Field(default=100, ge=100, le=999)
    start_high: int = Field(default=999, ge=100, le=999)
    trace_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the problems that come with a trace; the others are trained on-policy."""
    trace_stride: int = Field(default=1, ge=0)
    """Steps that a line of a trace does at once. 1 is how the policy works; 2 and more are right,
    but harder to imitate than what it can find itself; 0 gives the answer without any work."""
    reward: RewardName | None = None
    """What grades its problems; None is `rewards.verifier`."""


class StoriesSource(Section):
    """Word problems of several small steps, with worked solutions (`hapo_core.tasks.stories`)."""

    kind: Literal["stories"]
    count: int = Field(ge=1)
    min_steps: int = Field(ge=1, le=8)
    max_steps: int = Field(ge=1, le=8)
    trace_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the problems that come with a trace; the others are trained on-policy."""
    seed: int | None = Field(default=None, ge=0)
    """Its own; None is the run's. Runs with several seeds share data, base and cold start where all
    sources have their own."""
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
    """Which column is what: an adapter of `pipeline.curate.sources` (`hapo data adapters` lists
    them)."""
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

    mark: str | None = None
    """How traces mark their final answer: `box` (the default), `####`, `last_number`, or a regular
    expression with one group around the answer. What is marked otherwise gets a last line with a
    box, which is what rewards read."""
    strict: bool | None = None
    """Whether a row without what it needs is an error or a counted drop; unset: an error in files
    of your own (generic), a drop in public data sets."""
    traces_path: str | None = None
    """For the generic adapter: a second local file or folder with one trace a row, joined to the
    problems by id or by the problem's text."""
    traces_columns: dict[str, str] = Field(default_factory=dict)
    """Its columns: our field (problem_id or problem, trace, cut, label) -> their column."""

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
    """A benchmark known by name (`pipeline.config.presets`): `{kind: math500}` is all it needs."""

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


Source = Annotated[
    ChainsSource | StoriesSource | GymSource | TableSource, Field(discriminator="kind")
]
BenchmarkSource = Annotated[
    ChainsSource | StoriesSource | GymSource | TableSource | PresetSource,
    Field(discriminator="kind"),
]


TraceChoice = Literal["shortest", "first", "all"]


class Curate(Section):
    """Curation of the training problems, their traces and the benchmarks."""

    sources: dict[Name, Source] = Field(min_length=1)
    """Training sources by name (the name prefixes problem ids)."""
    benchmarks: dict[Name, BenchmarkSource] = Field(min_length=1)
    """Evaluation sets by name; a `kind` of `pipeline.config.presets` brings its protocol along."""
    prompt_suffix: str = ""
    """Appended to every problem text before the chat template is applied."""
    system_prompt: str | None = None
    prompt_date: str = DATE
    """What a chat template that asks for today's date is told (YYYY-MM-DD): prompts would differ
    from day to day. Other templates do not see it."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    max_trace_tokens: int = Field(ge=1)
    """Longer traces are set aside; equal to the response budget, so that a trace always fits."""
    trace_choice: TraceChoice = "shortest"
    """Which verified trace trains a problem that has several; `all`: at every visit another one, by
    chance."""
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

    @field_validator("prompt_date")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        if value != date.fromisoformat(value).isoformat():
            raise ValueError("write it as YYYY-MM-DD")
        return value
