"""A machine is described so that results can be filed under it: whose processor, and how many cores may be used."""

import math
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import check_results
import psutil
import pytest
import torch

from whichbackbone.evidence import machine
from whichbackbone.evidence.machine import Machine

FACTS = dict(vendor="", family="", model="", stepping="", quota=math.inf, ram_gib=16.0, os="Linux x86_64", flags="",
             python="3.11.7", versions={})  # fmt: skip


def test_describes_this_machine():
    here = machine.describe()
    assert 1 <= here.threads <= here.cores and here.quota > 0
    assert here.ram_gib == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert here.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = here.rows()
    assert rows["processor"] == here.processor and rows["threads"] == str(here.threads)
    assert rows["timm"] == here.versions["timm"] and all(isinstance(v, str) for v in rows.values())


def test_a_package_that_is_missing_is_said_to_be():
    assert machine.installed_version("no-such-package") == "not installed"


# -------------------------------------------------------------------------------------------------------- processor

X86 = """processor\t: 0
vendor_id\t: {vendor}
cpu family\t: {family}
model\t\t: {model}
model name\t: {brand}
stepping\t: 1
flags\t\t: fpu avx avx2 fma

processor\t: 1
model name\t: Something Else 9999
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd sve i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
CPU revision\t: 1
"""


@pytest.fixture
def facts(tmp_path):
    """The facts read from a file with this text."""

    def read(text: str) -> dict[str, str]:
        (tmp_path / "cpuinfo").write_text(text)
        return machine.processor_facts(tmp_path / "cpuinfo")

    return read


def test_a_brand_that_says_nothing_is_told_apart_by_family_and_model(facts):
    milan = facts(X86.format(vendor="AuthenticAMD", family=25, model=1, brand="AMD EPYC"))
    genoa = facts(X86.format(vendor="AuthenticAMD", family=25, model=17, brand="AMD EPYC"))
    assert milan == dict(brand="AMD EPYC", vendor="AuthenticAMD", family="19h", model="01h", stepping="1",
                         flags="fpu avx avx2 fma")  # fmt: skip
    assert [machine.processor_name(f) for f in (milan, genoa)] == ["AMD EPYC 19h 01h", "AMD EPYC 19h 11h"]


@pytest.mark.parametrize(
    ("brand", "name"),
    [
        ("AMD EPYC 7B13 64-Core Processor", "AMD EPYC 7B13"),
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "Intel Xeon Platinum 8259CL"),
        ("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz", "Intel Core i7-9750H"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "AMD Ryzen 7 5800X"),
        ("Apple M2 Pro", "Apple M2 Pro"),
        ("Apple M10", "Apple M10"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon 06h 55h"),
        ("Intel Xeon E312xx (Sandy Bridge)", "Intel Xeon E312xx (Sandy Bridge) 06h 55h"),
        ("QEMU Virtual CPU version 2.5+", "QEMU Virtual version 2.5+ 06h 55h"),
        ("", "GenuineIntel 06h 55h"),
    ],
)
def test_a_brand_with_a_model_number_is_the_name(brand, name):
    assert machine.processor_name(dict(brand=brand, vendor="GenuineIntel", family="06h", model="55h")) == name


def test_boards_with_arm_processors_are_told_apart_without_a_model_name(facts):
    boards = [facts(ARM.format(part=part)) for part in ("0xd0c", "0xd08")]
    assert boards[0]["vendor"] == "0x41" and "brand" not in boards[0] and "sve" in boards[0]["flags"]
    assert [machine.processor_name(b) for b in boards] == ["0x41 08h d0ch", "0x41 08h d08h"]


def test_a_processor_without_any_name_is_called_by_its_architecture(facts, monkeypatch, tmp_path):
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    assert facts("processor\t: 0\nhart\t: 2\n") == {}
    assert machine.processor_name({}) == "unknown riscv64"
    assert machine.processor_name(dict(vendor="SiFive")) == "SiFive riscv64"
    monkeypatch.setattr(machine.platform, "system", lambda: "Windows")
    monkeypatch.setattr(machine.platform, "processor", lambda: "")
    assert machine.processor_facts(tmp_path / "no such file") == {}


def test_macos_is_asked_for_the_brand(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="Apple M2 Pro\n"))
    assert machine.processor_facts(tmp_path / "no such file") == dict(brand="Apple M2 Pro", vendor="Apple")


# ------------------------------------------------------------------------------------------------------------ folder


@pytest.mark.parametrize(
    ("processor", "accelerator", "threads", "slug"),
    [
        ("AMD EPYC 7B13", "none", 2, "amd-epyc-7b13-2-cores"),
        ("AMD EPYC 19h 01h", "none", 2, "amd-epyc-19h-01h-2-cores"),
        ("0x41 08h d0ch", "none", 4, "0x41-08h-d0ch-4-cores"),
        ("unknown riscv64", "none", 1, "unknown-riscv64-1-cores"),
        ("Apple M2 Pro", "MPS", 10, "apple-m2-pro-mps-10-cores"),
        ("../../etc: <cpu> \u00e9", "NVIDIA A100/80GB", 1, "etc-cpu-nvidia-a100-80gb-1-cores"),
    ],
)
def test_slug_is_a_folder_name(processor, accelerator, threads, slug):
    here = Machine(processor=processor, cores=threads, threads=threads, accelerator=accelerator, **FACTS)
    assert machine.slug(here) == slug and check_results.MACHINE.fullmatch(slug)


