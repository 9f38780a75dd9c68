"""Every interval agrees with the library or the formula it stands for, and says what it rests on."""

import math

import numpy as np
import pytest
from scipy import stats

from whichbackbone.evidence import intervals
from whichbackbone.evidence.intervals import Interval

SEEDS = np.array([1.0, 2.0, 4.0, 3.0, 2.5, 3.5, 1.5, 2.0])


def test_a_mean_has_its_t_interval():
    found = intervals.mean(SEEDS)
    low, high = stats.t.interval(0.95, 7, SEEDS.mean(), stats.sem(SEEDS))
    assert (found.low, found.high) == pytest.approx((low, high)) and found.n == 8 and found.kind == "t over seeds"


def test_one_unit_alone_decides_nothing():
    found = intervals.mean([3.0])
    assert found.above(0) is None and found.text(1) == "3.0 (one seed: no interval)"
    assert intervals.ratio([3.0], [1.0]).above(1) is None and intervals.p_value([3.0]) == 1


def test_pairs_are_narrower_than_the_same_figures_apart():
    other = SEEDS + np.array([0.4, 0.6, 0.5, 0.5, 0.6, 0.4, 0.5, 0.5])
    together, apart = intervals.paired(other, SEEDS), intervals.unpaired(other, SEEDS)
    assert together.value == pytest.approx(0.5) == apart.value
    assert together.sign() == 1 and apart.sign() == 0
    welch = stats.ttest_ind(other, SEEDS, equal_var=False).confidence_interval()
    assert (apart.low, apart.high) == pytest.approx((welch.low, welch.high))
    with pytest.raises(ValueError, match="8 and 7 figures are not pairs"):
        intervals.paired(SEEDS, SEEDS[1:])


def test_a_ratio_is_taken_on_logs():
    found = intervals.ratio(SEEDS * 2, SEEDS)
    assert found.value == pytest.approx(2) and found.low == pytest.approx(2)
    slow = intervals.ratio([4, 6, 5], [2, 2, 2])
    assert slow.value == pytest.approx(stats.gmean([2, 3, 2.5])) and slow.low < slow.value < slow.high
    assert slow.inverse().value == pytest.approx(1 / slow.value) and slow.inverse().low == pytest.approx(1 / slow.high)


def test_overlapping_splits_widen_the_interval():
    plain, corrected = intervals.mean(SEEDS), intervals.corrected_resampled(SEEDS, 1 / 3)
    widening = math.sqrt(1 + 8 / 3)
    assert corrected.high - corrected.value == pytest.approx(widening * (plain.high - plain.value))
    assert "corrected resampled" in corrected.kind


def test_holm_corrects_what_is_compared_together():
    rng = np.random.default_rng(1)
    strong, weak, none = (rng.normal(shift, 1, 12) for shift in (3, 0.7, 0))
    alone = {name: intervals.mean(x) for name, x in dict(strong=strong, weak=weak, none=none).items()}
    found = intervals.holm(dict(strong=strong, weak=weak, none=none))
    assert list(found) == ["strong", "weak", "none"] and "3 comparisons" in found["weak"].kind
    for name, x in dict(strong=strong, weak=weak, none=none).items():
        assert found[name].low <= alone[name].low and found[name].value == pytest.approx(x.mean())
    p = {name: stats.ttest_1samp(x, 0).pvalue for name, x in dict(strong=strong, weak=weak, none=none).items()}
    first, second, _ = sorted(p.values())
    assert (found["strong"].sign() != 0) == (first < 0.05 / 3)
    assert (found["weak"].sign() != 0) == (first < 0.05 / 3 and second < 0.05 / 2)
    assert found["none"].sign() == 0


def test_what_follows_a_comparison_that_shows_nothing_shows_nothing():
    base = (SEEDS - SEEDS.mean()) / SEEDS.std(ddof=1)
    sets = {name: base + t / 8**0.5 for name, t in dict(a=9, b=2.7, c=2.6, d=2.5, e=0.1).items()}  # t statistics
    found = intervals.holm(sets)
    order = sorted(sets, key=lambda name: intervals.p_value(sets[name]))
    signs = [found[name].sign() for name in order]
    assert signs == sorted(signs, reverse=True), "Holm stops at the first that is not rejected"
    assert any(intervals.mean(sets[name]).sign() and not found[name].sign() for name in order), "a correction was felt"


def test_power_says_what_n_seeds_can_see():
    rng = np.random.default_rng(0)
    effect = intervals.detectable(1.0, 8)
    seen = np.mean([intervals.mean(rng.normal(effect, 1, 8)).sign() > 0 for _ in range(600)])
    assert 0.74 < seen < 0.86 and intervals.detectable(1.0, 32) < effect and intervals.detectable(1, 1) == math.inf


