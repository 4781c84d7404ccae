"""`python -m pipeline.evaluate --target NAME`."""

from __future__ import annotations

import argparse

from pipeline.config import load_params
from pipeline.evaluate.stage import evaluate_policy
from pipeline.flows.stage import run_stage, stage_main


def main() -> None:
    """The stage's entry point: `python -m pipeline.evaluate --target NAME`."""
    parser = argparse.ArgumentParser(prog="pipeline.evaluate")
    parser.add_argument("--target", required=True, help="key of `targets` in params.yaml")
    target = parser.parse_args().target
    params = load_params()
    run_stage(f"evaluate@{target}", lambda observer: evaluate_policy(params, target, observer))


if __name__ == "__main__":
    stage_main(main)
