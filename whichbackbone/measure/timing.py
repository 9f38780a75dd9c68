"""The one timer of the study: every time that a notebook shows comes from :func:`measure`.

What makes two times comparable here: the same number of threads, warm-up until the times have settled, and candidates
visited one after another in a new random order each round, so that a machine that slows down slows all of them. The
sample of round i of one candidate was therefore taken next to the sample of round i of every other one, which is what
lets :func:`ratio` compare them in pairs.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np
import pandas as pd
import threadpoolctl
import torch
from torch import nn

from whichbackbone.measure import memory

# What torch and the other libraries have loaded by now never dies. Frozen, it costs no collection a quarter of a second
# any more, neither before a measurement nor at the end of the process, where there are several.
gc.freeze()

RESAMPLES = 2000
WARMUP_SECONDS = 3.0


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 20,
    min_rounds: int = 5,
    seconds: float | None = None,
    min_sample_ms: float = 2.0,
    warmup_tolerance: float = 0.05,
    peak_memory: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Time each candidate, interleaved round by round; one tidy row per candidate, in the order given.

    Args:
        candidates: name -> callable without arguments. What it prepares it should prepare before.
        threads: intra-op threads of torch and BLAS while measuring; ``None`` keeps torch's setting. Always recorded.
        device: ``cpu``, ``cuda`` or ``mps``; the last two are synchronised before a clock is read.
        rounds: samples per candidate.
        min_rounds: rounds that are taken even when ``seconds`` have passed.
        seconds: budget of all rounds together; no new round starts after it. No candidate is warmed up for longer.
        min_sample_ms: a faster candidate is called several times per sample, until a sample lasts this long.
        warmup_tolerance: warm-up ends when two successive medians differ by less than this share.
        peak_memory: also report the peak of live tensor memory during one call (:mod:`whichbackbone.measure.memory`).
        seed: of the order within each round and of the bootstrap.

    Returns:
        Columns name; status ("ok", or why it failed: a candidate that runs out of memory is a row, not an exception);
        median_ms, q25_ms, q75_ms per call; low_ms, high_ms, the 95 % bootstrap interval of the median; rounds;
        calls_per_sample; warmup_calls; threads; device; peak_mb (1e6 bytes, if asked); samples_ms, the raw samples.

    Raises ``ValueError`` when there is nothing to time or the numbers make no sense.
    """
    if not candidates:
        raise ValueError("nothing to time: candidates is empty")
    if rounds < 1 or not 1 <= min_rounds or threads is not None and threads < 1:
        raise ValueError(f"rounds, min_rounds and threads must be at least 1: {rounds}, {min_rounds}, {threads}")
    synchronise = _synchroniser(device)
    random = np.random.default_rng(seed)
    limit = WARMUP_SECONDS if seconds is None else min(WARMUP_SECONDS, seconds)
    with limited_to(threads), _no_collection():
        states = {name: _Candidate(call, synchronise) for name, call in candidates.items()}
        for state in states.values():
            state.warm_up(min_sample_ms / 1e3, warmup_tolerance, limit)
        start = time.perf_counter()
        for done in range(rounds):
            if seconds is not None and done >= min_rounds and time.perf_counter() - start > seconds:
                break
            for name in random.permutation(list(states)):
                states[name].sample()
        if peak_memory:
            for state in states.values():
                state.weigh(device)
        used = torch.get_num_threads()
    rows = [{"name": name, **state.row(seed), "threads": used, "device": device} for name, state in states.items()]
    order = ["name", "status", "median_ms", "q25_ms", "q75_ms", "low_ms", "high_ms", "rounds", "calls_per_sample"]
    order += ["warmup_calls", "threads", "device", *(["peak_mb"] if peak_memory else []), "samples_ms"]
    return pd.DataFrame(rows)[order]


def ratio(frame: pd.DataFrame, slow: str, fast: str, seed: int = 0) -> tuple[float, float, float]:
    """How many times longer ``slow`` takes than ``fast``: the median over rounds, with its 95 % bootstrap interval.

    Both must come from one call of :func:`measure`, so that their rounds belong together. Raises ``LookupError`` when a
    name is missing or failed, naming its reason.
    """
    top, bottom = (_samples(frame, name) for name in (slow, fast))
    if len(top) != len(bottom):
        raise LookupError(f"{slow!r} and {fast!r} were not measured in the same rounds: {len(top)} and {len(bottom)}")
    return _median_interval(top / bottom, seed)


