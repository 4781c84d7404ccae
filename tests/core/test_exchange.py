"""What ranks send one another: equal on the other side, and nothing that could run."""

from __future__ import annotations

import ast
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import REPO

from hapo_core.exchange import exchanged, pack, unpack
from hapo_core.graded import Graded
from hapo_core.metrics import Metrics, together
from hapo_core.rollout.protocol import Finish, Rollout
from hapo_core.verify import Verdict, Verification

LOGPROBS = (-0.1,) * 39 + (-math.pi,)
ROLLOUT = Rollout(
    "p|\ud800é", 3, tuple(range(40)), (-0.1,) * 39 + (-math.pi,), Finish.LENGTH, "x\0"
)
VALUES = [
    None, True, 0, -(1 << 70), 0.1, 5e-324, -0.0, math.inf, "", "é\ud800\0", [], (), {}, [1, True],
    (1, [2, (3,)]), {"a": 1, 2: None, (3, 4): {"b": ()}}, list(range(100)), tuple(range(100)),
    [0.1] * 99, [1 << 63] * 20, [1, 2.0] * 20, [True] * 20,
    Graded(ROLLOUT, None, Verification(Verdict.TIMEOUT, None, "over 5 s")), Verdict.CORRECT,
]  # fmt: skip


def kinds(value: object) -> object:
    """Types at every depth: 1, 1.0 and True are equal and not the same."""
    if isinstance(value, dict):
        return [(kinds(k), kinds(v)) for k, v in value.items()]
    return [type(value), [kinds(v) for v in value]] if type(value) in (list, tuple) else type(value)


@pytest.mark.parametrize("value", VALUES, ids=[str(k) for k in range(len(VALUES))])
def test_it_comes_back_equal_type_by_type(value: object) -> None:
    found = unpack(pack(value))
    assert found == value and kinds(found) == kinds(value)
    assert math.copysign(1, unpack(pack(-0.0))) == -1 and math.isnan(unpack(pack(math.nan)))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(), (0, 4), (2, 3)])
def test_arrays_come_back_to_the_bit(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).random(shape) * 99, dtype=dtype)
    found = unpack(pack({1: array}))[1]
    assert found.dtype == array.dtype and found.shape == shape and found.flags.writeable
    assert found.tobytes() == array.tobytes()


def test_metrics_are_put_together_from_what_came() -> None:
    def some() -> list[Metrics]:
        parts = [Metrics(tokens=3, steps=1), Metrics(tokens=4, steps=1)]
        for k, part in enumerate(parts):
            part.mean("loss", 0.1 + k, 3.0)
            part.max("most", float(k))
            part.apart.size = 0.25
        return parts

    assert together(unpack(pack(some()))) == together(some())


@pytest.mark.parametrize("value", [object(), print, Path("/x"), b"x", {1, 2}, np.array([None])])
def test_anything_else_is_not_sent(value: object) -> None:
    with pytest.raises(TypeError, match="is not sent"):
        pack([value])


class Unknown:
    pass


def test_bytes_of_somebody_else_make_nothing() -> None:
    message = bytearray(pack([ROLLOUT]))
    for wrong in (pickle.dumps(ROLLOUT), b"", bytes(message[:-1]), bytes(message) + b"x"):
        with pytest.raises(ValueError):
            unpack(wrong)
    for name in (b"Unknown", b"Popen", b"Finish"):
        text = b'{"c":["%s",{}]}' % name
        with pytest.raises(ValueError):
            unpack(len(text).to_bytes(8, "little") + bytes(8) + text)
    with pytest.raises(TypeError, match="no dataclass or enum"):
        exchanged(Unknown)


PICKLING = {
    "all_gather_object", "gather_object", "broadcast_object_list", "scatter_object_list",
    "send_object_list", "recv_object_list", "scatter_object_output_list", "_object_to_tensor",
}  # fmt: skip


def test_no_object_collective_is_called_anywhere() -> None:
    """Neither by us, nor by torch's checkpoints, which deal out their work through them."""
    for file in [
        f for room in ("hapo_core", "hapo_trl", "pipeline") for f in (REPO / room).rglob("*.py")
    ]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = getattr(node, "attr", getattr(node, "id", getattr(node, "name", None)))
            assert name not in PICKLING, f"{file}:{node.lineno} {name}"  # type: ignore[attr-defined]
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("dcp.save", "dcp.load"):
                alone = [k.value for k in node.keywords if k.arg == "no_dist"]
                assert [ast.unparse(v) for v in alone] == ["True"], f"{file}:{node.lineno}"
