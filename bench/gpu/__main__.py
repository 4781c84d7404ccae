"""What a GPU has to show, in parts: `python bench/gpu --device cuda --out FOLDER` (docs/gpu.md).

Every part is a process of its own with a time limit; when one fails, hangs or dies, the others go
on. After each part FOLDER/gpu.json and FOLDER/gpu.md are written anew, so that a run that is cut
off leaves all that was finished; FOLDER/gpu.log has what the parts printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
for _folder in (REPO / "tests/support", REPO, HERE.parent, HERE):
    sys.path.insert(0, str(_folder))

TOTAL = 470.0
"""Seconds of the whole kit, unless `--seconds` says otherwise: a lent card is held ten minutes."""
LOG = 3000
"""Characters of a failed part's output that are kept."""


@dataclass(frozen=True)
class Part:
    """One part: `module.function(device, small)` gives its figures; `seconds` is its limit."""

    module: str
    function: str
    seconds: float
    more: tuple[Any, ...] = ()


PARTS = {
    "machine": Part("correct", "machine", 40),
    "update": Part("correct", "update", 90),
    "engine": Part("correct", "engine", 60),
    "repeat": Part("correct", "repeat", 60),
    "resume": Part("correct", "resume", 60),
    "quickstart": Part("quick", "quickstart", 150),
    "pace-135M": Part("pace", "pace", 60, ("135M",)),
    "pace-0.5B": Part("pace", "pace", 70, ("0.5B",)),
    "pace-1.5B": Part("pace", "pace", 90, ("1.5B",)),
    "trl": Part("pace", "beside_trl", 90),
}
"""In the order of what one would miss most."""


def main() -> int:
    """Parse the command line; `--part` is a child's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny shapes: shows that it runs")
    parser.add_argument("--out", type=Path, default=REPO / "build/gpu")
    parser.add_argument("--seconds", type=float, default=TOTAL, help="of all parts together")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        return child(options.part, options.device, options.small)
    found = run_parts(options.parts, options, print)
    return 0 if all(part["status"] in ("ok", "left out") for part in found.values()) else 1


def child(name: str, device: str, small: bool) -> int:
    """Run one part in this process; its figures are the last line of the output."""
    import importlib

    part = PARTS[name]
    function = getattr(importlib.import_module(part.module), part.function)
    found = function(device, small, *part.more)
    print("\n" + json.dumps(found), flush=True)
    return 0


def run_parts(
    names: list[str], options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Run the parts one after another and write what is known after each.

    Returns:
        name -> {status: ok | failed | out of time | left out, seconds, figures or error}.
    """
    from table import table

    options.out.mkdir(parents=True, exist_ok=True)
    began, found = time.monotonic(), dict[str, dict[str, Any]]()
    for name in names:
        left = options.seconds - (time.monotonic() - began)
        limit = min(PARTS[name].seconds, left)
        if limit < 5:
            found[name] = {"status": "left out", "seconds": 0.0, "error": "no time was left"}
        else:
            found[name] = run_part(name, options, limit)
        say(f"{name}: {found[name]['status']}, {found[name]['seconds']:.0f} s")
        text = json.dumps({"device": options.device, "small": options.small, "parts": found})
        (options.out / "gpu.json").write_text(text + "\n", encoding="utf-8")
        (options.out / "gpu.md").write_text(table(found), encoding="utf-8")
    say(table(found))
    return found


def run_part(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """One part in a process (and session) of its own, killed with all it started at the limit."""
    command = [sys.executable, str(HERE), "--part", name, "--device", options.device]
    began = time.monotonic()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(
            command + ["--small"] * options.small,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        seconds = time.monotonic() - began
        sink.seek(0)
        text = sink.read().decode(errors="replace")
    with (options.out / "gpu.log").open("a", encoding="utf-8") as kept:
        kept.write(f"== {name}, exit status {code}, {seconds:.0f} s\n{text}\n")
    if code is None:
        return {"status": "out of time", "seconds": seconds, "error": text[-LOG:]}
    try:
        figures = json.loads(text.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        figures = None
    if code != 0 or not isinstance(figures, dict):
        error = f"exit status {code}\n{text[-LOG:]}"
        return {"status": "failed", "seconds": seconds, "error": error}
    wrong = figures.pop("wrong", [])
    status = "failed" if wrong else "ok"
    return {"status": status, "seconds": seconds, "figures": figures, "wrong": wrong}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whatever the part started ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    raise SystemExit(main())
