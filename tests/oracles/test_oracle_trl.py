"""TRL's GRPO loss as an outside oracle for ours: same model, same rows, loss and gradient.

TRL (extra `oracle`; it brings accelerate) runs as it is: a real GRPOTrainer on a tiny model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hapo_core.loss import batch_loss, row_scales
from hapo_core.methods.sampling import SoftOverlong
from hapo_core.objective import (
    DAPO,
    DR_GRPO,
    GSPO,
    Aggregation,
    Objective,
    RatioLevel,
    RowKind,
    TrainRow,
)
from hapo_core.policy import response_logprobs
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer

pytest.importorskip("accelerate", reason="accelerate is not installed (extra `oracle`)")
trl = pytest.importorskip("trl", reason="TRL is not installed (extra `oracle`)")

MAX_TOKENS = 7
LENGTHS = [(2, 3), (4, 1), (3, 7), (3, 2), (2, 6), (5, 4), (1, 5), (4, 4)]
ADVANTAGES = [2.4749, -0.3536, -0.5401, 0.0, 1.6202, -0.7246, 0.35, -1.2]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(tiny_tokenizer(), hidden=32, layers=2, heads=2, seed=5)


@pytest.fixture(scope="module")
def rows() -> list[TrainRow]:
    random = torch.Generator().manual_seed(0)
    return [
        TrainRow(
            tuple(torch.randint(4, 20, (p,), generator=random).tolist()),
            tuple(torch.randint(4, 20, (r,), generator=random).tolist()),
            RowKind.ON_POLICY,
            advantage,
        )
        for (p, r), advantage in zip(LENGTHS, ADVANTAGES, strict=True)
    ]


def trainer_of(model: Any, folder: Path, **settings: Any) -> Any:
    datasets = pytest.importorskip("datasets")
    config = trl.GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=MAX_TOKENS,
        gradient_checkpointing=False,
        beta=0.0,
        **settings,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": "1+1=?"}] * 8),
        processing_class=tiny_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def padded(rows: list[TrainRow], old: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """TRL's layout: prompts padded on the left, completions on the right."""
    width_p = max(len(r.prompt_ids) for r in rows)
    width_r = max(len(r.response_ids) for r in rows)
    prompt = torch.zeros(len(rows), width_p, dtype=torch.long)
    response = torch.zeros(len(rows), width_r, dtype=torch.long)
    prompt_mask, response_mask = torch.zeros_like(prompt), torch.zeros_like(response)
    spread = torch.zeros(len(rows), width_r)
    start = 0
    for i, r in enumerate(rows):
        p, n = len(r.prompt_ids), len(r.response_ids)
        prompt[i, width_p - p :], prompt_mask[i, width_p - p :] = torch.tensor(r.prompt_ids), 1
        response[i, :n], response_mask[i, :n] = torch.tensor(r.response_ids), 1
        if old is not None:
            spread[i, :n] = old[start : start + n]
        start += n
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt_mask,
        "completion_ids": response,
        "completion_mask": response_mask,
        "advantages": torch.tensor([r.advantage for r in rows]),
        "num_items_in_batch": response_mask.sum(),
    }
    return inputs if old is None else {**inputs, "old_per_token_logps": spread}


def flat_gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


CASES = [
    ("dapo", "token", Aggregation.TOKEN_MEAN, (0.2, 0.2)),
    ("dapo", "token", Aggregation.TOKEN_MEAN, (0.2, 0.28)),
    ("grpo", "token", Aggregation.SEQ_MEAN, (0.2, 0.2)),
    ("dr_grpo", "token", Aggregation.CONSTANT, (0.2, 0.28)),
    ("grpo", "sequence", Aggregation.SEQ_MEAN, (3e-4, 4e-4)),
    ("grpo", "sequence", Aggregation.SEQ_MEAN, (0.1, 0.1)),
]


@pytest.mark.parametrize("moved", [False, True], ids=["ratio-1", "moved"])
@pytest.mark.parametrize(("loss_type", "level", "aggregation", "clip"), CASES)
def test_loss_and_gradient_agree(
    model: Any,
    rows: list[TrainRow],
    tmp_path: Path,
    loss_type: str,
    level: str,
    aggregation: Aggregation,
    clip: tuple[float, float],
    moved: bool,
) -> None:
    objective = Objective(clip=clip, aggregation=aggregation, ratio_level=RatioLevel(level))
    logprobs, _ = response_logprobs(model, [(r.prompt_ids, r.response_ids) for r in rows])
    old = None
    if moved:  # ratios from about .5 to 2, so that both clips bite
        noise = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(1))
        old = logprobs.detach() + 0.3 * noise
    ours = batch_loss(rows, row_scales(rows, aggregation, MAX_TOKENS), logprobs, objective, old)
    our_gradient = flat_gradient(model, ours.loss)

    trainer = trainer_of(
        model,
        tmp_path,
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon=clip[0],
        epsilon_high=clip[1],
    )
    trainer.model.train()
    theirs = trainer._compute_loss(trainer.model, padded(rows, old))
    their_gradient = flat_gradient(trainer.model, theirs)
    assert float(ours.loss.detach()) == pytest.approx(float(theirs.detach()), abs=2e-6)
    scale = float(their_gradient.abs().max())
    assert scale > 0
    assert float((our_gradient - their_gradient).abs().max()) <= 2e-5 * scale + 1e-8


@pytest.mark.parametrize(
    ("preset", "loss_type"), [(DAPO, "dapo"), (DR_GRPO, "dr_grpo"), (GSPO, "grpo")]
)
def test_presets_agree(
    model: Any, rows: list[TrainRow], tmp_path: Path, preset: Objective, loss_type: str
) -> None:
    """The presets as they are; GSPO with ratios near 1, so that its clip cuts some rows only."""
    logprobs, _ = response_logprobs(model, [(r.prompt_ids, r.response_ids) for r in rows])
    noise = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(2))
    old = logprobs.detach() + (5e-4 if preset is GSPO else 0.3) * noise
    scales = row_scales(rows, preset.aggregation, MAX_TOKENS)
    ours = batch_loss(rows, scales, logprobs, preset, old)
    our_gradient = flat_gradient(model, ours.loss)
    assert preset.clip is not None
    trainer = trainer_of(
        model,
        tmp_path,
        loss_type=loss_type,
        importance_sampling_level=preset.ratio_level.value,
        epsilon=preset.clip[0],
        epsilon_high=preset.clip[1],
    )
    trainer.model.train()
    theirs = trainer._compute_loss(trainer.model, padded(rows, old))
    their_gradient = flat_gradient(trainer.model, theirs)
    assert float(ours.loss.detach()) == pytest.approx(float(theirs.detach()), abs=2e-6)
    scale = float(their_gradient.abs().max())
    assert float((our_gradient - their_gradient).abs().max()) <= 2e-5 * scale + 1e-8


def test_soft_overlong_penalty_agrees() -> None:
    """TRL's reward function over all lengths that a budget allows."""
    from trl.rewards import get_soft_overlong_punishment

    theirs = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=30)
    ours = SoftOverlong(100, 30)
    lengths = range(1, 101)
    expected = theirs(completion_ids=[[1] * n for n in lengths])
    assert [ours.penalty(n) for n in lengths] == pytest.approx(expected)
