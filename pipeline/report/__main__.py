"""`python -m pipeline.report`."""

from __future__ import annotations

from pipeline.artifacts import Scratch
from pipeline.flows.stage import run_stage, stage_main
from pipeline.report.stage import STAGE, report


def main() -> None:
    """`python -m pipeline.report`."""
    Scratch.settle(STAGE)
    run_stage(STAGE, report)


if __name__ == "__main__":
    stage_main(main)
