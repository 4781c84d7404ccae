"""`hapo env`: what a bug report needs. Versions, devices and the configuration; no secrets."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from hapo_core.errors import HapoError
from pipeline.artifacts import human_bytes
from pipeline.artifacts.places import expanded
from pipeline.config import PARAMS, load_params, profiles
from pipeline.config.shipped import shipped
from pipeline.dependencies.variables import ARITHMETIC
from pipeline.system.memory import memory_bytes
from pipeline.system.secrets import HIDDEN, hide

VARIABLES = re.compile(
    r"^(HAPO|HF|TRANSFORMERS|PREFECT|DVC|CUDA|NCCL|TORCH|PYTORCH|OMP|MKL|PYTHON|VLLM|TOKENIZERS"
    r"|SLURM|http_proxy|https_proxy|no_proxy|NO_COLOR)",
    re.IGNORECASE,
)
"""Environment variables that change how a run goes."""
MORE = ("numpy", "safetensors", "sympy", "trl", "peft", "vllm", "accelerate", "pip")
_LOGIN = re.compile(r"(://)[^/\s:@]+:[^/\s@]+@")
_MODULES = ("pipeline", "hapo_core")


def report() -> Iterator[str]:
    """The lines, without credentials and without the name of the home folder."""
    for line in _lines():
        yield clean(line)


def clean(text: str) -> str:
    """Known credentials, logins in addresses and the home folder are taken out."""
    home = str(expanded("~"))
    text = _LOGIN.sub(rf"\1{HIDDEN}@", hide(text))
    return re.sub(rf"{re.escape(home)}(?=/|\b)", "~", text) if len(home) > 1 else text


def _lines() -> Iterator[str]:
    yield f"hapo {version('hapo')}, {_origin()}"
    yield f"python {platform.python_version()} ({platform.python_implementation()})"
    yield f"system {_system()}"
    yield f"machine {_machine()}"
    yield from (f"device {line}" for line in _devices())
    yield f"disk {human_bytes(shutil.disk_usage(Path.cwd()).free)} free here"
    yield f"git {_said(['git', '--version']).removeprefix('git version ')}"
    yield ""
    yield "packages"
    yield from (f"  {name} {_version(name)}" for name in _packages())
    yield ""
    yield "variables"
    found = [(k, v) for k, v in sorted(os.environ.items()) if VARIABLES.match(k) or k in ARITHMETIC]
    yield from (f"  {name}={value}" for name, value in found)
    if not found:
        yield "  none that matters"
    yield ""
    yield from _configuration()


def _origin() -> str:
    folder = shipped()
    if folder.name == "project":
        return f"installed in {folder.parents[1]}"
    commit = _said(["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"])
    edited = _said(["git", "-C", str(folder), "status", "--porcelain", "--", *_MODULES], empty="")
    return f"a clone at {folder}, commit {commit}{' with edits' if edited else ''}"


def _system() -> str:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = "no os-release"
    libc = " ".join(platform.libc_ver())
    return f"{platform.system()} {platform.release()} {platform.machine()}, {name}, {libc}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    load, memory = os.getloadavg()[0], human_bytes(memory_bytes())
    return f"{cores} of {os.cpu_count()} cores, {memory} of memory, load {load:.1f}"


def _devices() -> Iterator[str]:
    import torch

    if not torch.cuda.is_available():
        yield f"cpu only (torch {torch.__version__}, built for CUDA {torch.version.cuda or 'no'})"
        return
    driver = _said(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        size = human_bytes(facts.total_memory)
        yield f"cuda:{number} {facts.name}, {size}, driver {driver.splitlines()[0]}"


def _said(command: list[str], empty: str = "unknown") -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "missing"
    return done.stdout.strip() or empty


def _packages() -> list[str]:
    own = [re.split(r"[\s<>=!~;\[]", r, maxsplit=1)[0] for r in requires("hapo") or ()]
    plain = [name for name in dict.fromkeys([*own, *MORE]) if _version(name) != "missing"]
    return sorted(plain, key=str.casefold)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _configuration() -> Iterator[str]:
    if not PARAMS.is_file():
        yield f"configuration: none here ({sys.executable})"
        return
    try:
        params = load_params()
        yield f"configuration: profile {params.profile}, method {params.method}, valid"
    except HapoError as error:
        yield f"configuration: {error.what}"
    name, edited = profiles.current()
    shipped_one = name is not None and profiles.place_of(name).is_file()
    if shipped_one and not edited:
        yield "  as shipped"
    elif shipped_one:
        yield from (f"  {line}" for line in profiles.differences())
    else:
        yield from (f"  {line}" for line in PARAMS.read_text(encoding="utf-8").splitlines())
