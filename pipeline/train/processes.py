"""A training segment in several processes: started by its stage, or by torchrun."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hapo_core.distributed import STORE
from hapo_core.errors import HapoError
from hapo_core.rollout import Prompt, Rollout, Sampling
from pipeline.system.processes import die_with_parent, tether

LAUNCHED = "HAPO_LAUNCHED"
"""Environment variable: this process is one of those that `launch` started."""


def is_rank() -> bool:
    """Whether torchrun (or `launch`) started this process as one of several."""
    return "RANK" in os.environ


def launch(processes: int, module: str, *words: str) -> None:
    """Run `python -m MODULE WORDS` in several processes until all have ended.

    One that fails or is killed ends the others; if this process is killed they end too.

    Raises:
        HapoError: one of them failed; its own message is above.
    """
    tether()
    os.environ[LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each sets its own number of threads
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="hapo-ranks-") as folder:  # for this user only
            os.environ[STORE] = f"{folder}/ranks"
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint=f"{folder}/agents",
                rdzv_configs={"store_type": "file"},  # no server, on no interface
                local_addr="127.0.0.1",
                run_id=str(os.getpid()),
                max_restarts=0,
            )
            elastic_launch(config, sys.executable)("-u", "-m", module, *words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise HapoError(
            f"process {rank} of {processes} {how}; the others were stopped",
            where=f"{module} {' '.join(words)}",
            remedy="its message is above; the same command goes on from the last checkpoint",
        ) from None
    except SignalException as stop:  # the processes have been stopped already
        raise SystemExit(128 + stop.sigval) from None


def stay_with_launcher() -> None:
    """End at once when the process that launched this one ends, however it ends."""
    if LAUNCHED in os.environ:
        die_with_parent()


class NoEngine:
    """The engine of ranks whose rollouts come from the first rank's servers."""

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seed: int, round_index: int
    ) -> Iterator[Rollout]:
        """Nothing: these ranks are given no prompts."""
        assert not prompts
        return iter(())

    def policy_changed(self) -> None:
        """The first rank tells its servers."""

    def close(self) -> None:
        """There is nothing to close."""
