"""The peers that are no part of PyTorch's eager mode. A library that cannot be imported is absent, and so is a case that one was not
made for; whatever else goes wrong is for `contest.attempt` to record."""

import importlib

import torch

from .contest import Absent


def module(name):
    """A module, or Absent with the reason."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"import {name}: {error}") from error


def compiled(function):
    """`torch.compile` of this shape alone, as somebody who wants speed would call it."""
    import torch._functorch.config

    # A gradient that is timed again and again keeps what it was saved with.
    torch._functorch.config.donated_buffer = False
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)


def last_dim(family, who):
    """Refuses what a peer's rows cannot be."""
    if family.dim % family.x.ndim != family.x.ndim - 1:
        raise Absent(f"{who} has rows along the last dim only")


def needs_gpu(x, who):
    if not x.is_cuda:
        raise Absent(f"{who} runs on a GPU only")


def triton_kernels(x):
    """The kernels of this package. On a host they run in Triton's interpreter, if TRITON_INTERPRET=1 asks for that."""
    triton = module("triton")
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        raise Absent("Triton's kernels run on a GPU, or in its interpreter with TRITON_INTERPRET=1")
    from . import triton_kernels

    return triton_kernels


def triton_attention(q):
    kernels = triton_kernels(q)
    if not q.is_cuda and q.dtype == torch.bfloat16:
        raise Absent("Triton's interpreter multiplies the bits of bfloat16")
    return kernels


def triton_rows(family):
    kernels = triton_kernels(family.x)
    last_dim(family, "this kernel")
    out = torch.empty_like(family.x)
    if family.backward:
        y = family.y
        return lambda: kernels.softmax_backward(y, family.upstream, out, family.log)
    return lambda: kernels.softmax(family.x, out, family.log)


def liger_softmax(family):
    if family.log:
        raise Absent("liger-kernel has no log-softmax")
    last_dim(family, "liger-kernel")
    softmax = module("liger_kernel.ops.softmax").LigerSoftmaxFunction
    needs_gpu(family.x, "liger-kernel")
    return softmax.apply


def quack_softmax(family):
    if family.log:
        raise Absent("quack-kernels has no log-softmax")
    last_dim(family, "quack-kernels")
    softmax = module("quack.softmax").softmax
    needs_gpu(family.x, "quack-kernels")
    return softmax


def liger_cross_entropy():
    return module("liger_kernel.transformers.functional").liger_cross_entropy


def quack_cross_entropy():
    function = module("quack.cross_entropy").cross_entropy
    return lambda logits, targets: function(logits, targets, reduction="mean")


def flash_attention(name):
    """flash-attn-3 or -4 as a function of [B, H, S, D]. Both take [B, S, H, D], which is how operands lie in memory."""
    function = module({"flash-attn-3": "flash_attn_interface", "flash-attn-4": "flash_attn.cute"}[name]).flash_attn_func

    def attend(q, k, v, causal):
        out = function(*(x.transpose(1, 2) for x in (q, k, v)), causal=causal)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return attend
