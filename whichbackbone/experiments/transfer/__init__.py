"""Transfer to a small data set without a GPU: what is frozen runs once, and only what follows is trained.

The first stages of a pretrained net need no gradient, so their activations are computed once, by a fast runtime, for
every flip of every image, and kept on disk. An epoch then costs the last stages alone, in memory and in time. Splits,
scores and the paired test are here too, since every method must share them.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from skimage.feature import hog
from sklearn import metrics
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_predict, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from whichbackbone import checks, weights
from whichbackbone.experiments import datasets, training
from whichbackbone.experiments.datasets import Cells, Images
from whichbackbone.folders import cache_folder
from whichbackbone.measure import memory, runtimes
from whichbackbone.models.resnet import Network

FLIPS = ((), (3,), (2,), (2, 3))  # dimensions of (N, C, H, W): as it is, left-right, up-down, both (a half turn)
POOLINGS = ("mean", "max")  # how a map becomes one number: what is typical, and what stands out
QUARTERS = 4  # a quarter of the cells is tested, as published: 656 of 2,624
BINS = 10  # of the calibration error


@lru_cache(maxsize=1)
def cells_once(limit: int | None = None) -> Cells:
    """`datasets.elpv`, read once in a process."""
    return datasets.elpv(limit)


# --------------------------------------------------------------------------------------------------------- splits


@dataclass(frozen=True)
class Split:
    """Positions of the cells to train on and to test on."""

    train: np.ndarray
    test: np.ndarray


def folds(cells: Cells, seed: int, count: int = QUARTERS) -> list[Split]:
    """As many splits as folds, in which each class of each type has its share: every cell is tested by exactly one.

    ValueError as for `subset`.
    """
    every = np.arange(len(cells))
    _enough(cells, every, 1 / count, count)
    cut = StratifiedKFold(count, shuffle=True, random_state=seed)
    return [Split(train, test) for train, test in cut.split(every, cells.strata)]


def choosing(cells: Cells) -> np.ndarray:
    """The quarter that no `split` tests and every one trains on: it chooses, and no tested cell has a say."""
    return folds(cells, 0)[0].test


def split(cells: Cells, seed: int) -> Split:
    """Three quarters to train on and one to test: seeds 0, 1 and 2 test each cell but the `choosing` ones once.

    Seeds 3, 4 and 5 do the same with another cut, and so on. Stratified, and ValueError, as `folds`.
    """
    every, rounds, turn = np.arange(len(cells)), *divmod(seed, QUARTERS - 1)
    rest = np.setdiff1d(every, choosing(cells))
    cut = StratifiedKFold(QUARTERS - 1, shuffle=True, random_state=rounds).split(rest, cells.strata[rest])
    test = rest[list(cut)[turn][1]]
    return Split(np.setdiff1d(every, test), test)


def subset(cells: Cells, among: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A stratified share of the positions ``among``, all of them if ``share`` is 1.

    Raises:
        ValueError: if the share holds fewer cells than there are combinations of class and type.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share}: expected more than 0, at most 1")
    if share == 1:
        return among
    strata = cells.strata[among]
    _enough(cells, among, share)
    part, _ = train_test_split(among, train_size=share, stratify=strata, random_state=seed)
    return np.sort(part)


def _enough(cells: Cells, among: np.ndarray, share: float, each: int = 2) -> None:
    """ValueError where a stratified split is impossible."""
    names, counts = np.unique(cells.strata[among], return_counts=True)
    part = int(min(share, 1 - share) * len(among))
    if part < len(names) or counts.min() < each:
        raise ValueError(f"{share:.1%} of {len(among)} cells cannot be stratified: expected at least one cell for each "
                         f"of {len(names)} combinations of class and type in both parts, and {each} of each in all ("
                         f"{names[counts.argmin()]!r} has {counts.min()}); take a larger share")


# ---------------------------------------------------------------------------------------------------------- parts


def pretrained(name: str) -> tuple[Network, weights.Weights]:
    """Our build of this timm name with its ImageNet weights, and their source. WeightsError if there are none."""
    found = weights.load(name)
    return found.into(checks.build(name), classifier=found.holds == "classifier").eval(), found


class Grey(nn.Module):
    """Grey images in [-1, 1], as `training.batch_of` gives them, for a net trained on colour.

    The one channel becomes three, each with the mean and the standard deviation (of 0..1) that the weights expect.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 3, H, W)."""
        colour = torch.cat([x, x, x], 1)  # before the arithmetic: OpenVINO fails to fold a factor that broadcasts
        return ((colour + 1) / 2 - self.mean) / self.std


def whole(name: str, classes: int = 2, seed: int = 0) -> nn.Sequential:
    """A pretrained net for grey images with a new classifier: children "0" (grey to colour) and "1" (the net)."""
    net, found = pretrained(name)
    torch.manual_seed(seed)
    net.head[-1] = nn.Linear(net.head[-1].in_features, classes)
    return nn.Sequential(Grey(found.preprocessing.mean, found.preprocessing.std), net)


def trunk(net: Network, stages: int, preprocessing: weights.Preprocessing) -> nn.Sequential:
    """Grey images in [-1, 1] -> activations after so many stages; -1 means pooled features, all but the classifier."""
    first = [Grey(preprocessing.mean, preprocessing.std), net.stem]
    body = [*net.stages, *net.head[:-1]] if stages < 0 else net.stages[:stages]
    return nn.Sequential(*first, *body).eval()


def rest(net: Network, stages: int, classes: int = 2, dropout: float = 0.2, pool: str = "avg") -> nn.Sequential:
    """What follows the trunk, with a new classifier: children "0", "1" ... are stages, then the head's layers.

    ``pool``: how the last map becomes a vector, a name of timm's: "avg", or "catavgmax" for mean and maximum.
    """
    pooling = SelectAdaptivePool2d(pool_type=pool, flatten=True)
    before = [*net.head][: _pooling(net)]
    width = net.head[-1].in_features * pooling.feat_mult()
    return nn.Sequential(*net.stages[stages:], *before, pooling, nn.Dropout(dropout), nn.Linear(width, classes)).eval()


def _pooling(net: Network) -> int:
    """Where in the head the map becomes a vector."""
    return next(i for i, layer in enumerate(net.head) if isinstance(layer, nn.AdaptiveAvgPool2d))


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 (N, 1, H, W) -> uint8 (N, 1, size, size), antialiased."""
    if images.shape[-1] == size:
        return images
    chunks = (F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True) for part in images.split(256))
    return torch.cat([chunk.round().clamp(0, 255).byte() for chunk in chunks])


