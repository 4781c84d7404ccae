"""`hapo_trl.HAPOTrainer` against the real TRL, on a tiny model on the CPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO
from transformers import set_seed
from trl_tiny import SETTINGS, none_right, tiny_policy

from hapo_core.advantage import group_advantages
from hapo_core.errors import ConfigError, DataError
from hapo_core.loss import batch_loss, row_scales
from hapo_core.objective import RowKind, TrainRow
from hapo_core.policy import response_logprobs, save_policy
from hapo_core.tasks.tiny import tiny_model, tiny_tokenizer

datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl", reason="TRL is not installed (extra `trl`)")
import hapo_trl  # noqa: E402 - after the skip where TRL is missing

BUDGET, SIZE = 12, 4
TRACE = "a157+8=165"  # 10 symbols, and the end token


pytestmark = pytest.mark.usefixtures("one_thread")


def rewards_of(completions: list[str], **_: Any) -> list[float]:
    """Right or wrong by chance, but always the same for the same text."""
    return [float(sum(map(ord, text)) % 3 == 0) for text in completions]


def build(
    kind: str, folder: Path, reward: Any = rewards_of, trace: str | None = TRACE, **settings: Any
) -> Any:
    """A trainer of either kind on the same model, data and seed."""
    common = dict(
        **SETTINGS,
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=SIZE,
        max_completion_length=BUDGET,
        max_steps=3,
    )
    hapo = {k: settings.pop(k) for k in list(settings) if k.startswith("hapo_")}
    config = {**common, **settings}
    rows = [{"prompt": f"{100 + i}a+{i}=?\n", "trace": trace} for i in range(8)]
    args = hapo_trl.HAPOConfig(**config, **hapo) if kind == "hapo" else trl.GRPOConfig(**config)
    return (hapo_trl.HAPOTrainer if kind == "hapo" else trl.GRPOTrainer)(
        **tiny_policy(),
        reward_funcs=reward,
        args=args,
        train_dataset=datasets.Dataset.from_list(rows),
    )


SHUT = {"hapo_threshold": "constant", "hapo_gamma": 0.1, "hapo_allow_unreachable": True}
OPEN = {"hapo_threshold": "constant", "hapo_gamma": 0.999, "hapo_allow_unreachable": True}


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_with_the_gate_shut_the_update_is_trl_s_to_the_bit(tmp_path: Path, loss_type: str) -> None:
    ours = build("hapo", tmp_path / "a", loss_type=loss_type, **SHUT)
    theirs = build("grpo", tmp_path / "b", loss_type=loss_type)
    before = [p.detach().clone() for p in theirs.model.parameters()]
    for trainer in (ours, theirs):
        set_seed(5)
        trainer.train()
    pairs = list(zip(ours.model.parameters(), theirs.model.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    moved = zip(before, theirs.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in moved)
    logged = [row for row in ours.state.log_history if "hapo/injected" in row]
    assert len(logged) == 3 and all(row["hapo/injected"] == 0 for row in logged)


def scored(trainer: Any, count: int = 2) -> tuple[dict[str, Any], list[float]]:
    """(the batch of `count` groups, the rewards before any injection)."""
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    rows = [dict(trainer.train_dataset[i]) for i in range(count) for _ in range(SIZE)]
    batch = trainer._generate_and_score_completions(rows)
    return batch, trainer._rewards[:, 0].tolist()


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
def test_with_the_gate_open_the_advantages_are_luffy_s(tmp_path: Path, scale_rewards: str) -> None:
    trainer = build("hapo", tmp_path, scale_rewards=scale_rewards, **OPEN)
    batch, rewards = scored(trainer)
    kind = trainer.args.objective.advantage
    teacher = batch["hapo_teacher"]
    ids = tiny_tokenizer()(TRACE, add_special_tokens=False).input_ids
    ids.append(tiny_tokenizer().eos_token_id)
    for start in range(0, 2 * SIZE, SIZE):
        part = slice(start, start + SIZE)
        group = rewards[part]
        assert sum(group) < SIZE and int(teacher[part].sum()) == 1
        row = start + int(teacher[part].nonzero())
        assert rewards[row] == 0  # a worst one
        after = [1.0 if start + j == row else r for j, r in enumerate(group)]
        expected = group_advantages(after, kind)
        assert batch["advantages"][part].tolist() == pytest.approx(expected, abs=1e-6)
        length = int(batch["completion_mask"][row].sum())
        assert batch["completion_ids"][row, :length].tolist() == ids
    assert int(batch["num_items_in_batch"]) == int(batch["completion_mask"].sum())


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("shape", ["ratio", "log"])
def test_loss_and_gradient_are_those_of_the_library(
    tmp_path: Path, loss_type: str, shape: str
) -> None:
    trainer = build("hapo", tmp_path, loss_type=loss_type, hapo_teacher_shape=shape, **OPEN)
    batch, _ = scored(trainer)
    theirs = trainer._compute_loss(trainer.model, batch)
    their_gradient = gradient(trainer.model, theirs)

    rows = []
    for i in range(batch["completion_ids"].size(0)):
        real = batch["completion_mask"][i].bool()
        rows.append(
            TrainRow(
                tuple(batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()),
                tuple(batch["completion_ids"][i][real].tolist()),
                RowKind.TEACHER if batch["hapo_teacher"][i] else RowKind.ON_POLICY,
                float(batch["advantages"][i]),
                float(batch["hapo_confidence"][i]),
            )
        )
    objective = trainer.args.objective
    logps, _ = response_logprobs(trainer.model, [(r.prompt_ids, r.response_ids) for r in rows])
    scales = row_scales(rows, objective.aggregation, BUDGET)
    ours = batch_loss(rows, scales, logps, objective).loss
    assert float(theirs.detach()) == pytest.approx(float(ours.detach()), abs=2e-6)
    our_gradient = gradient(trainer.model, ours)
    largest = float(our_gradient.abs().max())
    assert largest > 0
    assert float((their_gradient - our_gradient).abs().max()) <= 2e-5 * largest + 1e-8


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_split_batch_has_the_same_gradient(tmp_path: Path) -> None:
    """Two accumulated halves against the whole, the loss's normaliser known before the split."""
    trainer = build("hapo", tmp_path, steps_per_generation=2, per_device_train_batch_size=4, **OPEN)
    batch, _ = scored(trainer)
    trainer.current_gradient_accumulation_steps = 2
    halves = trl.trainer.utils.split_tensor_dict(batch, 2)
    parts = [gradient(trainer.model, trainer._compute_loss(trainer.model, h)) for h in halves]
    rows = trainer.args.objective
    assert rows.aggregation.value == "token_mean"
    trainer.current_gradient_accumulation_steps, trainer.args.steps_per_generation = 1, 1
    whole = gradient(trainer.model, trainer._compute_loss(trainer.model, batch))
    assert torch.allclose(sum(parts), whole, atol=1e-6)


