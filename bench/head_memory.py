"""Peak memory of the log-prob head, forward and backward: in chunks against the plain one.

    python bench/head_memory.py [--vocabulary 150000] [--hidden 896] [--tokens 512 1024 2048]

The plain head holds [tokens, vocabulary] logits, their log-softmax and the gradients of both. Each
figure is of a process of its own: the peak of its resident memory less what was resident before
the head ran, which leaves out weights and interpreter (the head's weight gradient, vocabulary x
hidden, is in both figures).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch
from peak import Peak

from hapo_core import policy
from hapo_core.logits import HeadPath


class _Model:
    """What `policy._head_logprobs` needs of a model: a head and the vocabulary's size."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        self.head = torch.nn.Linear(hidden, vocabulary, bias=False)
        self.config = argparse.Namespace(vocab_size=vocabulary)

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head


def plain(
    model: _Model, hidden: torch.Tensor, target: torch.Tensor, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same numbers from the whole matrix of logits."""
    logp = torch.log_softmax(model.head(hidden).float(), dim=-1)
    chosen = logp.gather(-1, target[:, None]).squeeze(1)
    return chosen, -(logp.exp() * logp).sum(-1) if entropy else None


def _chunked(
    model: _Model, hidden: torch.Tensor, target: torch.Tensor, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    path = HeadPath.LINEAR
    return policy._head_logprobs(model, path, hidden, target, 1.0, entropy)  # type: ignore[arg-type]


def measure(
    kind: str, vocabulary: int, hidden: int, tokens: int, entropy: bool
) -> dict[str, float]:
    """Bytes and seconds of one forward and backward pass in this process, and the loss."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = _Model(vocabulary, hidden)
    h = torch.randn(tokens, hidden, requires_grad=True)
    target = torch.randint(vocabulary, (tokens,))
    peak = Peak()
    peak.start()
    began = time.monotonic()
    if kind == "plain":
        logp, extra = plain(model, h, target, entropy)
    else:
        logp, extra = _chunked(model, h, target, entropy)
    loss = -logp.mean()
    loss.backward()
    seconds = time.monotonic() - began
    most = peak.bytes()
    assert h.grad is not None
    return {
        "mib": most / 2**20,
        "seconds": seconds,
        "loss": float(loss),
        "gradient": float(h.grad.norm()),
        "entropy": float(extra.mean()) if extra is not None else 0.0,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--no-entropy", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    entropy = not options.no_entropy
    if options.one:
        found = measure(options.one, options.vocabulary, options.hidden, options.tokens[0], entropy)
        print(json.dumps(found))
        return
    print(f"vocabulary {options.vocabulary}, hidden {options.hidden}, float32, 2 threads")
    print(f"chunk {policy.HEAD_CHUNK_ELEMENTS * 4 / 2**20:.0f} MiB, torch {torch.__version__}")
    for tokens in options.tokens:
        rows = {}
        for kind in ("plain", "chunked"):
            words = ["--one", kind, "--vocabulary", str(options.vocabulary)]
            words += ["--hidden", str(options.hidden), "--tokens", str(tokens)]
            words += [] if entropy else ["--no-entropy"]
            done = subprocess.run(
                [sys.executable, __file__, *words], capture_output=True, text=True, check=True
            )
            rows[kind] = json.loads(done.stdout)
        a, b = rows["plain"], rows["chunked"]
        print(
            f"{tokens:6d} tokens  plain {a['mib']:7.0f} MiB {a['seconds']:6.1f} s  "
            f"chunked {b['mib']:7.0f} MiB {b['seconds']:6.1f} s  "
            f"ratio {a['mib'] / b['mib']:.1f}  loss differs by {abs(a['loss'] - b['loss']):.1e}"
        )


if __name__ == "__main__":
    main()
