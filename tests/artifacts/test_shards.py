"""Tensors in parts on disk, one process; several processes are in test_ranks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hapo_core.distributed import ALONE
from hapo_core.errors import DataError
from hapo_core.tensor_file import file_pieces
from pipeline.artifacts import tensors as shards


def some() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        "b|step": torch.tensor(3.0),
        "a": torch.randn(3, 5),
        "z": torch.randn(7).bfloat16(),
        "b|exp_avg": torch.randn(2, 3, 4).transpose(0, 1),
        "none": torch.zeros(0, 4),
        "ü": torch.randn(2, 2).double(),
    }


def test_a_whole_file_has_the_bytes_of_safetensors_own(tmp_path: Path) -> None:
    shards.write_whole(some(), tmp_path / "ours", ALONE)
    save_file({n: t.contiguous() for n, t in some().items()}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_every_type_and_the_metadata_are_as_in_safetensors_own(tmp_path: Path) -> None:
    kinds = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16)
    kinds += (torch.int32, torch.float32, torch.float64, torch.int64)
    tensors = {f"{k}": torch.arange(3).to(kind) for k, kind in enumerate(kinds)}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    ours = b"".join(file_pieces(tensors, metadata={"format": "pt"}))
    assert ours == (tmp_path / "theirs").read_bytes()
    (tmp_path / "low").write_bytes(b"".join(file_pieces(tensors, dtype=torch.bfloat16)))
    for name, found in load_file(tmp_path / "low").items():
        given = tensors[name]
        assert found.dtype == (torch.bfloat16 if given.is_floating_point() else given.dtype)
        assert torch.equal(found.double(), given.double())


@pytest.mark.parametrize("most", [1 << 30, 64])
def test_parts_come_back_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(shards, "PART_BYTES", most)
    tensors = {name: t.contiguous() for name, t in some().items()}
    shards.write_shards(tensors, tmp_path / "parts", ALONE)
    files = list((tmp_path / "parts").iterdir())
    assert (len(files) > 2) == (most == 64)
    assert sum(len(load_file(file)) for file in files) == len(tensors)
    assert shards.stored_names(tmp_path / "parts") == set(tensors)
    found = {name: torch.full_like(t, 9) for name, t in tensors.items()}
    shards.read_shards(found, tmp_path / "parts")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    shards.write_shards({"a": torch.randn(3, 5)}, tmp_path / "parts", ALONE)
    for wrong in ({"a": torch.zeros(3, 6)}, {"b": torch.zeros(3, 5)}):
        with pytest.raises(DataError, match="not the state of this model"):
            shards.read_shards(wrong, tmp_path / "parts")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no safetensors file"):
        shards.stored_names(tmp_path / "empty")
    next((tmp_path / "parts").iterdir()).write_bytes(b"no header")
    with pytest.raises(DataError, match="cannot be read"):
        shards.stored_names(tmp_path / "parts")


def test_moments_before_the_first_step_are_a_file_without_tensors(tmp_path: Path) -> None:
    """Every group may be dead from the first round on."""
    shards.write_shards({}, tmp_path / "parts", ALONE)
    shards.write_whole({}, tmp_path / "whole.safetensors", ALONE)
    for folder in (tmp_path / "parts", tmp_path):
        assert shards.stored_names(folder) == set()
        shards.read_shards({}, folder)


def test_an_error_in_the_writing_is_the_systems_own(tmp_path: Path) -> None:
    """Not DCP's, which is no `Exception`: a full disk must be known for what it is."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OSError, match="taken"):
        shards.write_shards({"a": torch.zeros(3)}, tmp_path / "taken", ALONE)
