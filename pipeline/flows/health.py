"""Is there a Prefect server, does it answer, and does it let us in?"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

API_URL = "PREFECT_API_URL"
AUTH = "PREFECT_API_AUTH_STRING"
"""Environment variable: `user:password` that Prefect's client sends."""
PATIENCE = "HAPO_SERVER_PATIENCE"
"""Environment variable: how many times longer than usual a stage waits for a server that is slow
(default 1, at most 100): for a machine that is busy with other things."""
_NO_PROXY = "NO_PROXY"

Health = Literal["healthy", "slow", "dead"]


def patience() -> float:
    """The factor of `HAPO_SERVER_PATIENCE`; 1 where it is unset or no such number."""
    try:
        factor = float(os.environ.get(PATIENCE, "1"))
    except ValueError:
        return 1.0
    return factor if 1 <= factor <= 100 else 1.0


def ask(api: str, timeout: float = 1.0) -> Health:
    """How a Prefect server at `api` (http://HOST:PORT/api) is; takes `timeout` seconds at most.

    Every server answers this without a password, so none is sent.
    """
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        status, body = _get(api, "/health", headers, timeout)
        return "healthy" if status == 200 and body.strip() == b"true" else "dead"
    except TimeoutError:
        return "slow"
    except urllib.error.URLError as error:
        return "slow" if isinstance(error.reason, TimeoutError) else "dead"
    except (OSError, ValueError, http.client.HTTPException):
        return "dead"


def answers(api: str, timeout: float = 1.0) -> bool:
    """Whether a healthy Prefect server answers at `api`."""
    return ask(api, timeout) == "healthy"


def refuses(api: str, auth: str | None, timeout: float = 2.0) -> bool:
    """Whether the server wants another password than `auth` (`user:password`), or wants one.

    False where that cannot be told: a slow server is no reason to do without it.
    """
    try:
        _get(api, "/admin/version", _authorization(auth), timeout)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return False


def post(api: str, path: str, body: object, timeout: float = 2.0) -> str | None:
    """Send JSON to the server; why it was not taken, or None."""
    headers = {**_authorization(os.environ.get(AUTH)), "Content-Type": "application/json"}
    try:
        _get(api, path, headers, timeout, json.dumps(body).encode())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _authorization(auth: str | None) -> dict[str, str]:
    if auth:
        return {"Authorization": "Basic " + base64.b64encode(auth.encode()).decode()}
    key = os.environ.get("PREFECT_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def is_loopback(api: str) -> bool:
    """Whether the address is on this machine's loopback."""
    try:
        host = urlsplit(api).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _get(
    api: str, path: str, headers: Mapping[str, str], timeout: float, body: bytes | None = None
) -> tuple[int, bytes]:
    """(status, first bytes of the answer); redirects are not followed, so that a password goes
    nowhere else, and no proxy stands between us and our own loopback."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if is_loopback(api):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(api.rstrip("/") + path, headers=dict(headers), data=body)
    with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as reply:
        return reply.status, reply.read(200)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """What makes every library speak to loopback directly, where a proxy is set (and only there).

    Prefect's HTTP client and its web sockets read these variables.
    """
    proxies = [k for k, v in environment.items() if k.lower().endswith("_proxy") and v]
    if not any(name.lower() != "no_proxy" for name in proxies):
        return {}
    given = environment.get(_NO_PROXY) or environment.get(_NO_PROXY.lower()) or ""
    if given.strip() == "*":
        return {}
    known = [word.strip() for word in given.split(",") if word.strip()]
    value = ",".join(dict.fromkeys([*known, "127.0.0.1", "localhost", "::1"]))
    return {_NO_PROXY: value, _NO_PROXY.lower(): value}


def prepare_environment() -> None:
    """Settings that Prefect must find when it is imported."""
    for key in [k for k in os.environ if k.startswith("PREFECT__")]:
        del os.environ[key]
    os.environ.update(without_proxy(os.environ))
    os.environ.update(
        PREFECT_CLIENT_MAX_RETRIES="1",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_INTERNAL_LEVEL="CRITICAL",
        PREFECT_API_REQUEST_TIMEOUT="10",
    )