def flipped(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (4 N, C, H, W): the images, then the same left-right, up-down, and half turned."""
    return torch.cat([images.flip(dims) if dims else images for dims in FLIPS])


class Glances(nn.Module):
    """What a net sees from its stage ``after`` on, as one vector: each map by its mean and its maximum.

    The last map is that of the head's convolution, whose mean is the feature that the net's own classifier sees.
    ``columns`` tells which columns hold what: (number of the stage, or "head"; one of POOLINGS) -> slice.
    """

    def __init__(self, net: Network, preprocessing: weights.Preprocessing, after: int = 0) -> None:
        super().__init__()
        first = [] if after else [Grey(preprocessing.mean, preprocessing.std), net.stem]
        self.first = nn.Sequential(*first)
        parts = [*net.stages[max(after, 1) - 1 :], net.head[: _pooling(net)]]
        widths = [next(w for m in reversed(list(part.modules())) if (w := getattr(m, "num_features", None)))
                  for part in parts]  # of each part's last batch norm
        self.maps = nn.ModuleList([nn.Identity(), *parts[1:]] if after else parts)  # the map that is given counts too
        ends = np.cumsum([w for width in widths for w in (width, width)]).tolist()
        names = [*range(max(after, 1), len(net.stages) + 1), "head"]
        keys = [(name, pooled) for name in names for pooled in POOLINGS]
        self.columns = dict(zip(keys, map(slice, [0, *ends], ends), strict=False))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Grey images in [-1, 1] (N, 1, H, W), or maps after ``after`` stages -> (N, D)."""
        x, seen = self.first(x), []
        for part in self.maps:
            x = part(x)
            seen += [x.mean((2, 3)), x.amax((2, 3))]
        return torch.cat(seen, 1)


@torch.inference_mode()
def run_once(model: nn.Module, images: Tensor, flips: int = 1, threads: int = 1, batch: int = 16) -> np.ndarray:
    """Output (flips N, ...) of a model for uint8 images, by OpenVINO: the first ``flips`` of FLIPS, in turn.

    ``images`` may also be maps of a frozen part, which are taken as they are. Maps are kept as float16, vectors as
    float32. OverflowError where a value is too large for that.
    """
    example = torch.rand(batch, *images.shape[1:]) * 2 - 1
    ready = runtimes.prepare(model, example, "openvino", threads)  # runs on whatever stands in `example`
    shape = model(example[:1]).shape[1:]
    given = np.empty((flips * len(images), *shape), np.float16 if len(shape) > 1 else np.float32)
    for f, dims in enumerate(FLIPS[:flips]):
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            turned = (part.flip(dims) if dims else part).float()
            example[: len(part)] = turned / 127.5 - 1 if images.dtype == torch.uint8 else turned
            first = f * len(images) + start
            output = np.asarray(ready.run())[: len(part)]
            if not np.abs(output).max() <= np.finfo(given.dtype).max:
                raise OverflowError(f"activations up to {np.abs(output).max():.3g} do not fit in {given.dtype}: "
                                    "take those of another stage")
            given[first : first + len(part)] = output
    return given


def activations(name: str, stages: int, size: int, cells: Cells, flips: int = 1, threads: int = 0,
                after: int = 0) -> Path:
    """File of the activations after ``stages`` stages of a pretrained net, computed at the first call.

    ``stages=-1`` means pooled features: the whole net up to its classifier. The file is a .npy, float16
    (flips N, C, h, w) or float32 (flips N, C), to be read with `read`, whose pages all processes share.
    ``after``: go on from the activations after so many stages. WeightsError if the weights are not to be had; OSError
    names the file if the disk is full.
    """
    net, found = pretrained(name)
    body = net.stages[after:stages] if after else trunk(net, stages, found.preprocessing)
    return _computed(f"{stages}", body.eval(), name, found, size, cells, flips, threads, after)


def glances(name: str, size: int, cells: Cells, flips: int = 1, threads: int = 0,
            after: int = 0) -> tuple[Path, dict[tuple[int | str, str], slice]]:
    """File of `Glances` at every cell, float32 (flips N, D), and what its columns are; else as `activations`."""
    net, found = pretrained(name)
    body = Glances(net, found.preprocessing, after)
    return _computed(f"glances{after}", body, name, found, size, cells, flips, threads, after), body.columns


def _computed(what: str, body: nn.Module, name: str, found: weights.Weights, size: int, cells: Cells, flips: int,
              threads: int, after: int) -> Path:
    """The file of what ``body`` gives for every cell, made if it is not there, with the seconds that this took."""
    file = cache_folder() / f"elpv-{name}-{what}-{size}px-{flips}-{found.sha256[:8]}-{_fingerprint(cells)}.npy"
    if not file.exists():
        threads = threads or os.cpu_count() or 1
        before = activations(name, after, size, cells, flips, threads) if after else None
        start = time.perf_counter()
        if before:  # its flips are already there, one after the other
            made = run_once(body, read(before), 1, threads)
        else:
            made = run_once(body, resized(cells.images, size), flips, threads)
        _save(file, made)
        file.with_suffix(".seconds").write_text(f"{time.perf_counter() - start}\n")
    return file


def spent(file: Path) -> float:
    """Seconds that computing a file of `activations` took, whenever that was; nan if it was not noted."""
    note = file.with_suffix(".seconds")
    return float(note.read_text()) if note.exists() else float("nan")


def read(file: Path) -> Tensor:
    """The tensor of a file of `activations`, not loaded but mapped: what is not used takes no memory."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def kept(cells: Cells, size: int) -> Path:
    """File of the cells at this size, uint8 (N, 1, size, size), so that every process need not decode them again."""
    file = cache_folder() / f"elpv-{size}px-{_fingerprint(cells)}.npy"
    if not file.exists():
        _save(file, resized(cells.images, size).numpy())
    return file


def rows(data: Tensor, labels: Tensor, index: np.ndarray, flips: int = 1) -> Images:
    """The images at these positions, all their flips one after the other, as `training.fit(copies=flips)` wants them.

    ``data`` is (flips of the file x N, ...) and ``labels`` (N, ...).
    """
    n = len(labels)
    chosen = torch.cat([torch.as_tensor(index) + f * n for f in range(flips)])
    return Images(data[chosen], labels[torch.as_tensor(index)].repeat(flips, *[1] * (labels.ndim - 1)))


@torch.inference_mode()
def probability(model: nn.Module, data: Tensor, index: np.ndarray, cells: int, flips: int = 1) -> np.ndarray:
    """P(defective) of the cells at these positions, averaged over their flips: (len(index),). Evaluation mode."""
    model.eval()
    total = np.zeros(len(index), np.float32)
    for f in range(flips):
        for part in np.array_split(np.arange(len(index)), -(-len(index) // 64)):
            chosen = data[torch.as_tensor(index[part]) + f * cells]
            x, _ = training.batch_of(model, Images(chosen, torch.zeros(len(part))))
            total[part] += model(x).softmax(1)[:, 1].numpy(force=True)
    return total / flips


def _fingerprint(cells: Cells) -> str:
    total = int(cells.images.numpy().sum(dtype=np.int64))  # torch would make 64-bit copies of all pixels first
    return f"{len(cells)}-{total % 16**6:06x}"


def _save(file: Path, array: np.ndarray) -> None:
    """Write whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as part:
        try:
            np.save(part, array)
            part.close()
            os.replace(part.name, file)
        except OSError as error:
            raise OSError(error.errno, f"cannot keep activations ({error.strerror}): make room", str(file)) from error
        finally:
            Path(part.name).unlink(missing_ok=True)


# -------------------------------------------------------------------------------------------------------- methods

GRID = {"probe": (1e-4, 1e-3, 1e-2, 1e-1), "svm": (3.0, 10.0, 30.0), "knn": (5, 15, 45)}
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)  # the list goes module by module: unshuffled, folds differ


