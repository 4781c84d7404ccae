"""The numbers of a run that its data, model and machine decide: lengths, rounds, memory, step."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hapo_core.errors import ConfigError, DataError
from hapo_core.model_folder import check_model_folder, gguf_remedy
from hapo_core.rng import Purpose, uniforms
from pipeline.artifacts.places import expanded
from pipeline.config import PretrainedBase
from pipeline.curate.prompts import PromptMaker
from pipeline.models import fetch_model
from pipeline.start.columns import short
from pipeline.start.fit import Fit, spread
from pipeline.start.refuse import Problem
from pipeline.system.memory import memory_bytes

SUFFIX = "\nReason step by step and put the final answer in \\boxed{}."
_MEASURED = 2000
"""Problems whose prompts and solutions are tokenised."""
_FAR = 4
"""Times the 95th percentile at which a solution is an odd one."""
_SMALL = 20_000_000
"""Parameters below which a model counts as trained from nothing, not as a language model."""


@dataclass(frozen=True)
class Model:
    """The starting policy: `parameters`, bytes of key and value a token in float32, context, and
    whether it can compute its activations again."""

    base: dict[str, object]
    path: Path
    tokenizer: Any
    parameters: int
    cache_bytes: int
    context: int | None
    recomputes: bool = True

    @property
    def small(self) -> bool:
        """Whether it was trained from nothing on a small task."""
        return self.parameters < _SMALL


@dataclass(frozen=True)
class Machine:
    """What computes, and the bytes of memory that it has."""

    device: str
    memory: int
    threads: int


@dataclass(frozen=True)
class Numbers:
    """What was decided; each is a key of params.yaml."""

    suffix: str
    prompt_longest: int
    trace_longest: int
    trace_kept: float
    max_prompt: int
    max_tokens: int
    group: int
    prompts: int
    max_rows: int
    micro_batch: int
    learning_rate: float
    lora: bool
    checkpointing: bool
    memory: int


def model_folder(name: str) -> Path | None:
    """The folder that `--model` names, whole; None for a hub id. Nothing is loaded or fetched.

    Raises:
        DataError: there is no such folder, or it lacks a file.
    """
    folder = expanded(name)
    if folder.is_dir():
        check_model_folder(folder.resolve())
        return folder.resolve()
    if folder.exists():
        raise DataError(
            "the model is a file, and a folder is wanted",
            where=str(folder.absolute()),
            remedy=f"--model {folder.parent}, if config.json and the tokenizer lie there too"
            if folder.suffix != ".gguf"
            else gguf_remedy(folder.parent, folder.name),
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return None
    raise DataError(
        "there is no such model folder",
        where=str(folder.absolute()),
        remedy="--model takes a folder with config.json, model.safetensors and the tokenizer, "
        "or a hub id (owner/name)",
    )


def find_model(name: str) -> Model:
    """Look at a model folder or a hub id; weights are not loaded.

    Raises:
        DataError: no such model, or it lacks a file.
        ConfigError: its tokenizer has no chat template or no end token.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from hapo_core.fit import key_width, number, positions, refuse_empty_tokenizer

    folder = model_folder(name)
    if folder is not None:
        base: dict[str, object] = {"kind": "pretrained", "path": str(folder)}
        path = folder
    else:
        base, path = {"kind": "pretrained", "hub": name}, fetch_model(name, None, "--model")
        check_model_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        config: Any = AutoConfig.from_pretrained(path, local_files_only=True)
        _refuse_other_kinds(config, path)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"the model cannot be read: {short(str(error), 240)}",
            where=str(path),
            remedy="--model takes a causal language model of transformers with its tokenizer",
        ) from error
    refuse_empty_tokenizer(tokenizer, path)
    count = sum(p.numel() for p in model.parameters())
    layers = number(config.get_text_config(), "num_hidden_layers") or 0
    cache = 2 * 4 * layers * (key_width(config) or 0)
    recomputes = bool(model.supports_gradient_checkpointing)
    return Model(base, path, tokenizer, count, cache, positions(config), recomputes)


