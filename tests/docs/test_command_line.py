"""The command line as a stranger meets it: help, version, completion, exit codes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

from pipeline import cli


def hapo(*words: str, cwd: Path = REPO) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.cli", *words]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, env=_environment()
    )


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(REPO), "COLUMNS": "100"}


def test_help_needs_no_project_and_imports_nothing_heavy(tmp_path: Path) -> None:
    """Outside of a project too: `hapo score` and `hapo evaluate` work anywhere."""
    done = hapo("--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "pipeline.run.supervisor" in loaded  # what commands import is in the list
    heavy = {"torch", "transformers", "prefect", "dvc", "pandas", "pyarrow", "scipy", "datasets"}
    assert not heavy & loaded


def test_every_command_stands_under_one_head() -> None:
    named = [name for names in cli._GROUPS.values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) == set(_commands())
    text = cli.build_parser().format_help()
    for head, names in cli._GROUPS.items():
        at = text.index(f"\n  {head}\n")
        assert all(text.index(f"\n  {name}  ", at) > at for name in names)


def _commands() -> list[str]:
    import argparse

    (sub,) = (a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return list(sub.choices)


def test_a_command_that_no_head_names_is_still_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_GROUPS", {"run": ("run",)})
    text = cli.build_parser().format_help()
    assert text.index("\n  more\n") < text.index("\n  doctor  ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    version = f'version = "{capsys.readouterr().out.split()[1]}"'
    assert version in (REPO / "pyproject.toml").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_a_script_of_that_shell(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--completion", shell])
    assert stopped.value.code == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    assert all(name in script.read_text() for name in _commands())
    if shutil.which(shell):
        subprocess.run([shell, "-n", str(script)], check=True)
    if shell == "bash":
        ask = "COMP_WORDS=(hapo stat); COMP_CWORD=1; _shtab_hapo; echo ${COMPREPLY[@]}"
        done = subprocess.run(
            ["bash", "-c", f"source {script}; {ask}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["status"]


def test_exit_codes_are_documented() -> None:
    help_text, page = cli.build_parser().format_help(), (REPO / "docs/operations.md").read_text()
    for code, meaning in cli.EXIT_CODES.items():
        assert f"{code:<4}{meaning}" in help_text
        assert f"| {code} | {meaning} |" in page


def test_elsewhere_than_on_linux_it_says_so_at_once() -> None:
    """Before anything is imported that another system lacks."""
    lines = (
        "import sys",
        "sys.platform = 'win32'",
        "sys.modules['fcntl'] = None",  # as on Windows: no such module
        "from pipeline import cli",
        "sys.exit(cli.main(['run']))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: hapo runs on Linux")
    assert "Traceback" not in done.stderr
