"""`hapo server`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hapo_core.errors import ConfigError, HapoError
from pipeline.commands.values import count
from pipeline.flows.health import prepare_environment
from pipeline.flows.server import find, start, stop
from pipeline.flows.server_home import HOME
from pipeline.run.supervisor import connect
from pipeline.system.project import find_root


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`hapo server start|stop|status|login`."""
    parser = subparsers.add_parser("server", help="start, stop or show the local Prefect server")
    actions = parser.add_subparsers(dest="action", required=True)
    starting = actions.add_parser("start", help="start it (loopback only)")
    starting.add_argument("--port", type=count, default=None)
    actions.add_parser("stop", help="stop the project's own server")
    actions.add_parser("status", help="its address, process, home and log")
    actions.add_parser("login", help="what the UI asks for, and how other programs get in")
    told = actions.add_parser("notify", help="tell a webhook of failed runs and teacher's alarms")
    told.add_argument(
        "url", nargs="?", help="takes a POST of JSON (Slack, Mattermost, Discord, ...)"
    )
    told.add_argument("--off", action="store_true", help="tell nobody any more")
    parser.set_defaults(command=_command)


def _command(options: argparse.Namespace) -> int:
    os.chdir(find_root())
    if options.action == "start":
        server = start(port=options.port)
        print(f"Prefect {server.url}  (process {server.pid}, log {HOME / 'server.log'})")
        print("its pages ask for a password: `hapo server login` says it")
        return 0
    if options.action == "stop":
        print("stopped" if stop() else "no server of this project runs")
        return 0
    if options.action == "notify":
        return _notify(options.url, options.off)
    found = find()
    if found is None:
        print("no server of this project runs (`hapo server start`)")
        return 1
    if options.action == "login":
        return _login(found.url, found.api, found.auth)
    print(f"Prefect {found.url}  (process {found.pid}, home {HOME})")
    print("its pages ask for a password: `hapo server login` says it")
    return 0


def _notify(url: str | None, off: bool) -> int:
    """On the server that runs use: PREFECT_API_URL's, or the project's own."""
    if bool(url) == off:
        raise ConfigError(
            "name one address, or --off",
            where="hapo server notify",
            remedy="hapo server notify https://hooks.example.org/...",
        )
    os.environ["PREFECT_API_URL"], _ = connect()
    prepare_environment()
    from pipeline.flows.notify import forget, notify

    for line in notify(url, Path()) if url else [f"gone  {name}" for name in forget(Path())]:
        print(line)
    return 0


def _login(url: str, api: str, auth: str | None) -> int:
    if auth is None:
        raise HapoError("the server has no password", where=url, remedy="`hapo server start`")
    print(f"Open {url} in a browser on this machine and give this as the password, whole:\n")
    print(f"  {auth}\n")
    print("Other programs of yours get in with")
    print(f"  export PREFECT_API_URL={api}")
    print(f'  export PREFECT_API_AUTH_STRING="$(cat {(HOME / "password").absolute()})"')
    return 0
