"""`hapo run`: `dvc repro` under a Prefect flow, with a local server if none answers.

DVC decides what runs and keeps the results; Prefect shows it. Without a server the same happens,
minus Prefect.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hapo_core.errors import ConfigError, HapoError
from pipeline import clean, server
from pipeline.config import load_params
from pipeline.locks import heal_lockfile, heal_rwlock, keep_lockfile, run_lock
from pipeline.observe import API_URL, INTERVAL, PARENT, answers, prepare_environment, warn
from pipeline.process import RUN_PID
from pipeline.repro import Screen, is_dvc_line, read_line, run_command
from pipeline.store import disk_full, folder_bytes, read_json

if TYPE_CHECKING:
    from pipeline.topflow import TopFlow

SUMMARY = Path("reports/summary.json")
REPORT = Path("reports/report.html")


def find_root(start: Path | None = None) -> Path:
    """The project around `start` (default: the working directory): the folder with dvc.yaml.

    Raises:
        ConfigError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() and (folder / ".dvc").is_dir():
            return folder
    raise ConfigError(
        "this is no hapo project: no dvc.yaml and .dvc here or above",
        where=str(here),
        remedy="change into the project's folder",
    )


def run(
    targets: Sequence[str] = (), *, with_server: bool = True, force_stage: str | None = None
) -> int:
    """Run the pipeline in the project of the working directory; DVC's exit status is returned.

    Args:
        targets: stages (`train@2`, `evaluate`); none means the whole graph.
        with_server: False works without Prefect.
        force_stage: run this stage even if nothing changed, then what follows from it.

    Raises:
        HapoError: no project, a bad configuration, another run going on, PREFECT_API_URL names
            an address that does not answer, or DVC met a full disk.
    """
    root = find_root()
    os.chdir(root)
    load_params()
    with run_lock():
        for repair in heal_rwlock() + heal_lockfile() + clean.finish():
            warn(repair)
        keep_lockfile()
        api, ui = _connect() if with_server else (None, None)
        flow = _open_flow(api, root) if api else None
        page = f"{ui}/runs/flow-run/{flow.joined.run_id}" if flow and flow.joined.run_id else ui
        if page:
            print(f"UI      {page}", flush=True)
        supervisor = Supervisor(flow, api)
        code = 1
        try:
            with supervisor.signals():
                for command in _commands(targets, force_stage):
                    code = supervisor.repro(command)
                    if code != 0:
                        break
        finally:
            if flow is not None:
                flow.finish(code, supervisor.stopped)
    alive = api is not None and answers(
        api, timeout=5.0
    )  # at the end of a run a server may be busy
    _print_end(code, supervisor.stopped, page if alive else None)
    if supervisor.full is not None:
        raise supervisor.full
    return code


def _dvc_lacks_space(line: str, stage: str | None) -> HapoError | None:
    """The error for a full disk that DVC met while it copied a stage's output to its cache."""
    kind, _, name = (stage or "").partition("@")
    places = {"curate": "data", "base": "policy/base", "train": f"policy/{name}"}
    output = Path("artifacts") / places.get(kind, f"evaluation/{name}")
    needed = folder_bytes(output) if output.is_dir() else None
    return disk_full(OSError(line), Path(".dvc/cache"), needed)


def _commands(targets: Sequence[str], force_stage: str | None) -> Iterator[list[str]]:
    dvc = [sys.executable, "-m", "dvc", "repro"]
    if force_stage is not None:
        yield [*dvc, "--force", "--single-item", force_stage]
    yield [*dvc, *targets]


# --- the server ---------------------------------------------------------------------------------


def _connect() -> tuple[str | None, str | None]:
    """(API address, UI address) of the server to use; starts a local one if none answers."""
    wanted = os.environ.get(API_URL)
    if wanted:
        if not answers(wanted, timeout=3.0):
            raise HapoError(
                "no Prefect server answers at the address that PREFECT_API_URL names",
                where=wanted,
                remedy="start that server; or unset PREFECT_API_URL, then `hapo run` starts a "
                "local one; or `hapo run --no-server`",
            )
        return wanted, wanted.rstrip("/").removesuffix("/api")
    try:
        found = server.ensure()
    except HapoError as error:
        warn(f"{error}\nthe run goes on without Prefect")
        return None, None
    os.environ.setdefault("PREFECT_HOME", str(server.HOME.absolute()))
    return found.api, found.url


def _open_flow(api: str, root: Path) -> TopFlow:
    os.environ[API_URL] = api
    prepare_environment()
    from pipeline.topflow import TopFlow

    flow = TopFlow(api, root)
    flow.start()
    return flow


