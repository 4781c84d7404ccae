"""JSON from files that somebody else may have written or damaged."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str) -> Any:
    """The value of a JSON text; all that can be wrong with one is a ValueError.

    Raises:
        ValueError: it is no JSON, or nested deeper than can be read (Python's own reader raises a
            RecursionError then, which no reader of a damaged file waits for).
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
