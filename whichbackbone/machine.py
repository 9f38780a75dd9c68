"""What this machine is, and what it can do at best: its measured peak arithmetic rate and memory bandwidth."""

import os
import platform
import re
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import cpuinfo
import psutil
import torch

from whichbackbone import timing

PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "numpy")
# Instruction sets that decide how fast a CPU multiplies; the rest of the flags tell a reader of timings nothing.
TELLING_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "asimd",
    "sve",
    "bf16",
    "i8mm",
)


@dataclass(frozen=True)
class Machine:
    """Facts that a timing depends on. RAM in GiB; ``accelerator`` is "none" where there is no CUDA or MPS device."""

    cpu: str
    cores: int
    threads: int
    ram_gib: float
    os: str
    accelerator: str
    flags: str
    python: str
    versions: dict[str, str]

    def rows(self) -> dict[str, str]:
        """One flat dict to show as a table."""
        facts = {k: str(v) for k, v in asdict(self).items() if k != "versions"}
        return facts | self.versions


@cache
def describe() -> Machine:
    """This machine. ``cores`` are physical, ``threads`` those that torch uses when left alone."""
    info = cpuinfo.get_cpu_info()
    return Machine(
        cpu=info.get("brand_raw") or platform.processor() or "unknown CPU",
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        threads=available_threads(),
        ram_gib=round(psutil.virtual_memory().total / 2**30, 1),
        os=f"{platform.system()} {platform.machine()}",
        accelerator=_accelerator(),
        flags=" ".join(f for f in TELLING_FLAGS if f in info.get("flags", [])),
        python=platform.python_version(),
        versions={p: _version(p) for p in PACKAGES},
    )


def available_threads() -> int:
    """Cores this process may use, which a container or a scheduler can set below those of the machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed)


def slug() -> str:
    """Folder name of this machine's results, such as ``amd-epyc-2-cores``."""
    here = describe()
    name = re.sub(r"\(r\)|\(tm\)|\bcpu\b|\bprocessor\b|@.*|\d+-core", " ", here.cpu.lower())
    if here.accelerator != "none":
        name += f" {here.accelerator.lower()}"
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {here.threads} cores").strip("-")


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


def _best(work, threads: int, seconds: float) -> float:
    """Fastest sample in seconds: a peak is what the machine can do, so noise only ever hides it."""
    frame = timing.measure({"peak": work}, threads=threads, seconds=seconds, rounds=100, min_rounds=5)
    return min(frame.samples_ms[0]) / 1e3


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _accelerator() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return "MPS" if torch.backends.mps.is_available() else "none"
