"""Who this machine is: its processor, its memory, and the cores that this process may use. Needs no torch.

What it can do at best is measured by :mod:`whichbackbone.measure.peaks`.
"""

import math
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

# Libraries whose version decides a time or a number in the rows.
PACKAGES = ("torch", "timm", "onnxruntime", "openvino", "nncf", "numpy", "scipy", "scikit-learn")
# Instruction sets that decide how fast a CPU multiplies; the rest of the flags tell a reader of timings nothing.
TELLING_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8",
                 "amx_bf16", "asimd", "asimddp", "sve", "bf16", "i8mm")  # fmt: skip
# Those that multiply bytes and add the products in 32 bits, and those that multiply bf16.
BYTES = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
HALVES = {"avx512_bf16", "amx_bf16", "bf16"}
# A brand without a model number names several processors, as on many virtual machines. Model numbers look like 8259CL,
# 7B13 or M2; QEMU's E312xx stands for a series.
MODEL_NUMBER = re.compile(r"\d{3,}(?!\d*xx)|\b\d[a-z]\d\d\b|\bm\d+\b", re.IGNORECASE)
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """Facts that a timing depends on.

    Attributes:
        processor: its brand where that names one model, else vendor, family and model in hex.
        vendor, family, model, stepping: of the processor, as the system gives them; "" where it does not.
        cores: physical ones of the machine.
        threads: cores that this process may use (:func:`usable_cores`), which is what torch gets.
        quota: cores that a container grants, which may be a fraction; ``inf`` where nothing limits them.
        ram_gib: memory in GiB.
        os: system and architecture.
        accelerator: name of a CUDA or MPS device, or "none".
        flags: the telling instruction sets, separated by spaces.
        python: version.
        versions: of the libraries that decide a time.
    """

    processor: str
    vendor: str
    family: str
    model: str
    stepping: str
    cores: int
    threads: int
    quota: float
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
    """This machine."""
    facts = processor_facts()
    return Machine(
        processor=processor_name(facts),
        vendor=facts.get("vendor", ""), family=facts.get("family", ""),
        model=facts.get("model", ""), stepping=facts.get("stepping", ""),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        threads=usable_cores(),
        quota=cgroup_quota(),
        ram_gib=round(psutil.virtual_memory().total / 2**30, 1),
        os=f"{platform.system()} {platform.machine()}",
        accelerator=accelerator(),
        flags=" ".join(f for f in TELLING_FLAGS if f in facts.get("flags", "").split()),
        python=platform.python_version(),
        versions={package: installed_version(package) for package in PACKAGES},
    )  # fmt: skip


def usable_cores() -> int:
    """Cores this process may use: affinity, a container's quota (rounded up) and Slurm can set fewer than there are.

    Hyper-threads count once: two threads on one core share its multipliers.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [allowed, psutil.cpu_count(logical=False) or allowed]
    if math.isfinite(quota := cgroup_quota()):
        limits.append(math.ceil(quota))
    if (slurm := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():
        limits.append(int(slurm))
    return max(1, min(limits))


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for INT8; without them its products are added in 16 bits, or emulated.

    Apple's processors have them all, and say so in no list of flags.
    """
    return bool(BYTES & set(describe().flags.split())) or describe().os == "Darwin arm64"


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bf16; without them a library converts to fp32 and back."""
    return bool(HALVES & set(describe().flags.split()))


def last_level_cache(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache that the first core uses; 64 MiB where the system does not say."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    found = []
    for file in caches.glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1] in units:
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found, default=64 * 2**20)


def cgroup_quota(root: Path = CGROUP, of: Path = Path("/proc/self/cgroup")) -> float:
    """Cores that the container of this process grants, the smallest on the way up, v1 or v2; ``inf`` for no limit.

    Args:
        root: where the control groups are mounted.
        of: the file that names this process's groups.
    """
    try:
        lines = of.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return math.inf
    found = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for base in (root, root / "cpu", root / "cpu,cpuacct") if "cpu" in controllers.split(",") else (root,):
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                found.append(_quota_of(folder))
                if folder == base:
                    break
    return min(found)


def _quota_of(folder: Path) -> float:
    """Cores that one control group grants."""
    try:
        if (v2 := folder / "cpu.max").is_file():
            quota, period = v2.read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        return int(quota) / int(period) if quota.strip() not in ("max", "-1") else math.inf
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def processor_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """brand, vendor, family, model (both in hex), stepping and flags, as far as the system tells them.

    Linux's own file on x86 and ARM, ``sysctl`` on macOS, Python's ``platform`` elsewhere.
    """
    if cpuinfo.is_file():
        lines = (line.partition(":") for line in cpuinfo.read_text(errors="replace").split("\n\n")[0].splitlines())
        raw = {key.strip().lower(): value.strip() for key, _, value in lines}
        facts = {
            "brand": raw.get("model name", ""), "flags": raw.get("flags", raw.get("features", "")),
            "vendor": raw.get("vendor_id", raw.get("cpu implementer", "")),
            "family": _hex(raw.get("cpu family", raw.get("cpu architecture", ""))),
            "model": _hex(raw.get("model", raw.get("cpu part", ""))),
            "stepping": raw.get("stepping", raw.get("cpu revision", "")),
        }  # fmt: skip
    elif platform.system() == "Darwin":
        facts = {"brand": _sysctl("machdep.cpu.brand_string"), "vendor": "Apple"}
    else:
        facts = {"brand": platform.processor()}
    return {key: value for key, value in facts.items() if value}


def processor_name(facts: dict[str, str]) -> str:
    """The brand where it names one model; where it says nothing, what else is known of the processor.

    "AMD EPYC" alone, as some virtual machines have it, stands for processors of threefold different speed.
    """
    brand = re.sub(r"\((r|tm)\)|\bcpu\b|\bprocessor\b|@.*|\d+-core", " ", facts.get("brand", ""), flags=re.IGNORECASE)
    brand = " ".join(brand.split())
    if MODEL_NUMBER.search(brand):
        return brand
    parts = [brand or facts.get("vendor", ""), *(facts.get(key, "") for key in ("family", "model"))]
    known = [part for part in parts if part]
    return " ".join(known) if len(known) > 1 else f"{known[0] if known else 'unknown'} {platform.machine()}"


def slug(here: Machine | None = None) -> str:
    """Folder name of a machine's results: processor, accelerator if there is one, cores that the process may use.

    Such as ``intel-core-i7-9750h-6-cores``, or ``amd-epyc-19h-01h-2-cores`` where the brand names no model.
    """
    here = here or describe()
    name = here.processor.lower()
    if here.accelerator != "none":
        name += f" {here.accelerator.lower()}"
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {here.threads} cores").strip("-")


def installed_version(package: str) -> str:
    """Version of an installed package, or "not installed". Nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def accelerator() -> str:
    """Name of the first CUDA device, "MPS" on Apple silicon, or "none"; asked of the system, not of torch.

    A card that this process cannot use (its torch is for the CPU, or CUDA_VISIBLE_DEVICES hides all cards) is none.
    """
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "MPS"
    if installed_version("torch").endswith("+cpu") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "none"
    ask = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    try:
        told = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "none"
    return told.splitlines()[0].strip() if told else "none"


def _sysctl(name: str) -> str:
    try:
        return subprocess.run(("sysctl", "-n", name), capture_output=True, text=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _hex(number: str) -> str:
    """25 -> "19h", as processor manuals write families and models; what is no number stays."""
    try:
        return f"{int(number, 0):02x}h"
    except ValueError:
        return number
