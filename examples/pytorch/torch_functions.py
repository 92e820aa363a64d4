"""sumexp as autograd functions of PyTorch: float16, bfloat16 or float32 tensors of any strides, on the host or a GPU.

Gradients of gradients are not there, and asking for them is an error of PyTorch.
"""
import sumexp
import torch
from torch.autograd.function import once_differentiable


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim, temperature, keep, log):
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        (sumexp.log_softmax if log else sumexp.softmax)(x.detach(), y, dim, temperature, keep)
        ctx.save_for_backward(y)
        ctx.dim, ctx.temperature, ctx.log = dim, temperature, log
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        (y,) = ctx.saved_tensors
        dx = torch.empty_like(y)
        backward = sumexp.log_softmax_backward if ctx.log else sumexp.softmax_backward
        backward(y.detach(), dy, dx, ctx.dim, ctx.temperature)
        return dx, None, None, None, None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, targets, options, reduced):
        rows = list(logits.shape)
        del rows[options.dim]
        lse = torch.empty(rows, dtype=torch.float32, device=logits.device)
        loss = torch.empty([] if reduced else rows, dtype=torch.float32, device=logits.device)
        sumexp.cross_entropy(logits.detach(), targets, loss, lse, options)
        ctx.save_for_backward(logits, targets, lse)
        ctx.options = options
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, dloss):
        logits, targets, lse = ctx.saved_tensors
        dlogits = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        sumexp.cross_entropy_backward(logits.detach(), targets, lse, dloss, dlogits, ctx.options)
        return dlogits, None, None, None


def softmax(x, dim=-1, temperature=1.0, keep=None):
    """Probabilities along `dim`."""
    return _Softmax.apply(x, dim, temperature, keep, False)


def log_softmax(x, dim=-1, temperature=1.0, keep=None):
    """Logarithms of probabilities along `dim`."""
    return _Softmax.apply(x, dim, temperature, keep, True)


def cross_entropy(logits, targets, reduction="mean", **options):
    """Cross-entropy along `dim` (the last by default); options as `sumexp.cross_entropy_options`. The loss is float32."""
    options = sumexp.cross_entropy_options(reduction=reduction, **options)
    return _CrossEntropy.apply(logits, targets, options, reduction != "none")
