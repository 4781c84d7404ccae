"""What an error of `hapo_core` means in a project: which key, which command.

The core knows nothing of params.yaml, DVC or the `hapo` command. Its errors carry a topic; here a
topic gets the key at which a user finds it, and a remedy in the project's words.
"""

from __future__ import annotations

from hapo_core.errors import HapoError

REMEDIES: dict[str, tuple[str | None, str | None]] = {
    "gate:unreachable": ("gate.threshold", "{remedy}, or gate.allow_unreachable: true"),
    "policy:folder": (
        None,
        "an artifact: delete it and run `dvc checkout`, or `hapo run` to make it anew; a folder of "
        "yours: {remedy}",
    ),
    "update:not_finite": (
        "update",
        "lower update.learning_rate or set update.mixed_precision to false; the last finished "
        "round is kept, and a run with the old values goes on after it",
    ),
    "update:apart": (
        "update.mismatch_limit",
        "{remedy} (update.mismatch_limit); docs/methods.md says how. Finished rounds are kept",
    ),
    "update:low_precision": (
        "compute.dtype",
        "set compute.dtype to float32, and update.mixed_precision to true for passes in bfloat16",
    ),
    "sampling:not_finite": (
        None,
        "look for NaN in its weights; lower update.learning_rate, or set compute.dtype to float32",
    ),
    "sampling:way": (
        None,
        "sample with rollout.engine: vllm, or use another compute.attention or another "
        "transformers version",
    ),
    "fit:vocabulary": (None, None),
    "fit:ids": (None, "{remedy} (`dvc repro -f curate`)"),
    "fit:positions": (
        None,
        "lower rollout.max_tokens, curate.max_prompt_tokens or the benchmark's max_tokens; where "
        "the model takes more, base.context says so (and base.rope_theta)",
    ),
    "fit:recompute": (
        "update.gradient_checkpointing",
        "set it to false; where memory is short lower update.micro_batch_tokens",
    ),
    "lora:targets": ("update.lora.targets", None),
    "lora:peft": ("update.lora", "pip install 'hapo[lora]'"),
    "engine:url": ("rollout.vllm.urls", None),
    "engine:environment": (
        None,
        "`hapo engine install --cpu` or `--cuda` makes one; `rollout.vllm.environment` names it, "
        "`hapo doctor` tries it",
    ),
    "engine:start": (None, "{remedy}; `hapo doctor` tries the environment alone"),
    "engine:slow_start": (None, "read the log; `rollout.vllm.start_seconds` allows more time"),
    "engine:lost": (None, "{remedy}; finished rounds are kept, `hapo run` goes on after them"),
}
"""Topic -> (key of params.yaml or None to keep the place, remedy or None to keep it)."""


def in_project_words(error: HapoError) -> HapoError:
    """The same error with the project's place and remedy, where its topic has some."""
    if error.topic not in REMEDIES:
        return error
    where, remedy = REMEDIES[error.topic]
    said = remedy.format(remedy=error.remedy) if remedy else error.remedy
    return type(error)(error.what, where=where or error.where, remedy=said, topic=error.topic)
