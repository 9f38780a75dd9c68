"""The timer, on a clock of its own: candidates are said to take time, nothing here waits."""

import gc
import math

import numpy as np
import pytest
import torch
from torch import nn

from whichbackbone.measure import timing
from whichbackbone.measure.timing import measure, ratio


class Clock:
    """A clock that only candidates move. ``drift`` is the share by which all slow down with each second that passes."""

    def __init__(self, drift: float = 0.0):
        self.now, self.drift, self.log = 0.0, drift, []
        self.random = np.random.default_rng(1)

    def perf_counter(self) -> float:
        return self.now

    def takes(self, ms: float, name: str = "", noise: float = 0.0):
        """A candidate of ``ms`` milliseconds, give or take ``noise``."""

        def run() -> None:
            self.log.append(name)
            self.now += ms / 1e3 * (1 + self.drift * self.now) * (1 + noise * self.random.standard_normal())

        return run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


@pytest.fixture
def measured(clock):
    """A, B and C take 10, 20 and 40 ms."""
    names = {"A": 10, "B": 20, "C": 40}
    return measure({name: clock.takes(ms, name) for name, ms in names.items()}, rounds=8), clock


def test_one_tidy_row_per_candidate(measured):
    frame, _ = measured
    assert frame.name.tolist() == ["A", "B", "C"] and set(frame.status) == {"ok"} and set(frame.device) == {"cpu"}
    for column in ("median_ms", "q25_ms", "q75_ms", "low_ms", "high_ms"):
        assert frame[column].tolist() == pytest.approx([10, 20, 40])
    assert frame.samples_ms.map(len).tolist() == frame["rounds"].tolist() == [8, 8, 8]
    assert ratio(frame, "C", "A").text() == "4.00" and ratio(frame, "C", "A").n == 8


def test_every_round_visits_all_in_a_new_random_order(measured):
    frame, clock = measured
    calls = clock.log[frame.warmup_calls.sum() :]
    length = {row.name: 1 + row.calls_per_sample for row in frame.itertuples(index=False)}  # one call is not timed
    samples = []
    while calls:
        samples.append(calls[0])
        assert calls[: length[calls[0]]] == [calls[0]] * length[calls[0]], "the calls of a sample follow one another"
        calls = calls[length[calls[0]] :]
    rounds = [tuple(samples[i : i + 3]) for i in range(0, len(samples), 3)]
    assert len(rounds) == 8 and all(sorted(r) == ["A", "B", "C"] for r in rounds)
    assert len(set(rounds)) > 2, "the order changes"


def test_the_seed_decides_the_order(clock):
    orders = []
    for seed in (0, 0, 1):
        clock.log.clear()
        measure({name: clock.takes(30, name) for name in "ABCDEF"}, rounds=5, seed=seed)
        orders.append(tuple(clock.log))
    assert orders[0] == orders[1] != orders[2]


def warming(clock: Clock, start_ms: float, end_ms: float, shrink: float):
    """A candidate that gets faster call by call until it has warmed up."""
    state = {"ms": start_ms}

    def run() -> None:
        clock.now += state["ms"] / 1e3
        state["ms"] = max(end_ms, state["ms"] * shrink)

    return run


def test_warm_up_lasts_until_two_medians_agree(clock):
    steady, slow = clock.takes(10), warming(clock, 200, 10, 0.9)
    frame = measure({"steady": steady, "slow": slow}, rounds=5).set_index("name")
    assert frame.warmup_calls["steady"] == 6, "two medians of three"
    assert 29 <= frame.warmup_calls["slow"] <= 36, "200 ms fall to 10 ms in 29 calls"
    assert frame.samples_ms["slow"] == pytest.approx([10] * 5)


def test_warm_up_is_as_strict_as_asked(clock):
    loose = measure({"a": warming(clock, 200, 10, 0.95)}, rounds=1, warmup_tolerance=0.2)
    assert loose.warmup_calls[0] == 2 and loose.samples_ms[0][0] > 100, "5 % a call is settled to within 20 %"


