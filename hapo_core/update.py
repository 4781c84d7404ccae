"""The update of a round: optimizer steps over planned groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from hapo_core.distributed import ALONE, Ranks, clip_gradients, is_sharded
from hapo_core.errors import ConfigError, HapoError
from hapo_core.groups import PlannedGroup
from hapo_core.heartbeat import beat
from hapo_core.loss import batch_loss, negative_weighed, row_scales
from hapo_core.metrics import Metrics, UpdateMetrics, together
from hapo_core.mismatch import refuse_apart
from hapo_core.modes import ready_to_train
from hapo_core.objective import Aggregation, Objective, TrainRow
from hapo_core.policy import micro_batches, response_logprobs
from hapo_core.timing import Laps
from hapo_core.update_spec import UpdateSpec

__all__ = ["UpdateSpec", "Updater", "supervised"]


def supervised(objective: Objective) -> Objective:
    """The objective of an SFT round: NLL with the token mean over the whole batch (METHOD 6)."""
    return replace(
        objective, aggregation=Aggregation.TOKEN_MEAN, entropy_coefficient=0.0, temperature=1.0
    )


@dataclass
class _Batch:
    """The rows of one optimizer step; everything else names a row by its index in them.

    `old`: float32 [response tokens] of a row, its log-probs under pi_old, by index; empty while
    the policy has not moved since its rollouts.
    """

    rows: list[TrainRow]
    old: dict[int, torch.Tensor] = field(default_factory=dict)


class Updater:
    """Holds the policy and its AdamW optimizer across rounds.

    With several ranks every one is given the whole round; each takes its share of the rows, the
    gradients are summed, and all make the same steps and return the same metrics.

    Raises:
        ConfigError: weights that train have fewer bits than float32: at a learning rate of 1e-6
            a step is below half of a bfloat16's last bit, and 98 % of the weights never move.
    """

    def __init__(self, model: PreTrainedModel, spec: UpdateSpec, ranks: Ranks = ALONE) -> None:
        _refuse_low_precision(model)
        self.model, self.spec, self.ranks = model, spec, ranks
        self.laps = Laps()
        trained = [p for p in model.parameters() if p.requires_grad]
        # A launch for each of a thousand tensors is what a GPU waits for; a CPU sums in one order.
        on_gpu = all(p.device.type == "cuda" for p in trained)
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=spec.learning_rate,
            betas=spec.betas,
            weight_decay=spec.weight_decay,
            foreach=False,
            fused=on_gpu,
        )

    def update(
        self,
        planned: Sequence[PlannedGroup],
        objective: Objective,
        max_tokens: int,
        learning_rate: float,
        beside: Sequence[TrainRow] = (),
    ) -> UpdateMetrics:
        """Do the round's optimizer steps.

        Args:
            planned: the round's groups; minibatches are consecutive, near-equal slices of them.
            max_tokens: response budget (the constant of `constant` aggregation).
            learning_rate: of this round.
            beside: further rows, sliced over the minibatches in the same way.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        metrics = Metrics()
        batches = _batches(planned, self.spec.minibatches, beside)
        ready_to_train(self.model)
        if len(batches) * self.spec.epochs > 1:
            for batch in batches:
                longest_first = _by_length(batch.rows, _alive(batch.rows, objective))
                # Rows that weigh each other do so in whole groups: every rank needs all of them.
                whole = objective.coupling is not None
                mine = longest_first if whole else self.ranks.share(longest_first)
                batch.old = self._now(batch.rows, mine, objective)
        for _ in range(self.spec.epochs):
            for batch in batches:
                self._step(batch, objective, max_tokens, metrics)
        self.model.eval()
        return together(self.ranks.all_gather(metrics))

    def supervise(
        self,
        rows: Sequence[TrainRow],
        objective: Objective,
        max_tokens: int,
        learning_rate: float,
    ) -> UpdateMetrics:
        """One optimizer step on rows alone, whatever `minibatches` and `epochs` say."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        metrics = Metrics()
        ready_to_train(self.model)
        self._step(_Batch(list(rows)), objective, max_tokens, metrics)
        self.model.eval()
        return together(self.ranks.all_gather(metrics))

    def score(self, rows: Sequence[TrainRow], objective: Objective) -> list[torch.Tensor]:
        """log-probs of the rows' responses under the present policy, without a gradient: float32
        [response tokens] each, on the CPU, in the order of the rows. All ranks have them all."""
        mine = self.ranks.share(_by_length(rows, range(len(rows))))
        ready_to_train(self.model)
        own = {i: logp.cpu().numpy() for i, logp in self._now(rows, mine, objective).items()}
        self.model.eval()
        found = {i: logp for part in self.ranks.all_gather(own) for i, logp in part.items()}
        return [torch.from_numpy(found[i]) for i in range(len(rows))]

    def gradient(
        self,
        planned: Sequence[PlannedGroup],
        objective: Objective,
        max_tokens: int,
        beside: Sequence[TrainRow] = (),
    ) -> torch.Tensor | None:
        """`gradients` as one tensor, float32 [parameters], on the policy's device."""
        parts = self.gradients(planned, objective, max_tokens, beside)
        if parts is None:
            return None
        trained = (p for p in self.model.parameters() if p.requires_grad)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(trained, parts, strict=True)
            ]
        ).float()

    def gradients(
        self,
        planned: Sequence[PlannedGroup],
        objective: Objective,
        max_tokens: int,
        beside: Sequence[TrainRow] = (),
    ) -> list[torch.Tensor | None] | None:
        """The gradient of the loss over all groups (and rows beside them) at once, with pi_old the
        present policy; the policy and the optimizer stay as they are.

        Returns:
            By parameter that trains, not clipped, no copies; None for a parameter without, and
            None in the place of all where no row trains.
        """
        rows = [*(row for group in planned for row in group.rows), *beside]
        ready_to_train(self.model)
        trained = bool(rows) and self._accumulate(_Batch(rows), objective, max_tokens, Metrics())
        self.model.eval()
        if not trained:
            return None
        parts = [p.grad for p in self.model.parameters() if p.requires_grad]
        self.optimizer.zero_grad(set_to_none=True)
        return parts

    def _now(
        self, rows: Sequence[TrainRow], indices: Sequence[int], objective: Objective
    ) -> dict[int, torch.Tensor]:
        """log-probs under the present policy, by index of the row."""
        out: dict[int, torch.Tensor] = {}
        with torch.no_grad(), self.laps("log-probs before"):
            for part in self._passes(rows, indices):
                held = [rows[i] for i in part]
                logp, _ = self._logprobs(held, objective, with_entropy=False)
                own = logp.split([len(r.response_ids) for r in held])
                out.update(zip(part, own, strict=True))
        return out

    def _step(
        self,
        batch: _Batch,
        objective: Objective,
        max_tokens: int,
        metrics: Metrics,
    ) -> None:
        if not batch.rows or not self._accumulate(batch, objective, max_tokens, metrics):
            # No signal, no step: momentum of earlier rounds must not move the policy on its own.
            metrics.skipped += 1
            return
        if self.spec.mismatch_limit is not None:
            refuse_apart(self.ranks.all_gather(metrics.apart), self.spec.mismatch_limit)
        parameters = list(self.model.parameters())
        with self.laps("sum of gradients"):
            self.ranks.sum_gradients(parameters)
        norm = clip_gradients(parameters, self.spec.max_grad_norm)
        if self.ranks.first:  # the norm of the sum is the same on all
            metrics.per_step("grad_norm", norm)
        if not math.isfinite(norm):
            raise HapoError(
                f"the gradient norm is {norm}; the step was not taken",
                remedy="lower the learning rate or use float32",
                topic="update:not_finite",
            )
        with self.laps("optimizer"):
            self.optimizer.step()
        # Rollouts come next: they need the memory.
        self.optimizer.zero_grad(set_to_none=True)
        metrics.steps += 1

    def _accumulate(
        self, batch: _Batch, objective: Objective, max_tokens: int, metrics: Metrics
    ) -> bool:
        """Leave the gradient of the rows' loss in the parameters; whether any row trains."""
        rows, old = negative_weighed(batch.rows, objective), batch.old
        if objective.coupling is not None:
            rows = objective.coupling(rows, self._scores(batch, objective))
        scales = row_scales(rows, objective.aggregation, max_tokens)
        alive = _alive(rows, objective)
        if not alive:
            return False
        self.optimizer.zero_grad(set_to_none=True)
        # Longest first, so that all ranks have alike work.
        for part in self._passes(rows, self.ranks.share(_by_length(rows, alive))):
            held = [rows[i] for i in part]
            with self.laps("forward"):
                logp, entropies = self._logprobs(held, objective, with_entropy=True)
                parts = batch_loss(
                    held,
                    [scales[i] for i in part],
                    logp,
                    objective,
                    torch.cat([old[i] for i in part]) if old else None,
                    entropies,
                )
            with self.laps("backward"):
                parts.loss.backward()
            metrics.add(parts.metrics)
            metrics.tokens += len(logp)
        return True

    def _scores(self, batch: _Batch, objective: Objective) -> list[float]:
        """mean_t log(pi / pi_old) of every row, 0 for rows that do not train; all 0 while the
        policy has not moved."""
        scores = [0.0] * len(batch.rows)
        if batch.old:
            now = self._now(batch.rows, _alive(batch.rows, objective), objective)
            for i, logp in now.items():
                scores[i] = float((logp - batch.old[i]).double().mean())
        return scores

    def _passes(self, rows: Sequence[TrainRow], indices: Sequence[int]) -> Iterator[list[int]]:
        """Micro-batches of the rows with these indices. With sharded weights every rank has to
        make as many passes as the others: one that is short of rows makes up the number."""
        lengths = [_length(rows[i]) for i in indices]
        passes = micro_batches(lengths, self.spec.micro_batch_tokens)
        idle = 0
        if is_sharded(self.model):
            idle = max(self.ranks.all_gather(len(passes))) - len(passes)
        for part in passes:
            beat()
            yield [indices[k] for k in part]
        for _ in range(idle):
            self._idle_pass()

    def _idle_pass(self) -> None:
        """A pass whose gradient is zero."""
        logp, _ = response_logprobs(self.model, [((0,), (0,))])
        if logp.requires_grad:
            (0.0 * logp.sum()).backward()

    def _logprobs(
        self, batch: Sequence[TrainRow], objective: Objective, with_entropy: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        device = self.model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.spec.mixed_precision):
            return response_logprobs(
                self.model,
                [(r.prompt_ids, r.response_ids) for r in batch],
                objective.temperature,
                with_entropy,
            )


