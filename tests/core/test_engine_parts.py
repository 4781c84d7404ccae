"""The parts of the vLLM engine that need no server: the guard's arithmetic, the supervisor, HTTP
failures, exported weights."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import made_groups, tiny_policy
from transformers import AutoModelForCausalLM

from hapo_core.errors import ConfigError
from hapo_core.rollout import Finish, Rollout
from hapo_core.rollout.vllm import supervise
from hapo_core.rollout.vllm.client import Client, ServerGone
from hapo_core.rollout.vllm.engine import VLLMEngine, VLLMSettings
from hapo_core.rollout.vllm.guard import StalePolicyError, check_level, check_motion
from hapo_core.rollout.vllm.server import ServerSpec, _open_log
from hapo_core.rollout.vllm.weights import export_weights, remove_weights
from hapo_core.verify import Verdict, VerifierPool, VerifierSettings
from pipeline.grading.streaming import Verifying
from pipeline.system.processes import group_alive


def test_level_accepts_noise_and_refuses_another_policy():
    trainer = -torch.rand(64, dtype=torch.float64)
    noise = 1e-5 * torch.randn(64, dtype=torch.float64)
    mean, largest = check_level((trainer + noise).tolist(), trainer, 2e-4, "here")
    assert 0 < mean < largest < 1e-4
    for wrong in (trainer + 1e-3, trainer * float("nan")):
        with pytest.raises(StalePolicyError, match="here"):
            check_level(wrong.tolist(), trainer, 2e-4, "here")


def test_motion_sees_what_the_level_cannot_and_abstains_in_noise():
    torch.manual_seed(0)
    before = -torch.rand(96, dtype=torch.float64)
    now = before + 1e-5 * torch.randn(96, dtype=torch.float64)
    noise = 1e-6 * torch.randn(96, dtype=torch.float64)
    assert check_motion((now + noise).tolist(), before, now, "") == pytest.approx(1, abs=0.05)
    with pytest.raises(StalePolicyError, match="did not follow"):
        check_motion((before + noise).tolist(), before, now, "server 1")
    loud = 0.03 * torch.randn(96, dtype=torch.float64)
    assert check_motion((before + loud).tolist(), before, now, "") is None
    assert check_motion(before.tolist(), before, before, "") is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux")
@pytest.mark.parametrize("end", ["parent killed", "command killed", "terminated"])
def test_the_supervisor_leaves_nothing_behind(end: str, monkeypatch: pytest.MonkeyPatch):
    """The command starts a child of its own, which nothing else would end, and leaves a file in
    the folder for its sockets."""
    here = Path(tempfile.mkdtemp(dir="/tmp"))  # short, as sockets want it
    monkeypatch.setenv("TMPDIR", str(here))
    command = ["sh", "-c", "touch $VLLM_RPC_BASE_PATH/1; sleep 600 & echo $!; sleep 600"]
    program = (
        "import os, subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-I', {supervise.__file__!r}, str(os.getpid()), "
        f"*{command!r}], start_new_session=True)\n"
        "print('leader', p.pid, flush=True)\n"
        "p.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    words = [parent.stdout.readline().split() for _ in range(2)]
    leader = int(next(w[1] for w in words if w[0] == "leader"))
    time.sleep(0.2)
    assert len(list(here.glob("hapo-engine-*/1"))) == 1
    if end == "parent killed":
        parent.kill()
    elif end == "terminated":
        os.kill(leader, signal.SIGTERM)
    else:
        children = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
    limit = time.monotonic() + 10
    while group_alive(leader):
        assert time.monotonic() < limit, "something outlived"
        time.sleep(0.05)
    here.rmdir()  # it is empty
    parent.kill()
    parent.wait()


@pytest.mark.parametrize(("folder", "chosen"), [("/tmp/job", None), ("/scratch" * 9, "/tmp")])
def test_sockets_fit_a_long_tmpdir(
    folder: str, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", folder)
    assert supervise._short_folder() == chosen


def test_a_server_that_is_not_there_is_gone_not_an_accident():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ServerGone):
        Client(url).post("/v1/completions", {}, 2.0)
    assert not Client(url).answers(1.0)
    for bad in ("127.0.0.1:80", "https://x:1", "http://x:1/v1"):
        with pytest.raises(ConfigError, match="no server address"):
            Client(bad)


def test_an_environment_that_is_not_there_is_named(tmp_path):
    model, tokenizer = tiny_policy()
    spec = ServerSpec(tmp_path / "none", "cpu", "float32", 64, 8)
    with pytest.raises(ConfigError, match="virtual environment with vLLM"):
        VLLMEngine(model, tokenizer, VLLMSettings(spec), tmp_path)


def test_the_log_of_a_server_is_for_this_user_and_no_link(tmp_path):
    """Prompts may be in it; one of an earlier version was readable by all."""
    log = tmp_path / "engine.log"
    log.write_text("before\n")
    log.chmod(0o644)
    with os.fdopen(_open_log(log), "ab") as sink:
        sink.write(b"more\n")
    assert log.read_text() == "before\nmore\n" and log.stat().st_mode & 0o777 == 0o600
    log.unlink()
    log.symlink_to(tmp_path / "precious")
    with pytest.raises(OSError):
        _open_log(log)
    assert not (tmp_path / "precious").exists()


def test_exported_weights_have_a_head_of_their_own(tmp_path):
    model, tokenizer = tiny_policy()
    assert model.config.tie_word_embeddings
    export_weights(model, tokenizer, tmp_path / "weights-1")
    tensors = load_file(tmp_path / "weights-1" / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    assert model.config.tie_word_embeddings, "the trained policy stays as it is"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "weights-1", local_files_only=True)
    assert not loaded.config.tie_word_embeddings
    ids = torch.arange(4, 20)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    export_weights(model, tokenizer, tmp_path / "weights-2")
    remove_weights(tmp_path, keep=tmp_path / "weights-2")
    assert [p.name for p in tmp_path.iterdir()] == ["weights-2"]


def test_weights_for_a_bfloat16_engine_are_rounded_as_it_would(tmp_path):
    model, tokenizer = tiny_policy()
    export_weights(model, tokenizer, tmp_path / "whole")
    export_weights(model, tokenizer, tmp_path / "half", torch.bfloat16)
    whole, half = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "half"))
    assert whole.keys() == half.keys()
    for name, value in whole.items():
        assert value.dtype == torch.float32
        assert torch.equal(half[name], value.to(torch.bfloat16)), name
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "half", local_files_only=True)
    assert read.dtype == torch.bfloat16
    assert model.dtype == torch.float32, "the trained policy stays as it is"


def test_verification_beside_generation_keeps_the_order():
    _, tokenizer = tiny_policy()
    prompt = made_groups(tokenizer, [1])[0].prompt
    texts = ["\\boxed{7}", "\\boxed{8}", "no answer", "\\boxed{7}"]
    rollouts = [
        Rollout(prompt.prompt_id, j, (5,), (-1.0,), Finish.STOP, t) for j, t in enumerate(texts)
    ]
    with VerifierPool(VerifierSettings(kind="exact", workers=1)) as pool:
        with Verifying(pool, {prompt.prompt_id: "7"}, {prompt.prompt_id: "exact"}) as verifying:
            for rollout in reversed(rollouts):
                verifying.put(rollout)
            found = [one.found.verdict for one in verifying.of(rollouts)]
        assert found == [Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED, Verdict.CORRECT]
        with pytest.raises(KeyboardInterrupt), Verifying(pool, {}, {}):  # an abandoned round
            raise KeyboardInterrupt
