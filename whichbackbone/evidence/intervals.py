"""The one place for statistics: every interval that a page shows is computed here.

Each function takes plain sequences and returns an :class:`Interval`, which says of what kind it is and how many units
(seeds, visits, splits, nets) it rests on. Intervals are 95 % unless ``level`` says otherwise. scipy is loaded inside
the functions, so that reading evidence costs nothing.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
RETRAINING = 0.5  # points by which an ImageNet accuracy may move, up or down, when the same net is trained again

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Interval:
    """A figure with the interval it is known to.

    Attributes:
        value: the figure.
        low, high: ends of the interval; both equal ``value`` where the figure is exact.
        kind: how the interval was made, in words, such as "paired t over seeds".
        n: number of units it rests on.
    """

    value: float
    low: float
    high: float
    kind: str
    n: int

    def __neg__(self) -> "Interval":
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    def inverse(self) -> "Interval":
        """1 / value, for a ratio of positive numbers."""
        return replace(self, value=1 / self.value, low=1 / self.high, high=1 / self.low)

    def times(self, factor: float) -> "Interval":
        """The figure in another unit; ``factor`` is positive."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def above(self, bound: float) -> bool | None:
        """True if all of the interval reaches ``bound``, False if none of it does, None if the bound lies inside."""
        return True if self.low >= bound else False if self.high < bound else None

    def sign(self) -> int:
        """1 above zero, -1 below, 0 if the interval holds zero."""
        return int(self.low > 0) - int(self.high < 0)

    def text(self, digits: int = 2, sign: bool = False, percent: bool = False) -> str:
        """The figure, and its interval in parentheses where it has one: ``1.53 (1.42 to 1.66)``."""
        form = f"{{:{'+' if sign else ''}.{digits}{'%' if percent else 'f'}}}".format
        if not math.isfinite(self.low) or not math.isfinite(self.high):
            return f"{form(self.value)} (one {self.kind.rpartition(' ')[2].removesuffix('s')}: no interval)"
        exact = math.isclose(self.low, self.high)
        return form(self.value) if exact else f"{form(self.value)} ({form(self.low)} to {form(self.high)})"


def exact(value: float) -> Interval:
    """A number that was counted."""
    return Interval(float(value), float(value), float(value), "exact", 1)


def published_points(value: float) -> Interval:
    """A difference of two published accuracies, in points: half a point either way, which a retraining moves."""
    return Interval(value, value - RETRAINING, value + RETRAINING, "half a point either way, as a retraining moves", 1)


# ------------------------------------------------------------------------------------------------------ t intervals


def mean(values: Numbers, over: str = "seeds", level: float = LEVEL, spread: float = 1.0) -> Interval:
    """Mean with its t interval.

    Args:
        values: one figure a unit, (n,).
        over: what the units are, in words.
        level: coverage.
        spread: factor on the standard error, for units that are not independent.

    Returns:
        With one unit alone the ends are infinite: nothing is known of the spread.
    """
    values = np.asarray(values, float)
    if not len(values):
        raise ValueError(f"no {over} to take the mean of")
    return _t(float(values.mean()), _standard_error(values) * spread, len(values) - 1, f"t over {over}", len(values),
              level)  # fmt: skip


def paired(a: Numbers, b: Numbers, over: str = "seeds", level: float = LEVEL) -> Interval:
    """Mean of a - b over units that both have, (n,) each, in the same order; t interval of the differences."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} figures are not pairs: expected one of each for every unit")
    return replace(mean(np.subtract(a, b), over, level), kind=f"paired t over {over}")


def unpaired(a: Numbers, b: Numbers, over: str = "nets", level: float = LEVEL) -> Interval:
    """Mean of ``a`` less mean of ``b``, drawn independently, with Welch's t interval."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    parts = [_standard_error(x) ** 2 for x in (a, b)]
    total = sum(parts)
    freedom = total**2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (a, b), strict=True)) if total > 0 else 1
    n = min(len(a), len(b))
    return _t(float(a.mean() - b.mean()), math.sqrt(total), freedom, f"Welch's t over {over}", n, level)


