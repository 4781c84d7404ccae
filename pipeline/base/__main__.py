"""`python -m pipeline.base`."""

from __future__ import annotations

from pipeline.base.stage import STAGE, build_base
from pipeline.config import load_params
from pipeline.flows.stage import run_stage, stage_main


def main() -> None:
    """The stage's entry point."""
    params = load_params()
    run_stage(STAGE, lambda observer: build_base(params, observer))


if __name__ == "__main__":
    stage_main(main)
