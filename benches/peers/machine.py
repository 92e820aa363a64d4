"""The machine: what it is, its clocks, and the ceilings that are measured in the same run as everything else."""

import platform
import shutil
import subprocess
import time

import torch

from . import contest
from .cases import BYTES

CLOCKS = ["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu", "clocks_event_reasons.active"]


def smi(fields):
    """What nvidia-smi says about the first GPU; nothing where it is not there or does not know a field."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return [value.strip() for value in done.stdout.split(",")] if done.returncode == 0 else []


def clocks(device):
    """Clocks, power, temperature and reasons to run slower, now."""
    return dict(zip(CLOCKS, smi(CLOCKS))) if device == "cuda" else {}


def gpu(device):
    """Name, driver, highest clock and memory, as the bundle's results name a card; empty on the host."""
    return ", ".join(smi(["name", "driver_version", "clocks.max.sm", "memory.total"])) if device == "cuda" else ""


def name(device):
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    return f"{platform.machine()} host, {torch.get_num_threads()} threads"


def versions():
    """Of everything that takes part."""
    import importlib.metadata

    found = {"python": platform.python_version(), "cuda of torch": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    for package in ["torch", "triton", "liger-kernel", "quack-kernels", "flash-attn-4", "flash-attn-3", "flash-attn", "nvidia-cutlass-dsl"]:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def ceilings(device, clock, quick, tiny_ours):
    """Copy and read bandwidth, the rate of torch.matmul by type, and what a launch costs; `tiny_ours` is a call of sumexp on next
    to nothing. Each is a median over repetitions with its quartiles."""
    elements = (1 << 20 if quick else 1 << 24) if device == "cpu" else 1 << 29

    def timed(call):
        call()
        return contest.summary(clock(call)[0])

    def bandwidth(call, moved):
        measured = timed(call)
        return {**measured, "gb_per_s": moved / measured["seconds"] / 1e9}

    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    found = {"copy": bandwidth(lambda: target.copy_(source), 2 * 4 * elements)}
    del target
    # Whichever reduction of PyTorch's reads fastest.
    reads = {call.__name__: bandwidth(lambda call=call: call(source), 4 * elements) for call in (torch.sum, torch.amax)}
    by = max(reads, key=lambda reduction: reads[reduction]["gb_per_s"])
    found["read"] = {**reads[by], "by": f"torch.{by}"}
    del source
    found["matmul"] = {}
    size = (128 if quick else 1024) if device == "cpu" else 8192
    for dtype in BYTES:
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
        measured = timed(lambda: torch.matmul(a, b))
        found["matmul"][dtype] = {**measured, "tflop_per_s": 2 * size**3 / measured["seconds"] / 1e12, "size": size}
    one = torch.zeros(1, device=device)
    found["launch"] = launches(device, lambda: one.add_(1))
    found["launch_of_sumexp"] = launches(device, tiny_ours)
    return found


def launches(device, call, count=500):
    """The time of one of many launches in a row, none of which has any work: the larger of the host's and the GPU's share."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    times = []
    for _ in range(5):
        wait()
        started = time.perf_counter()
        for _ in range(count):
            call()
        wait()
        times.append((time.perf_counter() - started) / count)
    return contest.summary(times)