def ratio(a: Numbers, b: Numbers, over: str = "visits", level: float = LEVEL) -> Interval:
    """Geometric mean of a / b over units that both have, with the t interval of the log ratios. All are positive."""
    logs = paired(np.log(a), np.log(b), over, level)
    ends = np.exp([logs.value, logs.low, logs.high])  # 0 and infinite where one unit alone was measured
    return Interval(*map(float, ends), f"t on log ratios over {over}", logs.n)


def geometric_mean(values: Numbers, over: str = "seeds", level: float = LEVEL) -> Interval:
    """Geometric mean of positive figures with the t interval of their logarithms."""
    return ratio(values, np.ones(len(values)), over, level)


def corrected_resampled(differences: Numbers, test_share: float, level: float = LEVEL) -> Interval:
    """Mean difference over random splits that overlap (Nadeau & Bengio 2003).

    Args:
        differences: one a split, (n,).
        test_share: size of a test part over that of its training part; the variance is multiplied by 1 + n test_share,
            since training parts share cells.
    """
    n = len(differences)
    plain = mean(differences, "splits", level, spread=math.sqrt(1 + n * test_share))
    return replace(plain, kind="corrected resampled t over splits")


def holm(differences: Mapping[str, Numbers], over: str = "seeds", level: float = LEVEL) -> dict[str, Interval]:
    """Several paired comparisons of one experiment, corrected together (Holm 1979).

    Args:
        differences: name -> differences, one a unit.

    Returns:
        name -> interval at the level that Holm's procedure tests this comparison at, so that the interval leaves out
        zero where, and only where, the corrected test rejects.
    """
    if not differences:
        return {}
    p = {name: p_value(values) for name, values in differences.items()}
    found, stopped = {}, None
    for place, name in enumerate(sorted(p, key=p.get)):
        alpha = stopped or (1 - level) / (len(p) - place)
        if p[name] >= alpha:  # none after it is rejected: all keep the level at which the procedure stopped
            stopped = alpha
        found[name] = replace(mean(differences[name], over, 1 - alpha),
                              kind=f"paired t, {len(p)} comparisons corrected (Holm), over {over}")  # fmt: skip
    return {name: found[name] for name in differences}


def p_value(differences: Numbers) -> float:
    """Two-sided p of a one-sample t test that the mean difference is zero; 1 where one unit alone was measured."""
    from scipy.stats import t

    values = np.asarray(differences, float)
    error = _standard_error(values)
    if not math.isfinite(error):
        return 1.0
    if error == 0:
        return 0.0 if values.mean() else 1.0
    return float(2 * t.sf(abs(values.mean()) / error, len(values) - 1))


def detectable(sd: float, n: int, power: float = 0.8, level: float = LEVEL) -> float:
    """The smallest mean difference that ``n`` pairs, whose differences have standard deviation ``sd``, would show.

    It is shown with probability ``power`` by a two-sided paired t test (normal shift of the t distribution).
    """
    from scipy.stats import t

    if n < 2:
        return math.inf
    return float(sd / math.sqrt(n) * (t.ppf(0.5 + level / 2, n - 1) + t.ppf(power, n - 1)))


def _t(value: float, error: float, freedom: float, kind: str, n: int, level: float) -> Interval:
    from scipy.special import stdtrit  # quantiles of t; all of scipy.stats takes half a second to load

    half = float(stdtrit(freedom, 0.5 + level / 2)) * error if math.isfinite(error) else math.inf
    return Interval(value, value - half, value + half, kind, n)


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


# --------------------------------------------------------------------------------------------------------- bootstrap


def bootstrap(
    columns: Sequence[Numbers], statistic: Callable[..., float], over: str = "nets", resamples: int = RESAMPLES,
    seed: int = 0, level: float = LEVEL,
) -> Interval:  # fmt: skip
    """A statistic of units, with the interval of its values over resamples of the units.

    Args:
        columns: one or several figures a unit, (n,) each; a resample draws the same units of all of them.
        statistic: takes the columns, returns a number; a resample for which it is not a number is left out.
    """
    columns = [np.asarray(c, float) for c in columns]
    n = len(columns[0])
    picks = np.random.default_rng(seed).integers(n, size=(resamples, n))
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of one net only
        draws = np.array([statistic(*(c[p] for c in columns)) for p in picks], float)
    return _quantiles(float(statistic(*columns)), draws, f"bootstrap over {over}", n, level)


