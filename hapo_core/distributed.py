"""Several processes that train one policy: who does what, and how their parts become one.

Every process (rank) holds all rows of a round and the same counters, so each plans the same round;
they share the work, and sum what it gives. A rank's own part of a sum is never scaled: normalisers
come from the whole batch before it is split (`hapo_core.loss.row_scales`).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from hapo_core.errors import ConfigError
from hapo_core.exchange import pack, unpack
from hapo_core.heartbeat import waiting, watch_main_thread

T = TypeVar("T")
PATIENCE = "HAPO_COLLECTIVE_SECONDS"
"""Environment variable: how long a collective of the update may take (default 900), and how long
the launcher of ranks waits for one that is stopped."""
STORE = "HAPO_STORE"
"""Environment variable: the file through which ranks of one machine find one another. It stands in
for a server that would listen on all interfaces (pytorch/pytorch#173909)."""
_WAIT = timedelta(hours=12)
"""For ranks that wait while the first one measures or its servers generate. They wait on gloo
sockets: a process that ends, however it ends, closes its own and frees them at once. One that
stands still ends itself (`hapo_core.heartbeat`), and one that is stopped is found by the launcher
of ranks (`pipeline.train.launch`); so no wait lasts that long unless somebody works."""
_waits: dist.ProcessGroup | None = None
_finished = threading.Event()


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` that train together; rank 0 writes and reports."""

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items; every item has one rank."""
        return list(items[self.index :: self.count])

    def all_gather(self, mine: T) -> list[T]:
        """What each rank has, by rank, on every rank, as `hapo_core.exchange` carries it."""
        if self.count == 1:
            return [mine]
        own = torch.frombuffer(bytearray(pack(mine)), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        found: list[T] = []
        with waiting():
            dist.all_gather(lengths, torch.tensor([len(own)]), group=_waits)
            for rank, length in enumerate(lengths):
                sent = own if rank == self.index else torch.empty(int(length), dtype=torch.uint8)
                dist.broadcast(sent, src=rank, group=_waits)
                found.append(mine if rank == self.index else unpack(sent.numpy().tobytes()))
        return found

    def broadcast(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on every rank; the others do not call it."""
        return self.all_gather(make() if self.first else None)[0]  # type: ignore[return-value]

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.all_gather(None)

    def close(self) -> None:
        """The end of the common work."""
        if self.count > 1:
            _finished.set()
            dist.destroy_process_group()

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place; those of sharded blocks are summed already.

        The ranks hold the same bits afterwards.
        """
        if self.count == 1:
            return
        for p in parameters:
            if p.requires_grad and not isinstance(p, DTensor):
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)


ALONE = Ranks()


def join(device: str) -> Ranks:
    """Join the processes that torchrun started; `ALONE` outside of it.

    Args:
        device: `cpu` (gloo) or `cuda` (one GPU per local process, NCCL).
    """
    if "RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return ALONE
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    global _waits
    shared = os.environ.get(STORE)
    if shared is None:  # torchrun: the rendezvous, and the interface, that its caller named
        dist.init_process_group(backend, timeout=patience())
    else:
        for interface in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(interface, loopback())
        count, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
        store = dist.FileStore(shared, count)  # type: ignore[attr-defined]
        dist.init_process_group(
            backend, timeout=patience(), store=store, rank=rank, world_size=count
        )
    _waits = dist.new_group(backend="gloo", timeout=_WAIT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    name = f"process {ranks.index} of {ranks.count}"
    watch_main_thread(name, patience().total_seconds(), _finished)
    return ranks


def loopback() -> str:
    """The name of this machine's loopback interface."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if name in ("lo", "lo0")), "lo")


def patience() -> timedelta:
    """After what time a process that stands still, or a silent machine, is given up.

    Raises:
        ConfigError: HAPO_COLLECTIVE_SECONDS is no such number.
    """
    text = os.environ.get(PATIENCE, "900")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds < 1e7:
        raise ConfigError(f"{text!r} is no number of seconds", where=PATIENCE, remedy="900")
    return timedelta(seconds=seconds)


# --- sharded weights ----------------------------------------------------------------------------


def shard(model: PreTrainedModel, ranks: Ranks) -> None:
    """Shard the transformer blocks, their gradients and moments over the ranks (FSDP2).

    Embeddings, last norm and head stay whole on every rank: the head is used outside of its
    module's forward, in chunks whose number differs from rank to rank.
    """
    mesh = init_device_mesh(model.device.type, (ranks.count,))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
        assert isinstance(block, FSDPModule)
        block.set_gradient_divide_factor(1.0)  # a sum, not a mean
        block.set_force_sum_reduction_for_comms(True)


def _blocks(model: PreTrainedModel) -> list[torch.nn.Module]:
    kinds = set(model._no_split_modules or ())
    return [m for m in model.modules() if type(m).__name__ in kinds]


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether `shard` has been here."""
    return any(isinstance(m, FSDPModule) for m in model.modules())


@contextmanager
def unsharded(model: torch.nn.Module) -> Iterator[None]:
    """Inside, every rank holds all weights and may use them without the others; nothing may
    change them. All ranks must enter and leave together."""
    blocks = [m for m in model.modules() if isinstance(m, FSDPModule)]
    for block in blocks:
        block.set_reshard_after_forward(False)
        block.unshard()
    try:
        yield
    finally:
        for block in blocks:
            block.reshard()
            block.set_reshard_after_forward(True)


def whole_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of `model.state_dict()`, no copies; those of sharded weights inside `unsharded`
    (FSDP's own state would shard them again)."""
    if not is_sharded(model):
        return {name: value.detach() for name, value in model.state_dict().items()}
    state = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
    gone = {f"{m}.{b}" for m, x in model.named_modules() for b in x._non_persistent_buffers_set}
    return state | {n: b for n, b in model.named_buffers() if n not in gone}


def unsharded_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`whole_tensors`; of sharded weights copies in main memory, one for tied ones."""
    whole = whole_tensors(model)
    if not is_sharded(model):
        return whole
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, value in whole.items():
        place = value.data_ptr(), value.shape
        if place not in copies:
            copies[place] = value.to("cpu", copy=True)
        state[name] = copies[place]
    return state


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be sharded; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Sequence[torch.nn.Parameter], most: float) -> float:
    """Scale the gradients in place to a norm of at most `most`; their norm before."""
    parts = [p.grad for p in parameters if isinstance(p.grad, DTensor)]
    if not parts:
        return float(torch.nn.utils.clip_grad_norm_(parameters, most))
    squares = torch.stack([g.to_local().float().square().sum() for g in parts]).sum()
    dist.all_reduce(squares)
    ends = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    norm = float((squares + sum(g.float().square().sum() for g in ends)).sqrt())
    for g in (*parts, *ends):
        g.mul_(min(1.0, most / (norm + 1e-6)))
    return norm