def test_wilson_agrees_with_scipy():
    for right, of in ((0, 5), (7, 8), (8, 8), (30, 60)):
        ours, theirs = intervals.wilson(right, of), stats.binomtest(right, of).proportion_ci(method="wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    with pytest.raises(ValueError, match="3 of 2"):
        intervals.wilson(3, 2)


def test_bootstraps_cover():
    rng = np.random.default_rng(0)
    hits = [intervals.median(rng.exponential(size=40), seed=i) for i in range(150)]
    assert np.mean([h.low <= math.log(2) <= h.high for h in hits]) > 0.88
    gap = intervals.difference_of_medians(rng.normal(1, 1, 200), rng.normal(0, 1, 200))
    assert gap.sign() == 1 and gap.low < 1 < gap.high
    slow = rng.normal(10, 0.1, 30)
    assert intervals.ratio_of_rounds(slow, slow / 2).text() == "2.00"
    with pytest.raises(ValueError, match="not the same rounds"):
        intervals.ratio_of_rounds([1, 2], [1])


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    """Skewed noise, as timings have it: of 400 intervals about 95 % hold the true median of 1."""
    random, held = np.random.default_rng(0), 0
    for seed in range(400):
        found = intervals.median(random.lognormal(0, 0.2, size=20), seed=seed)
        held += found.low <= 1 <= found.high
    assert 0.91 <= held / 400 <= 0.99
    found = intervals.median(random.lognormal(0.3, 0.2, size=20))
    assert not found.low <= 1 <= found.high, "a wrong median is left outside"


def test_the_middle_share_describes_the_values():
    found = intervals.middle(range(101), 0.8, "matrices")
    assert [found.value, found.low, found.high, found.n] == pytest.approx([50, 10, 90, 101])
    assert found.kind == "middle 80% of matrices"


def test_layers_average_on_logs():
    parts = [Interval(2, 1.8, 2.2, "bootstrap", 9), Interval(8, 7, 9, "bootstrap", 9)]
    found = intervals.product(parts)
    assert found.value == pytest.approx(4) and found.kind.endswith("mean of 2")
    down = (np.log(2 / 1.8) ** 2 + np.log(8 / 7) ** 2) ** 0.5 / 2
    assert found.low == pytest.approx(4 * np.exp(-down)) and found.high < 4.4


def test_correlations_and_their_leads():
    rng = np.random.default_rng(0)
    time = rng.normal(size=40)
    good, poor = time + rng.normal(0, 0.2, 40), time + rng.normal(0, 2, 40)
    assert intervals.pearson(good, time) == pytest.approx(stats.pearsonr(good, time).statistic)
    assert intervals.spearman(good, time) == pytest.approx(stats.spearmanr(good, time).statistic)
    assert intervals.kendall(good, time) == pytest.approx(stats.kendalltau(good, time).statistic)
    assert intervals.lead_in_correlation(good, poor, time).sign() == 1
    assert intervals.lead_in_correlation(good, good, time).sign() == 0
    found = intervals.correlation(good, time, "spearman")
    assert found.low < found.value < found.high and found.n == 40


def test_answers_for_one_image_count_once():
    gaps, seen = np.array([1.0, 0, 0, -1, 1, 0, 1, 1]), np.array([3, 1, 1, 1, 1, 1, 1, 1])
    assert intervals.by_unit(gaps, seen).value == pytest.approx((3 - 1 + 1 + 1 + 1) / 10)


def test_the_best_value_of_a_parameter():
    b = np.repeat([1.0, 2.0, 4.0], 20)
    found = intervals.best_value(b, b + np.tile(np.linspace(0, 0.5, 20), 3))
    assert found.value == 1 and found.high <= 2
    with pytest.raises(ValueError, match="2 values, 1 errors"):
        intervals.best_value([1, 2], [1])


def test_the_best_value_lies_where_it_was_planted_and_anywhere_in_noise():
    random = np.random.default_rng(2)
    depth = random.integers(4, 20, 100)
    found = intervals.best_value(depth, abs(depth - 12) + random.normal(0, 0.3, 100))
    assert 10 <= found.low <= found.value <= found.high <= 14
    noise = intervals.best_value(depth, random.normal(0, 1, 100))
    assert noise.high - noise.low > 8


def test_a_distribution_is_the_share_below_and_its_band_shrinks_with_more_nets():
    assert intervals.edf([3, 1, 2, 2], [1, 2, 2.5, 9]).tolist() == [0, 0.25, 0.75, 1]
    errors, at = np.random.default_rng(0).normal(50, 5, 400), np.linspace(40, 60, 9)
    widths = []
    for n in (20, 400):
        low, high = intervals.edf_band(errors[:n], at)
        assert ((low <= intervals.edf(errors[:n], at)) & (intervals.edf(errors[:n], at) <= high)).all()
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 3


def test_a_planted_shift_of_a_population_is_found_with_its_sign_and_none_where_there_is_none():
    random = np.random.default_rng(1)
    before, after, same = (random.normal(middle, 4, 60) for middle in (55, 48, 55))
    found = intervals.difference_of_medians(before, after)
    assert 0 < found.low < 7 < found.high and intervals.ks_p(before, after) < 0.01
    assert intervals.difference_of_medians(after, before).sign() == -1
    assert intervals.difference_of_medians(before, same).sign() == 0
    assert intervals.ks_p(before, same) == stats.ks_2samp(before, same).pvalue > 0.05


def test_the_front_is_what_nothing_beats():
    assert list(intervals.on_front([2, 3, 4, 5], [1, 3, 2, 5])) == [True, True, False, True]
    assert list(intervals.on_front([2, 2, np.nan], [1, 3, 9])) == [False, True, False]
    assert list(intervals.attained([2, 3], [10, 30], [1, 2, 2.5, 9])[1:]) == [10, 10, 30]
    assert np.isnan(intervals.attained([2, 3], [10, 30], [1])[0])


def test_published_points_move_by_a_retraining():
    assert intervals.published_points(0.3).sign() == 0 and intervals.published_points(0.8).sign() == 1


def test_words_and_bounds():
    found = Interval(1.234, 1.1, 1.4, "t over visits", 5)
    assert found.text() == "1.23 (1.10 to 1.40)" and intervals.exact(3).text(0) == "3"
    assert (-found).low == -1.4 and found.times(100).text(0) == "123 (110 to 140)"
    assert (found.above(1), found.above(1.5), found.above(1.2)) == (True, False, None)
    assert Interval(0.5, 0.4, 0.6, "x", 3).text(1, sign=True) == "+0.5 (+0.4 to +0.6)"
    assert Interval(0.5, 0.4, 0.6, "x", 3).text(0, percent=True) == "50% (40% to 60%)"