def test_long_calls_are_warmed_up_one_by_one(clock):
    assert measure({"a": clock.takes(500)}, rounds=1).warmup_calls[0] == 2, "two that agree"


def test_what_never_settles_is_measured_all_the_same(clock):
    state = [0]

    def erratic() -> None:
        state[0] += 1
        clock.now += 0.02 * 1.5 ** (state[0] // 3 % 4)

    frame = measure({"erratic": erratic}, rounds=5)
    assert frame.status[0] == "ok" and 9 < frame.warmup_calls[0] < 600 and clock.now < timing.WARMUP_SECONDS + 1


def test_fast_candidates_are_called_several_times_per_sample(clock):
    frame = measure({"fast": clock.takes(0.3), "slow": clock.takes(3)}, rounds=4, min_sample_ms=2).set_index("name")
    assert frame.calls_per_sample.to_dict() == {"fast": 7, "slow": 1}
    assert frame.median_ms["fast"] == pytest.approx(0.3), "times are per call"


def test_a_budget_ends_the_rounds_but_not_before_the_fewest(clock):
    candidates = {"a": clock.takes(100), "b": clock.takes(100)}
    assert measure(candidates, rounds=50, seconds=3.9)["rounds"].tolist() == [10, 10], "0.4 s each"
    assert measure(candidates, rounds=50, seconds=0.1, min_rounds=4)["rounds"].tolist() == [4, 4]
    assert measure(candidates, rounds=3, seconds=60)["rounds"].tolist() == [3, 3]


def failing(error: BaseException, after: int = 0):
    """A candidate that works ``after`` times, then raises."""
    calls = [0]

    def run() -> None:
        calls[0] += 1
        if calls[0] > after:
            raise error

    return run


@pytest.mark.parametrize("after", [0, 2, 8], ids=["at once", "in warm-up", "in the third round"])
def test_a_failing_candidate_is_a_row_with_its_reason(clock, after):
    bad = failing(NotImplementedError("no such kernel\nsecond line"), after)

    def slow_and_bad():  # long enough for the warm-up to run out of time on it
        clock.now += 0.01 if after < 8 else 0.2
        bad()

    frame = measure({"good": clock.takes(10), "bad": slow_and_bad}, rounds=5, peak_memory=True).set_index("name")
    assert frame.status.to_dict() == {"good": "ok", "bad": "NotImplementedError: no such kernel"}
    assert frame.samples_ms["bad"] == [] and math.isnan(frame.median_ms["bad"]) and math.isnan(frame.high_ms["bad"])
    assert frame.median_ms["good"] == pytest.approx(10) and frame["rounds"]["good"] == 5
    with pytest.raises(LookupError, match="'bad' was not measured: NotImplementedError"):
        ratio(frame.reset_index(), "good", "bad")


def test_a_failure_after_a_long_warm_up_is_a_row_too(clock):
    def hangs():
        calls.append(1)
        clock.now += 0.01 if len(calls) < 3 else 20
        if len(calls) == 3:
            raise RuntimeError("gave up")

    calls = []
    assert measure({"a": hangs}).status[0] == "RuntimeError: gave up"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_every_shortage_of_memory_reads_the_same(clock, error):
    assert measure({"a": failing(error)}).status[0] == "out of memory"


def test_a_real_shortage_of_memory():
    assert measure({"huge": lambda: torch.empty(2**60, dtype=torch.uint8)}).status[0] == "out of memory"


def test_drift_hits_all_alike():
    """A machine that slows down by a third in the run: pairs see the true ratio, a timing in sequence does not."""
    truth, clock = 1.5, Clock(drift=0.006)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "time", clock)
        pair = {"slow": clock.takes(truth * 1000, noise=0.02), "fast": clock.takes(1000, noise=0.02)}
        found = ratio(measure(pair, rounds=20), "slow", "fast")
        assert found.low <= truth <= found.high and found.high - found.low < 0.1
        assert found.value == pytest.approx(truth, rel=0.03)
        clock.now = 0.0
        alone = [measure({name: call}, rounds=20) for name, call in pair.items()]
    assert alone[0].high_ms[0] / alone[1].low_ms[0] < truth, "one after the other, even the bounds miss it"


