"""What this machine can do at best: its measured peak arithmetic rate and memory bandwidth, the roofs of a roofline."""

import torch

from whichbackbone.evidence import machine
from whichbackbone.measure import timing


def peak_gflops(threads: int, n: int = 1536, seconds: float = 1.0) -> float:
    """Measure the peak arithmetic rate in GFLOP/s: the roof of a roofline.

    Args:
        threads: of torch.
        n: side of the square fp32 matrices that are multiplied; a product counts 2 n^3 FLOPs.
        seconds: budget of the measurement. Its best sample counts.
    """
    a, b = torch.rand(n, n), torch.rand(n, n)
    out = torch.empty(n, n)
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), threads, seconds) / 1e9


def peak_gbps(threads: int, mib: int = 256, seconds: float = 1.0) -> float:
    """Measure the bandwidth in GB/s: the slope of a roofline.

    Args:
        threads: of torch.
        mib: MiB that are copied; the bytes read and those written count. The default is far beyond any last-level
            cache, so the bandwidth is that of main memory.
        seconds: budget of the measurement. Its best sample counts.
    """
    source = torch.rand(mib * 2**20 // 4)
    target = torch.empty_like(source)
    return 2 * mib * 2**20 / _best(lambda: target.copy_(source), threads, seconds) / 1e9


def quick(threads: int | None = None) -> dict[str, float]:
    """Measure both peaks in about a second, for the record of a run; returns gflops and gbps.

    A run that begins far below the best peak seen on its machine found it busy or slowed down. ``threads=None`` means
    all cores that this process may use.
    """
    threads = threads or machine.usable_cores()
    return dict(gflops=round(peak_gflops(threads, seconds=0.4), 1), gbps=round(peak_gbps(threads, 128, 0.3), 1))


def _best(work, threads: int, seconds: float) -> float:
    """Return the fastest sample of ``work`` in seconds: noise can only hide a peak."""
    frame = timing.measure({"peak": work}, threads=threads, seconds=seconds, rounds=100, min_rounds=5)
    return min(frame.samples_ms[0]) / 1e3
