"""Parts of the kit that ask how fast: update and rollouts of real shapes with random weights."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flops import Lengths, Shape, needed
from transformers import Qwen2Config, Qwen2ForCausalLM

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.groups import Group, Trace
from hapo_core.methods import HAPO
from hapo_core.objective import PAPER
from hapo_core.rollout import Finish, Prompt, Rollout, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.update import Updater, UpdateSpec

PEAKS = {"NVIDIA H200": 989.0, "NVIDIA H100": 989.0, "NVIDIA A100": 312.0, "NVIDIA L40S": 362.0}
"""TFLOPS in bfloat16 with dense tensor cores, from the makers' data sheets, by the beginning of
torch's name of the device (H100: the SXM card)."""


@dataclass(frozen=True)
class Size:
    """A decoder's shape, and the batch that it is measured with."""

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int = 8
    size: int = 8
    prompt: int = 128
    response: int = 384
    pass_tokens: int = 16384
    keys: int = 2
    """Key-value heads."""


SHAPES = {
    "small": Size(64, 32, 64, 2, 2, 2, 2, 8, 12, 64),
    "wide": Size(64, 256, 512, 4, 4),  # heads of 64: attention kernels as in real models
    "135M": Size(49152, 576, 1536, 30, 9, keys=3),  # SmolLM2-135M
    "0.5B": Size(151936, 896, 4864, 24, 14),  # Qwen2.5-0.5B
    "1.5B": Size(151936, 1536, 8960, 28, 12),  # Qwen2.5-1.5B
}


def made_model(size: Size, device: str) -> Qwen2ForCausalLM:
    """Random weights, the same for the same device; drawn there."""
    config = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.keys,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = None
    return model.eval()


class Words:
    """A tokenizer of which only the ids are used; no token ends a response."""

    pad_token_id, eos_token_id = 0, None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """An empty text: only token ids are measured."""
        return ""


def groups_of(size: Size) -> list[Group]:
    """Random tokens; lengths of responses from a half to the whole budget; half of each right."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, size.vocabulary, (count,), generator=draw).tolist())

    found = []
    for k in range(size.groups):
        rollouts = []
        for j in range(size.size):
            length = size.response - (j * size.response) // (2 * size.size)
            rollouts.append(Rollout(str(k), j, tokens(length), (-1.0,) * length, Finish.STOP, ""))
        rewards = tuple(float(j % 2) for j in range(size.size))
        trace = Trace("t", tokens(size.response), "")
        prompt = Prompt(str(k), tokens(size.prompt))
        found.append(Group(prompt, graded(rollouts, rewards), trace))
    return found


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _peak(device: str) -> float | None:
    """GiB since the last call; None on a CPU."""
    if device == "cpu":
        return None
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return most


def pace(device: str, small: bool, name: str) -> dict[str, Any]:
    """Tokens a second, share of the device's peak, and memory, of update and rollouts."""
    size = SHAPES["small" if small else name]
    model = made_model(size, device)
    shape = Shape.of(model)
    groups = groups_of(size)
    lengths = [
        Lengths.of(len(g.prompt.token_ids), [len(r.token_ids) for r in g.rollouts], g.rewards)
        for g in groups
    ]
    peak = _bfloat16_peak(device)
    lines: dict[str, dict[str, Any]] = {}
    spec = UpdateSpec(1e-6, micro_batch_tokens=size.pass_tokens, mixed_precision=True)
    updater = Updater(model, spec)
    planned = HAPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), PAPER, 0).plan(groups, 0)
    _peak(device)
    seconds = _best(device, lambda: updater.update(planned, PAPER, size.response, 1e-6))
    trained = sum(sum(batch.responses) for batch in lengths)
    lines["update"] = {
        "tokens/s": trained / seconds,
        "MFU": _share(needed(shape, lengths, False, True) / seconds, peak),
        "peak GiB": _peak(device),
        "s": seconds,
    }
    engine = HFEngine(model, Words(), 4 * size.size * size.groups, torch.bfloat16)  # type: ignore[arg-type]
    sampling = Sampling(size.size, 1.0, 1.0, max(4, size.response // 4))
    prompts = [g.prompt for g in groups]

    def draw() -> None:
        count = sum(1 for _ in engine.generate(prompts, sampling, 0, 0))
        assert count == len(prompts) * sampling.n

    drawn = [
        Lengths(size.prompt, (sampling.max_tokens,) * sampling.n, True) for _ in range(size.groups)
    ]
    seconds = _best(device, draw)
    lines["rollouts"] = {
        "tokens/s": size.groups * sampling.n * sampling.max_tokens / seconds,
        "MFU": _share(needed(shape, drawn, True, False) / seconds, peak),
        "peak GiB": _peak(device),
        "s": seconds,
    }
    count = sum(p.numel() for p in model.parameters())
    return {"parameters": count / 1e6, "rows": size.groups * size.size, "lines": lines}


def _best(device: str, work: Any, repeats: int = 2) -> float:
    """Least seconds of some repeats after a warm-up."""
    found = []
    for _ in range(repeats + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        found.append(time.perf_counter() - began)
    return min(found[1:])


def _bfloat16_peak(device: str) -> float | None:
    if device == "cpu":
        return None
    name = torch.cuda.get_device_name()
    return next((v * 1e12 for k, v in PEAKS.items() if name.startswith(k)), None)


def _share(speed: float, peak: float | None) -> float | None:
    return None if peak is None else speed / peak


def beside_trl(device: str, small: bool) -> dict[str, Any]:
    """bench/speed.py's update and round beside TRL's, float32, where TRL imports."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    try:
        import trl
    except ImportError as error:
        return {"trl": f"does not import: {error}"}
    from dataclasses import replace

    import speed
    from speed_work import QUICK, Workload

    work = Workload("135M", 8, 8, 48, 8192, 1, 2048)
    if small:
        work = replace(QUICK["0.7M"], groups=2, repeats=1)
    lines: dict[str, dict[str, Any]] = {}
    for case in ("update",) if small else ("update", "round"):
        for side in ("ours", "trl-8"):
            found = speed.measure(case, side, work, device, "wall")
            lines[f"{case}, {side}"] = {
                "tokens/s": sum(found["tokens"]) / sum(found["seconds"]),
                "peak MiB": found["peak"] / 2**20,
            }
            if device != "cpu":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
    return {"trl": trl.__version__, "lines": lines}
