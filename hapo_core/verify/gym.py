"""The domain `reasoning_gym`: the task itself scores an answer (extra `hapo[reasoning-gym]`).

The gold is a JSON object {"task", "answer", "metadata"}, as `entry_gold` writes it: many tasks
accept any answer that meets the puzzle's conditions, and check it against the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hapo_core.errors import ConfigError
from hapo_core.verify.verdict import Verdict

FULL = 1.0
"""The score of a right answer; tasks give part of it to what is nearly right or badly formatted."""


def entry_gold(task: str, entry: Mapping[str, Any]) -> str:
    """The gold of one entry of a task, as canonical JSON.

    Args:
        task: the name of the data set in reasoning-gym.
        entry: {"question", "answer", "metadata"}.
    """
    facts = {"task": task, "answer": entry["answer"], "metadata": entry["metadata"]}
    return json.dumps(facts, sort_keys=True, default=str)


def reference(gold: str) -> str:
    """The reference answer inside a gold; the text itself where it is no such gold."""
    try:
        return str(json.loads(gold)["answer"])
    except (ValueError, TypeError, KeyError):
        return gold


def create(task: str, **settings: Any) -> Any:
    """A procedural data set of reasoning-gym.

    Raises:
        ConfigError: the package is missing, or it has no such task or setting.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            "reasoning-gym is not installed",
            where=f"task {task!r}",
            remedy="pip install 'hapo[reasoning-gym]'",
        ) from error
    try:
        return reasoning_gym.create_dataset(task, **settings)
    except (ValueError, TypeError, AssertionError, KeyError) as error:
        raise ConfigError(
            f"reasoning-gym cannot make the task: {error}",
            where=f"task {task!r}",
            remedy="check the task's name and its settings",
        ) from error


@lru_cache(maxsize=32)
def _scorer(task: str) -> Any:
    return create(task, size=1, seed=0)


def grade(gold: str, answer: str) -> tuple[Verdict, str]:
    """CORRECT where the task gives the full score, else WRONG; BAD_GOLD for another gold."""
    try:
        facts = json.loads(gold)
        task, entry = facts["task"], {"question": "", **facts}
    except (ValueError, TypeError, KeyError):
        return Verdict.BAD_GOLD, "the gold is no entry of reasoning-gym"
    if answer.strip() == str(facts["answer"]).strip():
        return Verdict.CORRECT, "same-text"
    score = float(_scorer(task).score_answer(answer.strip(), entry))
    return (Verdict.CORRECT if score >= FULL else Verdict.WRONG), f"score {score:g}"