def _refuse_other_kinds(config: Any, path: Path) -> None:
    """Raises DataError where the weights are those of an encoder or a classifier: transformers
    gives them a head of chance numbers."""
    made_for = [str(name) for name in getattr(config, "architectures", None) or ()]
    other = ("MaskedLM", "Classification", "QuestionAnswering", "PreTraining")
    if made_for and all(name.endswith(other) for name in made_for):
        raise DataError(
            f"the model is no causal language model ({made_for[0]})",
            where=str(path / "config.json"),
            remedy="take one that writes text: config.json names an architecture ...ForCausalLM",
        )


def find_machine(model: Model) -> Machine:
    """The GPU where there is one, else the CPU."""
    import torch

    # A second thread costs tensors as small as those of such a model more than it gives.
    cores = 1 if model.parameters < 1_000_000 else len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.get_device_properties(0).total_memory, min(cores, 8))
    return Machine("cpu", memory_bytes(), cores)


def held_out(problems: Sequence[Problem], seed: int) -> list[Problem]:
    """About 15 % of the problems, 8 to 200 of them: chosen by their texts, whatever their order."""
    count = max(8, min(200, round(0.15 * len(problems))))
    drawn = [uniforms(1, seed, Purpose.SPLIT, prompt_id=p.text)[0] for p in problems]
    chosen = sorted(range(len(problems)), key=lambda i: drawn[i])[:count]
    return [problems[i] for i in sorted(chosen)]


