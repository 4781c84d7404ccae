"""`hapo init`."""

from __future__ import annotations

import argparse

from hapo_core.errors import ConfigError
from pipeline.commands.train import add_arguments, write
from pipeline.commands.values import folder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo init DIR`."""
    parser = subparsers.add_parser("init", help="make a project: configuration, stages, git, DVC")
    parser.add_argument("folder", type=folder, help="made where it does not exist")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--profile", default="quickstart", help="it begins with (quickstart)")
    which.add_argument(
        "--upgrade", action="store_true", help="take the stages of the installed version instead"
    )
    own = parser.add_argument_group("for your own model and data (as `hapo train`, and no run)")
    add_arguments(own, needed=False)
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.start.project import make_project, profile_text, readme_text, upgrade
    from pipeline.system.project import find_root

    if options.upgrade:
        done = upgrade(find_root(options.folder))
    elif options.model or options.data:
        if not (options.model and options.data):
            raise ConfigError(
                "a project of your own needs a model and problems", remedy="--model and --problems"
            )
        done = [*write(options, options.folder), f"next: cd {options.folder} && hapo run"]
    else:
        about = f"A project of hapo that begins with the profile `{options.profile}`."
        name = options.folder.resolve().name
        text = profile_text(options.profile)
        done = make_project(options.folder, text, readme_text(name, about))
        done.append(f"next: cd {options.folder} && hapo run")
    for line in done:
        print(line)
    return 0
