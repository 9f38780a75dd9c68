"""The machine is described so that results can be filed under it, and its peaks are what it can do."""

import re

import pandas as pd
import psutil
import pytest
import torch

from whichbackbone.evidence import machine
from whichbackbone.evidence.machine import Machine

FACTS = dict(ram_gib=16.0, os="Linux x86_64", flags="", python="3.11.7", versions={})


def test_describes_this_machine():
    here = machine.describe()
    assert 1 <= here.threads <= here.cores
    assert here.ram_gib == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.1)
    assert here.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = here.rows()
    assert rows["cpu"] == here.cpu and rows["threads"] == str(here.threads) and rows["timm"] == here.versions["timm"]
    assert all(isinstance(v, str) for v in rows.values())


@pytest.mark.parametrize(
    ("cpu", "accelerator", "threads", "slug"),
    [
        ("AMD EPYC 7B13 64-Core Processor", "none", 2, "amd-epyc-7b13-2-cores"),
        ("Intel(R) Core(TM) i9-10940X CPU @ 3.30GHz", "none", 14, "intel-core-i9-10940x-14-cores"),
        ("Apple M2 Pro", "MPS", 10, "apple-m2-pro-mps-10-cores"),
        ("../../etc: <cpu> \u00e9", "NVIDIA A100/80GB", 1, "etc-nvidia-a100-80gb-1-cores"),
    ],
)
def test_slug_is_a_folder_name(monkeypatch, cpu, accelerator, threads, slug):
    facts = Machine(cpu=cpu, cores=threads, threads=threads, accelerator=accelerator, **FACTS)
    monkeypatch.setattr(machine, "describe", lambda: facts)
    assert machine.slug() == slug


def test_slug_of_this_machine():
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", machine.slug()) and len(machine.slug()) < 100


def test_threads_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 8)
    assert machine.usable_cores() == 2
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 1)  # two hyper-threads of one core
    assert machine.usable_cores() == 1
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None)
    assert machine.usable_cores() == 2


def test_a_package_that_is_missing_is_said_to_be(monkeypatch):
    assert machine._version("no-such-package") == "not installed"


@pytest.mark.parametrize("threads", [1, 2])
def test_peaks_count_work_by_the_best_sample(monkeypatch, threads):
    def measure(candidates, threads, **_):
        asked.append(threads)
        candidates["peak"]()  # the work itself must run
        return pd.DataFrame({"samples_ms": [[3.0, 1.0, 2.0]]})

    asked = []
    monkeypatch.setattr(machine.timing, "measure", measure)
    assert machine.peak_gflops(threads, n=100) == pytest.approx(2 * 100**3 / 1e-3 / 1e9)
    assert machine.peak_gbps(threads, mib=1) == pytest.approx(2 * 2**20 / 1e-3 / 1e9)
    assert asked == [threads, threads]


def test_peaks_of_this_machine_are_possible():
    gflops, gbps = machine.peak_gflops(1, n=512, seconds=0.1), machine.peak_gbps(1, mib=64, seconds=0.1)
    assert 0.5 < gflops < 1000 and 0.3 < gbps < 1000
