"""The modes of a model: of an update, and of a look at it in between.

A model's mode is not one flag: layers that compute their activations again do so only in training
mode, while all else must be in evaluation mode. Whoever looks at a model in between leaves every
module as it was; `model.train(was)` would give all of them the root's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


def ready_to_train(model: torch.nn.Module) -> None:
    """Leave the model in the mode of an update: no dropout and no other noise, so that ratios to
    pi_old are those of the weights alone and equal runs are equal; recomputed activations work.

    A layer asks its training flag whether to compute its activations again, and then, in its
    forward pass, whether to make noise, with rates that it may take from anywhere (Falcon's from
    its configuration). So the flag is up when the layer is called, and down inside.
    """
    model.eval()
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True
            if _lower not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_lower)
                module.register_forward_hook(_raise_again, always_call=True)


def _lower(layer: torch.nn.Module, _: object) -> None:
    vars(layer)["_hapo_recomputes"] = layer.training
    layer.training = False


def _raise_again(layer: torch.nn.Module, *_: object) -> None:
    layer.training = vars(layer).pop("_hapo_recomputes", False)


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
