"""What this machine can do at best: its measured peak arithmetic rate and memory bandwidth, the roofs of a roofline."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from whichbackbone.evidence import machine
from whichbackbone.measure import timing

PIXELS = 56  # of the convolution: that of a net's early stages, whose layers come nearest to the peak


def peak_gflops(threads: int, n: int = 1536, seconds: float = 1.0) -> float:
    """Measure the peak arithmetic rate in GFLOP/s: the roof of a roofline.

    The best of products of square matrices of two sizes and of a convolution in two layouts: on some processors a
    convolution library multiplies faster than the BLAS, and no layer may lie over the roof.

    Args:
        threads: of torch.
        n: side of the larger fp32 matrices; a product counts 2 n^3 FLOPs. The convolution has n / 8 channels.
        seconds: budget of the measurement. The best sample counts.
    """
    works: dict[str, Callable[[], object]] = {}
    flops: dict[str, float] = {}
    for side in (n, n // 2):
        a, b, out = (torch.rand(side, side) for _ in range(3))
        works[f"matrices {side}"] = partial(torch.mm, a, b, out=out)
        flops[f"matrices {side}"] = 2 * side**3
    x, weight = torch.rand(1, n // 8, PIXELS, PIXELS), torch.rand(n // 8, n // 8, 3, 3)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = [t.contiguous(memory_format=layout) for t in (x, weight)]
        works[str(layout)] = partial(nn.functional.conv2d, *given, padding=1)
        flops[str(layout)] = 2 * weight.numel() * PIXELS**2
    times = _best(works, threads, seconds)
    return max(flops[name] / times[name] for name in works) / 1e9


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
    return 2 * mib * 2**20 / _best({"copy": lambda: target.copy_(source)}, threads, seconds)["copy"] / 1e9


def quick(threads: int | None = None) -> dict[str, float]:
    """Measure both peaks in about a second, for the record of a run; returns gflops and gbps.

    A run that begins far below the best peak seen on its machine found it busy or slowed down. ``threads=None`` means
    all cores that this process may use.
    """
    threads = threads or machine.usable_cores()
    return dict(gflops=round(peak_gflops(threads, seconds=0.4), 1), gbps=round(peak_gbps(threads, 128, 0.3), 1))


def _best(works: Mapping[str, Callable[[], object]], threads: int, seconds: float) -> dict[str, float]:
    """Return the fastest sample of each work in seconds: noise can only hide a peak."""
    with torch.inference_mode():
        frame = timing.measure(works, threads=threads, seconds=seconds, rounds=100, min_rounds=3)
    return {row.name: min(row.samples_ms) / 1e3 for row in frame.itertuples(index=False)}
