"""A safetensors file, a tensor at a time: what is written need never be in memory as a whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import torch

from hapo_core.distributed import full_tensor

_CODES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of types in safetensors, in the order in which its own writer sorts them."""


def file_pieces(
    tensors: Mapping[str, torch.Tensor],
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    wanted: bool = True,
) -> Iterator[bytes | memoryview]:
    """The bytes that `safetensors.torch.save_file` would write, header first.

    Unlike it this takes tensors that share memory, and writes them twice.

    Args:
        tensors: any device, sharded or not; of a sharded one all ranks must ask for all pieces.
        dtype: in which the file holds floating-point tensors; None: each in its own.
        metadata: of the file, as `save_file` takes it.
        wanted: False on ranks that only take part in gathering: their pieces are empty.
    """
    kinds = list(_CODES)
    types = {
        name: dtype if dtype and tensor.is_floating_point() else tensor.dtype
        for name, tensor in tensors.items()
    }
    order = sorted(tensors, key=lambda name: (kinds.index(types[name]), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * types[name].itemsize
        code, shape = _CODES[types[name]], list(tensor.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        whole = full_tensor(tensors[name].detach())
        if wanted:
            flat = whole.to(types[name]).cpu().contiguous().flatten()
            yield flat.view(torch.uint8).numpy().data
        else:
            yield b""