def median(values: Numbers, over: str = "rounds of one process", seed: int = 0) -> Interval:
    """Median with its bootstrap interval. Over rounds of one process it knows nothing of other processes."""
    values = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    return _quantiles(float(np.median(values)), np.median(values[picks], axis=1), f"bootstrap over {over}", len(values))


def middle(values: Numbers, share: float = 0.8, over: str = "draws") -> Interval:
    """Median, and the ends between which the middle ``share`` of the values lies: their scatter, no 95 % interval."""
    values = np.asarray(values, float)
    return _quantiles(float(np.median(values)), values, f"middle {share:.0%} of {over}", len(values), share)


def ratio_of_rounds(slow: Numbers, fast: Numbers, seed: int = 0) -> Interval:
    """How many times longer ``slow`` took than ``fast``, samples of the same rounds of one process: median ratio."""
    if len(slow) != len(fast):
        raise ValueError(f"not the same rounds: {len(slow)} and {len(fast)} samples")
    return median(np.divide(slow, fast), seed=seed)


def product(parts: Sequence[Interval]) -> Interval:
    """Geometric mean of independent ratios, such as those of several layers; their log intervals add in quadrature."""
    logs = np.log([(p.value, p.low, p.high) for p in parts])
    middle, n = logs[:, 0].mean(), len(parts)
    down, up = (math.sqrt(((logs[:, end] - logs[:, 0]) ** 2).sum()) / n for end in (1, 2))
    ends = map(float, np.exp([middle, middle - down, middle + up]))
    return Interval(*ends, f"{parts[0].kind}, mean of {n}", parts[0].n)


def difference_of_medians(a: Numbers, b: Numbers, over: str = "nets", seed: int = 0) -> Interval:
    """Median of ``a`` less median of ``b``, two populations resampled apart."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    draws = (np.median(x[np.random.default_rng(seed + i).integers(len(x), size=(RESAMPLES, len(x)))], axis=1)
             for i, x in enumerate((a, b)))  # fmt: skip
    return _quantiles(float(np.median(a) - np.median(b)), np.subtract(*draws), f"bootstrap over {over}",
                      min(len(a), len(b)))  # fmt: skip


def best_value(
    values: Numbers, errors: Numbers, share: float = 0.25, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The value of a parameter that the best net has, by the empirical bootstrap of RegNet's authors.

    Draw ``share`` of the (value, error) pairs with replacement, keep the value of the pair with the least error, repeat
    (Radosavovic et al. 2020, section 3.1): median and 95 % range of the values kept.
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    if len(values) != len(errors) or not len(values):
        raise ValueError(f"{len(values)} values, {len(errors)} errors: expected one error a value, at least one")
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, max(1, round(share * len(values)))))
    kept = values[drawn[np.arange(resamples), errors[drawn].argmin(axis=1)]]
    return _quantiles(float(np.median(kept)), kept, "empirical bootstrap over nets", len(values))


def edf(values: Numbers, at: Numbers) -> np.ndarray:
    """Empirical distribution: the share of ``values`` (n,) below each point of ``at`` (m,); (m,) shares."""
    return np.searchsorted(np.sort(np.asarray(values, float)), at, side="left") / len(values)


def edf_band(values: Numbers, at: Numbers, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap band of :func:`edf`, point by point: what other draws of as many nets could have shown.

    Returns:
        low, high: (m,) shares each, for ``at`` (m,).
    """
    values = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile([edf(values[p], at) for p in picks], [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    return low, high


def ks_p(a: Numbers, b: Numbers) -> float:
    """Two-sided p of the Kolmogorov-Smirnov test that both samples, (n,) and (m,), come from one distribution."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(a, b).pvalue)


def by_unit(
    differences: Numbers, weights: Numbers, over: str = "cells", resamples: int = 4000, seed: int = 0
) -> Interval:
    """Weighted mean of one difference a unit, resampled by unit: answers for one image are not independent."""
    d, n = np.asarray(differences, float), np.asarray(weights, float)
    picks = np.random.default_rng(seed).integers(len(d), size=(resamples, len(d)))
    draws = (d[picks] * n[picks]).sum(1) / n[picks].sum(1)
    return _quantiles(float((d * n).sum() / n.sum()), draws, f"bootstrap over {over}", len(d))


def wilson(right: int, of: int, level: float = LEVEL) -> Interval:
    """A share of hits with Wilson's score interval. ``ValueError`` for no trials."""
    from scipy.stats import norm

    if not 0 <= right <= of or of < 1:
        raise ValueError(f"{right} of {of}: expected at least one trial and no more hits than trials")
    z, p = float(norm.ppf(0.5 + level / 2)), right / of
    middle = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half), "Wilson over trials", of)


