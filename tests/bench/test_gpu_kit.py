"""`make gpu` in small on the CPU: what its parts measure, and that no part can spoil another."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import long

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
sys.path.insert(0, str(Path(__file__).parents[2] / "bench/gpu"))

import correct
import pace
import quick

KIT = Path(__file__).parents[2] / "bench/gpu"
pytestmark = pytest.mark.usefixtures("one_thread")


def _kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_kit", KIT / "__main__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_kit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


PARTS = """
import os, subprocess, sys, time
name = sys.argv[sys.argv.index("--part") + 1]
if name == "machine":
    print("some noise")
    print('{"device": "pretended", "wrong": []}')
if name == "update":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
if name == "engine":
    os.kill(os.getpid(), 9)
if name == "repeat":
    print('{"largest": 3.0, "wrong": ["float32: two equal runs differ"]}')
if name == "resume":
    raise SystemExit("out of memory")
"""


def test_a_part_that_hangs_dies_or_is_wrong_loses_no_other(tmp_path, monkeypatch):
    kit, parts = _kit(), tmp_path / "parts"
    parts.mkdir()
    (parts / "__main__.py").write_text(PARTS)
    monkeypatch.setattr(kit, "HERE", parts)
    monkeypatch.setitem(kit.PARTS, "update", kit.Part("correct", "update", 6))
    options = argparse.Namespace(device="cpu", small=True, out=tmp_path / "out", seconds=120)
    began, said = time.monotonic(), list[str]()
    names = ["update", "engine", "repeat", "resume", "machine"]
    found = kit.run_parts(names, options, said.append)
    assert time.monotonic() - began < 50  # nothing waits for what the hanging part had started
    assert {n: p["status"] for n, p in found.items()} == {
        "update": "out of time",
        "engine": "failed",
        "repeat": "failed",
        "resume": "failed",
        "machine": "ok",
    }
    assert "-9" in found["engine"]["error"] and "out of memory" in found["resume"]["error"]
    kept = json.loads((tmp_path / "out/gpu.json").read_text())["parts"]
    assert kept == found and kept["machine"]["figures"] == {"device": "pretended"}
    page = (tmp_path / "out/gpu.md").read_text()
    assert "wrong: float32: two equal runs differ" in page and "out of memory" in page
    assert len(list((tmp_path / "out").iterdir())) <= 8  # what a lent machine gives back


def test_parts_for_which_no_time_is_left_say_so(tmp_path):
    kit = _kit()
    options = argparse.Namespace(device="cpu", small=True, out=tmp_path, seconds=1)
    found = kit.run_parts(["machine"], options, lambda line: None)
    assert found["machine"]["status"] == "left out"


def test_every_part_is_there():
    kit = _kit()
    for part in kit.PARTS.values():
        module = {"correct": correct, "pace": pace, "quick": quick}[part.module]
        assert callable(getattr(module, part.function))
        assert all(name in pace.SHAPES for name in part.more)


@pytest.mark.parametrize("part", ["machine", "update", "engine", "repeat", "resume"])
def test_what_is_right_is_found_right(part):
    found = getattr(correct, part)("cpu", True)
    assert found.pop("wrong", []) == []
    assert found


def test_a_device_that_computes_something_else_is_found_out(monkeypatch):
    real, calls = correct.gradients, list[bool]()

    def skewed(device, planned, mixed):
        gradient, loss = real(device, planned, mixed)
        calls.append(mixed)
        return (gradient * 1.01 if len(calls) % 3 == 2 else gradient), loss

    monkeypatch.setattr(correct, "gradients", skewed)
    found = correct.update("cpu", True)
    assert len(found["wrong"]) == 4 and "float32" in found["wrong"][0]

    drawn = correct._drawn

    def louder(device, sampling, dtype, count):
        rollouts = drawn(device, sampling, dtype, count)
        return [_shifted(r) for r in rollouts]

    monkeypatch.setattr(correct, "_drawn", louder)
    assert len(correct.engine("cpu", True)["wrong"]) == 3

    hashes = iter("abcd")
    monkeypatch.setattr(correct, "weights_hash", lambda model: next(hashes))
    assert len(correct.repeat("cpu", True)["wrong"]) == 2


def _shifted(rollout):
    from dataclasses import replace

    return replace(rollout, logprobs=tuple(x - 0.2 for x in rollout.logprobs))


def test_the_pace_of_a_shape():
    found = pace.pace("cpu", True, "1.5B")
    assert set(found["lines"]) == {"update", "rollouts"}
    assert all(line["tokens/s"] > 0 for line in found["lines"].values())
    sizes = {
        name: sum(p.numel() for p in pace.made_model(pace.SHAPES[name], "meta").parameters()) / 1e6
        for name in ("135M", "0.5B", "1.5B")
    }
    assert sizes == pytest.approx({"135M": 134.5, "0.5B": 494, "1.5B": 1543}, rel=0.01)


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("prefect", "dvc"):
            raise ModuleNotFoundError(f"blocked {name}", name=name)
sys.meta_path.insert(0, Blocked())
"""


@long
def test_the_quickstart_runs_where_there_is_no_dvc_and_no_prefect(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = quick.quickstart("cpu", True)
    assert found["wrong"] == []
    assert {"held out before", "held out after", "train@1 s"} <= set(found["lines"]["cpu"])
    assert torch.get_num_threads() == 1
