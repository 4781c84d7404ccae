"""A pretended accelerator: tensors that say they are on `meta` and hold their values on the CPU.

It finds what a CPU cannot: operations between tensors of two devices, `.numpy()` of a tensor that
is elsewhere, and tensors made on the CPU that should follow the model. It counts how often values
come back (a card waits then). Kernels, streams, autocast and NCCL it does not know. (`meta`, as a
torch without CUDA makes no tensor that says `cuda`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

THERE = torch.device("meta")
MAY_MIX = {
    "aten::copy_",
    "aten::_to_copy",
    "aten::to",
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
}
"""Operations that take a tensor of the CPU beside one that is elsewhere; indices may be such."""


class Pretended(torch.Tensor):
    """A tensor of the pretended device; `held` are its values."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Pretended:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=THERE,
            requires_grad=held.requires_grad,
        )
        made.held = held.detach()
        return made

    def __init__(self, held: torch.Tensor) -> None:
        pass

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"Pretended({self.held})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Pretended:
        memo[id(self)] = made = Pretended(self.held.clone())
        return made

    def tolist(self) -> Any:
        """The values, as the real one gives them: after a wait."""
        VALUES["tolist"] += 1
        return self.held.tolist()

    def numpy(self, *args: object, **kwargs: object) -> Any:
        raise TypeError("can't convert a tensor of the device to numpy")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})


VALUES: Counter[str] = Counter()
"""How often values were asked for, by operation."""


class _Mode(TorchDispatchMode):
    """Tensors that are made on the pretended device become `Pretended`."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name, given = func._schema.name, _leaves((args, kwargs))
    there = [x for x in given if isinstance(x, Pretended)]
    here = [x for x in given if isinstance(x, torch.Tensor) and not isinstance(x, Pretended)]
    if there and any(x.dim() for x in here) and name not in MAY_MIX:
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"{name}: tensors on two devices, those of the CPU have {shapes}")
    if name.startswith("aten::index") and there and not isinstance(args[0], Pretended):
        raise RuntimeError(f"{name}: indices of the device into a tensor of the CPU")
    devices = [x for x in given if isinstance(x, torch.device)]
    if devices:
        made_there = devices[0].type == THERE.type
    elif name == "aten::to" and func._overloadname == "other":
        made_there = isinstance(args[1], Pretended)
    else:
        made_there = bool(there)
    if name == "aten::_local_scalar_dense" and there:
        VALUES["item"] += 1
    if func._overloadname.startswith("pin") or kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if any(r.alias_info is not None and r.alias_info.is_write for r in func._schema.returns):
        return kwargs["out"] if "out" in kwargs else args[0]  # in place
    return tree_map(_wrapped, result) if made_there else result


_TENSOR = torch.tensor


def _tensor(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
    made = _TENSOR(data, *args, **kwargs)
    moved = device is not None and torch.device(device).type == THERE.type
    return Pretended(made) if moved else made


def _leaves(tree: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


def _plain(x: Any) -> Any:
    if isinstance(x, Pretended):
        return x.held
    return torch.device("cpu") if isinstance(x, torch.device) else x


def _wrapped(x: Any) -> Any:
    return Pretended(x) if isinstance(x, torch.Tensor) and not isinstance(x, Pretended) else x


@contextmanager
def pretended_device() -> Iterator[Counter[str]]:
    """Within it the device exists, as far as tensors go. Yields the counts of values asked for."""
    lift = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    VALUES.clear()
    # What asks for the device below all dispatch, or does not know this one.
    theirs = {name: getattr(torch, name) for name in ("tensor", "autocast", "is_autocast_enabled")}
    torch.tensor = _tensor
    torch.autocast = lambda device, *args, **kwargs: nullcontext()  # type: ignore[assignment,misc]
    torch.is_autocast_enabled = lambda *args: False  # type: ignore[assignment]
    try:
        with _Mode():
            yield VALUES
    finally:
        torch._C._set_only_lift_cpu_tensors(lift)
        for name, value in theirs.items():
            setattr(torch, name, value)


def send(model: torch.nn.Module) -> torch.nn.Module:
    """Move a model's weights and buffers there, in place; tied weights stay tied."""
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    moved = Pretended(parameter.detach())
                    made[id(parameter)] = torch.nn.Parameter(moved, parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Pretended(buffer)
    return model
