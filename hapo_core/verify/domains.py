"""Verifiable domains: a name for a function from (gold, answer) to a verdict.

A domain of your own is `kind="package.module:function"` in `VerifierSettings`; the function has
the type `Grader` and runs in the killable workers like `math` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from hapo_core.errors import ConfigError
from hapo_core.verify.verdict import Verdict

Grader = Callable[[str, str], tuple[Verdict, str]]
"""(gold, extracted answer) -> (verdict, name of the rule that decided or what went wrong).

The gold is all that a reward knows of the problem: a reference answer, or text of its own making
that also holds what grading needs (tests, metadata), as `hapo_core.verify.gym` does it."""

BUILT_IN = {
    "math": "hapo_core.verify.math.grade:grade",
    "math_any_form": "hapo_core.verify.math.grade:grade_any_form",
    "math_verify": "hapo_core.verify.library:grade",
    "exact": "hapo_core.verify.exact:grade",
    "reasoning_gym": "hapo_core.verify.gym:grade",
}


def load_grader(kind: str) -> Grader:
    """Import the grader of a kind.

    Raises:
        ConfigError: there is no such module or function.
    """
    target = BUILT_IN.get(kind, kind)
    module_name, _, name = target.partition(":")
    try:
        grader = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the verifier {kind!r} cannot be loaded: {error}") from error
    if not callable(grader):
        raise ConfigError(f"the verifier {kind!r} is not a function")
    return grader  # type: ignore[no-any-return]
