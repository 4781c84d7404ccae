"""Output on terminals without UTF-8: LC_ALL=C, PYTHONIOENCODING=ascii."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAY = """
import sys
from hapo_core.errors import HapoError
from pipeline.flows.stage import stage_main

def work():
    print("0.1 \\u2192 0.9 \\u2013 3 \\u00d7 \\u00e9", "lone \\ud800")
    print("\\u2026", file=sys.stderr)
    raise HapoError("the file caf\\u00e9.csv is empty")

stage_main(work)
"""


def said(encoding: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C", "PYTHONUTF8": "0"}
    return subprocess.run([sys.executable, "-c", SAY], env=env, capture_output=True, check=False)


def test_an_ascii_terminal_gets_plain_signs() -> None:
    done = said("ascii")
    assert done.returncode == 2, done.stderr
    assert done.stdout == b"0.1 -> 0.9 - 3 x \\xe9 lone \\ud800\n"
    assert done.stderr.startswith(b"...\nerror: the file caf\\xe9.csv is empty")


def test_a_utf8_terminal_gets_all_that_it_can_show() -> None:
    done = said("utf-8")
    assert done.stdout.decode() == "0.1 → 0.9 – 3 × é lone \\ud800\n"


STEER = r"""
from pipeline.system.terminal import any_terminal
any_terminal()
any_terminal()
print("\x1b]0;title\x07 \x1b]52;c;cm0=\x1b\\ \x1b[2J a\rb \x08 \x9b1m \u202eabc \x00", end="|")
print("\x1b[31mred\x1b[0m\r\x1b[Kx\tz")
"""


def test_what_a_response_holds_does_not_steer_the_terminal() -> None:
    """Titles, the clipboard, a cleared screen, a line written over, text that runs backwards."""
    done = subprocess.run([sys.executable, "-c", STEER], capture_output=True, check=True)
    told, _, own = done.stdout.decode().partition("|")
    assert all(c.isprintable() for c in told) and "\\x1b]52;c" in told and "\\u202e" in told
    assert own == "\x1b[31mred\x1b[0m\r\x1b[Kx\tz\n"


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["status"]])
def test_commands_on_an_ascii_terminal(command: list[str]) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    whole = [sys.executable, "-m", "pipeline.cli", *command]
    done = subprocess.run(whole, env=env, capture_output=True, check=False, text=True)
    assert "UnicodeEncodeError" not in done.stderr and done.returncode in (0, 2)
