"""What this machine can do at best: its measured peak arithmetic rate and memory bandwidth, the roofs of a roofline."""

import torch

from whichbackbone.evidence import machine
from whichbackbone.measure import timing


def peak_gflops(threads: int, n: int = 1536, seconds: float = 1.0) -> float:
    """Best measured GFLOP/s of an n x n fp32 matrix product, counting 2 n^3 FLOPs. The roof of a roofline."""
    a, b = torch.rand(n, n), torch.rand(n, n)
    out = torch.empty(n, n)
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), threads, seconds) / 1e9


def peak_gbps(threads: int, mib: int = 256, seconds: float = 1.0) -> float:
    """Best measured GB/s of copying ``mib`` MiB, counting the bytes read and those written. The slope of a roofline.

    The default is far beyond any last-level cache, so this is main memory.
    """
    source = torch.rand(mib * 2**20 // 4)
    target = torch.empty_like(source)
    return 2 * mib * 2**20 / _best(lambda: target.copy_(source), threads, seconds) / 1e9


def quick(threads: int | None = None) -> dict[str, float]:
    """Both peaks in about a second, for the record of a run: gflops and gbps with all cores that may be used.

    A run that begins far below the best peak seen on its machine found it busy or held back.
    """
    threads = threads or machine.usable_cores()
    return dict(gflops=round(peak_gflops(threads, seconds=0.4), 1), gbps=round(peak_gbps(threads, 128, 0.3), 1))


def _best(work, threads: int, seconds: float) -> float:
    """Fastest sample in seconds: a peak is what the machine can do, so noise only ever hides it."""
    frame = timing.measure({"peak": work}, threads=threads, seconds=seconds, rounds=100, min_rounds=5)
    return min(frame.samples_ms[0]) / 1e3
