"""`hapo engine` and `hapo doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.checks.engines import CPU, CUDA, doctor, install


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo engine install`, `hapo doctor`."""
    parser = subparsers.add_parser("engine", help="environments for rollout engines")
    actions = parser.add_subparsers(dest="action", required=True)
    installing = actions.add_parser("install", help="make an environment with vLLM")
    which = installing.add_mutually_exclusive_group(required=True)
    which.add_argument("--cpu", dest="recipe", action="store_const", const=CPU)
    which.add_argument("--cuda", dest="recipe", action="store_const", const=CUDA)
    installing.add_argument("--path", type=Path, help="folder; by default build/engine-cpu|cuda")
    parser.set_defaults(command=_install)
    checking = subparsers.add_parser("doctor", help="show what works here, the engine included")
    checking.add_argument("--engine", type=Path, help="an engine environment to try")
    checking.set_defaults(command=lambda options: 0 if doctor(options.engine) else 1)


def _install(options: argparse.Namespace) -> int:
    install(options.recipe, options.path or options.recipe.folder)
    return 0
