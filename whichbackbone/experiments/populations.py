"""Populations of nets: train a drawn net briefly, and compare spaces by the distribution of their errors.

After Radosavovic et al. 2019 and 2020: one winner may be luck of the search, a distribution says what a space is worth.
"""

import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from scipy.stats import ks_2samp

from whichbackbone.experiments import datasets, sweep, training
from whichbackbone.measure import cost
from whichbackbone.models import regnet

RESAMPLES = 2000
TESTED = 2000  # test images
# Notebook 06's standard profile, and its calibration.
SETTING = dict(nets=24, size=20, low=0.5e6, high=0.65e6, images=3200, epochs=3, difficulty=0.5)


def experiment(
    seed: int, *, nets: int, size: int, low: float, high: float, images: int, epochs: int, difficulty: float,
    spaces: Sequence[str] = tuple(regnet.STEPS), folder: str | None = None, workers: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Draw `nets` nets of each space with low <= MACs <= high at `size` pixels, and train each; one row a net.

    Another `seed` is another experiment: other nets, other weights, another order of images.

    Returns:
        space, stages, depth, b and g (nan where each stage has its own), w_m (RegNets only), then the columns of
        `sweep.run` and `train`.
    """
    drawn = [
        _design(space, row, line) for space in spaces for row, line in regnet.sample(space, nets, size, low, high, seed)
    ]
    task = dict(size=size, images=images, epochs=epochs, difficulty=difficulty)
    configs = [dict(stages=net["stages"], **task) for net in drawn]
    for split, n in (("train", images), ("test", TESTED)):
        datasets.glyphs(split, n, size, difficulty)  # drawn once here, read by all workers
    runs = sweep.run(train, configs, seed=seed, folder=folder, workers=workers)
    return pd.DataFrame(drawn).assign(seed=seed).join(runs.drop(columns="stages"))


def _design(space: str, row: regnet.AnyNetRow, line: regnet.RegNetRow | None) -> dict[str, object]:
    """A drawn net as a row of a table."""
    stages = [[s.d, s.w, s.b, s.g] for s in row.stages]
    return dict(
        space=space, stages=stages, depth=sum(s.d for s in row.stages),
        b=float("nan") if space == "AnyNetX_A" else row.stages[0].b,
        g=float("nan") if space in ("AnyNetX_A", "AnyNetX_B") else max(s.g for s in row.stages),  # narrow stages: less
        w_m=line.w_m if line else float("nan"),
    )  # fmt: skip


def train(
    stages: Sequence[Sequence[float]], size: int, images: int, epochs: int, difficulty: float, seed: int,
    se: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Train one tiny AnyNet on glyphs; for `sweep.run`.

    Args:
        stages: d, w, b, g of each of the four stages.
        size: pixels.
        images, epochs, difficulty: see `training.fit` and `datasets.glyphs`.
        seed: of the starting weights and of the order of images. The images themselves are the same for all.
        se: Y blocks.

    Returns:
        error (fraction of 2,000 test images of held-out faces), train_error (of 1,000 seen), macs, params, activations,
        seconds (of CPU).
    """
    start = time.process_time()
    body = tuple(regnet.Stage(int(d), int(w), b, int(g)) for d, w, b, g in stages)
    row = regnet.AnyNetRow(body, se, **regnet.TINY_STEM)
    torch.manual_seed(seed)
    net = regnet.anynet(row, len(datasets.CLASSES), in_chans=1).to(memory_format=torch.channels_last)
    seen = datasets.glyphs("train", images, size, difficulty)
    history = training.fit(net, seen, epochs=epochs, batch=64, lr=0.1, seed=seed, watched=1)
    size_of = cost.total(net, (1, size, size))
    return dict(
        error=training.error(net, datasets.glyphs("test", TESTED, size, difficulty)),
        train_error=training.error(net, seen[:1000]), train_loss=float(history.train_loss.iloc[-1]),
        macs=size_of.macs, params=size_of.params, activations=size_of.activations,
        seconds=time.process_time() - start,
    )  # fmt: skip


def edf(errors: Sequence[float], at: Sequence[float]) -> np.ndarray:
    """Empirical distribution of errors: the share of `errors` below each value of `at`."""
    return np.searchsorted(np.sort(np.asarray(errors, float)), at, side="left") / len(errors)


def band(errors: Sequence[float], at: Sequence[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap band of `edf`, point by point: what other nets drawn from the same space could have shown."""
    drawn = _resamples(errors, len(errors), RESAMPLES, seed)
    shares = np.array([edf(sample, at) for sample in np.asarray(errors, float)[drawn]])
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    return low, high


def compare(before: Sequence[float], after: Sequence[float], seed: int = 0) -> SimpleNamespace:
    """Whether the errors of one population are larger than those of another.

    Returns:
        difference, low, high: median of `before` minus median of `after` (positive: the second is better), with its
        95 % bootstrap interval; ks, p: Kolmogorov-Smirnov statistic and its two-sided p-value.
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    shifts = np.median(before[_resamples(before, len(before), RESAMPLES, seed)], axis=1)
    shifts -= np.median(after[_resamples(after, len(after), RESAMPLES, seed + 1)], axis=1)
    low, high = np.quantile(shifts, [0.025, 0.975])
    test = ks_2samp(before, after)
    return SimpleNamespace(
        difference=float(np.median(before) - np.median(after)), low=float(low), high=float(high),
        ks=float(test.statistic), p=float(test.pvalue),
    )  # fmt: skip


def best_range(
    values: Sequence[float], errors: Sequence[float], share: float = 0.25, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """The value of a parameter that the best net has, with its 95 % interval, by the paper's empirical bootstrap.

    Draw `share` of the (value, error) pairs with replacement, keep the value of the pair with the least error, repeat
    (Radosavovic et al. 2020, section 3.1). Returns median, low, high of the values kept.
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    if len(values) != len(errors) or not len(values):
        raise ValueError(f"{len(values)} values, {len(errors)} errors: expected one error a value, at least one")
    drawn = _resamples(values, max(1, round(share * len(values))), resamples, seed)
    kept = values[drawn[np.arange(resamples), errors[drawn].argmin(axis=1)]]
    low, middle, high = np.quantile(kept, [0.025, 0.5, 0.975])
    return float(middle), float(low), float(high)


def _resamples(values: Sequence[float], n: int, resamples: int, seed: int) -> np.ndarray:
    """Indices (resamples, n), drawn with replacement."""
    return np.random.default_rng(seed).integers(len(values), size=(resamples, n))
