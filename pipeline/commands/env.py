"""`hapo env`."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo env`."""
    parser = subparsers.add_parser(
        "env", help="versions, devices and configuration for a bug report; no secrets"
    )
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from hapo_core.errors import ConfigError
    from pipeline.checks.environment import report
    from pipeline.system.project import find_root

    with suppress(ConfigError):  # outside of a project it says that there is none
        os.chdir(find_root())
    for line in report():
        print(line)
    return 0
