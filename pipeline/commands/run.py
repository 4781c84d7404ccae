"""`hapo run`."""

from __future__ import annotations

import argparse
import os

from hapo_core.errors import ConfigError
from pipeline.run.request import Request
from pipeline.run.supervisor import run
from pipeline.system.project import find_root


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo run`."""
    parser = subparsers.add_parser("run", help="run what is not up to date, watched by Prefect")
    parser.add_argument("targets", nargs="*", help="stages, e.g. train@2; default: everything")
    parser.add_argument("--no-server", action="store_true", help="without Prefect")
    forcing = parser.add_mutually_exclusive_group()
    forcing.add_argument("--force-stage", metavar="NAME", help="run this stage in any case")
    forcing.add_argument("--force", action="store_true", help="run the targets in any case")
    parser.add_argument("--use", metavar="NAME", help="begin with this profile (params/NAME.yaml)")
    parser.add_argument(
        "-S",
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change params.yaml first, e.g. -S update.learning_rate=2e-5",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait for a run that holds the project or the device"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check data, engine and disk, show the plan; no run"
    )
    parser.add_argument(
        "--profile", action="store_true", help="say where the time of one round goes; keep nothing"
    )
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    if options.dry_run:
        from pipeline.checks.dry_run import dry_run

        os.chdir(find_root())
        return 0 if dry_run(options.targets, options.use, options.overrides) else 1
    if options.profile:
        from pipeline.checks.round_profile import profile_round

        if options.use or options.overrides:
            raise ConfigError(
                "--profile measures params.yaml as it is and does not change it",
                where="hapo run",
                remedy="put what --use and -S would change into params.yaml first",
            )
        os.chdir(find_root())
        return profile_round(options.targets)
    request = Request(
        targets=tuple(options.targets),
        force=options.force,
        force_stage=options.force_stage,
        profile=options.use,
        overrides=tuple(options.overrides),
        wait=options.wait,
    )
    return run(request, with_server=not options.no_server)