def head(kind: str, setting: float) -> BaseEstimator:
    """What is put on fixed features: "probe" (logistic regression, C), "svm" (RBF kernel, C) or "knn" (cosine, k).

    The probabilities of the SVM are calibrated on parts of the training set that it was not fitted to.
    """
    if kind == "probe":
        return make_pipeline(StandardScaler(), LogisticRegression(C=setting, max_iter=2000))
    if kind == "svm":
        machine = SVC(C=setting, kernel=_wide_rbf)
        return make_pipeline(StandardScaler(), CalibratedClassifierCV(machine, cv=FOLDS, ensemble=False))
    if kind == "knn":
        return make_pipeline(Normalizer(), KNeighborsClassifier(int(setting), weights="distance"))
    raise ValueError(f"unknown head {kind!r}: choose one of {', '.join(GRID)}")


def _wide_rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """RBF kernel, of half the gamma that sklearn calls "auto": in validation the smoother function did better.

    As one matrix product it is twenty times faster on thousands of features than libsvm's own.
    """
    return rbf_kernel(a, b, gamma=0.5 / a.shape[1])


def certainty(cells: Cells) -> np.ndarray:
    """Weight of each cell in fitting, (N,): 1 where the experts were sure, 1/3 where they said 1/3 or 2/3.

    Two thirds of an expert for one class and one third for the other leave a third in its favour.
    """
    return (2 * cells.probability - 1).abs().numpy()


