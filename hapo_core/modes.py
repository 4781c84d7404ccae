"""The modes of a model: of an update, and of a look at it in between.

A model's mode is not one flag: layers that compute their activations again do so only in training
mode, while all else must be in evaluation mode. Whoever looks at a model in between leaves every
module as it was; `model.train(was)` would give all of them the root's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NOISE = ("drop", "jitter", "noise")
"""What rates of noise are called that layers hold themselves."""


def ready_to_train(model: torch.nn.Module) -> None:
    """Leave the model in the mode of an update: no dropout and no other noise, so that ratios to
    pi_old are those of the weights alone and equal runs are equal; recomputed activations work.

    Layers recompute their activations only in training mode; these alone are put in it, with the
    rates of noise that they hold themselves at 0.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for name, value in vars(module).items():
                if isinstance(value, float) and any(part in name for part in _NOISE):
                    setattr(module, name, 0.0)


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Inside, all modules are in evaluation mode; afterwards each is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
