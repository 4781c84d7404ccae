"""`python -m pipeline.cold_start --name NAME`."""

from __future__ import annotations

import argparse

from pipeline.cold_start.stage import cold_start
from pipeline.config import load_params
from pipeline.flows.stage import run_stage, stage_main


def main() -> None:
    """The stage's entry point."""
    parser = argparse.ArgumentParser(prog="pipeline.cold_start")
    parser.add_argument("--name", required=True, help="key of `cold_start` in params.yaml")
    name = parser.parse_args().name
    params = load_params()
    run_stage(f"cold_start@{name}", lambda observer: cold_start(params, name, observer))


if __name__ == "__main__":
    stage_main(main)