def _weighted(kind: str, weight: np.ndarray) -> dict[str, np.ndarray]:
    """The weights as the pipeline of `head` wants them; neighbours have none."""
    step = {"probe": "logisticregression", "svm": "calibratedclassifiercv"}.get(kind)
    return {f"{step}__sample_weight": weight} if step else {}


def choose(kind: str, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """The setting of GRID with the lowest log loss in threefold cross-validation on these cells alone."""
    settings = [s for s in GRID[kind] if kind != "knn" or s <= len(x) // 2]  # no more neighbours than there are cells
    return min(settings, key=lambda s: metrics.log_loss(y, validated(kind, s, x, y, weight), sample_weight=weight))


def validated(kind: str, setting: float, x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """P(class 1) of each cell (N,), from a head that was fitted to the other folds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a setting that does not converge loses, which is all there is to say
        p = cross_val_predict(head(kind, setting), x, y, cv=FOLDS, method="predict_proba",
                              params=_weighted(kind, weight))[:, 1]
    return np.clip(p, 1e-3, 1 - 1e-3)


def hogs(images: Tensor, pixels: int = 16) -> np.ndarray:
    """Histograms of oriented gradients (Dalal and Triggs 2005) of uint8 images (N, 1, H, W): float32 (N, features)."""
    return np.stack([hog(image[0], pixels_per_cell=(pixels, pixels), cells_per_block=(2, 2)).astype(np.float32)
                     for image in images.numpy()])


def fit_head(kind: str, setting: float, x: np.ndarray, cells: Cells, split: Split) -> dict[str, Any]:
    """Fit on the features (N, D) of the training cells: p of the test cells, and the seconds that it took."""
    start = time.perf_counter()
    weight = _weighted(kind, certainty(cells)[split.train])
    fitted = head(kind, setting).fit(x[split.train], cells.defective.numpy()[split.train], **weight)
    p = fitted.predict_proba(x[split.test])[:, 1]
    return dict(p=p.tolist(), cell=split.test.tolist(), seconds=time.perf_counter() - start)


def fit_rest(name: str, stages: int, size: int, cells: Cells, split: Split, *, seed: int, flips: int = 4,
             only_head: bool = False, watch: bool = False, pool: str = "avg", **how: Any) -> dict[str, Any]:
    """Train what follows ``stages`` frozen stages, on their activations and the experts' probabilities.

    ``only_head``: all but the classifier is frozen too. ``pool``: see `rest`. ``watch``: measure the test cells after
    every epoch (to draw a curve, not to choose). ``how`` goes to `training.fit`. Returns what `fit_model` does.
    """
    data = read(activations(name, stages, size, cells, flips))
    net, _ = pretrained(name)
    torch.manual_seed(seed)
    model = rest(net, stages, pool=pool)
    if only_head:
        model[:-1].requires_grad_(False)
    return fit_model(model, data, cells, split, seed=seed, flips=flips, watch=watch, **how)


def fit_whole(model: nn.Module, size: int, cells: Cells, split: Split, *, seed: int, flips: int = 4,
              watch: bool = False, **how: Any) -> dict[str, Any]:
    """Train all of a model on grey images of this size; else as `fit_rest`."""
    images = flipped(read(kept(cells, size)))
    return fit_model(model, images, cells, split, seed=seed, flips=flips, watch=watch, **how)


def fit_model(model: nn.Module, data: Tensor, cells: Cells, split: Split, *, seed: int, flips: int, watch: bool,
              **how: Any) -> dict[str, Any]:
    """Train on all flips of the training cells.

    Returns p (of the test cells, averaged over the flips), cell (their positions), seconds (of training), epoch_seconds
    and test_accuracy of each epoch (without flips; nan unless watched), step_bytes (peak of live tensors in one step of
    training, weights and optimizer included), trained (parameters).
    """
    model = model.to(memory_format=torch.channels_last)
    train = rows(data, cells.soft, split.train, flips)
    test = rows(data, cells.soft, split.test) if watch else None
    history = training.fit(model, train, test, seed=seed, copies=flips, watched=0, **how)
    p = probability(model, data, split.test, len(cells), flips)
    return dict(p=p.tolist(), cell=split.test.tolist(), seconds=history.seconds.sum(),
                epoch_seconds=history.seconds.tolist(), test_accuracy=(1 - history.test_error).tolist(),
                step_bytes=step_bytes(model, train[: how.get("batch", 128)]),
                trained=sum(p.numel() for p in model.parameters() if p.requires_grad))


def step_bytes(model: nn.Module, batch: Images) -> int:
    """Peak of live tensors in a step of training on this batch, with the weights, their gradients and the momentum."""
    x, y = training.batch_of(model, batch)
    model.train()
    peak = memory.peak_bytes(lambda: F.cross_entropy(model(x), y).backward())
    model.zero_grad()
    held = sum(t.nbytes for t in model.state_dict().values())
    return peak + held + sum(p.nbytes for p in model.parameters() if p.requires_grad) + x.nbytes


# --------------------------------------------------------------------------------------------------------- scores


def scores(p: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How good these probabilities (n,) of class 1 are against the classes (n,) in {0, 1}.

    accuracy, balanced_accuracy, macro_f1 at a threshold of 1/2; roc_auc; ece (expected calibration error: mean over
    equal bins of the probability of |share of class 1 - mean probability|, weighted by their counts) and brier (mean
    squared error of the probability). ValueError if there is only one class, or p is not a probability.
    """
    p, truth = np.asarray(p, float), np.asarray(truth)
    if len(p) != len(truth) or set(np.unique(truth)) != {0, 1}:
        raise ValueError(f"{len(p)} probabilities for {len(truth)} cells of classes {sorted(set(truth.tolist()))}: "
                         "expected as many, and both classes 0 and 1")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"expected probabilities, found {p.min():.3g} to {p.max():.3g}")
    said = p > 0.5
    bins = np.minimum((p * BINS).astype(int), BINS - 1)
    gaps = [abs(truth[bins == b].mean() - p[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return dict(
        accuracy=metrics.accuracy_score(truth, said),
        balanced_accuracy=metrics.balanced_accuracy_score(truth, said),
        macro_f1=metrics.f1_score(truth, said, average="macro"),
        roc_auc=metrics.roc_auc_score(truth, p),
        ece=float(sum(gaps)),
        brier=float(np.mean((p - truth) ** 2)),
    )


def paired(a: pd.DataFrame, b: pd.DataFrame, seed: int = 0, draws: int = 4000) -> dict[str, float]:
    """Accuracy of method ``a`` less that of ``b`` on the same cells of the same splits, in points.

    Columns seed, cell, correct (bool). A cell that several seeds test counts once, with the mean of its differences,
    since its answers are not independent. Returns difference, low, high (95 %, bootstrap over cells), p (two-sided: how
    often random signs of the cells' differences give as much), cells. ValueError if the two were not tested alike.
    """
    both = a.merge(b, on=["seed", "cell"], suffixes=("_a", "_b"), validate="one_to_one")
    if not len(a) == len(b) == len(both) or both.empty:
        raise ValueError(f"{len(a)} and {len(b)} answers of which {len(both)} are for the same cell of the same split: "
                         "expected the same cells for both")
    each = (both.correct_a.astype(float) - both.correct_b.astype(float)).groupby(both.cell)
    d, n = each.mean().to_numpy(), each.size().to_numpy()
    rng = np.random.default_rng(seed)
    mean = float((d * n).sum() / n.sum())
    picks = rng.integers(len(d), size=(draws, len(d)))
    boot = (d[picks] * n[picks]).sum(1) / n[picks].sum(1)
    signs = rng.choice([-1.0, 1.0], size=(draws, len(d)))
    null = np.abs(signs @ (d * n)) / n.sum()
    p = (1 + (null >= abs(mean) - 1e-12).sum()) / (1 + draws)
    low, high = np.quantile(boot, [0.025, 0.975])
    return dict(difference=mean * 100, low=low * 100, high=high * 100, p=float(p), cells=len(d))
