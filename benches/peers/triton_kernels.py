"""What a good afternoon with Triton gives: an online softmax and flash attention, forward and backward. Written for this comparison, for
inputs that are finite and rows that see something. Nothing is tuned at run time, so that a run times the same kernels everywhere."""

import math

import torch
import triton
import triton.language as tl

LOG2E = 1 / math.log(2)


@triton.jit
def _softmax(x, y, n, LOG: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    at = tl.arange(0, BLOCK)
    if WHOLE:
        v = tl.load(x + row + at, mask=at < n, other=-float("inf")).to(tl.float32)
        top = tl.max(v, 0)
        p = tl.exp(v - top)
        total = tl.sum(p, 0)
        result = v - top - tl.log(total) if LOG else p / total
        tl.store(y + row + at, result.to(y.dtype.element_ty), mask=at < n)
    else:
        top = tl.full([], -float("inf"), tl.float32)
        total = tl.zeros([], tl.float32)
        for first in range(0, n, BLOCK):
            v = tl.load(x + row + first + at, mask=first + at < n, other=-float("inf")).to(tl.float32)
            higher = tl.maximum(top, tl.max(v, 0))
            total = total * tl.exp(top - higher) + tl.sum(tl.exp(v - higher), 0)
            top = higher
        for first in range(0, n, BLOCK):
            v = tl.load(x + row + first + at, mask=first + at < n, other=0.0).to(tl.float32)
            result = v - top - tl.log(total) if LOG else tl.exp(v - top) / total
            tl.store(y + row + first + at, result.to(y.dtype.element_ty), mask=first + at < n)


@triton.jit
def _softmax_backward(y, dy, dx, n, LOG: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * n
    at = tl.arange(0, BLOCK)
    if WHOLE:
        p = tl.load(y + row + at, mask=at < n, other=0.0).to(tl.float32)
        g = tl.load(dy + row + at, mask=at < n, other=0.0).to(tl.float32)
        result = g - tl.exp(p) * tl.sum(g, 0) if LOG else p * (g - tl.sum(p * g, 0))
        tl.store(dx + row + at, result.to(dx.dtype.element_ty), mask=at < n)
    else:
        total = tl.zeros([], tl.float32)
        for first in range(0, n, BLOCK):
            p = tl.load(y + row + first + at, mask=first + at < n, other=0.0).to(tl.float32)
            g = tl.load(dy + row + first + at, mask=first + at < n, other=0.0).to(tl.float32)
            total += tl.sum(g if LOG else p * g, 0)
        for first in range(0, n, BLOCK):
            p = tl.load(y + row + first + at, mask=first + at < n, other=0.0).to(tl.float32)
            g = tl.load(dy + row + first + at, mask=first + at < n, other=0.0).to(tl.float32)
            result = g - tl.exp(p) * total if LOG else p * (g - total)
            tl.store(dx + row + first + at, result.to(dx.dtype.element_ty), mask=first + at < n)


def _rows(n):
    """Options for rows of n elements: whole in registers up to 16384, in blocks of 8192 beyond."""
    block = triton.next_power_of_2(n) if n <= 16384 else 8192
    return {"BLOCK": block, "WHOLE": block >= n, "num_warps": 4 if block <= 2048 else 8 if block <= 8192 else 16}


def softmax(x, y, log):
    """y = softmax(x) or its logarithm along the last dim; contiguous."""
    n = x.shape[-1]
    _softmax[(x.numel() // n,)](x, y, n, LOG=log, **_rows(n))
    return y


def softmax_backward(y, dy, dx, log):
    """dx from the result y and its gradient; contiguous."""
    n = y.shape[-1]
    _softmax_backward[(y.numel() // n,)](y, dy, dx, n, LOG=log, **_rows(n))
    return dx


@triton.jit
def _shown(scores, query, key, mask, keys, CAUSAL: tl.constexpr, MASKED: tl.constexpr):
    """Scores of queries [.., 1] or [1, ..] and keys [1, ..] or [.., 1], -inf where a pair is hidden or no key is."""
    seen = key < keys
    if CAUSAL:
        seen = seen & (key <= query)
    if MASKED:
        seen = seen & (tl.load(mask + query.to(tl.int64) * keys + key, mask=seen, other=0) != 0)
    return tl.where(seen, scores, -float("inf"))


@triton.jit
def _span(q, k, v, mask, out, top, total, query, first, end, keys, row, scale,
          CHECKED: tl.constexpr, CAUSAL: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, N: tl.constexpr):
    """The online softmax over the blocks of keys from `first` to `end`."""
    d = tl.arange(0, D)
    for start in range(first, end, N):
        key = start + tl.arange(0, N)
        at = key.to(tl.int64)[:, None] * row + d[None, :]
        inside = (key < keys)[:, None]
        kt = tl.load(k + at, mask=inside, other=0.0) if CHECKED else tl.load(k + at)
        scores = tl.dot(q, tl.trans(kt), input_precision="ieee") * scale
        if CHECKED:
            scores = _shown(scores, query[:, None], key[None, :], mask, keys, CAUSAL, MASKED)
        higher = tl.maximum(top, tl.max(scores, 1))
        # A query that has not seen a key yet: -inf - -inf would be NaN.
        base = tl.where(higher == -float("inf"), 0.0, higher) if CHECKED else higher
        p = tl.exp2(scores - base[:, None])
        fade = tl.exp2(top - base)
        total = total * fade + tl.sum(p, 1)
        vt = tl.load(v + at, mask=inside, other=0.0) if CHECKED else tl.load(v + at)
        out = tl.dot(p.to(vt.dtype), vt, out * fade[:, None], input_precision="ieee")
        top = higher
    return out, top, total


@triton.jit
def _forward(q, k, v, out, lse, mask, heads, share, queries, keys, q_batch, q_head, q_row, k_batch, k_head, k_row, scale,
             CAUSAL: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    start = tl.program_id(0) * M
    query, d = start + tl.arange(0, M), tl.arange(0, D)
    here = batch * q_batch + head * q_head + query.to(tl.int64)[:, None] * q_row + d[None, :]
    there = batch * k_batch + head // share * k_head
    inside = (query < queries)[:, None]
    qt = tl.load(q + here, mask=inside, other=0.0)
    acc, top, total = tl.zeros([M, D], tl.float32), tl.full([M], -float("inf"), tl.float32), tl.zeros([M], tl.float32)
    # Blocks of keys that every query of this block sees come first, without a look at who sees what.
    whole = keys // N * N
    end = keys
    if CAUSAL:
        whole = tl.minimum(start // N * N, whole)
        end = tl.minimum(start + M, keys)
    if MASKED:
        whole = 0
    acc, top, total = _span(qt, k + there, v + there, mask, acc, top, total, query, 0, whole, keys, k_row, scale, False, CAUSAL, MASKED, D, N)
    acc, top, total = _span(qt, k + there, v + there, mask, acc, top, total, query, whole, end, keys, k_row, scale, True, CAUSAL, MASKED, D, N)
    tl.store(out + here, (acc / total[:, None]).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + tl.program_id(1).to(tl.int64) * queries + query, top + tl.log2(total), mask=query < queries)


@triton.jit
def _backward_keys(q, k, v, dout, lse, delta, dk, dv, mask, key_heads, share, queries, keys, q_batch, q_head, q_row, k_batch, k_head, k_row,
                   scale, CAUSAL: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """dk and dv of a block of keys: over the queries of all heads that share it."""
    batch = (tl.program_id(1) // key_heads).to(tl.int64)
    key_head = (tl.program_id(1) % key_heads).to(tl.int64)
    start = tl.program_id(0) * N
    key, d = start + tl.arange(0, N), tl.arange(0, D)
    here = batch * k_batch + key_head * k_head + key.to(tl.int64)[:, None] * k_row + d[None, :]
    inside = (key < keys)[:, None]
    kt, vt = tl.load(k + here, mask=inside, other=0.0), tl.load(v + here, mask=inside, other=0.0)
    dkt, dvt = tl.zeros([N, D], tl.float32), tl.zeros([N, D], tl.float32)
    first = start // M * M if CAUSAL else 0
    for shared in range(0, share):
        head = key_head * share + shared
        there = batch * q_batch + head * q_head
        row = (batch * key_heads * share + head) * queries
        for at in range(first, queries, M):
            query = at + tl.arange(0, M)
            place = there + query.to(tl.int64)[:, None] * q_row + d[None, :]
            qt = tl.load(q + place, mask=(query < queries)[:, None], other=0.0)
            dot = tl.load(dout + place, mask=(query < queries)[:, None], other=0.0)
            # A query that is none has an lse of inf, and so weights of 0.
            total = tl.load(lse + row + query, mask=query < queries, other=float("inf"))
            scores = tl.dot(kt, tl.trans(qt), input_precision="ieee") * (scale * 1.4426950408889634)
            if CAUSAL or MASKED:
                scores = tl.where((query < queries)[None, :], scores, 0.0)
                scores = _shown(scores, tl.minimum(query, queries - 1)[None, :], key[:, None], mask, keys, CAUSAL, MASKED)
            p = tl.exp2(scores - total[None, :])
            dvt = tl.dot(p.to(dot.dtype), dot, dvt, input_precision="ieee")
            dp = tl.dot(vt, tl.trans(dot), input_precision="ieee")
            ds = p * (dp - tl.load(delta + row + query, mask=query < queries, other=0.0)[None, :])
            dkt = tl.dot(ds.to(qt.dtype), qt, dkt, input_precision="ieee")
    tl.store(dk + here, (dkt * scale).to(dk.dtype.element_ty), mask=inside)
    tl.store(dv + here, dvt.to(dv.dtype.element_ty), mask=inside)


@triton.jit
def _backward_queries(q, k, v, dout, lse, delta, dq, mask, heads, share, queries, keys, q_batch, q_head, q_row, k_batch, k_head, k_row,
                      scale, CAUSAL: tl.constexpr, MASKED: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """dq of a block of queries."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    start = tl.program_id(0) * M
    query, d = start + tl.arange(0, M), tl.arange(0, D)
    here = batch * q_batch + head * q_head + query.to(tl.int64)[:, None] * q_row + d[None, :]
    there = batch * k_batch + head // share * k_head
    inside = (query < queries)[:, None]
    qt, dot = tl.load(q + here, mask=inside, other=0.0), tl.load(dout + here, mask=inside, other=0.0)
    row = tl.program_id(1).to(tl.int64) * queries
    total = tl.load(lse + row + query, mask=query < queries, other=float("inf"))
    of_row = tl.load(delta + row + query, mask=query < queries, other=0.0)
    dqt = tl.zeros([M, D], tl.float32)
    end = tl.minimum(start + M, keys) if CAUSAL else keys
    for at in range(0, end, N):
        key = at + tl.arange(0, N)
        place = there + key.to(tl.int64)[:, None] * k_row + d[None, :]
        kt = tl.load(k + place, mask=(key < keys)[:, None], other=0.0)
        vt = tl.load(v + place, mask=(key < keys)[:, None], other=0.0)
        scores = tl.dot(qt, tl.trans(kt), input_precision="ieee") * (scale * 1.4426950408889634)
        if CAUSAL or MASKED:
            scores = _shown(scores, tl.minimum(query, queries - 1)[:, None], key[None, :], mask, keys, CAUSAL, MASKED)
        p = tl.exp2(scores - total[:, None])
        dp = tl.dot(dot, tl.trans(vt), input_precision="ieee")
        # Past the last key k is 0, and whatever stands in ds adds nothing.
        ds = p * (dp - of_row[:, None])
        dqt = tl.dot(ds.to(kt.dtype), kt, dqt, input_precision="ieee")
    tl.store(dq + here, (dqt * scale).to(dq.dtype.element_ty), mask=inside)


def _shape(q, k, mask):
    """Arguments that all three have in common. Operands lie alike in memory, their gradients as they do."""
    assert q.stride(-1) == 1 and k.stride(-1) == 1 and triton.next_power_of_2(q.shape[-1]) == q.shape[-1]
    assert mask is None or mask.is_contiguous()
    share = q.shape[1] // k.shape[1]
    return share, [q.shape[2], k.shape[2], *q.stride()[:3], *k.stride()[:3]]


def blocks(kernel, head, wide):
    """Queries and keys per block, warps and stages, with few or no spills where compiled for sm_90; `wide`: elements of four bytes."""
    if wide:
        return {"M": 32, "N": 32, "num_warps": 4, "num_stages": 1}
    if kernel == "forward":
        return {"M": 128, "N": 64 if head > 128 else 128, "num_warps": 8, "num_stages": 2 if head > 64 else 3}
    if kernel == "keys":
        return {"M": 64 if head <= 64 else 32, "N": 64 if head > 128 else 128, "num_warps": 8, "num_stages": 1 if head > 128 else 2}
    return {"M": 128, "N": 32 if head > 128 else 64, "num_warps": 8, "num_stages": 1 if head > 128 else 2}


def attention(q, k, v, causal, mask):
    """(out, lse in units of log 2) of q [B, H, Sq, D] and k, v [B, H / share, Sk, D]; `mask` of bools [Sq, Sk] or None."""
    share, shape = _shape(q, k, mask)
    out, lse = torch.empty_like(q), torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    options = blocks("forward", q.shape[3], q.element_size() == 4)
    _forward[(triton.cdiv(q.shape[2], options["M"]), q.shape[0] * q.shape[1])](
        q, k, v, out, lse, mask, q.shape[1], share, *shape, q.shape[3] ** -0.5 * LOG2E,
        CAUSAL=causal, MASKED=mask is not None, D=q.shape[3], **options)
    return out, lse


def attention_backward(q, k, v, out, lse, dout, causal, mask):
    """(dq, dk, dv)."""
    share, shape = _shape(q, k, mask)
    assert dout.stride() == q.stride()
    delta = (out.float() * dout.float()).sum(-1)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    scale, flags = q.shape[3] ** -0.5, {"CAUSAL": causal, "MASKED": mask is not None, "D": q.shape[3]}
    options = blocks("keys", q.shape[3], q.element_size() == 4)
    _backward_keys[(triton.cdiv(k.shape[2], options["N"]), k.shape[0] * k.shape[1])](
        q, k, v, dout, lse, delta, dk, dv, mask, k.shape[1], share, *shape, scale, **flags, **options)
    options = blocks("queries", q.shape[3], q.element_size() == 4)
    _backward_queries[(triton.cdiv(q.shape[2], options["M"]), q.shape[0] * q.shape[1])](
        q, k, v, dout, lse, delta, dq, mask, q.shape[1], share, *shape, scale, **flags, **options)
    return dq, dk, dv
