"""The one timer of the study: every time that a notebook shows comes from here, in one of two regimes.

*Hot* (:func:`measure`): a sample is calls back to back, after one that is not timed. So a candidate pays for nothing
that another one left behind: caches full of other weights, layers that the library compiled and threw away meanwhile.
*Cold* (:func:`cold`): a sample is one call, after the caches were displaced or after an idle pause.

Three things make two times comparable: all candidates get the same number of threads; each is warmed up until its times
have settled; and each round visits all in a new random order, so that a machine that slows down slows all alike. Round
i therefore holds samples of all candidates taken next to each other, and :func:`ratio` compares them in pairs.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from statistics import median

import numpy as np
import pandas as pd
import threadpoolctl
import torch
from torch import nn

from whichbackbone.evidence import intervals, machine
from whichbackbone.evidence.intervals import Interval
from whichbackbone.measure import memory

WARMUP_SECONDS = 3.0
LONG_SECONDS = 0.05  # a call that averages over noise by itself
SAMPLE_MS = 20.0  # least length of a hot sample
CROWD = 8  # candidates that one call of the timer takes without being told why
DRIFT = 0.15  # share by which hot samples may exceed the candidate's own warm-up
IDLE_SECONDS = 0.3  # long enough for threads to sleep and clocks to fall
COLD = ("cache", "idle")


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 20,
    min_rounds: int = 5,
    seconds: float | None = None,
    min_sample_ms: float = SAMPLE_MS,
    warmup_tolerance: float = 0.05,
    peak_memory: bool = False,
    seed: int = 0,
    crowd: str = "",
) -> pd.DataFrame:
    """Time each candidate, interleaved round by round, and return one row per candidate in the order given.

    Args:
        candidates: name -> callable without arguments, which does nothing but the work to be timed.
        threads: intra-op threads of torch and BLAS while measuring; ``None`` keeps torch's setting. Always recorded.
        device: ``cpu``, ``cuda`` or ``mps``; the last two are synchronised before a clock is read.
        rounds: samples per candidate.
        min_rounds: rounds that are taken even when ``seconds`` have passed.
        seconds: budget of all rounds together, and of the warm-up of each candidate; no new round starts after it.
        min_sample_ms: a sample of a faster candidate holds as many calls as last this long.
        warmup_tolerance: warm-up ends when two successive medians differ by less than this share.
        peak_memory: also report the peak of live tensor memory during one call (:mod:`whichbackbone.measure.memory`).
        seed: of the order within each round and of the bootstrap.
        crowd: why more than CROWD candidates may share a process: nets of many layers then displace what others need,
            even if a hot sample repairs most of that.

    Returns:
        Columns name; status ("ok", or why it failed: a candidate that runs out of memory is a row, not an exception);
        median_ms, q25_ms, q75_ms per call; low_ms, high_ms, the 95 % bootstrap interval of the median; rounds;
        calls_per_sample; warmup_calls; warmup_ms, the median of its last calls; drifted, whether median_ms exceeds that
        by over 15 %; threads; device; peak_mb (1e6 bytes, if asked); samples_ms, the raw samples.

    Raises:
        ValueError: if there is no candidate, or over CROWD of them without a reason, or rounds, min_rounds or threads
            are below 1.
    """
    if not candidates:
        raise ValueError("nothing to time: candidates is empty")
    if len(candidates) > CROWD and not crowd:
        raise ValueError(f"{len(candidates)} candidates in one process: time at most {CROWD} together, or say in "
                         "crowd= why these do not disturb each other")  # fmt: skip
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
                states[name].sample_hot()
        if peak_memory:
            for state in states.values():
                state.measure_memory(device)
        used = torch.get_num_threads()
    rows = [{"name": name, **state.row(seed), "threads": used, "device": device} for name, state in states.items()]
    order = ["name", "status", "median_ms", "q25_ms", "q75_ms", "low_ms", "high_ms", "rounds", "calls_per_sample"]
    order += ["warmup_calls", "warmup_ms", "drifted", "threads", "device"]
    order += [*(["peak_mb"] if peak_memory else []), "samples_ms"]
    return pd.DataFrame(rows)[order]


def cold(
    candidates: Mapping[str, Callable[[], object]], *, after: str, threads: int | None = None, rounds: int = 5,
    device: str = "cpu", seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Time single calls that find the machine unprepared, interleaved round by round.

    Args:
        candidates: name -> callable without arguments; each is called twice first, so that nothing is set up for the
            first time any more.
        after: ``cache``: twice the last-level cache was written just before. ``idle``: nothing ran for 0.3 s, so that
            threads sleep and clocks have fallen.
        threads, rounds, device, seed: see :func:`measure`.

    Returns:
        As :func:`measure` does.

    Raises:
        ValueError: if there is no candidate, or for an unknown ``after``.
    """
    if after not in COLD:
        raise ValueError(f"unknown way to cool down {after!r}: choose one of {', '.join(COLD)}")
    if not candidates:
        raise ValueError("nothing to time: candidates is empty")
    synchronise = _synchroniser(device)
    random = np.random.default_rng(seed)
    other = np.zeros(2 * machine.last_level_cache() // 8) if after == "cache" else None
    with limited_to(threads), _no_collection():
        states = {name: _Candidate(call, synchronise) for name, call in candidates.items()}
        for state in states.values():
            state.warm_up(0.0, math.inf, 0.0)
        for _ in range(rounds):
            for name in random.permutation(list(states)):
                if other is None:
                    time.sleep(IDLE_SECONDS)
                else:
                    other += 1.0
                states[name].sample_once()
        used = torch.get_num_threads()
    rows = [{"name": name, **state.row(seed), "threads": used, "device": device} for name, state in states.items()]
    return pd.DataFrame(rows).drop(columns=["peak_mb", "drifted"]).assign(drifted=False)


def ratio(frame: pd.DataFrame, slow: str, fast: str, seed: int = 0) -> Interval:
    """Return how many times longer one candidate takes than another, from one call of :func:`measure`.

    Args:
        frame: what :func:`measure` returned.
        slow: name of the candidate whose time is divided.
        fast: name of the candidate that it is divided by.
        seed: of the bootstrap.

    Returns:
        The median ratio over the rounds with its bootstrap interval, which knows nothing of other processes.

    Raises:
        LookupError: if a name is missing or its measurement failed (it says why), or if the rounds differ.
    """
    top, bottom = (samples(frame, name) for name in (slow, fast))
    if len(top) != len(bottom):
        raise LookupError(f"{slow!r} and {fast!r} were not measured in the same rounds: {len(top)} and {len(bottom)}")
    return intervals.ratio_of_rounds(top, bottom, seed)


def samples(frame: pd.DataFrame, name: str) -> np.ndarray:
    """Return the samples of one candidate in ms, (rounds,).

    Raises:
        LookupError: if the name is not there once, or its measurement failed (it says why).
    """
    rows = frame[frame["name"] == name]
    if len(rows) != 1:
        raise LookupError(f"{name!r} stands {len(rows)} times among the measured: {', '.join(frame['name'])}")
    if (status := rows["status"].iloc[0]) != "ok":
        raise LookupError(f"{name!r} was not measured: {status}")
    return np.array(rows["samples_ms"].iloc[0])


def inference(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a candidate for :func:`measure`: one forward pass of ``model`` on ``x`` in inference mode."""

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)

    return run


def by_layer(
    model: nn.Module, x: torch.Tensor, names: Sequence[str], *, threads: int | None = None, rounds: int = 15
) -> pd.DataFrame:
    """Time the named layers inside the model's own forward pass.

    Each layer finds the caches as the layer before left them, unlike a layer that is timed alone in a loop. The clock
    around a layer costs about a microsecond.

    Args:
        model: is run in its present mode.
        x: its input, on the CPU, since an accelerator would have to stop at every layer.
        names: of layers, as ``model.named_modules`` has them.
        threads: see :func:`measure`.
        rounds: forward passes.

    Returns:
        One row per layer: name; median_ms; low_ms and high_ms, its 95 % bootstrap interval.
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
    found = [intervals.median(np.array(s) * 1e3) for s in samples.values()]
    rows = [(x.value, x.low, x.high) for x in found]
    return pd.DataFrame(rows, columns=["median_ms", "low_ms", "high_ms"]).assign(name=list(samples))[
        ["name", "median_ms", "low_ms", "high_ms"]
    ]


class _Candidate:
    """One callable with its samples. After its first failure it is not called again; the reason becomes its status."""

    def __init__(self, call: Callable[[], object], synchronise: Callable[[], None]):
        self.call, self.synchronise = call, synchronise
        self.status, self.samples, self.calls, self.warmups, self.warm = "ok", [], 1, 0, math.nan
        self.peak_mb = math.nan

    def warm_up(self, min_sample: float, tolerance: float, limit: float) -> None:
        """Call until two successive medians agree to within ``tolerance`` (a share), or ``limit`` seconds have passed.

        It is called at least twice. The last median decides how many calls make a sample of ``min_sample`` seconds.
        """
        times, last, start = [], None, time.perf_counter()
        while True:
            times.append(self._time(1))
            self.warmups += 1
            if self.status != "ok":
                return
            # The first call pays for allocation and lazy set-up. Long calls average over noise by themselves.
            window = 1 if times[-1] > LONG_SECONDS else 3
            if len(times) >= window:
                now = median(times[-window:])
                settled = last is not None and abs(now - last) <= tolerance * last
                if self.warmups > 1 and (settled or time.perf_counter() - start > limit):
                    self.warm = now
                    self.calls = max(1, math.ceil(min_sample / max(now, 1e-7)))  # a coarse clock may say 0
                    return
                times, last = [], now

    def sample_hot(self) -> None:
        """Take one more sample of calls back to back, after a call that is not timed."""
        if self.status == "ok":
            self._time(1)
        self._sample(self.calls)

    def sample_once(self) -> None:
        """Take one more sample of a single call."""
        self._sample(1)

    def _sample(self, calls: int) -> None:
        if self.status == "ok":
            sample = self._time(calls)
            self.samples += [sample] if self.status == "ok" else []

    def measure_memory(self, device: str) -> None:
        """Take ``peak_mb`` from one more call."""
        if self.status == "ok":
            self._guard(lambda: setattr(self, "peak_mb", memory.peak_bytes(self.call, device) / 1e6))
            self.status = "ok"  # a time that was measured stands, also where memory cannot be followed

    def row(self, seed: int) -> dict[str, object]:
        """Return what :func:`measure` tells of this candidate; ``seed`` is that of the bootstrap."""
        ok = self.status == "ok" and self.samples
        samples = np.array(self.samples if ok else [math.nan]) * 1e3
        middle = intervals.median(samples, seed=seed)
        q25, q75 = np.quantile(samples, [0.25, 0.75])
        return dict(
            status=self.status, median_ms=middle.value, q25_ms=q25, q75_ms=q75, low_ms=middle.low, high_ms=middle.high,
            rounds=len(self.samples), calls_per_sample=self.calls, warmup_calls=self.warmups, warmup_ms=self.warm * 1e3,
            drifted=bool(ok and middle.value > (1 + DRIFT) * self.warm * 1e3), peak_mb=self.peak_mb,
            samples_ms=[float(s) for s in samples] if ok else [],
        )  # fmt: skip

    def _time(self, calls: int) -> float:
        """Call several times and return the seconds per call."""

        def timed() -> float:
            self.synchronise()
            start = time.perf_counter()
            for _ in range(calls):
                self.call()
            self.synchronise()
            return (time.perf_counter() - start) / calls

        return self._guard(timed)

    def _guard(self, work: Callable[[], object]) -> object:
        """Return what ``work`` does, or nan if it fails, and note the reason."""
        try:
            return work()
        except Exception as error:
            # Any error: a benchmark of 25 models must not lose 24 of them because one is not supported here.
            self.status = reason(error)
            return math.nan


def reason(error: Exception) -> str:
    """Return one line that says why a candidate could not be measured: "out of memory" for every kind of shortage."""
    text = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "memory" in text.lower() and "alloc" in text.lower():
        return "out of memory"
    return f"{type(error).__name__}: {text}"[:200]


def _synchroniser(device: str) -> Callable[[], None]:
    """Return the function that waits until a device is done: on an accelerator, a call returns before its work ends."""
    kind = torch.device(device).type
    return {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)


@contextmanager
def limited_to(number: int | None) -> Iterator[None]:
    """Set the threads of torch and of the BLAS and OpenMP pools, and set them back. ``None`` means torch's number."""
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
    _freeze_once()
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@cache
def _freeze_once() -> None:
    """Exempt from collection what lives at the first measurement of a process: the libraries, for the most part.

    A collection then takes no quarter of a second any more, neither before a measurement nor when the process ends.
    """
    gc.collect()
    gc.freeze()
