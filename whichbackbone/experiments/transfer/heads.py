"""Classifiers on fixed features: logistic regression, an SVM and nearest neighbours, with their settings chosen."""

import time
import warnings
from typing import Any

import numpy as np
from sklearn import metrics
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from whichbackbone.experiments.datasets import LabelledSet
from whichbackbone.experiments.transfer.scores import compact
from whichbackbone.experiments.transfer.splits import Split

GRID = {"probe": (1e-4, 1e-3, 1e-2, 1e-1), "svm": (3.0, 10.0, 30.0), "knn": (5, 15, 45)}  # kind -> settings to try
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)  # shuffled, since a list may go module by module


def head(kind: str, setting: float) -> BaseEstimator:
    """Return an unfitted classifier for fixed features, which scales them first.

    Args:
        kind: "probe" (logistic regression), "svm" (RBF kernel; probabilities calibrated on parts of the training set
            that it was not fitted to) or "knn" (nearest neighbours by cosine).
        setting: C of the probe and the SVM, number of neighbours.

    Raises:
        ValueError: for another kind; it names these.
    """
    if kind == "probe":
        return make_pipeline(StandardScaler(), LogisticRegression(C=setting, max_iter=2000))
    if kind == "svm":
        machine = SVC(C=setting, kernel=_wide_rbf)
        return make_pipeline(StandardScaler(), CalibratedClassifierCV(machine, cv=FOLDS, ensemble=False))
    if kind == "knn":
        return make_pipeline(Normalizer(), KNeighborsClassifier(int(setting), weights="distance"))
    raise ValueError(f"unknown head {kind!r}: choose one of {', '.join(GRID)}")


def choose(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return the setting of `GRID` with the lowest log loss in threefold cross-validation on these images alone.

    Args:
        kind: of `head`.
        x: features, float (N, D).
        y: classes, int (N,).
        weight: of each image, float (N,), in fitting and in the loss.
    """
    settings = [s for s in GRID[kind] if kind != "knn" or s <= len(x) // 2]  # no more neighbours than there are images
    return min(settings, key=lambda s: metrics.log_loss(y, validated(kind, s, x, y, weight), sample_weight=weight))


def validated(kind: str, setting: float, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return each image's probabilities from a head that was fitted to the other folds of a threefold cut.

    Arguments are those of `choose`. Returns (N,), the probability of class 1 of two, or (N, K); none is below 0.001.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a setting that does not converge has a high loss, and is not chosen
        p = cross_val_predict(head(kind, setting), x, y, cv=FOLDS, method="predict_proba",
                              params=_weights_of(kind, weight))
    p = np.clip(compact(p), 1e-3, 1 - 1e-3)
    return p if p.ndim == 1 else p / p.sum(1, keepdims=True)


def fit_head(kind: str, setting: float, x: np.ndarray, data: LabelledSet, split: Split) -> dict[str, Any]:
    """Fit a head to the training images and answer the test images.

    An image whose label is unsure weighs less in fitting (`LabelledSet.certainty`); neighbours have no weights.

    Args:
        kind: of `head`.
        setting: of `head`.
        x: features of all images, float (N, D).
        data: the set.
        split: positions to train and to test on.

    Returns:
        p, the probabilities of the test images: a list of those of class 1 of two, or of lists of K; image, their
        positions; seconds, the time of both.
    """
    start = time.perf_counter()
    weight = _weights_of(kind, data.certainty[split.train])
    fitted = head(kind, setting).fit(x[split.train], data.labels.numpy()[split.train], **weight)
    p = np.zeros((len(split.test), len(data.classes)))
    p[:, fitted.classes_] = fitted.predict_proba(x[split.test])  # a class without training images keeps 0
    return dict(p=compact(p).tolist(), image=split.test.tolist(), seconds=time.perf_counter() - start)


def _wide_rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """RBF kernel (n, m) of features (n, D) and (m, D), with half the gamma that sklearn calls "auto".

    In validation the smoother function did better. One matrix product is twenty times faster on thousands of features
    than libsvm's own kernel.
    """
    return rbf_kernel(a, b, gamma=0.5 / a.shape[1])


def _weights_of(kind: str, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Return the weights (N,) as keyword of the pipeline's ``fit``; nothing for neighbours."""
    step = {"probe": "logisticregression", "svm": "calibratedclassifiercv"}.get(kind)
    return {f"{step}__sample_weight": weight} if step else {}