def _refuse_low_precision(model: PreTrainedModel) -> None:
    low = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype.itemsize < 4}
    if low:
        raise ConfigError(
            f"weights in {', '.join(sorted(map(str, low)))} cannot be trained: most steps would "
            "round to nothing",
            remedy="hold them in float32, and make the passes in bfloat16 (mixed_precision)",
            topic="update:low_precision",
        )


def _alive(rows: Sequence[TrainRow], objective: Objective) -> list[int]:
    """Indices of the rows that have a gradient."""
    return [i for i, row in enumerate(rows) if row.trains(objective)]


def _length(row: TrainRow) -> int:
    return len(row.prompt_ids) + len(row.response_ids)


def _by_length(rows: Sequence[TrainRow], indices: Sequence[int]) -> list[int]:
    """Longest row first, otherwise in their order."""
    return sorted(indices, key=lambda i: -_length(rows[i]))


def _batches(
    planned: Sequence[PlannedGroup], count: int, beside: Sequence[TrainRow]
) -> list[_Batch]:
    """The rows of `count` consecutive, near-equal slices of the groups, and of `beside`."""

    def bounds(length: int) -> list[tuple[int, int]]:
        return list(pairwise(round(k * length / count) for k in range(count + 1)))

    return [
        _Batch([*(row for group in planned[a:b] for row in group.rows), *beside[c:d]])
        for (a, b), (c, d) in zip(bounds(len(planned)), bounds(len(beside)), strict=True)
    ]
