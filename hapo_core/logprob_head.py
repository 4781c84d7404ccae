"""Log-probs of given tokens without the [tokens, vocabulary] matrix, forward and backward."""

from __future__ import annotations

from typing import Any

import torch


class ChunkedLogProbs(torch.autograd.Function):
    """log softmax(h W^T + b)[target] and, if asked, the entropy, a chunk of tokens at a time.

    Forward keeps no logits. Backward computes a chunk's logits again and turns them in place into
    their gradient: with p the softmax, H the entropy and g, e the incoming gradients,

        d logits = g (onehot(target) - p) - e p (log p + H)   (all over the temperature)

    The gradient of the weight is summed into one buffer, where autograd's own accumulation would
    hold two of them. At most two [chunk, vocabulary] float32 matrices exist at a time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        temperature: float,
        size: int,
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`hidden` [tokens, width], `weight` [vocabulary, width], `target` int64 [tokens]; `size`
        tokens are a chunk. Float32 log-probs [tokens], and entropies [tokens] or []."""
        ctx.temperature, ctx.size, ctx.with_entropy = temperature, size, with_entropy
        ctx.save_for_backward(hidden, weight, bias, target)
        logps, entropies = [], []
        for h, t in zip(hidden.split(size), target.split(size), strict=True):
            logp = _logp(h, weight, bias, temperature)
            logps.append(logp.gather(-1, t[:, None]).squeeze(1))
            if with_entropy:
                entropies.append(_entropy(logp))
        none = hidden.new_zeros((), dtype=torch.float32)
        return torch.cat(logps), torch.cat(entropies) if with_entropy else none

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Gradients of hidden, weight and bias, in their dtypes."""
        hidden, weight, bias, target = ctx.saved_tensors
        g, e = gradients
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        # A sum over chunks is float32, whatever the weight is.
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        d_bias = torch.zeros_like(bias) if wants_bias else None
        for start in range(0, hidden.shape[0], ctx.size):
            rows = slice(start, start + ctx.size)
            h, t, g_rows = hidden[rows], target[rows], g[rows, None]
            logp = _logp(h, weight, bias, ctx.temperature)
            # `d` becomes d logits [chunk, vocabulary] in the storage of `logp`. A target's log-prob
            # gives g (onehot - p), the entropy gives -e p (log p + H). The part with p is written
            # first, p (-e (log p + H) - g); the one-hot part is then added at the targets alone.
            if ctx.with_entropy:
                p = logp.exp()
                entropy = -(p * logp).sum(-1, keepdim=True)
                d = logp.add_(entropy).mul_(-e[rows, None]).sub_(g_rows).mul_(p)
                del p
            else:
                d = logp.exp_().mul_(-g_rows)
            d.scatter_add_(-1, t[:, None], g_rows)
            # Softmax was taken of logits / temperature: the chain rule divides once more.
            d = d.div_(ctx.temperature).to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(d, weight, out=d_hidden[rows])
            if d_weight is not None:
                # float32 can be summed in place; a product in bfloat16 is widened when added.
                if weight.dtype == torch.float32:
                    d_weight.addmm_(d.T, h)
                else:
                    d_weight.add_(d.T @ h)
            if d_bias is not None:
                d_bias.add_(d.sum(0))
        if d_weight is not None:
            d_weight = d_weight.to(weight.dtype)
        return d_hidden, d_weight, d_bias, None, None, None, None


def _logp(
    h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    logits = torch.nn.functional.linear(h, weight, bias).float()
    if temperature != 1:
        logits.div_(temperature)
    # In place where it can be: log_softmax would hold a second matrix.
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _entropy(logp: torch.Tensor) -> torch.Tensor:
    return -(logp.exp() * logp).sum(-1)
