"""Loading policies: only whole safetensors folders, and errors that say what is missing."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_policy

from hapo_core.errors import DataError
from hapo_core.gate import GateState, Posterior
from hapo_core.model_folder import check_model_folder
from hapo_core.policy import load_policy, save_policy
from hapo_core.rollout.transformers_engine import stop_ids
from hapo_core.rollout.vllm.weights import export_weights
from pipeline.artifacts.optimizer import load_optimizer, save_optimizer
from pipeline.train.checkpoint import newest_state, write_state


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = tiny_policy()
    save_policy(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_save_and_load_are_exact(folder):
    model, tokenizer = tiny_policy()
    loaded, read = load_policy(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert read("157a+8=?").input_ids == tokenizer("157a+8=?").input_ids


@pytest.mark.parametrize(
    "given",
    [
        {"do_sample": False, "temperature": 0.9, "top_p": 0.6},  # Vicuna, Llama-2 chat
        {"temperature": 0.6},
        {"do_sample": False, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1},
        {"num_beams": 1, "length_penalty": 2.0, "early_stopping": True},
        {"do_sample": True, "temperature": 0.6},
        {"num_return_sequences": 8, "early_stopping": True},
        {"cache_implementation": "static", "use_cache": False},
        {"compile_config": {"mode": "default"}, "bos_token_id": 1},
    ],
)
def test_settings_of_generation_that_contradict_each_other_can_be_saved(folder, tmp_path, given):
    described = folder / "generation_config.json"
    ends = [2, 3]
    facts = json.loads(described.read_text()) | {"eos_token_id": ends} | given
    described.write_text(json.dumps(facts))
    before = described.read_bytes()
    model, tokenizer = load_policy(folder)
    save_policy(model, tokenizer, tmp_path / "again")
    export_weights(model, tokenizer, tmp_path / "engine")
    for name in ("again", "engine"):
        saved = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert saved["eos_token_id"] == ends and bool(saved.get("do_sample")) is (
            given.get("do_sample", False)
        )
        assert saved.get("repetition_penalty") == given.get("repetition_penalty")
        if given.get("do_sample"):
            assert saved["temperature"] == 0.6
    assert stop_ids(model, tokenizer) >= set(ends)
    assert described.read_bytes() == before


def test_a_missing_shard_is_named(folder):
    model, _ = tiny_policy()
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    check_model_folder(folder)
    shards[1].unlink()
    with pytest.raises(DataError, match=shards[1].name):
        load_policy(folder)


def _rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_that_are_not_all_there(folder):
    """Half a download, a pointer of Git LFS, a file without one of the tensors."""
    place = folder / "model.safetensors"
    whole = place.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-1], whole[:20], b"", b"\xff" * 64):
        place.write_bytes(part)
        with pytest.raises(DataError, match="cut off or damaged"):
            load_policy(folder)
    place.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    with pytest.raises(DataError, match="pointer of Git LFS"):
        load_policy(folder)
    place.write_bytes(whole)
    load_policy(folder)
    _rewrite(folder, lambda weights: weights.pop("model.norm.weight"))
    with pytest.raises(DataError, match=r"none of the files holds model\.norm\.weight"):
        load_policy(folder)


def test_quantised_weights_are_named(folder):
    def to_bytes(weights):
        name = next(n for n, w in weights.items() if w.dim() == 2)
        weights[name] = weights[name].to(torch.int8)

    _rewrite(folder, to_bytes)
    with pytest.raises(DataError, match=r"quantised \(.*: I8\)"):
        load_policy(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(DataError, match=r"quantised \(gptq\)"):
        load_policy(folder)


def test_a_folder_without_its_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"holds no tokenizer \(.*tokenizer\.json"):
        load_policy(folder)


def test_where_the_model_lies_instead(folder):
    with pytest.raises(DataError, match=f"a model lies below: {folder}"):
        check_model_folder(folder.parent)
    (folder / "config.json").unlink()
    (folder / "q4.gguf").touch()
    with pytest.raises(DataError, match=r"gguf_file='q4\.gguf'"):
        check_model_folder(folder)


def test_no_model_no_config_no_weights(folder, tmp_path):
    with pytest.raises(DataError, match=r"config\.json is missing"):
        load_policy(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{not json"),
        ("config.json", "[1]"),
        ("tokenizer_config.json", "[2]"),
        ("tokenizer_config.json", "[1]"),
    ],
)
def test_garbage_is_refused(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(DataError, match="cannot be loaded"):
        load_policy(folder)


def test_pickled_weights_are_never_loaded(folder):
    model, _ = tiny_policy()
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="a pickle"):
        load_policy(folder)


def test_a_broken_shard_index_is_named(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weights": {}}))
    with pytest.raises(DataError, match="shard index"):
        load_policy(folder)


def test_optimizer_state_survives_to_the_bit(tmp_path):
    def stepped(model, optimizer, times):
        for k in range(times):
            optimizer.zero_grad()
            ids = torch.arange(4, 14)[None] + k
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()

    model, tokenizer = tiny_policy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    stepped(model, optimizer, 3)
    save_policy(model, tokenizer, tmp_path / "model")
    save_optimizer(model, optimizer, tmp_path / "optimizer.safetensors")
    stepped(model, optimizer, 2)
    other, _ = load_policy(tmp_path / "model")
    restored = torch.optim.AdamW(other.parameters(), lr=1e-2)
    load_optimizer(other, restored, tmp_path)
    stepped(other, restored, 2)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    third, _ = tiny_policy()
    third.base_model.layers = third.base_model.layers[:1]
    with pytest.raises(DataError, match="unknown parameter"):
        load_optimizer(third, torch.optim.AdamW(third.parameters()), tmp_path)


def test_an_unfinished_state_is_not_taken(tmp_path):
    model, tokenizer = tiny_policy()
    optimizer = torch.optim.AdamW(model.parameters())
    gate = GateState({"p": Posterior(1.5, 2.5, 3, 7)}, gamma=0.4, mean_success=0.1)
    state, aside = tmp_path / "states" / "round-00001", tmp_path / "states" / ".round-00002.partial"
    write_state(state, model, tokenizer, optimizer, gate, 1)
    aside.mkdir()
    assert newest_state(tmp_path, 1, pytest.fail) == state  # the rounds are an earlier segment's
    assert not aside.exists()