def test_slug_of_this_machine():
    assert check_results.MACHINE.fullmatch(machine.slug()) and len(machine.slug()) < 100
    assert re.search(rf"-{machine.usable_cores()}-cores$", machine.slug())


# ------------------------------------------------------------------------------------------------------------- cores


@pytest.fixture
def eight(monkeypatch):
    """A machine of eight cores that nothing limits."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    monkeypatch.setattr(machine, "cgroup_quota", lambda: math.inf)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    return monkeypatch


def test_cores_are_those_that_affinity_allows_and_hyper_threads_count_once(eight):
    assert machine.usable_cores() == 8
    eight.setattr(machine.os, "sched_getaffinity", lambda _: {0, 3})
    assert machine.usable_cores() == 2
    eight.setattr(psutil, "cpu_count", lambda logical=True: 1)  # two hyper-threads of one core
    assert machine.usable_cores() == 1
    eight.setattr(psutil, "cpu_count", lambda logical=True: None)
    assert machine.usable_cores() == 2


def test_cores_without_affinity_are_those_of_the_machine(eight):
    eight.delattr(machine.os, "sched_getaffinity")  # macOS, Windows
    eight.setattr(machine.os, "cpu_count", lambda: 4)
    assert machine.usable_cores() == 4
    eight.setattr(machine.os, "cpu_count", lambda: None)
    assert machine.usable_cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.5, 2), (4.0, 4), (16.0, 8)])
def test_a_quota_is_rounded_up_for_threads_and_kept_as_it_is(eight, quota, cores):
    eight.setattr(machine, "cgroup_quota", lambda: quota)
    assert machine.usable_cores() == cores
    here = machine.describe.__wrapped__()
    assert (here.threads, here.quota) == (cores, quota)


@pytest.mark.parametrize(("slurm", "cores"), [("3", 3), ("64", 8), ("0", 1), ("", 8), ("many", 8)])
def test_slurm_says_how_many_cores_a_task_has(eight, slurm, cores):
    eight.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert machine.usable_cores() == cores


def quota(tmp_path: Path, groups: str, **files: str) -> float:
    """The quota where /proc/self/cgroup has this text, and these files lie below the mount ("/" written "__")."""
    for name, text in files.items():
        path = tmp_path / "mount" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "groups").write_text(groups)
    return machine.cgroup_quota(tmp_path / "mount", tmp_path / "groups")


def test_quota_of_the_second_version(tmp_path):
    slice_max = {"system__cpu.max": "400000 100000\n", "system__job__cpu.max": "max 100000\n"}
    assert quota(tmp_path, "0::/system/job\n", **slice_max) == 4, "what is above limits what is below"
    assert quota(tmp_path, "0::/system/job\n", **{"system__job__cpu.max": "150000 100000\n"}) == 1.5
    assert quota(tmp_path, "0::/\n", **{"cpu.max": "250000 100000\n"}) == 2.5, "seen from within a container"


def v1(folder: str, microseconds: int) -> dict[str, str]:
    """A group's two files of the first version."""
    return {f"{folder}__cpu.cfs_quota_us": f"{microseconds}\n", f"{folder}__cpu.cfs_period_us": "100000\n"}


def test_quota_of_the_first_version(tmp_path):
    groups = "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"
    assert quota(tmp_path, groups, **v1("cpu,cpuacct__docker__abc", 320000)) == 3.2
    assert quota(tmp_path, groups, **v1("cpu,cpuacct__docker__abc", -1)) == math.inf
    # Within the container the group's path is not there, and the mount itself is the group.
    assert quota(tmp_path, "1:cpu:/docker/xyz\n", **v1("cpu", 50000)) == 0.5


@pytest.mark.parametrize("text", ["max 100000", "0 0", "many few", "", "100000"])
def test_a_quota_that_says_nothing_limits_nothing(tmp_path, text):
    assert quota(tmp_path, "0::/\n", **{"cpu.max": text}) == math.inf
    assert machine.cgroup_quota(tmp_path, tmp_path / "not linux") == math.inf


# ------------------------------------------------------------------------------------------------------- accelerator


@pytest.fixture
def card(monkeypatch):
    """A machine with two cards and a torch that can use them."""
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.setattr(machine, "installed_version", lambda package: "2.14.1+cu130")
    monkeypatch.setattr(machine.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="NVIDIA H100 80GB\nother\n"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_the_first_card_is_the_accelerator_if_it_can_be_used(card):
    assert machine.accelerator() == "NVIDIA H100 80GB"
    card.setenv("CUDA_VISIBLE_DEVICES", "")
    assert machine.accelerator() == "none"
    card.setenv("CUDA_VISIBLE_DEVICES", "0")
    card.setattr(machine, "installed_version", lambda package: "2.14.1+cpu")
    assert machine.accelerator() == "none"


def test_a_machine_without_a_card_has_none_and_apple_has_its_own(card):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    def hangs(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 20)

    for fault in (missing, hangs, lambda *_, **__: SimpleNamespace(stdout="")):
        card.setattr(machine.subprocess, "run", fault)
        assert machine.accelerator() == "none"
    card.setattr(machine.platform, "system", lambda: "Darwin")
    card.setattr(machine.platform, "machine", lambda: "arm64")
    assert machine.accelerator() == "MPS"


def test_the_largest_cache_is_the_last_one(tmp_path):
    for index, size in enumerate(("32K", "512K", "32768K", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert machine.last_level_cache(tmp_path) == 32 * 2**20
    assert machine.last_level_cache(tmp_path / "nothing") == 64 * 2**20, "where the system does not say"
