"""What bench/speed.py measures: one workload, done by this code and by TRL's GRPO trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flops import Lengths
from speed_work import Workload, made_groups, make_model, prompts_of, reward
from transformers import PreTrainedModel

from hapo_core.gate import ConstantThreshold, Gate, GateSpec
from hapo_core.graded import graded
from hapo_core.groups import Group, PlannedGroup, Trace
from hapo_core.methods import GRPO, HAPO
from hapo_core.methods.base import ReinforcementMethod
from hapo_core.objective import PAPER, Objective
from hapo_core.rollout import Prompt, Rollout, Sampling
from hapo_core.rollout.transformers_engine import HFEngine
from hapo_core.update import Updater, UpdateSpec

RATE = 1e-5
OBJECTIVE: Objective = PAPER
"""TRL's loss_type dapo with epsilon 0.2: token mean over the whole batch, no KL."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""`cpu` counts the seconds of all threads of the process: on a machine that others use too, and
with one thread, the one to look at."""
UPDATE = UpdateSpec(RATE, betas=(0.9, 0.95), max_grad_norm=1.0)


def plan(method: ReinforcementMethod, groups: Sequence[Group]) -> list[PlannedGroup]:
    """The groups as a method plans them in round 0."""
    return method.plan(list(groups), 0)


def grpo() -> GRPO:
    """GRPO with the benchmark's objective."""
    return GRPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), OBJECTIVE, 0)


def hapo() -> HAPO:
    """HAPO with the paper's gate."""
    return HAPO(Gate(GateSpec(ConstantThreshold(0.5)), 0), OBJECTIVE, 0)


# --- this code ----------------------------------------------------------------------------------


