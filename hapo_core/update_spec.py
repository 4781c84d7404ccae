"""What a person sets of the update: the optimizer and the adapters. No torch is loaded."""

from __future__ import annotations

from hapo_core.settings import Count, Flag, NotNegative, Number, Positive, settings


@settings
class UpdateSpec:
    """Optimizer settings."""

    learning_rate: Positive
    warmup_rounds: Number = 0
    """Rounds over which the learning rate rises in equal steps; constant after them."""
    weight_decay: NotNegative = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0
    minibatches: Count = 1
    """Optimizer steps per pass over the round's groups."""
    epochs: Count = 1
    micro_batch_tokens: Count = 8192
    """Padded tokens of one forward pass; changes memory, never the result."""
    mixed_precision: Flag = False
    """Passes in bfloat16 (autocast) on float32 weights, gradients and optimizer state."""
    mismatch_limit: float | None = None
    """Largest mean |delta log p| of sampler and trainer (`hapo_core.mismatch`); None does not
    look."""

    def rate(self, round_index: int, scale: float = 1.0) -> float:
        """Learning rate of a round (counted from 0): linear warm-up, then constant."""
        warm = min(1.0, (round_index + 1) / self.warmup_rounds) if self.warmup_rounds else 1.0
        return self.learning_rate * scale * warm


@settings
class LoraSpec:
    """Adapters W + (alpha / rank) B A on linear layers (Hu et al. 2021, arXiv 2106.09685)."""

    rank: Count = 16
    alpha: Positive = 32.0
    """The adapters' product is scaled by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of the layers that get one (`q_proj`); None means all linear layers but the head."""