def test_traces_that_are_missing_or_too_long_leave_the_group_on_policy(tmp_path: Path) -> None:
    for trace in (None, "1" * BUDGET):
        trainer = build("hapo", tmp_path, none_right, trace=trace, **OPEN)
        batch, _ = scored(trainer)
        assert "hapo_teacher" not in batch and not batch["advantages"].any()
        assert trainer._metrics["train"]["hapo/no_trace"] == [1.0]
    trainer = build("hapo", tmp_path, none_right, hapo_trace_column="solution", **OPEN)
    with pytest.raises(DataError, match="no column 'solution'"):
        scored(trainer)


def test_a_trace_ends_as_turns_do_where_trl_stops_there(tmp_path: Path) -> None:
    """In a chat; and with the tokenizer's end token where TRL would go on behind the turn."""
    trainer = build("hapo", tmp_path)
    tokenizer = trainer.processing_class
    turn = next(i for i in range(len(tokenizer)) if i != tokenizer.eos_token_id)
    tokenizer.add_special_tokens({"additional_special_tokens": [tokenizer.decode([turn])]})
    end = tokenizer.convert_ids_to_tokens(turn)
    tokenizer.chat_template = f"{{% for m in messages %}}{{{{ m['content'] }}}}{end}{{% endfor %}}"
    chat = {"prompt": [{"role": "user", "content": "1a+1=?"}], "trace": "a"}
    assert trainer._trace(chat)[-1] == tokenizer.eos_token_id
    trainer.eos_token_ids = [*trainer.eos_token_ids, turn]
    assert trainer._trace(chat)[-1] == turn
    assert trainer._trace({**chat, "prompt": "1a+1=?"})[-1] == tokenizer.eos_token_id


def test_the_gate_comes_back_with_a_checkpoint(tmp_path: Path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "hapo_evidence": "prompt"}
    whole = build("hapo", tmp_path / "a", **settings)
    whole.train()
    cut = build("hapo", tmp_path / "b", **{**settings, "max_steps": 2})
    cut.train()
    stored = json.loads((tmp_path / "b/checkpoint-2/hapo_gate.json").read_text())
    assert stored["posteriors"] and stored["gamma"] == cut.gate.state.gamma
    again = build("hapo", tmp_path / "b", **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "b/checkpoint-2"))
    assert again.gate.state.posteriors.keys() == whole.gate.state.posteriors.keys()
    visits = [sum(p.visits for p in t.gate.state.posteriors.values()) for t in (whole, again)]
    assert visits == [6, 6]  # three rounds of two groups


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"loss_type": "bnpo"}, "loss_type"),
        ({"scale_rewards": "batch"}, "scale_rewards"),
        ({"hapo_threshold": "constant", "hapo_gamma": 0.95}, "gamma 0.95"),
        ({"hapo_threshold": "steep"}, "hapo_threshold"),
    ],
)
def test_settings_without_an_exact_meaning_are_refused(
    tmp_path: Path, settings: dict[str, Any], where: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(where)):
        build("hapo", tmp_path, **settings)


def test_without_trl_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "trl.py").write_text("raise ImportError('no trl')\n")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPO)!r}]; import hapo_trl"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "pip install 'hapo[trl]'" in done.stderr


def test_the_example_of_the_docs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (REPO / "docs" / "trl.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    tokenizer = tiny_tokenizer()
    save_policy(tiny_model(tokenizer, 32, 2, 2, 5), tokenizer, tmp_path / "policy")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/trl.md", "exec"), {"__name__": "example"})
    shares = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert shares and all(0 <= share <= 1 for share in shares)
