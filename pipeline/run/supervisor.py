"""`hapo run`: `dvc repro` under a Prefect flow, with a local server if none answers.

DVC decides what runs and keeps the results; Prefect shows it. Without a server the same happens,
minus Prefect.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hapo_core.errors import HapoError
from pipeline.artifacts import disk_full, folder_bytes, read_json
from pipeline.artifacts.places import REPORT, SUMMARY, dvc_cache, output_of
from pipeline.artifacts.revisions import need_git
from pipeline.config import Params, load_params
from pipeline.config.overrides import configure
from pipeline.dependencies.graph import behind
from pipeline.dependencies.lock import renew
from pipeline.dependencies.watch import keep_watch
from pipeline.flows import server
from pipeline.flows.health import API_URL, AUTH, answers, prepare_environment, refuses
from pipeline.flows.observer import INTERVAL, LIVE, PARENT, warn
from pipeline.flows.server_home import HOME, Server
from pipeline.run.dvc import Hints, Screen, is_dvc_line, read_line, run_command
from pipeline.run.request import Request
from pipeline.run.result import may_colour, next_steps, result_markdown, result_table
from pipeline.run.targets import check_targets
from pipeline.run.thinning import finish
from pipeline.system.dvc_state import heal_lockfile, heal_rwlock, keep_lockfile
from pipeline.system.locks import Patience, WaitStopped, device_locks, devices_of, run_lock
from pipeline.system.processes import RUN_PID
from pipeline.system.project import find_root
from pipeline.system.remedies import in_project_words
from pipeline.system.secrets import hide, learn

if TYPE_CHECKING:
    from pipeline.run.flow_run import RunFlow


def run(request: Request, *, with_server: bool = True) -> int:
    """Run the pipeline in the project of the working directory; DVC's exit status is returned.

    Args:
        request: what to run, and with which configuration.
        with_server: False works without Prefect.

    Raises:
        HapoError: no project, a bad configuration, another run going on, PREFECT_API_URL names
            an address that does not answer, or DVC met a full disk.
    """
    root = find_root()
    os.chdir(root)
    need_git(root)
    supervisor = Supervisor()
    page = None
    try:
        with supervisor.signals(), exclusive(request, root, supervisor):
            api, ui = _connect_if_possible() if with_server else (None, None)
            flow = _open_flow(api, root) if api else None
            page = f"{ui}/runs/flow-run/{flow.joined.run_id}" if flow and flow.joined.run_id else ui
            if page:
                print(f"UI      {page}", flush=True)
                if os.environ.get(AUTH):
                    print("        the password it asks for: `hapo server login`", flush=True)
            supervisor.show_on(flow, api)
            try:
                code = supervisor.work(request)
            finally:
                if flow is not None:
                    flow.finish(supervisor.code, supervisor.stopped)
    except WaitStopped as stop:
        warn(str(stop))
        return 130
    alive = api is not None and answers(
        api, timeout=5.0
    )  # at the end of a run a server may be busy
    _print_end(code, supervisor.stopped, page if alive else None)
    if supervisor.full is not None:
        raise supervisor.full
    return code


@contextmanager
def exclusive(request: Request, root: Path, supervisor: Supervisor) -> Iterator[None]:
    """The project and its devices for this run only, and params.yaml as the request wants it.

    Raises:
        HapoError: another run holds the project or a device (unless the request waits), or the
            configuration is not valid.
    """
    patience = Patience(supervisor.tell, supervisor.stop_asked) if request.wait else None
    with run_lock(root, patience):
        for repair in heal_rwlock(root) + heal_lockfile(root) + finish():
            warn(repair)
        keep_lockfile(root)
        for line in configure(request.profile, request.overrides, root, person=request.person):
            supervisor.tell(line)
        check_targets(request, root)
        if (note := behind(root)) is not None:
            supervisor.tell(note)
        params = load_params()
        keep_watch(params)
        renew(params)
        with device_locks(_devices(params), root, patience):
            yield


def _devices(params: Params) -> list[str]:
    """The locks of the devices that the run computes or generates on."""
    found = set(devices_of(params.compute.device))
    for choice in (params.rollout, params.evaluate):
        servers = choice.vllm
        if servers is not None and servers.device == "cuda" and not servers.urls:
            given = [f"gpu-{one.strip()}" for gpus in servers.gpus or () for one in gpus.split(",")]
            found.update(given or devices_of("cuda"))
    return sorted(found)


def _dvc_lacks_space(line: str, stage: str | None) -> HapoError | None:
    """The error for a full disk that DVC met while it copied a stage's output to its cache."""
    output = output_of(stage or "")
    needed = folder_bytes(output) if output is not None and output.is_dir() else None
    return disk_full(OSError(line), dvc_cache(), needed)


# --- the server ---------------------------------------------------------------------------------