class Ours:
    """This code's engine and update, as `pipeline.train` puts them together."""

    def __init__(
        self, work: Workload, dead_share: float = 0.0, device: str = "cpu", clock: str = "wall"
    ) -> None:
        self.work, self.dead_share, self._now = work, dead_share, CLOCKS[clock]
        self.model, self.tokenizer = make_model(work.model, work.stops)
        self.model.to(device)
        spec = replace(UPDATE, micro_batch_tokens=work.micro_batch_tokens)
        self.updater = Updater(self.model, spec)
        self.engine = HFEngine(self.model, self.tokenizer)
        self.sampling = Sampling(work.size, 1.0, 1.0, work.longest)
        self.prompts = [p for _, p in prompts_of(work, self.tokenizer)]
        self.round_index = 0
        self.batches: list[list[Lengths]] = []

    def rollout(self) -> list[Rollout]:
        """A round's responses; `batches` notes their lengths."""
        self.round_index += 1
        found = list(self.engine.generate(self.prompts, self.sampling, 0, self.round_index))
        self.batches.append([self._lengths(p, found) for p in self.prompts])
        return found

    def _lengths(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> Lengths:
        own = [r.token_ids for r in rollouts if r.prompt_id == prompt.prompt_id]
        k, groups, share = int(prompt.prompt_id), self.work.groups, self.dead_share
        rewards = [reward(k, tokens, groups, share) for tokens in own]
        return Lengths.of(len(prompt.token_ids), [len(tokens) for tokens in own], rewards)

    def batch(self) -> list[PlannedGroup]:
        """The fixed batch."""
        vocabulary = int(self.model.config.vocab_size)
        return plan(grpo(), made_groups(self.work, self.tokenizer, vocabulary, self.dead_share))

    def update(self, planned: Sequence[PlannedGroup]) -> float:
        """One optimizer step; its loss (NaN where nothing trained)."""
        metrics = self.updater.update(planned, OBJECTIVE, self.work.longest, RATE)
        return math.nan if metrics["loss"] is None else metrics["loss"]

    def round(self, method: ReinforcementMethod | None = None) -> tuple[int, float]:
        """Rollout, reward, plan and update: (response tokens, seconds of the plan)."""
        rollouts = self.rollout()
        groups = []
        for k, prompt in enumerate(self.prompts):
            own = sorted((r for r in rollouts if r.prompt_id == prompt.prompt_id), key=_sample)
            share = self.dead_share
            rewards = tuple(reward(k, r.token_ids, self.work.groups, share) for r in own)
            trace = Trace("t", own[0].token_ids, "")  # of a usual length
            groups.append(Group(prompt, graded(own, rewards), trace))
        began = self._now()
        planned = plan(method or grpo(), groups)
        planning = self._now() - began
        self.update(planned)
        return sum(len(r.token_ids) for r in rollouts), planning


def _sample(rollout: Rollout) -> int:
    return rollout.sample


# --- TRL ----------------------------------------------------------------------------------------


class Theirs:
    """TRL's GRPOTrainer on the same model, driven by its own `train`.

    Args:
        rows: `per_device_train_batch_size`; accumulation makes up the batch.
        fixed: train the fixed batch instead of sampling.
        steps: optimizer steps that `train` makes.
        seen: called before each optimizer step (the gradients are there, clipped).
    """

    def __init__(
        self,
        work: Workload,
        folder: Path,
        *,
        rows: int,
        fixed: bool,
        steps: int,
        dead_share: float = 0.0,
        device: str = "cpu",
        clock: str = "wall",
        seen: Callable[[PreTrainedModel], None] = lambda model: None,
    ) -> None:
        import datasets
        import trl

        self.work, self.dead_share = work, dead_share
        self.model, self.tokenizer = make_model(work.model, work.stops)
        self.tokens: list[int] = []
        self.batches: list[list[Lengths]] = []
        self.seconds: list[float] = []
        prompts = prompts_of(work, self.tokenizer)
        widths = [len(p.token_ids) for _, p in prompts]
        number = {text: k for k, (text, _) in enumerate(prompts)}

        def rewards(prompts: Any, completion_ids: Any, **_: Any) -> list[float]:
            self.tokens.append(sum(len(ids) for ids in completion_ids))
            pairs = [(number[p], i) for p, i in zip(prompts, completion_ids, strict=True)]
            given = [reward(k, ids, work.groups, dead_share) for k, ids in pairs]
            batch = []
            for k in dict.fromkeys(k for k, _ in pairs):
                own = [(len(i), r) for (j, i), r in zip(pairs, given, strict=True) if j == k]
                batch.append(Lengths.of(widths[k], [n for n, _ in own], [r for _, r in own]))
            self.batches.append(batch)
            return given

        config = trl.GRPOConfig(
            output_dir=str(folder),
            use_cpu=device == "cpu",
            bf16=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=work.rows // rows,
            num_generations=work.size,
            max_completion_length=work.longest,
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",
            epsilon=0.2,
            scale_rewards="group",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            adam_beta1=UPDATE.betas[0],
            adam_beta2=UPDATE.betas[1],
            weight_decay=0.0,
            max_grad_norm=UPDATE.max_grad_norm,
            gradient_checkpointing=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            max_steps=steps,
            seed=0,
        )
        base = trl.GRPOTrainer
        self.sampling: list[float] = []
        kind = (
            _fixed_trainer(base, self._tensors())
            if fixed
            else _timed_trainer(base, self.sampling, CLOCKS[clock])
        )
        self.trainer = kind(
            model=self.model,
            reward_funcs=rewards,
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": p} for p, _ in prompts]),
            processing_class=self.tokenizer,
        )
        self.trainer.add_callback(_clock(self.seconds, CLOCKS[clock], seen))

    def train(self) -> None:
        """Make the steps; `seconds` and, where it samples, `tokens` and `sampling` (the seconds
        of its generation alone) then hold one entry each."""
        self.trainer.train()

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The fixed batch in TRL's layout: prompts padded on the left, responses on the right."""
        vocabulary = int(self.model.config.vocab_size)
        groups = made_groups(self.work, self.tokenizer, vocabulary, self.dead_share)
        rows = [row for p in plan(grpo(), groups) for row in p.rows]
        before = max(len(r.prompt_ids) for r in rows)
        after = max(len(r.response_ids) for r in rows)
        prompt, response = (
            torch.zeros(len(rows), before).long(),
            torch.zeros(len(rows), after).long(),
        )
        prompt_mask, response_mask = torch.zeros_like(prompt), torch.zeros_like(response)
        for i, r in enumerate(rows):
            p, n = len(r.prompt_ids), len(r.response_ids)
            prompt[i, before - p :], prompt_mask[i, before - p :] = torch.tensor(r.prompt_ids), 1
            response[i, :n], response_mask[i, :n] = torch.tensor(r.response_ids), 1
        return {
            "prompt_ids": prompt,
            "prompt_mask": prompt_mask,
            "completion_ids": response,
            "completion_mask": response_mask,
            "advantages": torch.tensor([r.advantage for r in rows]),
            "num_items_in_batch": response_mask.sum(),
        }


def _fixed_trainer(base: Any, tensors: dict[str, torch.Tensor]) -> Any:
    class FixedBatch(base):  # type: ignore[misc]
        """TRL's trainer with its sampling left out."""

        def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
            device = self.accelerator.device
            return {k: v.to(device) for k, v in tensors.items()}

    return FixedBatch


def _timed_trainer(base: Any, seconds: list[float], now: Callable[[], float]) -> Any:
    class TimedSampling(base):  # type: ignore[misc]
        """TRL's trainer, which notes how long it generates."""

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            began = now()
            found = super()._generate_single_turn(*args, **kwargs)
            seconds.append(now() - began)
            return found

    return TimedSampling


def _clock(
    seconds: list[float], now: Callable[[], float], seen: Callable[[PreTrainedModel], None]
) -> Any:
    """Times a step from the end of the step before it: the sampling happens in between."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.last = now()

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            seen(more["model"])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            moment = now()
            seconds.append(moment - self.last)
            self.last = moment

    return Clock()