# --- the run ------------------------------------------------------------------------------------


class Supervisor:
    """Runs `dvc repro`, shows its lines, tells the flow, and stops it when asked."""

    def __init__(self, flow: TopFlow | None, api: str | None) -> None:
        self.flow, self.api = flow, api
        self.stopped: str | None = None
        self.full: HapoError | None = None
        self._screen = Screen()
        self._stage: str | None = None

    def repro(self, command: Sequence[str]) -> int:
        """Run one command; 130 when it was stopped."""
        code = run_command(command, self._environment(), self._line, self._stop_asked)
        self._stage_over(ok=code == 0)
        return 130 if self.stopped else code

    def _environment(self) -> dict[str, str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT__")}
        # DVC runs `python`: it must be the one that runs us.
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")])
        env["PYTHONUNBUFFERED"] = "1"
        env[RUN_PID] = str(os.getpid())
        if self._screen.live:
            env.setdefault(INTERVAL, "1")
        if self.api is None:
            env.pop(API_URL, None)
        elif self.flow is not None and self.flow.joined.run_id is not None:
            env[PARENT] = str(self.flow.joined.run_id)
        return env

    def _line(self, line: str) -> None:
        self._screen.show(line)
        event = read_line(line)
        if event is not None:
            self._stage_over(ok=True)
            if event.kind == "running":
                self._stage = event.stage
            elif self.flow is not None:
                self.flow.cached(event.stage)
        elif line.startswith("ERROR: "):
            self.full = self.full or _dvc_lacks_space(line, self._stage)
            self._stage_over(ok=False)
        if self.flow is not None and is_dvc_line(line):
            self.flow.log(line)

    def _stage_over(self, ok: bool) -> None:
        if ok and self._stage is not None:
            keep_lockfile()
            if self.flow is not None:
                self.flow.finished(self._stage)
        self._stage = None

    def _stop_asked(self) -> str | None:
        if self.stopped is None and self.flow is not None and self.flow.cancel_asked():
            self.stopped = "cancelled from the UI"
        return self.stopped

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a closed terminal stop the run; a second Ctrl-C changes nothing."""

        def note(number: int, frame: FrameType | None) -> None:
            self.stopped = self.stopped or f"stopped by {signal.Signals(number).name}"

        before: dict[int, Any] = {}
        for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(wanted) is not signal.SIG_IGN:  # `nohup` stays in force
                before[wanted] = signal.signal(wanted, note)
        try:
            yield
        finally:
            for taken, handler in before.items():
                signal.signal(taken, handler)


# --- the end ------------------------------------------------------------------------------------


def _print_end(code: int, stopped: str | None, page: str | None) -> None:
    if stopped is not None:
        print(f"{stopped}; the same command continues where it was")
    elif code != 0:
        print(f"dvc repro failed with status {code}; finished stages are kept")
    elif SUMMARY.is_file():
        print()
        print(result_table(read_json(SUMMARY)))
        print(f"\nreport  {REPORT.absolute()}")
    if page:
        print(f"UI      {page}")


def result_table(summary: dict[str, Any]) -> str:
    """The numbers of `reports/summary.json` as text: benchmark, base, final, n, k."""
    rows = [("benchmark", "base", "final", "n", "k")]
    base, final = summary.get("base", {}), summary.get("final", {})
    for name in sorted(set(base) | set(final)):
        known = final.get(name) or base.get(name) or {}
        rows.append(
            (
                name,
                _cell(base.get(name)),
                _cell(final.get(name)),
                str(known.get("n", "-")),
                str(known.get("k", "-")),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    head = f"method {summary.get('method', '?')}, profile {summary.get('profile', '?')}, "
    head += f"{summary.get('rounds', '?')} rounds, seed {summary.get('seed', '?')}"
    return "\n".join([head, *lines])


def _cell(entry: dict[str, Any] | None) -> str:
    if not entry or entry.get("avg") is None:
        return "-"
    text = f"{100 * entry['avg']:.1f} %"
    if entry.get("ci"):
        low, high = entry["ci"]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


# --- the command --------------------------------------------------------------------------------


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo run`."""
    parser = subparsers.add_parser("run", help="run what is not up to date, watched by Prefect")
    parser.add_argument("targets", nargs="*", help="stages, e.g. train@2; default: everything")
    parser.add_argument("--no-server", action="store_true", help="without Prefect")
    parser.add_argument("--force-stage", metavar="NAME", help="run this stage in any case")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    return run(options.targets, with_server=not options.no_server, force_stage=options.force_stage)
