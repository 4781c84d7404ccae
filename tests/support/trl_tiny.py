"""What every test of HAPOTrainer trains: a tiny policy, on the CPU, without files or reports."""

from __future__ import annotations

from typing import Any

from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer

SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "seed": 5,
}
"""Of HAPOConfig and GRPOConfig."""


def tiny_policy() -> dict[str, Any]:
    """`model` and `processing_class` of a trainer, the same at every call."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, hidden=32, layers=2, heads=2, seed=5)
    return {"model": model, "processing_class": tokenizer}


def none_right(completions: list[str], **_: object) -> list[float]:
    """No success anywhere."""
    return [0.0] * len(completions)
