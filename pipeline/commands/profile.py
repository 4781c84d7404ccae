"""`hapo profile`."""

from __future__ import annotations

import argparse

from pipeline.config.profiles import current, differences, names, use


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo profile use NAME|list|show`."""
    parser = subparsers.add_parser("profile", help="choose a shipped configuration")
    actions = parser.add_subparsers(dest="action", required=True)
    using = actions.add_parser("use", help="copy params/NAME.yaml to params.yaml")
    using.add_argument("name")
    using.add_argument("--force", action="store_true", help="replace edits, keeping a backup")
    actions.add_parser("list", help="the shipped profiles")
    actions.add_parser("show", help="the current one, and how params.yaml differs from it")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    if options.action == "use":
        backup = use(options.name, force=options.force)
        print(f"params.yaml is now profile {options.name}")
        if backup is not None:
            print(f"your edited file is kept as {backup}")
        return 0
    profile, edited = current()
    if options.action == "list":
        for name in names():
            print(("* " if name == profile else "  ") + name)
        return 0
    if profile is None and not edited:
        print("no params.yaml; `hapo profile use NAME` makes one")
        return 1
    print(f"{profile or 'no shipped profile'}{' (edited)' if edited else ''}")
    for line in differences():
        print(line)
    return 0
