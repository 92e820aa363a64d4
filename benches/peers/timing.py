"""Clocks. `clock(call)` gives the times of repeated calls in seconds, and what else is known about them."""

import time

import torch


class Gpu:
    """Events around each call, on PyTorch's current stream. Before each call a buffer several times the L2 cache is filled, so that
    inputs come from memory; while the GPU does that, the host enqueues the call, so that short kernels are not timed by the host."""

    def __init__(self, seconds=0.25, least=10, most=100):
        self.seconds, self.least, self.most = seconds, least, most
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(max(256 << 20, 4 * cache), dtype=torch.uint8, device="cuda")

    def __call__(self, call):
        event = lambda: torch.cuda.Event(enable_timing=True)
        for _ in range(2):
            call()
        first, last = event(), event()
        first.record()
        self.flush.zero_()
        call()
        last.record()
        last.synchronize()
        repetitions = min(max(int(self.seconds / (first.elapsed_time(last) / 1e3)), self.least), self.most)
        events = [(event(), event()) for _ in range(repetitions)]
        started = time.perf_counter()
        for before, after in events:
            self.flush.zero_()
            before.record()
            call()
            after.record()
        enqueued = time.perf_counter() - started
        torch.cuda.synchronize()
        whole = time.perf_counter() - started
        # The GPU was done almost as soon as the host: it waited for work, and part of the time is the host's.
        return [before.elapsed_time(after) / 1e3 for before, after in events], {"host_bound": enqueued > 0.9 * whole}


class Cpu:
    """The clock on the wall, with caches as they are."""

    def __init__(self, seconds=0.1, least=3, most=30):
        self.seconds, self.least, self.most = seconds, least, most

    def __call__(self, call):
        times = []
        while len(times) < self.least or (len(times) < self.most and sum(times) < self.seconds):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return times, {}
