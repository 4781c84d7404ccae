"""The `hapo` command: thin subcommands, each in the module that does the work."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pipeline.observe import guarded

_MODULES = (
    "run",
    "serve",
    "status",
    "clean",
    "against",
    "server",
    "profiles",
    "segments",
    "data_cli",
    "evaluate_cli",
    "audit_cli",
    "compare_cli",
    "score_cli",
    "engines",
)
"""Modules of `pipeline` with an `add_parser`; none may import torch at import."""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(prog="hapo", description=__doc__)
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for name in _MODULES:
        importlib.import_module(f"pipeline.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors that users can mend go to stderr with exit status 2."""
    options = build_parser().parse_args(argv)
    code = guarded(lambda: options.command(options))
    sys.stdout.flush()
    sys.stderr.flush()
    joined = sys.modules.get("pipeline.joined")
    if joined is not None and joined.stuck():
        os._exit(code)  # Prefect's exit hooks would wait for a server that no longer answers
    return code


if __name__ == "__main__":
    sys.exit(main())
