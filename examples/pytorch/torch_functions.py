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


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, bias, options):
        # Rows must be whole; other strides are any.
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out = torch.empty([*q.shape[:-1], v.shape[-1]], dtype=q.dtype, device=q.device)
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        options = sumexp.attention_options(bias=None if bias is None else bias.detach(), **options)
        sumexp.attention(q.detach(), k.detach(), v.detach(), out, lse, options)
        ctx.save_for_backward(q, k, v, bias, out, lse)
        ctx.options = options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, bias, out, lse = ctx.saved_tensors
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
        like = lambda x: torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dq, dk, dv, dbias = like(q), like(k), like(v), like(bias) if ctx.needs_input_grad[3] else None
        operands = (x.detach() for x in (q, k, v, out, lse))
        sumexp.attention_backward(*operands, dout, dq, dk, dv, ctx.options, dbias=dbias)
        return dq, dk, dv, dbias, None


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


def scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """As `torch.nn.functional.scaled_dot_product_attention`, of [B, H, S, D] with heads of 1 to 256 elements, without dropout. A mask of
    bools hides where it is False; one of numbers is added, and has a gradient. Heads that share keys need no `enable_gqa`."""
    if dropout_p != 0.0:
        raise ValueError("sumexp has no dropout in attention")
    if is_causal and attn_mask is not None:
        raise ValueError("is_causal with an attn_mask")
    options = {"scale": scale, "causal": "top_left" if is_causal else None}
    bias = None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        options["keep"] = attn_mask
    else:
        bias = attn_mask
    return _Attention.apply(query, key, value, bias, options)
