"""Stratified splits of a labelled set: each part holds every class of every group in proportion."""

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from whichbackbone.experiments.datasets import LabelledSet

QUARTERS = 4  # one quarter of the images is tested, as was published for ELPV: 656 of 2,624


@dataclass(frozen=True)
class Split:
    """Positions of the images to train on, int (n,), and of those to test on, int (m,)."""

    train: np.ndarray
    test: np.ndarray


def folds(data: LabelledSet, seed: int, count: int = QUARTERS) -> list[Split]:
    """Cut the set into ``count`` stratified parts and return one split for each, which tests that part.

    Every image is tested by exactly one split. ``seed`` shuffles the images before the cut.

    Raises:
        ValueError: if a combination of class and group has fewer images than there are folds.
    """
    every = np.arange(len(data))
    _require_enough(data, every, 1 / count, count)
    cut = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [Split(train, test) for train, test in cut.split(every, data.strata)]


def tuning_indices(data: LabelledSet) -> np.ndarray:
    """Return the positions, int (n,), of the quarter on which settings are chosen.

    No `split` tests these images and every `split` trains on them, so a choice made on them sees no tested image.
    Raises ``ValueError`` where `folds` does.
    """
    return folds(data, 0)[0].test


def split(data: LabelledSet, seed: int) -> Split:
    """Return three quarters to train on and one to test on, stratified.

    Seeds 0, 1 and 2 test each image once, those of `tuning_indices` excepted. Seeds 3, 4 and 5 do so with another cut,
    and so on. Raises ``ValueError`` where `folds` does.
    """
    every, rounds, turn = np.arange(len(data)), *divmod(seed, QUARTERS - 1)
    rest = np.setdiff1d(every, tuning_indices(data))
    cut = StratifiedKFold(QUARTERS - 1, shuffle=True, random_state=rounds).split(rest, data.strata[rest])
    test = rest[list(cut)[turn][1]]
    return Split(np.setdiff1d(every, test), test)


def subset(data: LabelledSet, among: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draw a stratified share of the positions ``among``, int (n,), and return it sorted; a share of 1 is all of them.

    Raises:
        ValueError: if ``share`` is not in (0, 1], or so small that a combination of class and group would be missing.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share}: expected more than 0, at most 1")
    if share == 1:
        return among
    strata = data.strata[among]
    _require_enough(data, among, share)
    part, _ = train_test_split(among, train_size=share, stratify=strata, random_state=seed)
    return np.sort(part)


def _require_enough(data: LabelledSet, among: np.ndarray, share: float, each: int = 2) -> None:
    """Raise ``ValueError`` if ``share`` of the positions ``among`` cannot hold every stratum.

    ``each`` is the number of images that every stratum needs.
    """
    names, counts = np.unique(data.strata[among], return_counts=True)
    part = int(min(share, 1 - share) * len(among))
    if part < len(names) or counts.min() < each:
        raise ValueError(f"{share:.1%} of {len(among)} images of {data.name} cannot be stratified: expected at least "
                         f"one image for each of {len(names)} combinations of class and group in both parts, and "
                         f"{each} of each in all ({names[counts.argmin()]!r} has {counts.min()}); take a larger share, "
                         "or more images")
