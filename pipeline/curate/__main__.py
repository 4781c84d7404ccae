"""`python -m pipeline.curate`."""

from __future__ import annotations

from pipeline.config import load_params
from pipeline.curate.stage import STAGE, curate
from pipeline.flows.stage import run_stage, stage_main


def main() -> None:
    """`python -m pipeline.curate`."""
    params = load_params()
    run_stage(STAGE, lambda observer: curate(params, observer))


if __name__ == "__main__":
    stage_main(main)
