"""The `hapo` command: thin subcommands, each in the module that does the work."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import shtab

SUPPORTED = "linux"
"""Processes end with their parent, locks are the kernel's, memory limits are set: all Linux."""
_MODULES = (
    "init",
    "train",
    "run",
    "serve",
    "status",
    "clean",
    "report",
    "samples",
    "server",
    "profile",
    "segments",
    "data",
    "evaluate",
    "audit",
    "compare",
    "score",
    "engine",
    "env",
)
"""Modules of `pipeline.commands`, each with an `add_parser`; none may import torch at import."""

_GROUPS = {
    "begin": ("train", "init"),
    "run": ("run", "status", "segments", "profile"),
    "look at a run": ("samples", "audit", "report"),
    "compare and measure": ("compare", "evaluate", "pair", "score"),
    "data and engines": ("data", "engine", "doctor", "env"),
    "schedules, server, disk": ("serve", "server", "clean"),
}
"""Heads of `hapo --help` and the commands under them, in order."""

EXIT_CODES = {
    0: "done, or nothing to do",
    1: "the answer is no (dry run, doctor, profile), a cell of a comparison failed, or a crash",
    2: "something that you can mend: the message names file and remedy; also a wrong option",
    130: "stopped by Ctrl-C or a signal; the same command goes on",
    141: "the reader of the output went away (`| head`)",
    255: "`hapo run`: DVC says that a stage failed; the stage's own message stands above",
}

_EPILOG = "\n".join(
    [
        "exit codes:",
        *(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items()),
        "",
        'completion:  eval "$(hapo --completion bash)"  in ~/.bashrc; zsh: docs/operations.md',
        "each command has its own help:  hapo COMMAND --help",
    ]
)


class _GroupedHelp(argparse.RawDescriptionHelpFormatter):
    """The subcommands under heads instead of in one long list."""

    def _format_action(self, action: argparse.Action) -> str:
        if not isinstance(action, argparse._SubParsersAction):
            return super()._format_action(action)
        lines = {choice.dest: choice for choice in action._get_subactions()}
        heads = {**_GROUPS, "more": tuple(lines)}  # what no head names must not vanish
        parts = []
        for head, names in heads.items():
            shown = [
                super(_GroupedHelp, self)._format_action(lines.pop(n)) for n in names if n in lines
            ]
            parts += [f"\n  {head}\n", *shown] if shown else []
        return "".join(parts)


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="hapo",
        description="Train a reasoning model with teacher help that fades away.",
        epilog=_EPILOG,
        formatter_class=_GroupedHelp,
    )
    parser.add_argument("--version", action="version", version=f"hapo {version('hapo')}")
    shtab.add_argument_to(parser, "--completion", help="print completion for this shell, and exit")
    subparsers = parser.add_subparsers(
        dest="subcommand", required=True, metavar="COMMAND", title="commands"
    )
    for name in _MODULES:
        importlib.import_module(f"pipeline.commands.{name}").add_parser(subparsers)
    _complete_paths(parser)
    return parser


def _complete_paths(parser: argparse.ArgumentParser) -> None:
    """Shells complete file names for every argument that is a `Path`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_paths(below)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors that users can mend go to stderr with exit status 2."""
    if sys.platform != SUPPORTED:
        print(
            f"error: hapo runs on Linux, and this is {sys.platform}\n"
            "  remedy: a Linux machine, a container, or (Windows) WSL 2: `wsl --install`",
            file=sys.stderr,
        )
        return 2
    from pipeline.flows.stage import guarded
    from pipeline.system.terminal import any_terminal

    any_terminal()  # also for help, which is printed before any command runs
    words = sys.argv[1:] if argv is None else argv
    if broken := [word for word in words if not _is_text(word)]:
        print(
            f"error: {ascii(broken[0])[1:-1]} is no UTF-8: what is named stands in files of text\n"
            "  remedy: give the file or folder another name (`mv`)",
            file=sys.stderr,
        )
        return 2
    options = build_parser().parse_args(words)
    code = guarded(lambda: options.command(options))
    sys.stdout.flush()
    sys.stderr.flush()
    joined = sys.modules.get("pipeline.flows.flow_run")
    if joined is not None and joined.stuck():
        os._exit(code)  # Prefect's exit hooks would wait for a server that no longer answers
    return code


def _is_text(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