def test_ratio_needs_two_that_were_measured_together(measured, clock):
    frame, _ = measured
    with pytest.raises(LookupError, match="'D' stands 0 times among the measured: A, B, C"):
        ratio(frame, "A", "D")
    other = measure({"D": clock.takes(1)}, rounds=3)
    with pytest.raises(LookupError, match="not measured in the same rounds: 8 and 3"):
        ratio(timing.pd.concat([frame, other]), "A", "D")


@pytest.mark.parametrize("end", [None, RuntimeError("candidate"), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_threads_are_set_for_the_run_and_set_back(clock, end):
    before, seen = torch.get_num_threads(), []

    def call() -> None:
        seen.append((torch.get_num_threads(), gc.isenabled()))
        clock.now += 0.01
        if end is not None:
            raise end

    wanted = 1 if before > 1 else 2
    if isinstance(end, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            measure({"a": call}, threads=wanted, rounds=1)
    else:
        assert measure({"a": call}, threads=wanted, rounds=1).threads[0] == wanted
    assert set(seen) == {(wanted, False)}, "and the garbage collector rests"
    assert torch.get_num_threads() == before and gc.isenabled()
    assert measure({"a": clock.takes(1)}, rounds=1).threads[0] == before


def test_what_lives_at_the_first_measurement_is_exempt_from_collection_once(clock, monkeypatch):
    frozen = []
    monkeypatch.setattr(timing.gc, "freeze", lambda: frozen.append(clock.now))
    timing._freeze_once.cache_clear()
    for _ in range(2):
        measure({"a": clock.takes(1)}, rounds=1)
    assert frozen == [0.0], "before the first call, and never again"


def test_an_accelerator_is_waited_for(clock, monkeypatch):
    """On cuda, work is queued: the clock may only be read when it is done."""
    queue = []

    def launch() -> None:
        clock.now += 0.001
        queue.append(0.02)

    def synchronise() -> None:
        clock.now += sum(queue)
        queue.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    assert measure({"a": launch}, device="cuda:0", rounds=3, min_sample_ms=1).median_ms[0] == pytest.approx(21)
    assert measure({"a": launch}, device="cpu", rounds=3).median_ms[0] == pytest.approx(1), "nothing to wait for"


def test_peak_memory_is_asked_for(clock):
    def two_megabytes() -> torch.Tensor:
        clock.now += 0.01
        return torch.zeros(250_000) + 1

    frame = measure({"a": two_megabytes, "b": failing(ValueError())}, rounds=1, peak_memory=True)
    assert frame.peak_mb[0] == 2.0 and math.isnan(frame.peak_mb[1])
    assert "peak_mb" not in measure({"a": clock.takes(1)}, rounds=1)


def test_a_time_stands_where_memory_cannot_be_followed(clock):
    def untraceable() -> None:
        clock.now += 0.01
        if torch.utils._python_dispatch._get_current_dispatch_mode_stack():
            raise RuntimeError("no dispatch modes here")

    (row,) = measure({"a": untraceable}, rounds=2, peak_memory=True).itertuples()
    assert row.status == "ok" and row.median_ms == pytest.approx(10) and math.isnan(row.peak_mb)


@pytest.mark.parametrize("wrong", [dict(rounds=0), dict(min_rounds=0), dict(threads=0)])
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        measure({"a": lambda: None}, **wrong)


def test_nothing_to_time():
    with pytest.raises(ValueError, match="nothing to time"):
        measure({})


def test_real_time():
    """On the real clock: a matrix product of twice the width takes far longer, and inference keeps no graph."""
    small, large = (nn.Linear(n, n) for n in (128, 1024))
    run = timing.inference(large, torch.randn(64, 1024))
    assert run().is_inference()
    frame = measure({"small": timing.inference(small, torch.randn(64, 128)), "large": run}, threads=1, rounds=5)
    assert ratio(frame, "large", "small").value > 3


def test_layers_are_timed_inside_the_model(clock):
    class Waits(nn.Module):
        def __init__(self, ms: float):
            super().__init__()
            self.ms = ms

        def forward(self, x):
            clock.now += self.ms / 1e3
            return x

    model = nn.Sequential(Waits(1), Waits(5), Waits(2))
    frame = timing.by_layer(model, torch.zeros(1), ["1", "2"], rounds=3)
    assert frame.name.tolist() == ["1", "2"] and frame.median_ms.tolist() == pytest.approx([5, 2])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model)


# ------------------------------------------------------------------------------------------------------- hot and cold


def test_a_crowd_is_refused_unless_it_says_why(clock):
    nine = {str(i): clock.takes(30) for i in range(9)}
    with pytest.raises(ValueError, match="9 candidates in one process: time at most 8 together, or say in crowd="):
        measure(nine, rounds=1)
    assert len(measure(nine, rounds=1, crowd="layers of one net")) == 9


class Cache:
    """What a library compiled: it keeps ``room`` entries, and each candidate needs some that take time to make."""

    def __init__(self, clock: Clock, room: int):
        self.clock, self.room, self.held = clock, room, {}

    def needs(self, name: str, entries: int, ms: float):
        def run() -> None:
            mine = [(name, i) for i in range(entries)]
            missing = [key for key in mine if key not in self.held]
            self.clock.now += (ms + len(missing)) / 1e3  # one ms to make an entry
            for key in mine:
                self.held.pop(key, None)
                self.held[key] = True  # the newest last
            while len(self.held) > self.room:
                self.held.pop(next(iter(self.held)))

        return run


def test_hot_samples_do_not_pay_for_what_others_displaced(clock):
    cache = Cache(clock, room=100)
    frame = measure({name: cache.needs(name, 40, 10) for name in "ABCD"}, rounds=5)
    assert frame.median_ms.tolist() == pytest.approx([10] * 4) and not frame.drifted.any()


def test_a_cache_that_no_candidate_fits_in_with_others_is_flagged(clock):
    """The planted overflow: somebody else's work between all calls, as when a cache is shared with another thread."""
    cache = Cache(clock, room=100)
    crowded = cache.needs("A", 60, 10)
    quiet, among = [True], cache.needs("other", 80, 0)

    def candidate() -> None:
        if not quiet[0]:
            among()
        crowded()

    def other() -> None:
        quiet[0] = False
        clock.now += 0.03

    frame = measure({"A": candidate, "other": other}, rounds=5).set_index("name")
    assert frame.drifted["A"] and not frame.drifted["other"]
    assert frame.warmup_ms["A"] == pytest.approx(10) and frame.median_ms["A"] > 60


def test_cold_takes_single_calls_after_a_pause_or_other_data(clock, monkeypatch):
    monkeypatch.setattr(clock, "sleep", lambda s: clock.log.append("pause"), raising=False)
    frame = timing.cold({"A": clock.takes(5, "A")}, after="idle", rounds=4)
    assert clock.log[int(frame.warmup_calls[0]) :] == ["pause", "A"] * 4
    assert frame.calls_per_sample.tolist() == [1] and frame.median_ms[0] == pytest.approx(5)
    clock.log.clear()
    monkeypatch.setattr(timing.machine, "last_level_cache", lambda: 1024)
    frame = timing.cold({"A": clock.takes(5, "A")}, after="cache", rounds=3)
    assert len(frame.samples_ms[0]) == 3 and "pause" not in clock.log
    with pytest.raises(ValueError, match="unknown way to cool down 'rain': choose one of cache, idle"):
        timing.cold({"A": clock.takes(5)}, after="rain")
    with pytest.raises(ValueError, match="nothing to time"):
        timing.cold({}, after="idle")


def test_a_cold_candidate_that_fails_is_a_row(clock, monkeypatch):
    monkeypatch.setattr(clock, "sleep", lambda s: None, raising=False)
    frame = timing.cold({"bad": failing(RuntimeError("no")), "good": clock.takes(5)}, after="idle", rounds=2)
    assert frame.status.tolist() == ["RuntimeError: no", "ok"]
