"""Attention: inputs, float64, and who computes it."""

import functools

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import others
from .cases import DOCUMENTS
from .contest import OURS, Absent

BACKENDS = ["FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH"]


class Attention:
    def __init__(self, case, device):
        import sumexp

        self.case, self.sumexp = case, sumexp
        self.backward, self.causal = case.op.endswith("_backward"), case.hidden == "causal"

        def of(heads, length):
            # [B, S, H, D] in memory, as projections leave it.
            shape = (case.batch, length, heads, case.head)
            return torch.randn(shape, device=device, dtype=getattr(torch, case.dtype)).transpose(1, 2)

        self.q, self.k, self.v = of(case.heads, case.queries), of(case.key_heads, case.keys), of(case.key_heads, case.keys)
        self.upstream = of(case.heads, case.queries) if self.backward else None
        self.mask = self.seen(0, case.queries) if case.hidden in ("tenth", "documents") else None

    def seen(self, first, end):
        """The pairs that queries `first` to `end` see, as bools [queries, keys]; None if all."""
        if self.case.hidden == "none":
            return None
        query = torch.arange(first, end, device=self.q.device)[:, None]
        key = torch.arange(self.case.keys, device=self.q.device)
        if self.causal:
            return key <= query
        if self.case.hidden == "tenth":
            return (query * 7 + key) % 10 != 0
        length = -(-self.case.keys // DOCUMENTS)
        return query // length == key // length

    def reference(self, batch, key_head):
        """(out, dq, dk, dv) in float64 of the heads that share one key head; the last three None without a gradient."""
        share = self.case.heads // self.case.key_heads
        mine = slice(key_head * share, (key_head + 1) * share)
        q, k, v = self.q[batch, mine].double(), self.k[batch, key_head].double(), self.v[batch, key_head].double()
        scale = self.case.head**-0.5
        dout = self.upstream[batch, mine].double() if self.backward else None
        out, dq, dk, dv = torch.empty_like(q), torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        step = max(1, (1 << 26) // self.case.keys)
        for head in range(share):
            for first in range(0, self.case.queries, step):
                end = min(first + step, self.case.queries)
                scores, seen = q[head, first:end] @ k.T * scale, self.seen(first, end)
                if seen is not None:
                    scores.masked_fill_(~seen, float("-inf"))
                p = torch.softmax(scores, -1)
                out[head, first:end] = o = p @ v
                if self.backward:
                    do = dout[head, first:end]
                    ds = p * (do @ v.T - (do * o).sum(-1, keepdim=True)) * scale
                    dq[head, first:end] = ds @ k
                    dk += ds.T @ q[head, first:end]
                    dv += p.T @ do
        return (out, mine), (dq, mine), (dk, key_head), (dv, key_head)

    def judge(self, result):
        """The largest ||result - reference|| / ||reference|| of the results, over the first and the last key head and their queries."""
        results = result if self.backward else (result,)
        likes = (self.q, self.k, self.v) if self.backward else (self.q,)
        if any(x.shape != like.shape or x.dtype != like.dtype or not torch.isfinite(x).all() for x, like in zip(results, likes)):
            return float("nan")
        errors = []
        for at, wanted in self.references:
            for x, (want, heads) in zip(results, wanted[1:] if self.backward else wanted):
                errors.append(((x[at, heads].double() - want).norm() / want.norm()).item())
        # max() of a list with NaN may be anything.
        return sum(errors) if any(error != error for error in errors) else max(errors)

    @functools.cached_property
    def references(self):
        ends = {(0, 0), (self.case.batch - 1, self.case.key_heads - 1)}
        return [(batch, self.reference(batch, key_head)) for batch, key_head in sorted(ends)]

    def ours(self):
        options = self.sumexp.attention_options(causal="top_left" if self.causal else None, keep=self.mask)
        empty = lambda x: torch.full_like(x, float("nan"))
        out, lse = empty(self.q), torch.full(self.q.shape[:3], float("nan"), device=self.q.device)

        def forward():
            self.sumexp.attention(self.q, self.k, self.v, out, lse, options)
            return out

        if not self.backward:
            return forward
        forward()
        gradients = empty(self.q), empty(self.k), empty(self.v)

        def call():
            self.sumexp.attention_backward(self.q, self.k, self.v, out, lse, self.upstream, *gradients, options)
            return gradients

        return call

    def of(self, function):
        """The call of a differentiable attention: itself, or its gradients alone."""
        if not self.backward:
            return torch.no_grad()(lambda: function(self.q, self.k, self.v))
        leaves = [x.detach().requires_grad_() for x in (self.q, self.k, self.v)]
        out = function(*leaves)
        return lambda: torch.autograd.grad(out, leaves, self.upstream, retain_graph=True)

    def sdpa(self, backend):
        shared = self.case.heads != self.case.key_heads

        def attend(q, k, v):
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return F.scaled_dot_product_attention(q, k, v, self.mask, is_causal=self.causal, enable_gqa=shared)

        return self.of(attend)

    def flash(self, name):
        if self.mask is not None:
            raise Absent(f"{name} has no boolean masks")
        attend = others.flash_attention(name)
        return self.of(lambda q, k, v: attend(q, k, v, self.causal))

    def triton(self):
        kernels = others.triton_attention(self.q)
        if self.case.decode:
            raise Absent("this kernel does not split keys, which one query needs")
        out, lse = kernels.attention(self.q, self.k, self.v, self.causal, self.mask)
        if not self.backward:
            return lambda: kernels.attention(self.q, self.k, self.v, self.causal, self.mask)[0]
        return lambda: kernels.attention_backward(self.q, self.k, self.v, out, lse, self.upstream, self.causal, self.mask)

    def contestants(self):
        return [
            (OURS, self.ours),
            *[(f"SDPA {backend.removesuffix('_ATTENTION')}", functools.partial(self.sdpa, backend)) for backend in BACKENDS],
            ("triton", self.triton),
            ("flash-attn-3", functools.partial(self.flash, "flash-attn-3")),
            ("flash-attn-4", functools.partial(self.flash, "flash-attn-4")),
        ]
