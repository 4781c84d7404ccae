"""HAPOTrainer in two gloo processes, traces on half of the prompts, gradient accumulation 2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPO

pytest.importorskip("trl", reason="TRL is not installed (extra `trl`)")


@pytest.mark.slow
def test_two_processes_train_one_policy(tmp_path: Path) -> None:
    """It hung: only the processes with a trace made a second pass through DDP. The schedule counts
    generations, of which each serves two optimizer steps, and what is logged is of all groups."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = REPO / "tests" / "support" / "trl_ranks.py"
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [sys.executable, *launch, str(worker), str(tmp_path)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    assert one["weights"] == two["weights"]
    assert [row["hapo/gamma"] for row in one["log"]] == [0.8, 0.7]
    assert one["own"] != two["own"]  # the processes hold different numbers of traces
    shares = [(a + b) / 2 for a, b in zip(one["own"], two["own"], strict=True)]
    assert [row["hapo/injected"] for row in one["log"]] == pytest.approx(shares)
    assert all(0 < share < 1 for share in shares)
    for row in one["log"]:
        assert row["hapo/injected"] + row["hapo/no_trace"] == pytest.approx(1)
