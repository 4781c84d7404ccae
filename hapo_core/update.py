"""The update of a round: optimizer steps over planned groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from hapo_core.coupled import coupled_rows
from hapo_core.errors import HapoError
from hapo_core.groups import PlannedGroup
from hapo_core.laps import Laps
from hapo_core.loss import (
    Aggregation,
    Objective,
    RowKind,
    Surrogate,
    TrainRow,
    batch_loss,
    row_scales,
)
from hapo_core.policy import micro_batches, response_logprobs
from hapo_core.ranks import ALONE, Ranks, clip_gradients, is_sharded


@dataclass(frozen=True)
class UpdateSpec:
    """Optimizer settings. `micro_batch_tokens` bounds padded tokens of a pass (memory only)."""

    learning_rate: float
    warmup_rounds: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    minibatches: int = 1
    epochs: int = 1
    micro_batch_tokens: int = 8192
    mixed_precision: bool = False
    """Passes in bfloat16 (autocast) on float32 weights, gradients and optimizer state."""

    def rate(self, round_index: int, scale: float = 1.0) -> float:
        """Learning rate of a round (counted from 0): linear warm-up, then constant."""
        warm = min(1.0, (round_index + 1) / self.warmup_rounds) if self.warmup_rounds else 1.0
        return self.learning_rate * scale * warm


@dataclass(frozen=True)
class UpdateMetrics:
    """What one round's update did. Means over its optimizer steps; None where nothing trained.

    `entropy`: mean nats per trained on-policy token. `teacher_balance`: sum of |gradient weights|
    on teacher tokens over that on on-policy tokens (None without on-policy pull).
    `mismatch_mean/max`: |delta log p| of sampler and trainer.
    """

    loss: float | None
    grad_norm: float | None
    entropy: float | None
    teacher_balance: float | None
    mismatch_mean: float | None
    mismatch_max: float | None
    trained_tokens: int
    optimizer_steps: int
    skipped_steps: int

    def with_step(self, step: UpdateMetrics) -> UpdateMetrics:
        """These metrics, tokens and steps of a separate supervised step added; the means stay
        those of the groups."""
        return replace(
            self,
            trained_tokens=self.trained_tokens + step.trained_tokens,
            optimizer_steps=self.optimizer_steps + step.optimizer_steps,
            skipped_steps=self.skipped_steps + step.skipped_steps,
        )


@dataclass
class _Sums:
    loss: float = 0.0
    norm: float = 0.0
    teacher: float = 0.0
    policy: float = 0.0
    entropy: float = 0.0
    policy_tokens: int = 0
    mismatch: float = 0.0
    mismatch_max: float = 0.0
    mismatch_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    skipped: int = 0


def supervised(objective: Objective) -> Objective:
    """The objective of an SFT round: NLL with the token mean over the whole batch (METHOD 6)."""
    return replace(
        objective, aggregation=Aggregation.TOKEN_MEAN, entropy_coefficient=0.0, temperature=1.0
    )


class Updater:
    """Holds the policy and its AdamW optimizer across rounds.

    With several ranks every one is given the whole round; each takes its share of the rows, the
    gradients are summed, and all make the same steps and return the same metrics.
    """

    def __init__(self, model: PreTrainedModel, spec: UpdateSpec, ranks: Ranks = ALONE) -> None:
        self.model, self.spec, self.ranks = model, spec, ranks
        self.laps = Laps()
        self.optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=spec.learning_rate,
            betas=spec.betas,
            weight_decay=spec.weight_decay,
            foreach=False,
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
        sums = _Sums()
        slices = _slices(planned, self.spec.minibatches, beside)
        several = len(slices) * self.spec.epochs > 1
        self.model.train()
        old: dict[int, torch.Tensor] = {}
        if several:
            # Scores belong to whole groups: every rank needs all of them.
            scored = objective.surrogate is Surrogate.SCORE
            share = _by_length if scored else self._own
            for rows in slices:
                old |= {id(r): o for r, o in self._old(share(_alive(rows, objective)), objective)}
        for _ in range(self.spec.epochs):
            for rows in slices:
                self._step(rows, objective, max_tokens, old, sums)
        self.model.eval()
        return _metrics(_together(self.ranks.gather(sums)))

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
        sums = _Sums()
        self.model.train()
        self._step(rows, objective, max_tokens, {}, sums)
        self.model.eval()
        return _metrics(_together(self.ranks.gather(sums)))

    def gradient(
        self,
        planned: Sequence[PlannedGroup],
        objective: Objective,
        max_tokens: int,
        beside: Sequence[TrainRow] = (),
    ) -> torch.Tensor | None:
        """The gradient of the loss over all groups (and rows beside them) at once, with pi_old the
        present policy; the policy and the optimizer stay as they are.

        Returns:
            float32 [parameters], not clipped, on the policy's device; None where no row trains.
        """
        rows = [*(row for group in planned for row in group.rows), *beside]
        self.model.train()
        trained = self._accumulate(rows, objective, max_tokens, {}, _Sums()) if rows else False
        self.model.eval()
        if not trained:
            return None
        parts = [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in self.model.parameters()
            if p.requires_grad
        ]
        self.optimizer.zero_grad(set_to_none=True)
        return torch.cat(parts).float()

    def _old(
        self, rows: Sequence[TrainRow], objective: Objective
    ) -> list[tuple[TrainRow, torch.Tensor]]:
        """log-probs under pi_old of rows that train, before the first step moves the policy."""
        out: list[tuple[TrainRow, torch.Tensor]] = []
        with torch.no_grad(), self.laps("log-probs before"):
            for batch in self._passes(rows):
                if not batch:
                    self._idle_pass()
                    continue
                logp, _ = self._logprobs(batch, objective, with_entropy=False)
                parts = logp.split([len(r.response_ids) for r in batch])
                out.extend(zip(batch, parts, strict=True))
        return out

    def _step(
        self,
        rows: Sequence[TrainRow],
        objective: Objective,
        max_tokens: int,
        old: dict[int, torch.Tensor],
        sums: _Sums,
    ) -> None:
        if not rows or not self._accumulate(rows, objective, max_tokens, old, sums):
            # No signal, no step: momentum of earlier rounds must not move the policy on its own.
            sums.skipped += 1
            return
        parameters = list(self.model.parameters())
        with self.laps("sum of gradients"):
            self.ranks.sum_gradients(parameters)
        norm = clip_gradients(parameters, self.spec.max_grad_norm)
        sums.norm += norm
        if not math.isfinite(norm):
            raise HapoError(
                f"the gradient norm is {norm}; the step was not taken",
                where="update",
                remedy="lower update.learning_rate or use float32; the last round is kept",
            )
        with self.laps("optimizer"):
            self.optimizer.step()
        # Rollouts come next: they need the memory.
        self.optimizer.zero_grad(set_to_none=True)
        sums.steps += 1

    def _accumulate(
        self,
        rows: Sequence[TrainRow],
        objective: Objective,
        max_tokens: int,
        old: dict[int, torch.Tensor],
        sums: _Sums,
    ) -> bool:
        """Leave the gradient of the rows' loss in the parameters; whether any row trains."""
        if objective.surrogate is Surrogate.SCORE:
            rows, old = self._coupled(rows, objective, old)
        scale_of = {
            id(row): scale
            for row, scale in zip(
                rows, row_scales(rows, objective.aggregation, max_tokens), strict=True
            )
        }
        alive = _alive(rows, objective)
        if not alive:
            return False
        self.optimizer.zero_grad(set_to_none=True)
        for batch in self._passes(self._own(alive)):
            if not batch:
                self._idle_pass()
                continue
            with self.laps("forward"):
                logp, entropies = self._logprobs(batch, objective, with_entropy=True)
                parts = batch_loss(
                    batch,
                    [scale_of[id(r)] for r in batch],
                    logp,
                    objective,
                    torch.cat([old[id(r)] for r in batch]) if old else None,
                    entropies,
                )
            with self.laps("backward"):
                parts.loss.backward()
            sums.loss += float(parts.loss.detach())
            sums.teacher += parts.teacher_pull
            sums.policy += parts.policy_pull
            sums.entropy += parts.entropy_sum
            sums.mismatch += parts.mismatch_sum
            sums.mismatch_max = max(sums.mismatch_max, parts.mismatch_max)
            sums.mismatch_tokens += parts.mismatch_tokens
            sums.tokens += len(logp)
            sums.policy_tokens += sum(
                len(r.response_ids) for r in batch if r.kind is RowKind.ON_POLICY
            )
        return True

    def _coupled(
        self, rows: Sequence[TrainRow], objective: Objective, old: dict[int, torch.Tensor]
    ) -> tuple[list[TrainRow], dict[int, torch.Tensor]]:
        """The rows with the weights that their groups give them under the current policy, and
        `old` for these rows. Without `old` the policy has not moved and all scores are 0."""
        scores: dict[int, float] = {}
        if old:
            for row, now in self._old(_alive(rows, objective), objective):
                scores[id(row)] = float((now - old[id(row)]).double().mean())
        weighed = coupled_rows(
            rows, [scores.get(id(row), 0.0) for row in rows], objective.score_tau
        )
        pairs = zip(rows, weighed, strict=True)
        return weighed, {id(new): old[id(row)] for row, new in pairs if id(row) in old}

    def _own(self, rows: Sequence[TrainRow]) -> list[TrainRow]:
        """This rank's rows, dealt by length so that all ranks have alike work."""
        return self.ranks.share(_by_length(rows))

    def _passes(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """Micro-batches. With sharded weights every rank has to make as many passes as the
        others: empty ones make up the number."""
        lengths = [len(r.prompt_ids) + len(r.response_ids) for r in rows]
        indices = micro_batches(lengths, self.spec.micro_batch_tokens)
        passes = [[rows[i] for i in batch] for batch in indices]
        if is_sharded(self.model):
            passes += [[]] * (max(self.ranks.gather(len(passes))) - len(passes))
        return passes

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


def _alive(rows: Sequence[TrainRow], objective: Objective) -> list[TrainRow]:
    return [r for r in rows if r.trains(objective)]


def _by_length(rows: Sequence[TrainRow]) -> list[TrainRow]:
    """Longest first, otherwise in their order."""
    return sorted(rows, key=lambda r: -len(r.prompt_ids) - len(r.response_ids))


def _slices(
    planned: Sequence[PlannedGroup], count: int, beside: Sequence[TrainRow]
) -> list[list[TrainRow]]:
    """The rows of `count` consecutive, near-equal slices of the groups, and of `beside`."""

    def bounds(length: int) -> list[tuple[int, int]]:
        return list(pairwise(round(k * length / count) for k in range(count + 1)))

    return [
        [*(row for group in planned[a:b] for row in group.rows), *beside[c:d]]
        for (a, b), (c, d) in zip(bounds(len(planned)), bounds(len(beside)), strict=True)
    ]


def _together(parts: Sequence[_Sums]) -> _Sums:
    """The sums of all ranks; norm and steps are those of each."""
    whole = parts[0]
    for part in parts[1:]:
        whole.loss += part.loss
        whole.teacher += part.teacher
        whole.policy += part.policy
        whole.entropy += part.entropy
        whole.policy_tokens += part.policy_tokens
        whole.mismatch += part.mismatch
        whole.mismatch_max = max(whole.mismatch_max, part.mismatch_max)
        whole.mismatch_tokens += part.mismatch_tokens
        whole.tokens += part.tokens
    return whole


def _metrics(sums: _Sums) -> UpdateMetrics:
    steps = sums.steps
    return UpdateMetrics(
        loss=sums.loss / steps if steps else None,
        grad_norm=sums.norm / steps if steps else None,
        entropy=sums.entropy / sums.policy_tokens if sums.policy_tokens else None,
        teacher_balance=sums.teacher / sums.policy if sums.policy > 0 else None,
        mismatch_mean=sums.mismatch / sums.mismatch_tokens if sums.mismatch_tokens else None,
        mismatch_max=sums.mismatch_max if sums.mismatch_tokens else None,
        trained_tokens=sums.tokens,
        optimizer_steps=steps,
        skipped_steps=sums.skipped,
    )
