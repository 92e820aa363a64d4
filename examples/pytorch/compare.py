"""Compares the functions with PyTorch's own in float64, on the host and, where there is one, on a GPU; then trains the same models
twice, once with each, and prints both losses. Exits with 1 if anything differs.

    SUMEXP_LIBRARY=target/capi/libsumexp.so python3 examples/pytorch/compare.py
"""
import sys

import torch
import torch.nn.functional as F
import torch_functions as ours

failures = 0


def same(case, got, want, tolerance):
    global failures
    error = (got.double() - want).abs().max().item() if want.numel() else 0.0
    scale = max(want.abs().max().item() if want.numel() else 0.0, 1e-30)
    right = error <= tolerance * scale
    failures += not right
    if not right:
        print(f"{case}: off by {error:.2e}, the largest is {scale:.2e}")


def both(case, make, run, reference, tolerance):
    """Value and gradient of one call and of its reference."""
    x = make().requires_grad_()
    x64 = x.detach().double().requires_grad_()
    y, y64 = run(x), reference(x64)
    same(case, y.detach(), y64.detach(), tolerance)
    upstream = torch.randn(y.shape, device=y.device, dtype=torch.float64).to(y.dtype)
    y.backward(upstream)
    y64.backward(upstream.double())
    same(f"gradient of {case}", x.grad, x64.grad, tolerance)


def operations(device):
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]:
        for turned in [False, True]:

            def make():
                x = torch.randn(5, 33, 7, device=device).to(dtype)
                return (x.transpose(0, 2) if turned else x).detach()

            for dim in [0, 1, -1]:
                name = f"{device} {dtype} turned {turned} dim {dim}"
                both(f"softmax {name}", make, lambda x: ours.softmax(x, dim), lambda x: F.softmax(x, dim), tolerance)
                both(f"log_softmax {name}", make, lambda x: ours.log_softmax(x, dim), lambda x: F.log_softmax(x, dim), tolerance)
        targets = torch.randint(0, 33, (40,), device=device)
        targets[::7] = -100
        weights = torch.rand(33, device=device) + 0.1
        for reduction in ["none", "sum", "mean"]:
            for smoothing in [0.0, 0.1]:
                for weight in [None, weights]:

                    def reference(x):
                        w = None if weight is None else weight.double()
                        return F.cross_entropy(x, targets, w, reduction=reduction, label_smoothing=smoothing)

                    def run(x):
                        options = dict(reduction=reduction, label_smoothing=smoothing, class_weights=weight)
                        return ours.cross_entropy(x, targets, **options)

                    case = f"cross_entropy {device} {dtype} {reduction} smoothing {smoothing} weights {weight is not None}"
                    both(case, lambda: torch.randn(40, 33, device=device).to(dtype), run, reference, tolerance)


def attentions(device):
    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float16, 4e-3), (torch.bfloat16, 3e-2)]:
        shown = torch.rand(2, 1, 33, 70, device=device) < 0.7
        added = torch.randn(4, 33, 70, device=device).to(dtype)
        for name, options in [("plain", {}), ("causal", {"is_causal": True}), ("mask", {"attn_mask": shown}), ("bias", {"attn_mask": added})]:
            for key_heads in [4, 1]:
                # [B, S, H, D] in memory, as projections leave it.
                of = lambda heads, length, size: torch.randn(2, length, heads, size, device=device).to(dtype).transpose(1, 2)
                operands = [of(4, 33, 40), of(key_heads, 70, 40), of(key_heads, 70, 24)]
                mine = [x.detach().requires_grad_() for x in operands]
                want = [x.detach().double().requires_grad_() for x in operands]
                of_mine, of_want = dict(options), dict(options)
                if name == "bias":
                    mine.append(added.detach().requires_grad_())
                    want.append(added.detach().double().requires_grad_())
                    of_mine["attn_mask"], of_want["attn_mask"] = mine[3], want[3]
                y = ours.scaled_dot_product_attention(*mine[:3], **of_mine)
                repeated = [x.repeat_interleave(4 // key_heads, 1) for x in want[1:3]]
                y64 = F.scaled_dot_product_attention(want[0], *repeated, **of_want)
                case = f"attention {device} {dtype} {name} heads 4/{key_heads}"
                same(case, y.detach(), y64.detach(), tolerance)
                upstream = torch.randn(y.shape, device=device, dtype=torch.float64).to(dtype)
                y.backward(upstream)
                y64.backward(upstream.double())
                for operand, x, x64 in zip(["q", "k", "v", "bias"], mine, want):
                    same(f"gradient of {operand}, {case}", x.grad, x64.grad, tolerance)


class Block(torch.nn.Module):
    """Attention over a sequence, whose mean is classified."""

    def __init__(self, attend):
        super().__init__()
        self.attend, self.qkv, self.out = attend, torch.nn.Linear(16, 3 * 16), torch.nn.Linear(16, 10)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = self.attend(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, 16)
        return self.out(mixed.mean(1))


def swapped(device, steps=20):
    """The losses, step by step, of the same module with one attention and with the other."""
    losses = []
    for attend in [F.scaled_dot_product_attention, ours.scaled_dot_product_attention]:
        torch.manual_seed(2)
        model = Block(attend).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        x, targets = torch.randn(32, 24, 16, device=device), torch.randint(0, 10, (32,), device=device)
        losses.append([])
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), targets)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    print(f"{device}: with attention swapped the loss goes from {losses[0][0]:.6f} to {losses[0][-1]:.6f} with PyTorch's, ", end="")
    print(f"from {losses[1][0]:.6f} to {losses[1][-1]:.6f} with sumexp's")
    same(f"attention swapped, {device}", torch.tensor(losses[1]), torch.tensor(losses[0], dtype=torch.float64), 1e-4)


def training(device, steps=20):
    """The losses of a small model that learns with one cross-entropy and with the other."""
    losses = []
    for loss_of in [F.cross_entropy, ours.cross_entropy]:
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10)).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        x, targets = torch.randn(64, 16, device=device), torch.randint(0, 10, (64,), device=device)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model(x), targets)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    print(f"{device}: after {steps} steps the loss is {losses[0]:.6f} with PyTorch's, {losses[1]:.6f} with sumexp's")
    same(f"training {device}", torch.tensor(losses[1]), torch.tensor(losses[0], dtype=torch.float64), 1e-4)


if __name__ == "__main__":
    torch.manual_seed(0)
    for device in ["cpu"] + (["cuda"] if torch.cuda.is_available() else []):
        operations(device)
        attentions(device)
        training(device)
        swapped(device)
    print("all is right" if failures == 0 else f"{failures} comparisons failed")
    sys.exit(failures != 0)
