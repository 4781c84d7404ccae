"""`python -m pipeline.train --segment K`, alone, as a launcher of ranks, or under torchrun."""

from __future__ import annotations

import argparse

from hapo_core.distributed import join
from pipeline.config import load_params
from pipeline.flows.silent import SilentObserver
from pipeline.flows.stage import run_stage, stage_main
from pipeline.train.launch import is_rank, launch, stay_with_launcher
from pipeline.train.segment import train_segment


def main() -> None:
    """The stage's entry point: `python -m pipeline.train --segment K`, which starts
    `compute.processes` of itself, or the same under torchrun."""
    parser = argparse.ArgumentParser(prog="pipeline.train")
    parser.add_argument("--segment", required=True, help="key of `segments` in params.yaml")
    name = parser.parse_args().segment
    params = load_params()
    stage, processes = f"train@{name}", params.compute.processes
    if processes > 1 and not is_rank():
        launch(processes, "pipeline.train", "--segment", name)
        return
    stay_with_launcher()
    ranks = join(params.compute.device)
    if ranks.first:
        run_stage(stage, lambda observer: train_segment(params, name, observer, ranks))
    else:
        train_segment(params, name, SilentObserver(stage), ranks)
    ranks.close()


if __name__ == "__main__":
    stage_main(main)