def test_set_noise(percent: float, images: int) -> float:
    """Points by which two accuracies around ``percent`` may differ by the finite test set alone (95 %, independent)."""
    p = percent / 100
    return 196 * math.sqrt(2 * p * (1 - p) / images)


def _quantiles(value: float, draws: np.ndarray, kind: str, n: int, level: float = LEVEL) -> Interval:
    low, high = np.nanquantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(float(value), float(low), float(high), kind, n)


# ------------------------------------------------------------------------------------------------------- correlation


def pearson(x: Numbers, y: Numbers) -> float:
    """Pearson's r; not a number where one of the two does not vary."""
    x, y = (np.asarray(v, float) - np.mean(v) for v in (x, y))
    return float((x * y).sum() / math.sqrt((x**2).sum() * (y**2).sum() or math.nan))


def spearman(x: Numbers, y: Numbers) -> float:
    """Spearman's rank correlation; ties share their mean rank."""
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y))


def kendall(x: Numbers, y: Numbers) -> float:
    """Kendall's tau-b: agreement of two orders, 1 for the same, -1 for the reverse."""
    from scipy.stats import kendalltau

    return float(kendalltau(x, y).statistic)


CORRELATIONS: dict[str, Callable[[Numbers, Numbers], float]] = {
    "pearson": pearson, "spearman": spearman, "kendall": kendall,
}  # fmt: skip


def correlation(x: Numbers, y: Numbers, kind: str = "pearson", over: str = "nets") -> Interval:
    """A correlation (``pearson``, ``spearman`` or ``kendall``) with its bootstrap interval over the nets."""
    return bootstrap([x, y], CORRELATIONS[kind], over)


def lead_in_correlation(x: Numbers, rival: Numbers, y: Numbers, kind: str = "pearson", over: str = "nets") -> Interval:
    """Correlation of ``x`` with ``y`` less that of ``rival`` with ``y``, both in the same resamples of the nets."""
    r = CORRELATIONS[kind]
    return bootstrap([x, rival, y], lambda a, b, c: r(a, c) - r(b, c), over)


# ------------------------------------------------------------------------------------------------------------- fronts


def on_front(price: Numbers, gain: Numbers) -> np.ndarray:
    """True where no other one costs less or as much and gains more, or costs less and gains as much; (n,) booleans.

    A point whose price or gain is missing is not on the front.
    """
    price, gain = np.asarray(price, float), np.asarray(gain, float)
    cheaper, dearer = price[:, None], price[None]
    beaten = ((cheaper <= dearer) & (gain[:, None] > gain[None])) | ((cheaper < dearer) & (gain[:, None] >= gain[None]))
    return ~beaten.any(axis=0) & np.isfinite(price) & np.isfinite(gain)


def attained(price: Numbers, gain: Numbers, budgets: Numbers) -> np.ndarray:
    """The highest gain among the points that cost at most each budget; nan where none does."""
    price, gain = np.asarray(price, float), np.asarray(gain, float)
    best = np.where(price[None] <= np.asarray(budgets, float)[:, None], gain[None], -np.inf).max(axis=1)
    return np.where(np.isfinite(best), best, np.nan)


