"""Adapters: only they move, they are saved as such, and a run that was cut goes on exactly."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import made_groups, planned_round, tiny_policy
from tiny_segment import params_of
from transformers import AutoModelForCausalLM

from hapo_core.errors import ConfigError, DataError
from hapo_core.lora import LoraSpec, add_adapters, has_adapters, merged_state
from hapo_core.policy import load_policy, response_logprobs, save_policy
from hapo_core.update import Updater, UpdateSpec
from pipeline.artifacts.optimizer import load_optimizer, save_optimizer
from pipeline.base.stage import build_base
from pipeline.config import Params
from pipeline.curate.stage import curate
from pipeline.flows.observer import Observer
from pipeline.train.segment import Segment, train_segment

pytest.importorskip("peft", reason="peft is not installed (extra `lora`)")

SPEC = LoraSpec(rank=4, alpha=8.0)
PAIRS = [((4, 5, 6), (7, 8, 9, 10)), ((5, 6), (9, 8, 7))]


pytestmark = pytest.mark.usefixtures("one_thread")


def step(updater: Updater, seed: int) -> None:
    _, tokenizer = tiny_policy()
    groups = made_groups(tokenizer, [0, 2, 5], seed=seed)
    planned, _, objective = planned_round("hapo", groups)
    assert updater.update(planned, objective, 64, 1e-2).optimizer_steps == 1


def test_only_adapters_move_and_a_resumed_run_has_the_same_bits(tmp_path: Path) -> None:
    base, tokenizer = tiny_policy(3)
    save_policy(base, tokenizer, tmp_path / "base")
    model, _ = load_policy(tmp_path / "base")
    before, _ = response_logprobs(model, PAIRS)
    add_adapters(model, SPEC, seed=1)
    fresh, _ = response_logprobs(model, PAIRS)
    assert torch.equal(fresh, before)  # B is 0
    updater = Updater(model, UpdateSpec(1e-2))
    step(updater, 0)
    save_policy(model, tokenizer, tmp_path / "one")
    save_optimizer(model, updater.optimizer, tmp_path / "one.safetensors")
    step(updater, 1)
    plain = dict(base.named_parameters())
    for name, value in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(value, plain[name.replace(".base_layer.", ".")])
    saved = {p.name for p in (tmp_path / "one").iterdir()}
    assert "adapter_model.safetensors" in saved and "model.safetensors" not in saved
    names = json.loads((tmp_path / "one/adapter_config.json").read_text())["target_modules"]
    assert names == sorted(names) and len(names) == 14  # not in the order of a set's hashes

    again, _ = load_policy(tmp_path / "one")
    assert has_adapters(again)
    resumed = Updater(again, UpdateSpec(1e-2))
    load_optimizer(again, resumed.optimizer, tmp_path)
    step(resumed, 1)
    ours, theirs = model.state_dict(), again.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_merged_weights_are_the_same_policy(tmp_path: Path) -> None:
    """What an engine server is given."""
    model, _ = tiny_policy(3)
    add_adapters(model, SPEC, seed=1)
    step(Updater(model, UpdateSpec(1e-2)), 0)
    plain, _ = tiny_policy(0)
    missing = plain.load_state_dict(merged_state(model), strict=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    with torch.no_grad():
        expected, _ = response_logprobs(model, PAIRS)
        found, _ = response_logprobs(plain, PAIRS)
        start, _ = response_logprobs(tiny_policy(3)[0], PAIRS)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    assert float((expected - start).abs().max()) > 1e-3


def test_adapters_on_layers_that_are_not_there_are_refused() -> None:
    model, _ = tiny_policy()
    with pytest.raises(ConfigError, match="no adapters"):
        add_adapters(model, LoraSpec(4, 8.0, ("no_such_layer",)), 0)


# --- the stage ----------------------------------------------------------------------------------


def configured(**changes: object) -> Params:
    params = {
        "base": {
            "kind": "tiny",
            "hidden_size": 32,
            "layers": 2,
            "heads": 2,
            "steps": 4,
            "batch_size": 8,
            "learning_rate": 0.005,
            "slip_probability": 0.5,
        },
        "update": {"learning_rate": 0.01, "lora": {"rank": 4}},
        "segments": {"1": {"prev": "base", "rounds": 2}, "2": {"prev": "1", "rounds": 1}},
        "targets": {"base": {"policy": "base"}, "final": {"policy": "2"}},
    }
    return params_of("hapo", **{**params, **changes})


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(file.name.encode() + file.read_bytes())
    return found.hexdigest()


def test_segments_of_adapters_chain_and_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = configured()
    (tmp_path / "data").mkdir()
    curate(params, Observer("curate"))
    build_base(params, Observer("base"))
    for name in ("1", "2"):
        train_segment(params, name, Observer(f"train@{name}"))
    policies = Path("artifacts/policy")
    whole = {name: digest(policies / name / "model") for name in ("1", "2")}
    assert whole["1"] != whole["2"]
    model = AutoModelForCausalLM.from_pretrained(policies / "2/model", local_files_only=True)
    assert any("lora_" in name for name, _ in model.named_parameters())

    for folder in (policies / "1", policies / "2", Path(".hapo")):
        shutil.rmtree(folder)
    cut = Segment(params, "1", Observer("train@1"))
    cut.round(0)
    cut.close()
    for name in ("1", "2"):
        train_segment(params, name, Observer(f"train@{name}"))
    assert {name: digest(policies / name / "model") for name in ("1", "2")} == whole
    with pytest.raises(ConfigError, match=r"update\.lora"):
        all_weights = configured(update={"learning_rate": 0.01})
        shutil.rmtree(policies / "2")
        train_segment(all_weights, "2", Observer("train@2"))


def test_adapters_are_measured_by_their_folder_and_refused_as_a_start(tmp_path: Path) -> None:
    """`hapo evaluate --model` loads them on their model; `hapo train --model` says how to merge."""
    from hapo_core.model_folder import check_model_folder
    from pipeline.measure.given import find_model

    base, folder = tmp_path / "base", tmp_path / "adapters"
    save_policy(*tiny_policy(), base)
    model, tokenizer = load_policy(base)
    add_adapters(model, LoraSpec(rank=2), seed=0)
    save_policy(model, tokenizer, folder)
    found = find_model(str(folder), None)
    assert found.path == folder and "model.safetensors" in str(found.facts["adapters_of"])
    with pytest.raises(DataError, match="holds adapters") as caught:
        check_model_folder(folder)
    assert "merge_and_unload" in str(caught.value)
    (base / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        find_model(str(folder), None)
