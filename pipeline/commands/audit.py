"""The command `hapo audit`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.values import folder, number

GROUPS = 32
"""Groups whose gradients are compared, in whole rounds, the last ones first."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo audit`."""
    parser = subparsers.add_parser("audit", help="has the teacher left? numbers for this run")
    parser.add_argument("folder", nargs="?", type=Path, help="the project (default: this one)")
    parser.add_argument(
        "--groups",
        type=number,
        default=GROUPS,
        help=f"groups whose gradients are compared (default {GROUPS}; 0: none)",
    )
    parser.add_argument("--out", type=folder, help="folder of audit.json and audit.md (reports/)")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> None:
    from pipeline.artifacts import atomic_write_json, atomic_write_text
    from pipeline.audit.numbers import audit_run
    from pipeline.audit.words import as_json, render_markdown, render_text
    from pipeline.config import load_params
    from pipeline.dependencies.made import as_made
    from pipeline.system.project import find_root

    root = find_root(options.folder)
    made = as_made(load_params(root / "params.yaml"), root)
    audit = audit_run(made.params, root, options.groups, made.differs)
    out = options.out or root / "reports"
    print(render_text(audit), flush=True)  # first: a project that is only read can be audited too
    atomic_write_text(out / "audit.md", render_markdown(audit))
    atomic_write_json(out / "audit.json", as_json(audit))
    print(f"\nwritten to {out / 'audit.md'} and {out / 'audit.json'}")
