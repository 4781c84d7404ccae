"""The device of the configuration: threads, determinism, dtype."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hapo_core.errors import ConfigError
from pipeline import config as c

if TYPE_CHECKING:
    import torch


def quiet_transformers() -> None:
    """No bars of transformers' own: stages report their progress themselves."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def prepare_compute(compute: c.Compute) -> tuple[torch.device, torch.dtype]:
    """Set threads and determinism for this process.

    Raises:
        ConfigError: the device is not there.
    """
    import torch

    quiet_transformers()
    torch.set_num_threads(compute.threads)
    # cuBLAS reads it when the device is first used; without it equal runs may differ there.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        device = torch.device(compute.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {compute.device!r} cannot be used: {error}",
            where="compute.device",
            remedy="set it to cpu, or install a torch build for your accelerator",
        ) from error
    return device, torch.float32 if compute.dtype == "float32" else torch.bfloat16
