"""Stage `cold_start@NAME`: the starting policy learns the form of an answer from easy traces.

A policy that never gives an answer in the form that is asked for earns no reward, and a method that
learns from rewards has nothing to learn from. So it sees some verified traces of easy sources
first. The result is a policy like `base`: the first segment goes on from it with an optimizer of
its own, and it is evaluated under its name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hapo_core.errors import ConfigError, DataError
from hapo_core.fit import refuse_ids, refuse_length
from hapo_core.groups import Trace
from hapo_core.objective import PAPER, TrainRow
from hapo_core.policy import load_policy, save_policy
from hapo_core.prompt_order import prompts_of_round
from hapo_core.rollout import Prompt
from hapo_core.rows import likelihood_row
from hapo_core.update import Updater, UpdateSpec, supervised
from pipeline.artifacts import (
    Scratch,
    atomic_write_json,
    check_manifest,
    guard_disk,
    identity,
    inputs_hash,
    read_json,
    record_timing,
    remove,
    write_manifest,
)
from pipeline.artifacts.optimizer import load_optimizer, save_optimizer
from pipeline.artifacts.places import BASE, DATA, POLICIES
from pipeline.artifacts.seals import Tell, drop_oldest, newest_whole, write_resume_point
from pipeline.artifacts.tables import BASE_LOG, PROBLEMS, TRACES, read_table, write_table
from pipeline.build.device import prepare_compute
from pipeline.config import ColdStart, Params
from pipeline.config.nearest import nearest
from pipeline.dependencies.provenance import begin
from pipeline.flows.observer import Observer
from pipeline.models import policy_model

KIND, POINTS = "cold-start-rounds", "round-*"
"""Kind and folders of its resume points."""


def cold_start(params: Params, name: str, observer: Observer) -> None:
    """Run (or finish) the cold start `name` and write `artifacts/policy/NAME/`.

    Raises:
        HapoError: no cold start of that name, no trace to learn from, damaged artifacts, a full
            disk, a loss that is not finite.
    """
    if name not in params.cold_start:
        known = list(params.cold_start)
        raise ConfigError(
            f"no cold start {name!r}{nearest(name, known)}",
            where="params.yaml: cold_start",
            remedy="name one of " + (", ".join(known) or "none: add the section first"),
        )
    spec, began = params.cold_start[name], time.monotonic()
    inputs = [BASE, DATA / "problems.parquet", DATA / "traces.parquet"]
    made = begin(f"cold_start@{name}", params, inputs)
    check_manifest(BASE)
    data = check_manifest(DATA, "data")["files"]
    scratch = Scratch(f"cold_start@{name}", inputs_hash(made.lock, []))
    scratch.discard_others()
    rows = easy_rows(spec, DATA, f"cold_start.{name}.sources")
    rounds = _Rounds(params, spec, rows, scratch.path)
    rounds.run(observer, made.unchanged)
    out = scratch.path / "out"
    remove(out)
    out.mkdir()
    names = rounds.write(out)
    facts = {
        "cold_start": spec.model_dump(mode="json"),
        "previous": identity(BASE),
        "problems": data["problems.parquet"]["sha256"],
        "traces": len(rows),
    }
    write_manifest(out, "policy", facts, names)
    made.check()
    scratch.publish_copy(POLICIES / name, "out", observer.log)
    made.write()
    wall = time.monotonic() - began + rounds.seconds_before
    record_timing(f"cold_start@{name}", wall, trained=rounds.tokens)


def easy_rows(spec: ColdStart, data: Path, where: str) -> dict[str, TrainRow]:
    """A likelihood row per problem of the sources that has a usable trace, by problem id.

    Raises:
        DataError: there is none.
    """
    wanted, prompts = set(spec.sources), dict[str, Prompt]()
    for row in read_table(data / "problems.parquet", PROBLEMS).to_pylist():
        if row["source"] in wanted and row["split"] == "train":
            prompts[row["problem_id"]] = Prompt(row["problem_id"], tuple(row["prompt_ids"]))
    found = dict[str, TrainRow]()
    for row in read_table(data / "traces.parquet", TRACES).to_pylist():
        prompt = prompts.get(row["problem_id"])
        if prompt is not None and row["usable"] and row["rank"] == 0:
            trace = Trace(row["trace_id"], tuple(row["token_ids"]), row["text"])
            found.setdefault(row["problem_id"], likelihood_row(prompt, trace))
    if not found:
        raise DataError(
            f"none of the {len(prompts)} problems of {', '.join(spec.sources)} has a usable trace",
            where=where,
            remedy="name sources with traces; artifacts/data/curation.json says what became of "
            "theirs",
        )
    return found


def update_spec(spec: ColdStart) -> UpdateSpec:
    """How these rounds step."""
    return UpdateSpec(
        spec.learning_rate,
        spec.warmup_rounds,
        micro_batch_tokens=spec.micro_batch_tokens,
        mixed_precision=spec.mixed_precision,
    )


class _Rounds:
    """The supervised rounds in this process: policy, optimizer, and what was done so far."""

    def __init__(
        self, params: Params, spec: ColdStart, rows: dict[str, TrainRow], scratch: Path
    ) -> None:
        device, dtype = prepare_compute(params.compute)
        self.spec, self.rows, self.scratch = spec, rows, scratch
        self.log: list[dict[str, object]] = []
        self.tokens, self.seconds_before = 0, 0.0
        self._began = time.monotonic()
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = load_policy(
            policy_model(BASE), dtype, params.compute.attention
        )
        for name, row in rows.items():
            refuse_ids(self.model, [(name, row.prompt_ids), (name, row.response_ids)])
        longest = max(len(row.prompt_ids) + len(row.response_ids) for row in rows.values())
        refuse_length(self.model, longest, "the longest of its traces")
        self.model.to(device)  # type: ignore[arg-type]
        self.updater: Updater = Updater(self.model, update_spec(spec))

    def run(self, observer: Observer, unchanged: Callable[[Tell], None]) -> None:
        """The rounds that are left, with a resume point every `checkpoint_every`."""
        self._continue(observer)
        spec, objective = self.spec, supervised(PAPER)
        longest = max(len(row.response_ids) for row in self.rows.values())
        for index in range(len(self.log), spec.rounds):
            ids = prompts_of_round(list(self.rows), spec.batch, spec.seed, index)
            rate = self.updater.spec.rate(index)
            batch = [self.rows[i] for i in ids]
            metrics = self.updater.supervise(batch, objective, longest, rate)
            self.tokens += metrics.trained_tokens
            self.log.append({"step": index, "loss": metrics["loss"], "learning_rate": rate})
            done = index + 1
            observer.progress(done, spec.rounds, what="round", loss=metrics["loss"])
            if done % spec.checkpoint_every == 0 and done < spec.rounds:
                unchanged(observer.log)
                self._keep()

    def write(self, out: Path) -> list[str]:
        """`model/` and the log of the rounds, as `base` has them; the names of these files."""
        with guard_disk(out):
            names = save_policy(self.model, self.tokenizer, out / "model")
            write_table(self.log, BASE_LOG, out / "cold_start_log.parquet")
        return [*(f"model/{name}" for name in names), "cold_start_log.parquet"]

    def _continue(self, observer: Observer) -> None:
        """From the newest whole resume point, if there is one."""
        resume = newest_whole(self.scratch, POINTS, KIND, observer.log, lambda _: None)
        if resume is None:
            return
        state = load_file(resume / "model.safetensors")
        with torch.no_grad():
            for key, parameter in self.model.named_parameters():
                parameter.copy_(state[key])
        load_optimizer(self.model, self.updater.optimizer, resume / "state")
        facts = read_json(resume / "log.json")
        self.log, self.tokens = facts["log"], facts["tokens"]
        self.seconds_before = facts["seconds"]
        observer.log(f"continues after round {len(self.log)}")

    def _keep(self) -> None:
        """Write a resume point aside and rename it into place; the newest two stay."""
        aside = self.scratch / ".round.partial"
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "state").mkdir(parents=True)
        with guard_disk(aside), torch.no_grad():
            state = {k: v.detach().cpu().contiguous() for k, v in self.model.named_parameters()}
            save_file(state, aside / "model.safetensors")
            save_optimizer(
                self.model, self.updater.optimizer, aside / "state" / "optimizer.safetensors"
            )
            facts = {
                "log": self.log,
                "tokens": self.tokens,
                "seconds": self.seconds_before + time.monotonic() - self._began,
            }
            atomic_write_json(aside / "log.json", facts)
        write_resume_point(aside, KIND, {"round": len(self.log)})
        aside.rename(self.scratch / f"round-{len(self.log):06d}")
        drop_oldest(self.scratch, POINTS, keep=2)
