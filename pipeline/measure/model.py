"""One model outside a run on benchmarks: what `hapo evaluate` does."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import get_args

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import ConfigError, DataError
from hapo_core.fit import has_position_table, positions, refuse_length
from hapo_core.policy import load_policy
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.verify import VerifierPool
from pipeline.artifacts import MANIFEST, Scratch, check_manifest, inputs_hash, read_json
from pipeline.build.device import prepare_compute
from pipeline.build.prompting import reads_clock
from pipeline.build.verifier import verifier_settings
from pipeline.config import Compute, Evaluate, Rewards, parse_section
from pipeline.curate.benchmarks import Benchmark, benchmark_rows, write_benchmark
from pipeline.curate.prompts import PromptMaker
from pipeline.evaluate.evaluator import Conditions, Evaluator
from pipeline.evaluate.templates import TEMPLATES, Template, TemplateName
from pipeline.flows.observer import Observer
from pipeline.grading.benchmark import benchmark_of
from pipeline.measure.given import ask, column_map, find_model, notes, read
from pipeline.show.evaluation import table_lines
from pipeline.system.locks import folder_lock

OUT = Path("evaluations")
PROTOCOL = ("k", "temperature", "top_p", "max_tokens", "limit")


class ModelEvaluation:
    """One `hapo evaluate`. Options, model, problems and golds are checked before the weights are
    loaded.

    Args:
        options: of `pipeline.commands.evaluate`.

    Raises:
        HapoError: an option out of range, or a model or benchmark that cannot be found.
    """

    def __init__(self, options: argparse.Namespace, observer: Observer) -> None:
        self.options, self.observer = options, observer
        overrides = {name: getattr(options, name) for name in PROTOCOL}
        columns = column_map(options.columns)
        asked = [ask(given, columns, overrides) for given in options.benchmark]
        self.asked = {a.name: a for a in asked}
        if len(self.asked) != len(asked):
            raise ConfigError("one benchmark is asked for twice", where="--benchmark")
        self.template = find_template(options.template, options.suffix, options.system)
        self.date = day_of(options.date)
        self.compute, self.rewards = compute_of(options), rewards_of(options)
        self.settings = parse_section(
            Evaluate,
            {
                "benchmarks": {a.name: a.protocol for a in asked},
                "max_rows": options.max_rows,
            },
            "--max-rows",
        )
        self.model = find_model(options.model, options.revision)
        self.out: Path = options.out or OUT / folder_name(options.model)

    def run(self) -> dict[str, object]:
        """Measure what is not measured yet, publish it, print the table; returns the metrics."""
        maker = self._prompt_maker()
        with VerifierPool(verifier_settings(self.rewards)) as pool:
            benchmarks = {
                name: read(asked, maker, pool, self.rewards.verifier, self.options.keep_bad_golds)
                for name, asked in self.asked.items()
            }
            metrics = self._finished(benchmarks) or self._measured(benchmarks, pool)
        print("\n".join(["", *table_lines(metrics), f"kept in {self.out}"]), flush=True)
        return metrics

    def _prompt_maker(self) -> PromptMaker:
        tokenizer = _tokenizer(self.model.path)
        template = self.template
        if template.chat and not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "the model's tokenizer has no chat template",
                where=str(self.model.path),
                remedy="--template plain-boxed (or plain) asks without one",
            )
        if template.chat and reads_clock(tokenizer):
            self.template = replace(template, date=self.date)
        return PromptMaker(
            tokenizer, template.suffix, template.system, template.chat, date=self.date
        )

    def _finished(self, benchmarks: Mapping[str, Benchmark]) -> dict[str, object] | None:
        """The metrics in the folder, if this very evaluation is there.

        Raises:
            DataError: something else is there.
        """
        if (self.out / MANIFEST).is_file():
            check_manifest(self.out, "evaluation")
            metrics: dict[str, object] = read_json(self.out / "metrics.json")
            if metrics.get("inputs") == self._key(benchmarks):
                self.observer.log(f"{self.out} is finished: nothing is generated")
                return metrics
        elif not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return None
        raise DataError(
            "the folder holds something else than this evaluation",
            where=str(self.out),
            remedy="name another --out, or remove the folder",
        )

    def _key(self, benchmarks: Mapping[str, Benchmark]) -> str:
        """A hash of everything that the result depends on."""
        facts = {
            "model": self.model.facts,
            "problems": {
                name: benchmark_of(name, benchmark_rows(b)).fingerprint
                for name, b in benchmarks.items()
            },
            "evaluate": self.settings,
            "prompt_template": self.template.describe(),
            "seed": self.options.seed,
            "compute": self.compute,
            "rewards": self.rewards,
        }
        return inputs_hash(facts, [])

    def _measured(
        self, benchmarks: Mapping[str, Benchmark], pool: VerifierPool
    ) -> dict[str, object]:
        key = self._key(benchmarks)
        root = self.out.with_name(f".{self.out.name}.unfinished")
        scratch = Scratch("evaluate", key, root)
        with folder_lock(root, f"another process evaluates into {self.out}"):
            return self._into(scratch, key, benchmarks, pool)

    def _into(
        self, scratch: Scratch, key: str, benchmarks: Mapping[str, Benchmark], pool: VerifierPool
    ) -> dict[str, object]:
        device, dtype = prepare_compute(self.compute)
        self.observer.log(f"loading {self.options.model} ({self.compute.dtype} on {device})")
        model, tokenizer = load_policy(self.model.path, dtype, self.compute.attention)
        model.to(device)  # type: ignore[arg-type]
        evaluator = Evaluator(
            HFEngine(model, tokenizer, self.settings.max_rows),
            tokenizer,
            pool,
            Conditions(self.template, self.options.seed, self.settings),
            scratch.path,
            self.observer,
        )
        found: dict[str, object] = {}
        said: list[str] = []
        for name, benchmark in benchmarks.items():
            asked = self.asked[name]
            said += [*notes(asked, benchmark), *context_notes(model, benchmark, asked.protocol)]
            write_benchmark(benchmark, evaluator.out / "problems")
            prepared = benchmark_of(name, benchmark_rows(benchmark))
            found[name] = self.observer.task(
                f"benchmark {name}", evaluator.measure, prepared, asked.protocol
            )
        facts = {
            "model": self.model.facts,
            "compute": self.compute.model_dump(mode="json"),
            "notes": said,
            "inputs": key,
        }
        problems = [f"problems/{benchmark.name}.parquet" for benchmark in benchmarks.values()]
        metrics = evaluator.finish(self.options.model, found, facts, beside=problems)
        scratch.publish(self.out, "out", self.observer.log)
        scratch.discard()
        if not any(scratch.root.iterdir()):
            scratch.root.rmdir()
        return metrics


def context_notes(model: PreTrainedModel, benchmark: Benchmark, protocol: object) -> list[str]:
    """Whether a response of full length fits the positions that the model was trained for.

    Raises:
        DataError: it does not, and the model has nothing beyond them.
    """
    most = positions(model.config)
    budget = getattr(protocol, "max_tokens", 0)
    longest = max(len(row.prompt_ids) for row in benchmark.rows)
    if most is None or longest + budget <= most:
        return []
    if has_position_table(model):
        refuse_length(model, longest + budget, benchmark.name)
    return [
        f"{benchmark.name}: a prompt of {longest} and a response of {budget} tokens exceed the "
        f"model's {most} positions; long responses may lose coherence (see --max-tokens)"
    ]


# --- options ------------------------------------------------------------------------------------


def find_template(name: str, suffix: str | None, system: str | None) -> Template:
    """A named template, with what the command line changes in it.

    Raises:
        ConfigError: there is none of that name.
    """
    known: tuple[TemplateName, ...] = get_args(TemplateName)
    template = next((TEMPLATES[n] for n in known if n == name), None)
    if template is None:
        raise ConfigError(
            f"there is no template {name!r}",
            where="--template",
            remedy="one of " + ", ".join(known),
        )
    if system is not None and not template.chat:
        raise ConfigError(
            "a system message needs the chat template",
            where="--system",
            remedy="--template boxed or bare",
        )
    suffix = template.suffix if suffix is None else suffix
    return replace(template, suffix=suffix, system=system)


def day_of(given: str) -> str:
    """A day as YYYY-MM-DD.

    Raises:
        ConfigError: it is none.
    """
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError as error:
        raise ConfigError(
            f"{given!r} is no day: {error}", where="--date", remedy="YYYY-MM-DD"
        ) from error


def compute_of(options: argparse.Namespace) -> Compute:
    """Device, type and threads: what is asked for, else what is there."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    threads = torch.get_num_threads() if options.threads is None else options.threads
    given = {"device": device, "dtype": dtype, "threads": threads}
    return parse_section(Compute, given, "--device, --dtype, --threads")


def rewards_of(options: argparse.Namespace) -> Rewards:
    """The verifier that is asked for."""
    given = {
        "verifier": options.verifier,
        "require_box": not options.no_box,
        "timeout_seconds": options.timeout,
        "workers": options.workers,
    }
    return parse_section(Rewards, given, "--verifier, --timeout, --workers")


def folder_name(model: str) -> str:
    """The default folder of a model's evaluation."""
    parts = [part for part in Path(model).parts if part not in ("/", ".", "..", "model")]
    return re.sub(r"[^\w.-]+", "-", "-".join(parts[-2:])) or "model"


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"the model's tokenizer cannot be loaded: {error}",
            where=str(path),
            remedy="the folder must hold the tokenizer beside the model (tokenizer.json)",
        ) from error
