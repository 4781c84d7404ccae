"""TRL's `GRPOTrainer` with HAPO's gate, SSI and teacher loss.

Where the gate stays shut nothing is touched: inputs, loss and update are TRL's to the bit. Where it
opens, the worst rollout of the group gives its row to the trace, the group's advantages are
computed again, and the trace's tokens get the shaped objective instead of the ratio and the clip.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOTrainer

from hapo_core.advantage import group_advantages
from hapo_core.errors import ConfigError, DataError
from hapo_core.gate import Evidence, Gate, GateState, Posterior
from hapo_core.injection import injected_rewards, worst_rollout
from hapo_core.loss import batch_loss
from hapo_core.objective import RowKind, TrainRow
from hapo_core.turns import turn_end
from hapo_trl.config import HAPOConfig

STATE = "hapo_gate.json"
"""In every checkpoint: what the gate remembers."""
TEACHER, CONFIDENCE = "hapo_teacher", "hapo_confidence"
"""Keys of a batch in which some row is a trace: bool [rows], float32 [rows]."""
_ALONG_TOKENS = (
    "completion_ids",
    "completion_mask",
    "old_per_token_logps",
    "ref_per_token_logps",
    "sampling_per_token_logps",
    "importance_sampling_ratio",
)


class HAPOTrainer(GRPOTrainer):
    """`GRPOTrainer` for a dataset with a column of traces (`HAPOConfig.hapo_trace_column`).

    A trace is the text of a right completion; it is tokenised without special tokens and gets the
    end token. A prompt whose trace is missing or exceeds `max_completion_length` stays on-policy.
    Reward functions are TRL's: a rollout is a success if its weighted sum exceeds `hapo_success`.

    Raises:
        ConfigError: `args` is no HAPOConfig, or a setting has no exact meaning with a trace.
    """

    args: HAPOConfig

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        if not isinstance(self.args, HAPOConfig):
            raise ConfigError("HAPOTrainer needs a HAPOConfig", where="args")
        if self.tools or self.environment_factories is not None or self._is_vlm:
            raise ConfigError(
                "tools, environments and images have no trace to take their place",
                where="HAPOTrainer",
                remedy="use them with GRPOTrainer",
            )
        spec = self.args.gate_spec
        if spec.evidence is Evidence.PROMPT and self.accelerator.num_processes > 1:
            raise ConfigError(
                "the posterior of a prompt would be split over the processes",
                where="HAPOConfig.hapo_evidence",
                remedy="group, or one process",
            )
        if self.accelerator.num_processes > 1 and (
            self.is_fsdp_enabled or self.is_deepspeed_enabled
        ):
            raise ConfigError(
                "the pass over the traces needs whole weights in every process",
                where="HAPOTrainer",
                remedy="DDP (plain torchrun), or `hapo run` with compute.shard",
            )
        self.gate = Gate(spec, self.args.seed)
        self._rewards: torch.Tensor | None = None

    # --- what the teacher's row becomes ---------------------------------------------------------

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        for name in (self.args.hapo_trace_column, self.args.hapo_id_column):
            if name not in self._signature_columns:
                self._signature_columns.append(name)

    def _calculate_rewards(self, *positional: Any, **named: Any) -> torch.Tensor:
        self._rewards = super()._calculate_rewards(*positional, **named)
        return self._rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        return self._inject(inputs, output) if self.model.training else output

    def _inject(self, inputs: list[dict[str, Any]], output: dict[str, Any]) -> dict[str, Any]:
        """Read every group, and give the rows of open ones to their traces."""
        rewards, size = self._local_rewards(len(inputs)), self.num_generations
        if len(inputs) % size:
            raise ConfigError(
                f"{len(inputs)} rollouts of a process are no whole groups of {size}",
                where="per_device_train_batch_size x steps_per_generation",
                remedy="make it a multiple of num_generations",
            )
        success = [None if r is None else r > self.args.hapo_success for r in rewards]
        step = self._generation_round()
        gamma = self.gate.begin_round(step, self._success_rate(success))
        traces: dict[int, tuple[int, ...]] = {}
        confidence = torch.zeros(len(inputs))
        lacking = 0
        for start in range(0, len(inputs), size):
            part = slice(start, start + size)
            known = [s for s in success[part] if s is not None]
            prompt_id = self._prompt_id(inputs[start])
            reading = self.gate.observe(prompt_id, sum(known), len(known), step)
            if not known or all(known) or not reading.open:
                continue
            trace = self._trace(inputs[start])
            if trace is None:
                lacking += 1
                continue
            row = worst_rollout(rewards[part], self.args.seed, step, prompt_id)
            assert row is not None  # some reward is known
            after = injected_rewards(rewards[part], row, self.args.hapo_teacher_reward)
            output["advantages"][part] = torch.tensor(
                group_advantages(after, self.args.objective.advantage)
            ).to(output["advantages"])
            traces[start + row] = trace
            confidence[start + row] = reading.confidence
        injected, missing, groups = self._over_processes(len(traces), lacking, len(inputs) // size)
        for name, value in (
            ("injected", injected / groups),
            ("no_trace", missing / groups),
            ("gamma", gamma),
        ):
            self._metrics["train"][f"hapo/{name}"].append(value)
        return self._with_traces(output, traces, confidence)

    def _generation_round(self) -> int:
        """Generations before this one: the round of schedules and draws. With
        `steps_per_generation` or `num_iterations` above their defaults several optimizer steps
        share one; TRL's own count of passes starts anew when a run is resumed."""
        accumulated = self.args.gradient_accumulation_steps
        passes = int(self.state.global_step) * accumulated + self._step % accumulated
        return int(passes // (self.args.steps_per_generation * self.num_iterations))

    def _over_processes(self, *counts: float) -> list[float]:
        """Sums of the counts over all processes; all must call."""
        own = torch.tensor([float(c) for c in counts], device=self.accelerator.device)
        summed = self.accelerator.gather(own).view(-1, len(counts)).sum(dim=0)
        return [float(x) for x in summed]

    def _local_rewards(self, count: int) -> list[float | None]:
        """Total rewards of this process's rollouts; None where no function gave one."""
        assert self._rewards is not None  # scoring has just ended
        first = self.accelerator.process_index * count
        local = self._rewards[first : first + count]
        totals = (local * self.reward_weights.to(local.device).unsqueeze(0)).nansum(dim=1)
        unknown = torch.isnan(local).all(dim=1)
        pairs = zip(totals.tolist(), unknown.tolist(), strict=True)
        return [None if lost else float(total) for total, lost in pairs]

    def _success_rate(self, success: list[bool | None]) -> float | None:
        """Over all processes, so that the adaptive threshold is the same in each."""
        known = [s for s in success if s is not None]
        right, total = self._over_processes(sum(known), len(known))
        return right / total if total else None

    def _prompt_id(self, row: dict[str, Any]) -> str:
        found = row.get(self.args.hapo_id_column, row["prompt"])
        return found if isinstance(found, str) else json.dumps(found, sort_keys=True)

    def _trace(self, row: dict[str, Any]) -> tuple[int, ...] | None:
        """The trace's token ids, or None where there is none that fits."""
        if self.args.hapo_trace_column not in row:
            raise DataError(
                f"the dataset has no column {self.args.hapo_trace_column!r}",
                where="train_dataset",
                remedy="name it in HAPOConfig.hapo_trace_column; None in a row means no trace",
            )
        text = row[self.args.hapo_trace_column]
        if text is None:
            return None
        tokenizer = self.processing_class
        ids = tokenizer(text=text, add_special_tokens=False)["input_ids"]
        # A chat ends as the template ends turns (Gemma's not with EOS), if TRL stops there.
        turn = None if isinstance(row["prompt"], str) else turn_end(tokenizer)
        whole = (*ids, turn if turn in self.eos_token_ids else tokenizer.eos_token_id)
        return whole if len(whole) <= self.max_completion_length else None

    def _with_traces(
        self, output: dict[str, Any], traces: dict[int, tuple[int, ...]], confidence: torch.Tensor
    ) -> dict[str, Any]:
        """The batch with the traces' tokens in their rows."""
        mask, device = output["completion_mask"], output["completion_mask"].device
        before = int(mask.sum())
        if traces:
            width = max(mask.size(1), *(len(t) for t in traces.values()))
            for name in _ALONG_TOKENS:
                if name in output and output[name].size(1) > 1:
                    output[name] = _widened(output[name], width, self._pad_id(name))
            teacher = torch.zeros(mask.size(0), dtype=torch.bool, device=device)
            for name in ("completion_ids", "completion_mask"):
                output[name] = output[name].clone()
            for row, trace in traces.items():
                ids = output["completion_ids"][row]
                ids.fill_(self._pad_id("completion_ids"))
                ids[: len(trace)] = torch.tensor(trace, device=device)
                output["completion_mask"][row] = 0
                output["completion_mask"][row, : len(trace)] = 1
                teacher[row] = True
            output[TEACHER] = teacher
            output[CONFIDENCE] = confidence.to(device)
        if self.accelerator.num_processes > 1 or traces:
            change = output["completion_mask"].sum() - before
            added = self.accelerator.gather(change.reshape(1)).sum()
            output["num_items_in_batch"] = output["num_items_in_batch"] + added
        return output

    def _pad_id(self, name: str) -> int:
        return int(self.processing_class.pad_token_id) if name == "completion_ids" else 0

    # --- the loss -------------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        teacher = inputs.get(TEACHER)
        if teacher is None or not bool(teacher.any()):
            return super()._compute_loss(model, inputs)  # type: ignore[no-any-return]
        # TRL sees the rows of traces as empty: no ratio, no clip, no KL, no entropy bonus on them.
        own = {**inputs, "completion_mask": inputs["completion_mask"] * (~teacher).long()[:, None]}
        loss: torch.Tensor = super()._compute_loss(model, own)
        return loss + self._teacher_loss(model, inputs, teacher)

    def _teacher_loss(
        self, model: Any, inputs: dict[str, Any], teacher: torch.Tensor
    ) -> torch.Tensor:
        """-scale A* f(p) over the traces' tokens, with the scale that TRL gives each row."""
        part = {
            k: inputs[k][teacher]
            for k in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        }
        # Past DistributedDataParallel: a second forward pass through it is a collective, and only
        # the processes that hold a trace make it. Gradients are still summed, where they arise.
        logps, _, _ = self._get_per_token_logps_and_entropies(
            self.accelerator.unwrap_model(model),
            torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1),
            torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1),
            part["completion_ids"].size(1),
        )
        real = part["completion_mask"].bool()
        rows = [
            TrainRow((), (0,) * int(count), RowKind.TEACHER, float(advantage), float(c))
            for count, advantage, c in zip(
                real.sum(dim=1),
                inputs["advantages"][teacher],
                inputs[CONFIDENCE][teacher],
                strict=True,
            )
        ]
        scales = [self._scale(len(row.response_ids), inputs) for row in rows]
        return batch_loss(rows, scales, logps[real].float(), self.args.objective).loss

    def _scale(self, tokens: int, inputs: dict[str, Any]) -> float:
        """What TRL multiplies a token of a row with (`loss_type`)."""
        rows, accumulated = (
            inputs["completion_ids"].size(0),
            self.current_gradient_accumulation_steps,
        )
        match self.args.loss_type:
            case "dapo":
                items = float(inputs["num_items_in_batch"].clamp(min=1.0))
                share = accumulated / self.args.steps_per_generation
                return self.accelerator.num_processes / (items * share)
            case "grpo":
                return 1.0 / (rows * tokens * accumulated)
            case _:
                return 1.0 / (rows * self.max_completion_length * accumulated)

    # --- checkpoints ----------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial)) / name
            (folder / STATE).write_text(json.dumps(asdict(self.gate.state)) + "\n")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not (Path(checkpoint) / STATE).is_file():
            return
        raw = json.loads((Path(checkpoint) / STATE).read_text())
        posteriors = {i: Posterior(**p) for i, p in raw["posteriors"].items()}
        self.gate.state = GateState(posteriors, raw["gamma"], raw["mean_success"])


def _widened(tensor: torch.Tensor, width: int, fill: int) -> torch.Tensor:
    """[rows, tokens] padded on the right to `width` tokens."""
    missing = width - tensor.size(1)
    return torch.nn.functional.pad(tensor, (0, missing), value=fill) if missing > 0 else tensor
