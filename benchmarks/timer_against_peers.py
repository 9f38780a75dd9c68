"""Is our timer right? It is set beside timm's method and torch's on the same work, and asked twice for a ranking.

    python -m benchmarks.timer_against_peers

writes ``benchmarks/timer_against_peers.md``, and exits with 1 when a bound is missed. Takes about 5 minutes on 2 cores;
the machine should have nothing else to do.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import psutil
import timm
import torch
from scipy.stats import kendalltau
from torch.utils.benchmark import Timer

from whichbackbone.evidence import machine
from whichbackbone.measure import timing

AGREE = 0.05  # medians of the methods differ by at most this share
TAU = 0.95  # least Kendall rank correlation between two runs of ours
REPETITIONS = 7  # many short ones: a machine's speed drifts from one second to the next

COMPARED = ("resnet18", "resnet50", "mobilenetv2_100", "efficientnet_b0", "regnety_004", "densenet121")
RANKED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "densenet121", "resnest14d", "resnest26d"),
    *("efficientnet_b0", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "mobilenetv2_100", "mnasnet_small"),
    *("mobilenetv3_large_100", "regnetx_004", "regnetx_032", "regnety_008", "regnety_032", "regnetx_080"),
)


def by_us(call: Callable[[], object]) -> float:
    """Milliseconds per call: warm-up until settled, median of samples."""
    return timing.measure({"": call}, rounds=10).median_ms[0]


def by_timm(call: Callable[[], object], warm: int = 3, timed: int = 10) -> float:
    """Milliseconds per call as timm's benchmark.py has it: fixed warm-up, each step timed by itself, the mean.

    huggingface/pytorch-image-models:benchmark.py, InferenceBenchmarkRunner.run; its --num-warm-iter and
    --num-bench-iter are 10 and 40 by default, and smaller here because we repeat the whole.
    """
    for _ in range(warm):
        call()
    total = 0.0
    for _ in range(timed):
        start = time.perf_counter()
        call()
        total += time.perf_counter() - start
    return 1e3 * total / timed


def by_torch(call: Callable[[], object]) -> float:
    """Milliseconds per call: median of torch.utils.benchmark's blocked_autorange, for half a second at least."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return 1e3 * timer.blocked_autorange(min_run_time=0.5).median


METHODS = {"ours": by_us, "timm's": by_timm, "torch's": by_torch}


def candidates(names: tuple[str, ...], size: int) -> dict[str, Callable[[], object]]:
    """Models of timm, ready to run on one image of ``size`` pixels."""
    x = torch.randn(1, 3, size, size)
    return {name: timing.inference(timm.create_model(name).eval(), x) for name in names}


def agreement(size: int = 224) -> pd.DataFrame:
    """Median of each method's times (ms) and the peers' share of ours, methods taking turns in random order."""
    random, rows = np.random.default_rng(0), []
    for name, call in candidates(COMPARED, size).items():
        found = {method: [] for method in METHODS}
        for _ in range(REPETITIONS):
            for method in random.permutation(list(METHODS)):
                found[method].append(METHODS[method](call))
        times = {method: median(values) for method, values in found.items()}
        rows.append({"model": name, **times, "timm / ours": times["timm's"] / times["ours"],
                     "torch / ours": times["torch's"] / times["ours"]})  # fmt: skip
    return pd.DataFrame(rows)


def ranking(size: int = 160) -> pd.DataFrame:
    """Median (ms) of each model in two complete runs of ours."""
    calls = candidates(RANKED, size)
    runs = [timing.measure(calls, rounds=15, seed=seed).median_ms for seed in (1, 2)]
    frame = pd.DataFrame({"model": list(calls), "first run": runs[0], "second run": runs[1]})
    return frame.sort_values("first run", ignore_index=True)


def markdown(frame: pd.DataFrame, digits: int = 2) -> str:
    """The frame as a Markdown table, numbers to the right."""
    lines = [frame.columns, ["---" if frame[c].dtype == object or frame[c].dtype == "str" else "--:" for c in frame]]
    lines += [[f"{v:.{digits}f}" if isinstance(v, float) else str(v) for v in row] for row in frame.values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(start: float) -> str:
    """One paragraph: machine, versions, threads, date, how long it took, and how busy the machine was besides."""
    here = machine.describe()
    versions = ", ".join(f"{p} {here.versions[p]}" for p in ("torch", "timm", "numpy"))
    return (
        f"{here.processor}, {torch.get_num_threads()} threads, {here.os}; Python {here.python}, {versions}; "
        f"{datetime.now(UTC):%Y-%m-%d}; {time.perf_counter() - start:.0f} s."
    )


def warn_if_busy() -> None:
    """Say so when others use the processor: what follows would measure them as well."""
    if (busy := psutil.cpu_percent(interval=1.0)) > 10:
        print(f"warning: the processor is {busy:.0f} % busy with other work; the bounds may be missed", file=sys.stderr)


def main() -> int:
    """Measure, write the table, and return the exit code."""
    torch.set_num_threads(machine.usable_cores())
    torch.manual_seed(0)
    warn_if_busy()
    start = time.perf_counter()
    methods, runs = agreement(), ranking()
    shares = methods[["timm / ours", "torch / ours"]]
    worst = float((shares - 1).abs().to_numpy().max())
    tau = float(kendalltau(runs["first run"], runs["second run"]).statistic)
    good = worst <= AGREE and tau >= TAU
    text = f"""# The timer against its peers

Written by `python -m benchmarks.timer_against_peers`. {conditions(start)}

## The same work, three methods

Milliseconds per forward pass, batch 1, 224 pixels: median of {REPETITIONS} repetitions, in each of which the methods
take turns in random order. Largest difference from ours: **{worst:.1%}** (bound: {AGREE:.0%}).

{markdown(methods)}

*ours*: `timing.measure`, warm-up until settled, median of 10 samples. *timm's*: the method of its `benchmark.py`,
3 steps of warm-up, mean of 10. *torch's*: `torch.utils.benchmark.Timer.blocked_autorange`, median over half a second.

## The same ranking twice

Two complete, interleaved runs of ours over {len(runs)} models (ms; batch 1, 160 pixels).
Kendall's tau between them: **{tau:.3f}** (bound: {TAU}).

{markdown(runs)}
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text if good else f"{text}\nA bound is missed.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