# ---------------------------------------------------------------------------------------------------- random effects


@dataclass(frozen=True)
class Components:
    """How much logarithms of a time scatter.

    Attributes:
        within: variance between visits (processes) of one run.
        between: variance between runs, beyond what their visits explain; nan where no point was measured in two runs.
        freedom: degrees of freedom of ``within``: of the processes, not of the points, since points of one process
            share its luck.
    """

    within: float
    between: float
    freedom: float


def components(points: Sequence[Sequence[Numbers]], each_process: float = 1.0) -> Components:
    """Variances of nested figures, pooled over all points (method of moments).

    Args:
        points: for each point its runs, and for each run the figures of its visits.
        each_process: points that one process measured, on average.

    Returns:
        ``within`` is nan where no run holds two visits of a point.
    """
    squares = freedom = between_squares = between_freedom = correction = 0.0
    for runs in points:
        runs = [np.asarray(run, float) for run in runs if len(run)]
        squares += sum(float(((run - run.mean()) ** 2).sum()) for run in runs)
        freedom += sum(len(run) - 1 for run in runs)
        if len(runs) > 1:
            means = np.array([run.mean() for run in runs])
            between_squares += float(((means - means.mean()) ** 2).sum())
            between_freedom += len(runs) - 1
            # What visits alone would add to the scatter of the means.
            correction += (len(runs) - 1) * float(np.mean([1 / len(run) for run in runs]))
    within = squares / freedom if freedom else math.nan
    between = max(0.0, (between_squares - correction * within) / between_freedom) if between_freedom else math.nan
    return Components(within, between, max(1.0, freedom / each_process))


def pooled(runs: Sequence[Numbers], scatter: Components, level: float = LEVEL) -> Interval:
    """Mean over runs, weighted by what each knows, of figures that scatter between visits and between runs.

    Args:
        runs: for each run the figures of its visits, such as log ratios.
        scatter: variances of such figures; a ``between`` of nan counts as zero, and the kind of the interval says that
            it knows nothing of other hours.

    Returns:
        The mean with its t interval; n is the number of visits. Ends are infinite where nothing scatters that one
        could know of: a single visit of a table of single visits.
    """
    runs = [np.asarray(run, float) for run in runs if len(run)]
    if not runs:
        raise ValueError("no visits to pool")
    between = 0.0 if math.isnan(scatter.between) else scatter.between
    variances = np.array([between + scatter.within / len(run) for run in runs])
    n = sum(map(len, runs))
    over = f"t over {n} visits" + ("" if math.isnan(scatter.between) else f" in {len(runs)} runs")
    kind = over + (", of one run: other hours unknown" if math.isnan(scatter.between) else "")
    if not np.isfinite(variances).all():
        return _t(float(np.mean([run.mean() for run in runs])), math.inf, 1, kind, n, level)
    if not variances.all():  # all visits alike: exact for what it is
        return _t(float(np.mean([run.mean() for run in runs])), 0.0, scatter.freedom, kind, n, level)
    weights = 1 / variances
    value = float(sum(w * run.mean() for w, run in zip(weights, runs, strict=True)) / weights.sum())
    return _t(value, float(weights.sum() ** -0.5), scatter.freedom, kind, n, level)


def exponential(logs: Interval) -> Interval:
    """A ratio, or a time, of which ``logs`` is the logarithm."""
    value, low, high = (float(np.exp(x)) for x in (logs.value, logs.low, logs.high))
    return replace(logs, value=value, low=low, high=high)


def less(a: Interval, b: Interval) -> Interval:
    """A - b of two independent figures; their half-widths add in quadrature."""
    down = math.hypot(a.value - a.low, b.high - b.value)
    up = math.hypot(a.high - a.value, b.value - b.low)
    value = a.value - b.value
    return Interval(value, value - down, value + up, a.kind, min(a.n, b.n))


def quotient(a: Interval, b: Interval) -> Interval:
    """A / b of two independent positive figures, by their logarithms."""
    logs = [replace(x, value=math.log(x.value), low=_log(x.low), high=_log(x.high)) for x in (a, b)]
    return exponential(less(*logs))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
