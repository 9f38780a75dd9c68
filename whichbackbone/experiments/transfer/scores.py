"""Scores of answered images, calibration among them, and the paired comparison of two methods.

Probabilities are written in one way everywhere: (n,), that of class 1, where there are two classes; (n, K) for more.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import metrics

from whichbackbone.evidence import intervals
from whichbackbone.evidence.intervals import Interval

BINS = 10  # of the calibration error


def compact(p: np.ndarray) -> np.ndarray:
    """Probabilities (n, K) as they are written: (n,) of class 1 where K is 2, unchanged for more."""
    return p[:, 1] if p.shape[1] == 2 else p


def columns(p: Sequence) -> np.ndarray:
    """Probabilities as they are written, (n,) of class 1 or (n, K), as float (n, K). The reverse of `compact`."""
    p = np.asarray(p, float)
    return np.stack([1 - p, p], 1) if p.ndim == 1 else p


def answered(p: Sequence) -> np.ndarray:
    """Return the most probable class of each image, int (n,), from probabilities (n,) of class 1 or (n, K)."""
    return columns(p).argmax(1)


def score(p: Sequence, truth: np.ndarray) -> dict[str, float]:
    """Say how good probabilities are against the true classes.

    Args:
        p: (n,), the probability of class 1 of two; or (n, K).
        truth: int (n,), classes from 0 to K - 1.

    Returns:
        accuracy, balanced_accuracy and macro_f1 of the most probable class; roc_auc (mean over the classes, each
        against the others); ece, the expected calibration error (see `calibration_error`; mean over the classes); and
        brier, half the squared distance of p from the truth, which for two classes is the mean of (p - truth)².

    Raises:
        ValueError: if p is no probability, has another length than truth, or a class is missing from truth.
    """
    p, truth = columns(p), np.asarray(truth)
    classes = p.shape[1]
    if len(p) != len(truth) or set(np.unique(truth)) != set(range(classes)):
        raise ValueError(f"{len(p)} probabilities for {len(truth)} images of classes {sorted(set(truth.tolist()))}: "
                         f"expected as many, and each class from 0 to {classes - 1}")
    if not ((p >= 0) & (p <= 1)).all() or np.abs(p.sum(1) - 1).max() > 1e-3:
        raise ValueError(f"expected probabilities, found {p.min():.3g} to {p.max():.3g}, sums {p.sum(1).min():.3g} to "
                         f"{p.sum(1).max():.3g}")
    said, true = p.argmax(1), np.eye(classes)[truth]
    told = range(1, 2) if classes == 2 else range(classes)  # of two classes the second says everything
    return dict(
        accuracy=metrics.accuracy_score(truth, said),
        balanced_accuracy=metrics.balanced_accuracy_score(truth, said),
        macro_f1=metrics.f1_score(truth, said, average="macro"),
        roc_auc=float(np.mean([metrics.roc_auc_score(true[:, k], p[:, k]) for k in told])),
        ece=float(np.mean([calibration_error(p[:, k], true[:, k]) for k in told])),
        brier=float(((p - true) ** 2).sum(1).mean() / 2),
    )


def calibration_error(p: np.ndarray, true: np.ndarray) -> float:
    """Expected calibration error of one class: probabilities (n,) against 1 where the image is of it, else 0, (n,).

    It is the mean over `BINS` equal bins of p of |share of the class - mean of p|, weighted by the images in each.
    """
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    return float(sum(abs(true[bins == b].mean() - p[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)))


def accuracy(answers: pd.DataFrame) -> Interval:
    """Accuracy of one method in percent, with its bootstrap interval over images.

    Args:
        answers: columns image (its position) and correct (bool). An image that several seeds test counts once.
    """
    each = answers.correct.astype(float).groupby(answers.image)
    return intervals.by_unit(each.mean() * 100, each.size(), "images", resamples=1000)


def paired(a: pd.DataFrame, b: pd.DataFrame) -> Interval:
    """Compare the accuracy of two methods on the images that both answered on the same splits.

    An image that several seeds test counts once, with the mean of its differences, since its answers are not
    independent.

    Args:
        a: answers of the first method, columns seed, image (its position) and correct (bool).
        b: answers of the second method.

    Returns:
        The accuracy of a less that of b in points, with its bootstrap interval over images.

    Raises:
        ValueError: if the two methods did not answer the same images on the same seeds.
    """
    both = a.merge(b, on=["seed", "image"], suffixes=("_a", "_b"), validate="one_to_one")
    if not len(a) == len(b) == len(both) or both.empty:
        raise ValueError(f"{len(a)} and {len(b)} answers of which {len(both)} are for the same image of the same split:"
                         " expected the same images for both")
    each = (both.correct_a.astype(float) - both.correct_b.astype(float)).groupby(both.image)
    return intervals.by_unit(each.mean() * 100, each.size(), "images")
