"""`hapo status`."""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict

from pipeline.artifacts import human_bytes
from pipeline.checks.status import StageStatus, Status, read_status

_REASONS_SHOWN = 4


def show(status: Status) -> str:
    """The status as text."""
    width = max(len(s.name) for s in status.stages)
    lines = []
    for stage in status.stages:
        size = human_bytes(stage.bytes) if stage.bytes else "-"
        lines.append(f"{stage.name:<{width}}  {size:>9}  {_words(stage)}")
    running = [s.name for s in status.stages if s.state == "running"]
    lines.append("")
    if running:
        whose = f"`hapo run`, process {status.run}" if status.run else "`dvc repro`"
        lines.append(f"running  {', '.join(running)} ({whose})")
    elif status.run:
        lines.append(f"running  `hapo run`, process {status.run}, between stages")
    lines.append("next     " + _next(status))
    disk = ", ".join(f"{name} {human_bytes(n)}" for name, n in status.disk.items())
    lines.append(f"disk     {disk or 'nothing yet'}; free {human_bytes(status.free)}")
    return "\n".join(lines)


def _words(stage: StageStatus) -> str:
    words: list[str] = [stage.state]
    if stage.state == "running":
        words[0] += f" (process {stage.process})"
    if stage.progress is not None:
        words.append(str(stage.progress))
    if stage.reasons and stage.reasons != ("never ran",):
        shown = list(stage.reasons[:_REASONS_SHOWN])
        more = len(stage.reasons) - len(shown)
        words.append("; ".join(shown) + (f"; and {more} more" if more else ""))
    if stage.after and stage.state == "waits":
        words.append("after " + ", ".join(stage.after))
    return "  ".join(words)


def _next(status: Status) -> str:
    sure = [s.name for s in status.stages if s.state in ("changed", "new")]
    waits = [s.name for s in status.stages if s.state == "waits"]
    if not sure and not waits:
        running = any(s.state == "running" for s in status.stages)
        return "nothing else" if running else "`hapo run` has nothing to do"
    text = f"`hapo run` runs {', '.join(sure)}" if sure else "`hapo run`"
    if waits:
        text += ("; then" if sure else " looks at") + f" {', '.join(waits)}"
        text += " if what they read differs"
    return text


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo status`."""
    parser = subparsers.add_parser(
        "status", help="what ran, what runs and how far, what comes next and why, and the disk"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    from pipeline.dependencies.graph import behind
    from pipeline.system.project import find_root

    os.chdir(find_root())
    began = time.monotonic()
    status = read_status()
    if options.json:
        print(json.dumps({**asdict(status), "seconds": round(time.monotonic() - began, 3)}))
    else:
        print(show(status))
        if (note := behind()) is not None:
            print(f"upgrade  {note}")
    return 0