def inference(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A callable for :func:`measure`: one forward pass of ``model`` on ``x`` in inference mode."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def by_layer(
    model: nn.Module, x: torch.Tensor, names: Sequence[str], *, threads: int | None = None, rounds: int = 15
) -> pd.DataFrame:
    """Time the named layers inside the model's own forward pass on ``x``; rows name, median_ms, low_ms, high_ms.

    Each layer sees the caches as its predecessor left them, which a layer timed alone in a loop does not. The clock
    around it costs about a microsecond. ``x`` must be on the CPU: an accelerator would have to stop at every layer.
    """
    samples = {name: [] for name in names}
    started = {}

    def before(name):
        return lambda *_: started.__setitem__(name, time.perf_counter())

    def after(name):
        return lambda *_: samples[name].append(time.perf_counter() - started[name])

    run = inference(model, x)
    with limited_to(threads), _no_collection():
        run(), run()
        handles = [model.get_submodule(n).register_forward_pre_hook(before(n)) for n in names]
        handles += [model.get_submodule(n).register_forward_hook(after(n)) for n in names]
        try:
            for _ in range(rounds):
                run()
        finally:
            for handle in handles:
                handle.remove()
    rows = [_median_interval(np.array(s) * 1e3, seed=0) for s in samples.values()]
    return pd.DataFrame(rows, columns=["median_ms", "low_ms", "high_ms"]).assign(name=list(samples))[
        ["name", "median_ms", "low_ms", "high_ms"]
    ]


class _Candidate:
    """One callable with its samples; the first failure ends its part and becomes its status."""

    def __init__(self, call: Callable[[], object], synchronise: Callable[[], None]):
        self.call, self.synchronise = call, synchronise
        self.status, self.samples, self.calls, self.warmups = "ok", [], 1, 0
        self.peak_mb = math.nan

    def warm_up(self, min_sample: float, tolerance: float, limit: float) -> None:
        """Call until two successive medians agree, at least two calls and at most ``limit`` seconds."""
        times, last, start = [], None, time.perf_counter()
        while True:
            times.append(self._time(1))
            self.warmups += 1
            if self.status != "ok":
                return
            # The first call pays for allocation and lazy set-up. Long calls average over noise by themselves.
            window = 1 if times[-1] > 0.3 else 3
            if self.warmups > 1 and len(times) >= window:
                now = median(times[-window:])
                settled = last is not None and abs(now - last) <= tolerance * last
                if settled or time.perf_counter() - start > limit:
                    self.calls = max(1, math.ceil(min_sample / max(now, 1e-7)))  # a coarse clock may say 0
                    return
                times, last = [], now

    def sample(self) -> None:
        if self.status == "ok":
            sample = self._time(self.calls)
            self.samples += [sample] if self.status == "ok" else []

    def weigh(self, device: str) -> None:
        if self.status == "ok":
            self._guard(lambda: setattr(self, "peak_mb", memory.peak_bytes(self.call, device) / 1e6))
            self.status = "ok"  # a time that was measured stands, also where memory cannot be followed

    def row(self, seed: int) -> dict[str, object]:
        ok = self.status == "ok" and self.samples
        samples = np.array(self.samples if ok else [math.nan]) * 1e3
        middle, low, high = _median_interval(samples, seed)
        q25, q75 = np.quantile(samples, [0.25, 0.75])
        return dict(
            status=self.status, median_ms=middle, q25_ms=q25, q75_ms=q75, low_ms=low, high_ms=high,
            rounds=len(self.samples), calls_per_sample=self.calls, warmup_calls=self.warmups, peak_mb=self.peak_mb,
            samples_ms=[float(s) for s in samples] if ok else [],
        )  # fmt: skip

    def _time(self, calls: int) -> float:
        """Seconds per call."""

        def timed() -> float:
            self.synchronise()
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            self.synchronise()
            return (time.perf_counter() - start) / calls

        return self._guard(timed)

    def _guard(self, work: Callable):
        try:
            return work()
        except Exception as error:
            # Any error: a benchmark of 25 models must not lose 24 of them because one is not supported here.
            self.status = reason(error)
            return math.nan


def reason(error: Exception) -> str:
    """One line that says why a candidate could not be measured; every kind of memory shortage reads the same."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in text.lower() and "alloc" in text.lower():
        return "out of memory"
    return f"{type(error).__name__}: {text}"[:200]


def _median_interval(samples: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Median of the samples and the 2.5 and 97.5 % quantiles of the medians of bootstrap resamples."""
    samples = np.asarray(samples)
    picks = np.random.default_rng(seed).integers(len(samples), size=(RESAMPLES, len(samples)))
    low, high = np.quantile(np.median(samples[picks], axis=1), [0.025, 0.975])
    return float(np.median(samples)), float(low), float(high)


def _samples(frame: pd.DataFrame, name: str) -> np.ndarray:
    rows = frame[frame["name"] == name]
    if len(rows) != 1:
        raise LookupError(f"{name!r} stands {len(rows)} times among the measured: {', '.join(frame['name'])}")
    if (status := rows["status"].iloc[0]) != "ok":
        raise LookupError(f"{name!r} was not measured: {status}")
    return np.array(rows["samples_ms"].iloc[0])


def _synchroniser(device: str) -> Callable[[], None]:
    """Work on an accelerator is queued, not done, when a call returns; a clock must wait for it."""
    kind = torch.device(device).type
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)


@contextmanager
def limited_to(number: int | None) -> Iterator[None]:
    """Set the threads of torch and of the BLAS and OpenMP pools, and set them back. ``None`` keeps torch's number."""
    before = torch.get_num_threads()
    number = number or before
    with threadpoolctl.threadpool_limits(number):
        torch.set_num_threads(number)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples, as timeit does."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
