"""Peaks are what the machine can do at best."""

import pandas as pd
import pytest

from whichbackbone.measure import peaks


@pytest.mark.parametrize("threads", [1, 2])
def test_peaks_count_work_by_the_best_sample(monkeypatch, threads):
    def measure(candidates, threads, **_):
        asked.append(threads)
        for work in candidates.values():
            work()  # the work itself must run
        return pd.DataFrame([dict(name=name, samples_ms=[3.0, 1.0, 2.0]) for name in candidates])

    asked = []
    monkeypatch.setattr(peaks.timing, "measure", measure)
    best = 2 * 9 * 32**2 * 56**2  # FLOPs of the convolution, more than those of a product of 256 by 256
    assert peaks.peak_gflops(threads, n=256) == pytest.approx(best / 1e-3 / 1e9)
    assert peaks.peak_gflops(threads, n=1536) == pytest.approx(2 * 1536**3 / 1e-3 / 1e9)
    assert peaks.peak_gbps(threads, mib=1) == pytest.approx(2 * 2**20 / 1e-3 / 1e9)
    assert asked == [threads] * 3


def test_peaks_of_this_machine_are_possible():
    gflops, gbps = peaks.peak_gflops(1, n=512, seconds=0.1), peaks.peak_gbps(1, mib=64, seconds=0.1)
    assert 0.5 < gflops < 1000 and 0.3 < gbps < 1000


def test_both_peaks_are_taken_on_the_cores_that_may_be_used(monkeypatch):
    asked = []
    monkeypatch.setattr(peaks.machine, "usable_cores", lambda: 3)
    monkeypatch.setattr(
        peaks, "_best", lambda works, threads, seconds: asked.append(threads) or dict.fromkeys(works, 1e-3)
    )
    found = peaks.quick()
    assert asked == [3, 3] and found["gflops"] == round(2 * 1536**3 / 1e-3 / 1e9, 1) and found["gbps"] > 0
    assert peaks.quick(1).keys() == found.keys() and asked[2:] == [1, 1]