def connect() -> tuple[str, str]:
    """(API address, UI address) of the server to use; starts a local one if none answers.

    Raises:
        HapoError: PREFECT_API_URL names a server that does not answer or does not let us in, or
            none could be started.
    """
    wanted = os.environ.get(API_URL)
    if wanted:
        own = server.find()
        if own is not None and own.api == wanted.rstrip("/"):
            _log_in(own)
        if not answers(wanted, timeout=3.0):
            raise HapoError(
                "no Prefect server answers at the address that PREFECT_API_URL names",
                where=wanted,
                remedy="start that server; or unset PREFECT_API_URL, then `hapo run` starts a "
                "local one; or `hapo run --no-server`",
            )
        if refuses(wanted, os.environ.get(AUTH)):
            raise HapoError(
                "the Prefect server that PREFECT_API_URL names does not let us in",
                where=wanted,
                remedy=f"set {AUTH} to its user:password (`hapo server login` says it in the "
                "project whose server it is); or `hapo run --no-server`",
            )
        return wanted, wanted.rstrip("/").removesuffix("/api")
    found = server.ensure()
    _log_in(found)
    os.environ.setdefault("PREFECT_HOME", str(HOME.absolute()))
    return found.api, found.url


def _log_in(own: Server) -> None:
    if own.auth is not None:
        os.environ[AUTH] = own.auth
        learn()


def _connect_if_possible() -> tuple[str | None, str | None]:
    """`connect`, but a local server that does not start is no obstacle."""
    if not os.environ.get(API_URL) and server.find() is None:
        said = "Prefect's own starts: 15 s on an idle machine, once; `--no-server` does without"
        print(f"server  {said}", flush=True)
    try:
        return connect()
    except HapoError as error:
        if os.environ.get(API_URL):
            raise
        warn(f"{in_project_words(error)}\nthe run goes on without Prefect")
        return None, None


def _open_flow(api: str, root: Path) -> RunFlow:
    os.environ[API_URL] = api
    prepare_environment()
    from pipeline.run.flow_run import RunFlow

    flow = RunFlow(api, root)
    flow.start()
    return flow


# --- the run ------------------------------------------------------------------------------------


class Supervisor:
    """Runs `dvc repro`, shows its lines, tells the flow, and stops it when asked."""

    def __init__(self) -> None:
        self.flow: RunFlow | None = None
        self.api: str | None = None
        self.stopped: str | None = None
        self.code = 1
        """Exit status so far: what the flow is closed with when something unexpected happens."""
        self.full: HapoError | None = None
        self._screen, self._hints = Screen(), Hints()
        self._stage: str | None = None
        self._said = ""

    def show_on(self, flow: RunFlow | None, api: str | None) -> None:
        """From now on tell this flow run what happens."""
        self.flow, self.api = flow, api
        if flow is not None:
            flow.sweep()

    def work(self, request: Request) -> int:
        """Do what the request says; DVC's exit status, 130 when it was stopped."""
        for words in request.dvc_words():
            self.code = self._dvc(words)
            if self.code != 0:
                break
        if self.code == 0 and self.flow is not None and SUMMARY.is_file():
            summary = read_json(SUMMARY)
            self.flow.log(result_table(summary))
            self.flow.joined.markdown("summary", result_markdown(summary))
        return self.code

    def tell(self, line: str) -> None:
        """A line of our own, on the screen and in the flow run's log."""
        line = hide(line)
        self._screen.show(line)
        if self.flow is not None:
            self.flow.log(line)

    def _dvc(self, words: Sequence[str]) -> int:
        command = [sys.executable, "-m", "dvc", *words]
        code = run_command(command, self._environment(), self._line, self.stop_asked)
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
            env[LIVE] = "1"
        if self.api is None:
            env.pop(API_URL, None)
        elif self.flow is not None and self.flow.joined.run_id is not None:
            env[PARENT] = str(self.flow.joined.run_id)
        return env

    def _line(self, line: str) -> None:
        line = hide(line)
        hint = self._hints.is_one(line)
        if not hint:
            self._screen.show(line)
        if self._stage is not None and line.startswith(f"{self._stage}  "):
            self._said = line
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
        if self.flow is not None and is_dvc_line(line) and not hint:
            self.flow.log(line)

    def _stage_over(self, ok: bool) -> None:
        if self.flow is not None and self._said:
            self.flow.log(self._said)  # the stage's last word: what came out
        self._said = ""
        if ok and self._stage is not None:
            keep_lockfile()
            if self.flow is not None:
                self.flow.finished(self._stage)
        self._stage = None

    def stop_asked(self) -> str | None:
        """Why the run shall stop; None while it shall not."""
        if self.stopped is None and self.flow is not None:
            self.stopped = self.flow.stop_asked()
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
        print(result_table(read_json(SUMMARY), colour=may_colour()))
        print(f"\nreport  {REPORT.absolute()}")
        print(next_steps(load_params()))
    if page:
        print(f"UI      {page}")
