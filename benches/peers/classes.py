"""Cross-entropy: inputs, float64, and who computes it."""

import torch
import torch.nn.functional as F

from . import others
from .contest import OURS
from .rows import evenly


class Loss:
    def __init__(self, case, device):
        import sumexp

        self.case, self.training, self.sumexp = case, case.op.endswith("_training"), sumexp
        self.logits = torch.randn(case.rows, case.vocabulary, device=device, dtype=getattr(torch, case.dtype))
        self.targets = torch.randint(0, case.vocabulary, (case.rows,), device=device)

    def judge(self, result):
        """The larger of the errors of the loss and of the gradient's rows."""
        loss, gradient = result if self.training else (result, None)
        # A block of rows at a time: all of them in float64 would not fit.
        step = max(1, (1 << 26) // self.case.vocabulary)
        parts = [F.cross_entropy(x.double(), t, reduction="sum") for x, t in zip(self.logits.split(step), self.targets.split(step))]
        want = torch.stack(parts).sum() / self.case.rows
        error = ((loss.detach().double() - want).abs() / want.abs()).item()
        if not self.training:
            return error
        if gradient.shape != self.logits.shape or gradient.dtype != self.logits.dtype or not torch.isfinite(gradient).all():
            return float("nan")
        at = torch.tensor(evenly(self.case.rows), device=self.logits.device)
        want = torch.softmax(self.logits[at].double(), -1)
        want[torch.arange(len(at), device=at.device), self.targets[at]] -= 1
        want /= self.case.rows
        return max(error, ((gradient[at].double() - want).norm() / want.norm()).item())

    def ours(self):
        options = self.sumexp.cross_entropy_options()
        of = lambda *shape: torch.full(shape, float("nan"), device=self.logits.device)
        loss, lse = of(), of(self.case.rows)
        one = torch.ones((), device=self.logits.device)
        gradient = torch.full_like(self.logits, float("nan")) if self.training else None

        def call():
            self.sumexp.cross_entropy(self.logits, self.targets, loss, lse, options)
            if not self.training:
                return loss
            self.sumexp.cross_entropy_backward(self.logits, self.targets, lse, one, gradient, options)
            return loss, gradient

        return call

    def of(self, function, own=False):
        """The call of a differentiable loss. `own`: it writes into the logits, and gets a copy of them."""
        logits = self.logits.clone() if own else self.logits
        if not self.training:
            return torch.no_grad()(lambda: function(logits, self.targets))
        leaf = logits.detach().requires_grad_()

        def call():
            loss = function(leaf, self.targets)
            return loss, torch.autograd.grad(loss, leaf)[0]

        return call

    def contestants(self):
        return [
            (OURS, self.ours),
            ("torch", lambda: self.of(F.cross_entropy)),
            ("torch.compile", lambda: self.of(others.compiled(F.cross_entropy))),
            ("liger-kernel", lambda: self.of(others.liger_cross_entropy(), own=True)),
            ("quack-kernels", lambda: self.of(others.quack_cross_entropy())),
        ]
