"""`python -m pipeline.dependencies`: the DVC stage `deps`, which makes the locks anew."""

from __future__ import annotations

from pipeline.config import load_params
from pipeline.dependencies.lock import renew
from pipeline.dependencies.watch import keep_watch
from pipeline.flows.stage import stage_main

LOOKS = 5


def main() -> None:
    """Write `deps/KIND.json` of every kind of stage, and what the stages are made of.

    DVC records what this depends on after it has ended: an edit in the middle would count as seen.
    So it looks again, until nothing moves.
    """
    params = load_params()
    for _ in range(LOOKS):
        changed = renew(params) or keep_watch(params)
        params, before = load_params(), params
        if not changed and params == before:
            return


if __name__ == "__main__":
    stage_main(main)
