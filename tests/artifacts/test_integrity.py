"""What is damaged, foreign or could run code is refused when it is read, with place and remedy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from report_run import params_of
from tiny import tiny_policy

from hapo_core.errors import DataError
from hapo_core.policy import load_policy, save_policy
from pipeline.artifacts import (
    atomic_write_json,
    atomic_write_text,
    check_manifest,
    identity,
    rewrite_manifest,
    sha256_file,
    write_manifest,
)
from pipeline.artifacts.tables import BASE_LOG, read_table, write_table
from pipeline.config import Params, parse_params
from pipeline.models import policy_model
from pipeline.report.lineage import check_one_run


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


# --- tables -------------------------------------------------------------------------------------


def test_a_flipped_byte_in_a_table_is_found_without_a_manifest(tmp_path: Path) -> None:
    """Pages carry a checksum: no byte of the values can change unseen."""
    path = tmp_path / "log.parquet"
    rows = [{"step": s, "loss": s / 7, "learning_rate": 0.1} for s in range(400)]
    write_table(rows, BASE_LOG, path)
    size, found = path.stat().st_size, 0
    for at in range(60, size // 2, size // 40):
        flip(path, at)
        try:
            assert read_table(path, BASE_LOG).to_pylist() == rows  # a byte that says nothing
        except DataError as error:
            found += 1
            assert "corrupted" in str(error) and "dvc checkout" in str(error)
        flip(path, at)
    assert found > 10
    assert read_table(path, BASE_LOG).num_rows == 400


# --- one run ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> tuple[Params, Path]:
    """Artifacts whose manifests name one another, as the stages write them."""
    text = json.dumps(params_of_small())
    (tmp_path / "params.yaml").write_text(text)
    params = parse_params(json.loads(text), where="test")
    artifacts = tmp_path / "artifacts"
    atomic_write_text(artifacts / "data/problems.parquet", "problems")
    data = write_manifest(artifacts / "data", "data", {})
    problems = data["files"]["problems.parquet"]["sha256"]
    before = artifacts / "policy/base"
    atomic_write_text(before / "model/w", "base")
    write_manifest(before, "policy", {})
    for name in params.segments:
        folder = artifacts / "policy" / name
        atomic_write_text(folder / "model/w", name)
        atomic_write_text(folder / "rounds.parquet", name)
        facts = {"previous": identity(before), "problems": problems}
        write_manifest(folder, "segment", facts)
        before = folder
    for target, spec in params.targets.items():
        folder = artifacts / "evaluation" / target
        atomic_write_text(folder / "metrics.json", "{}")
        facts = {"measured": identity(artifacts / "policy" / spec.policy)}
        write_manifest(folder, "evaluation", facts)
    return params, artifacts


def params_of_small() -> dict[str, object]:
    from report_run import Story

    return params_of(Story())


def test_one_run_passes_and_a_cleaned_segment_stays_itself(run: tuple[Params, Path]) -> None:
    params, artifacts = run
    check_one_run(params, artifacts)
    folder = artifacts / "policy" / next(iter(params.segments))
    name = identity(folder)
    manifest = check_manifest(folder)
    (folder / "model/w").unlink()
    (folder / "model").rmdir()
    rewrite_manifest(folder, manifest, ["model"], name)
    assert identity(folder) == name
    check_one_run(params, artifacts)


@pytest.mark.parametrize("what", ["data", "base", "segment", "evaluation"])
def test_an_artifact_of_another_run_is_refused(run: tuple[Params, Path], what: str) -> None:
    params, artifacts = run
    first = next(iter(params.segments))
    folder, facts = {
        "data": (artifacts / "data", {}),
        "base": (artifacts / "policy/base", {}),
        "segment": (artifacts / "policy" / first, {}),
        "evaluation": (artifacts / "evaluation/final", {"measured": "0" * 64}),
    }[what]
    name = "problems.parquet" if what == "data" else "other.parquet"
    atomic_write_text(folder / name, "of another run")
    kind = json.loads((folder / "manifest.json").read_text())["kind"]
    write_manifest(folder, kind, facts)  # whole in itself
    with pytest.raises(DataError, match="made from another") as caught:
        check_one_run(params, artifacts)
    assert "dvc repro" in str(caught.value) and "dvc checkout" in str(caught.value)


def test_damaged_tables_and_missing_shards_are_refused(run: tuple[Params, Path]) -> None:
    params, artifacts = run
    folder = artifacts / "policy" / next(iter(params.segments))
    (folder / "rounds.parquet").write_text("9")
    with pytest.raises(DataError, match="sha256") as caught:
        check_one_run(params, artifacts)
    assert "rounds.parquet" in str(caught.value)
    (folder / "rounds.parquet").write_text(folder.name)
    (folder / "model/w").unlink()
    with pytest.raises(DataError, match="missing"):
        check_one_run(params, artifacts)


def test_a_pinned_model_is_hashed(tmp_path: Path) -> None:
    model, folder = tmp_path / "hub", tmp_path / "base"
    atomic_write_text(model / "model.safetensors", "weights")
    file = model / "model.safetensors"
    facts = {
        "path": str(model),
        "sha256": {file.name: sha256_file(file)},
        "bytes": {file.name: file.stat().st_size},
    }
    atomic_write_json(folder / "reference.json", facts)
    write_manifest(folder, "policy", {})
    assert policy_model(folder) == model
    flip(file, 3)
    with pytest.raises(DataError, match="has changed") as caught:
        policy_model(folder)
    assert "model.safetensors" in str(caught.value)


# --- no code from checkpoints -------------------------------------------------------------------


class Touch:
    """Unpickling it creates a file: what a hostile checkpoint would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    model, tokenizer = tiny_policy()
    save_policy(model, tokenizer, tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickle_is_never_opened(policy: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "code ran"
    (policy / "model.safetensors").unlink()
    (policy / name).write_bytes(pickle.dumps(Touch(mark)))
    with pytest.raises(DataError, match="pickle") as caught:
        load_policy(policy)
    assert name in str(caught.value) and "safetensors" in str(caught.value)
    assert not mark.exists()
    with pytest.raises(pickle.UnpicklingError):  # and torch itself would not run it either
        torch.load(policy / name, weights_only=True)
    pickle.loads((policy / name).read_bytes())
    assert mark.exists(), "the trap works"


def test_a_pickle_beside_safetensors_is_left_alone(policy: Path, tmp_path: Path) -> None:
    mark = tmp_path / "code ran"
    (policy / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(mark)))
    load_policy(policy)
    assert not mark.exists()


@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_model_folder_is_not_run(policy: Path, tmp_path: Path, known: bool) -> None:
    """`auto_map` of config.json and of the tokenizer name code in the folder."""
    mark = tmp_path / "code ran"
    code = f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    (policy / "modeling_evil.py").write_text(code)
    auto = {
        "AutoConfig": "modeling_evil.Config",
        "AutoModelForCausalLM": "modeling_evil.Model",
        "AutoTokenizer": ["modeling_evil.Tokenizer", None],
    }
    for name in ("config.json", "tokenizer_config.json"):
        facts = json.loads((policy / name).read_text())
        facts["auto_map"] = auto
        if not known and name == "config.json":
            facts["model_type"] = "evil"
        (policy / name).write_text(json.dumps(facts))
    if known:
        model, _ = load_policy(policy)
        assert type(model).__module__.startswith("transformers.")
    else:
        with pytest.raises(DataError, match="cannot be loaded"):
            load_policy(policy)
    assert not mark.exists()


def test_a_missing_shard_is_named(policy: Path) -> None:
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (policy / "model.safetensors").rename(policy / "model-1-of-2.safetensors")
    (policy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"model-2-of-2\.safetensors is missing \(2 expected\)"):
        load_policy(policy)