def decide(
    found: Fit, model: Model, machine: Machine, taught: bool = True, lora: bool | None = None
) -> Numbers:
    """Choose the numbers; `taught`: the method learns from solutions; `lora`: what was asked for.

    Raises:
        HapoError: the tokenizer cannot write the prompts or solutions, or they do not fit into the
            model's context or the machine's memory; with three examples.
    """
    some = list(spread(found.problems, _MEASURED))
    suffix = _suffix(model, some)
    maker = PromptMaker(model.tokenizer, suffix)
    prompts = maker.prompts([p.text for p in some])
    _check_tokens(maker, [(p.where, p.text) for p in some], prompts, "problems")
    solved = [(p.lines[0], maker.response_text(p.traces[0])) for p in some if p.traces]
    traces = maker.responses([text for _, text in solved])
    if taught:
        _check_tokens(maker, solved, traces, "solutions")
    sizes, answers = sorted(map(len, prompts)), sorted(map(len, traces))
    max_prompt = up(sizes[-1] if sizes[-1] <= 2 * _at(sizes, 0.99) else _at(sizes, 0.99))
    floor = 32 if model.small else 256
    wanted = floor if not answers else max(floor, up(1.25 * _longest(answers)))
    room = (model.context or wanted + max_prompt) - max_prompt
    if room < min(wanted, 32) or (answers and room < _at(answers, 0.5)):
        _refuse_lengths(model, some, prompts, traces, max_prompt)
    max_tokens = min(wanted, room)
    kept = sum(n <= max_tokens for n in answers) / len(answers) if answers else 1.0
    cpu_large = machine.device == "cpu" and not model.small
    group = 4 if cpu_large else 8
    per_round = 4 if cpu_large else 16 if machine.device == "cpu" else 32
    per_round = max(1, min(per_round, len(found.problems) // 4))
    lora = _adapters(model, machine) if lora is None else lora
    fixed = (4 if lora else 16) * model.parameters
    row = model.cache_bytes * (max_prompt + max_tokens)
    rows = int((0.5 * machine.memory - fixed) // max(row, 1))
    rows = max(1, min(512, rows, 2 ** int(math.log2(max(rows, 1)))))
    rows = min(rows, group * per_round)
    micro = 8192 if model.small else 2048 if machine.device == "cpu" else 16384
    rate = 1e-4 if model.small or lora else 1e-5 if model.parameters < 1e9 else 1e-6
    return Numbers(
        suffix, sizes[-1], answers[-1] if answers else 0, kept, max_prompt, max_tokens, group,
        per_round, rows, max(micro, max_prompt + max_tokens), rate, lora,
        machine.device != "cpu" and model.parameters > 5e8 and model.recomputes, fixed + rows * row,
    )  # fmt: skip


def up(value: float, step: int = 8) -> int:
    """The next multiple of `step`."""
    return math.ceil(value / step) * step


def _at(ordered: Sequence[int], share: float) -> int:
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0


def _longest(ordered: Sequence[int]) -> int:
    """The 99th percentile, or the 95th where a few are far longer than that: every response would
    get their budget."""
    most, usual = _at(ordered, 0.99), _at(ordered, 0.95)
    return most if most <= _FAR * usual else usual


def _suffix(model: Model, problems: Sequence[Problem]) -> str:
    """The instruction to box the answer: for a language model that the problems do not tell so
    themselves."""
    told = sum("boxed" in p.text for p in problems) > len(problems) / 2
    ids = model.tokenizer(SUFFIX, add_special_tokens=False)["input_ids"]
    written = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return SUFFIX if not (model.small or told) and written.strip() == SUFFIX.strip() else ""


def _check_tokens(
    maker: PromptMaker, texts: Sequence[tuple[str, str]], coded: Sequence[Any], what: str
) -> None:
    """Curation drops what the tokenizer cannot write; where that is most of it, say so now. What it
    leaves out without a word is looked for in problems alone: without it they are others.

    Args:
        texts: (where it stands, the text).
    """
    bad, control = [], False
    for (where, text), ids in zip(texts, coded, strict=True):
        fault = maker.text_fault(text)
        control = control or fault is not None
        asked = fault is None and (what == "problems" or maker.has_unknown(ids))
        lost = _lost(maker, text, ids) if asked else []
        if lost:
            fault = "characters that the tokenizer does not know: " + " ".join(map(repr, lost[:8]))
        if fault is not None:
            bad.append(f"{where}: {fault}")
    if len(bad) > len(texts) / 2:
        raise DataError(
            f"{len(bad)} of {len(texts)} {what} cannot be written in the model's tokens"
            + "".join(f"\n  {line}" for line in bad[:3]),
            where="--model",
            remedy="take these tokens out of the texts: the chat template writes them"
            if control
            else "take these characters out of the texts, or a model whose tokenizer knows them",
        )


def _lost(maker: PromptMaker, text: str, ids: Any) -> list[str]:
    """Characters that the tokenizer writes as unknown, or leaves out without a word."""
    if maker.has_unknown(ids):
        return [c for c in dict.fromkeys(text) if maker.has_unknown(*maker.responses([c]))]
    written = str(maker.tokenizer.decode(ids, clean_up_tokenization_spaces=False)).casefold()
    return [c for c in dict.fromkeys(text) if not c.isspace() and c.casefold() not in written]


def _refuse_lengths(
    model: Model, problems: Sequence[Problem], prompts: Sequence[Any], traces: Sequence[Any],
    max_prompt: int,
) -> None:  # fmt: skip
    taught = [p for p in problems if p.traces]
    longest = sorted(zip(traces, taught, strict=True), key=lambda pair: -len(pair[0]))[:3]
    lines = [f"{p.lines[0]}: a solution of {len(ids)} tokens" for ids, p in longest]
    if not lines:
        ordered = sorted(zip(prompts, problems, strict=True), key=lambda pair: -len(pair[0]))[:3]
        lines = [f"{p.where}: a prompt of {len(ids)} tokens" for ids, p in ordered]
    raise DataError(
        f"the model takes {model.context} tokens, prompts need {max_prompt} of them, and "
        "most solutions do not fit into the rest" + "".join(f"\n  {line}" for line in lines),
        where=str(model.path),
        remedy="a model with a longer context (-S base.context=N stretches one that can be), or "
        "shorter solutions",
    )


def _adapters(model: Model, machine: Machine) -> bool:
    """Whether only adapters train: the whole model with gradients and moments has no room.

    Raises:
        ConfigError: not even the weights have room.
    """
    share = 0.6 * machine.memory
    if 16 * model.parameters < share:
        return False
    if 4 * model.parameters < share:
        return True
    raise ConfigError(
        f"{model.parameters / 1e9:.3g}G parameters need {4 * model.parameters / 1e9:.3g} GB in "
        f"float32, and {machine.device} has {machine.memory / 1e9:.3g} GB",
        where="--model",
        remedy="a smaller model, or a machine with more memory (docs/processes.md: several GPUs)",
    )


def base_of(model: Model) -> PretrainedBase:
    """The section `base` of params.yaml, checked."""
    return PretrainedBase.model_validate(model.base)
