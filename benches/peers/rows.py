"""The softmax family: inputs, float64, and who computes it."""

import functools

import torch

from . import others
from .contest import OURS

#: Rows that are compared with float64; of the rest it is checked that they are finite.
COMPARED = 48


def evenly(count, most=COMPARED):
    """Up to `most` numbers below `count`, the first and the last among them."""
    return sorted({round(at * (count - 1) / max(1, most - 1)) for at in range(min(count, most))})


class Family:
    def __init__(self, case, device):
        import sumexp

        self.case, self.dim = case, case.dim
        self.backward, self.log = case.op.endswith("_backward"), case.op.startswith("log_")
        dtype = getattr(torch, case.dtype)
        self.x = torch.randn(case.shape, device=device, dtype=dtype)
        # The gradient's other input is a forward result, whoever computed it: here PyTorch.
        self.upstream = torch.randn(case.shape, device=device, dtype=dtype) if self.backward else None
        self.function = torch.log_softmax if self.log else torch.softmax
        self.sumexp = sumexp

    def judge(self, result):
        """||result - reference|| / ||reference|| of rows from one end to the other."""
        if result.shape != self.x.shape or result.dtype != self.x.dtype or not torch.isfinite(result).all():
            return float("nan")
        pick = lambda x: self.picked(x).double()
        y = self.function(pick(self.x), -1)
        if self.backward:
            # The gradient at the rounded result that everybody is given.
            y, dy = self.picked(self.y).double(), pick(self.upstream)
            y = dy - y.exp() * dy.sum(-1, keepdim=True) if self.log else y * (dy - (dy * y).sum(-1, keepdim=True))
        return ((pick(result) - y).norm() / y.norm()).item()

    def picked(self, x):
        """The compared rows, as a matrix."""
        rows = x.movedim(self.dim, -1)
        count = rows[..., 0].numel()
        at = torch.unravel_index(torch.tensor(evenly(count), device=x.device), rows.shape[:-1])
        return rows[at]

    @functools.cached_property
    def y(self):
        """The forward result of PyTorch."""
        return self.function(self.x, self.dim)

    def ours(self):
        name = ("log_softmax" if self.log else "softmax") + ("_backward" if self.backward else "")
        run, out = getattr(self.sumexp, name), torch.full_like(self.x, float("nan"))
        inputs = (self.y, self.upstream) if self.backward else (self.x,)

        def call():
            run(*inputs, out, self.dim)
            return out

        return call

    def of(self, function):
        """The call of a differentiable function: itself, or its gradient alone."""
        if not self.backward:
            return torch.no_grad()(lambda: function(self.x))
        x = self.x.detach().requires_grad_()
        y = function(x)
        return lambda: torch.autograd.grad(y, x, self.upstream, retain_graph=True)[0]

    def contestants(self):
        plain = lambda x: self.function(x, self.dim)
        return [
            (OURS, self.ours),
            ("torch", lambda: self.of(plain)),
            ("torch.compile", lambda: self.of(others.compiled(plain))),
            ("triton", lambda: others.triton_rows(self)),
            ("liger-kernel", lambda: self.of(others.liger_softmax(self))),
            ("quack-kernels", lambda: self.of(others.quack_softmax(self))),
        ]
