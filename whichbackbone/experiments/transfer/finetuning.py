"""Training what follows frozen stages on their stored activations, or a whole net on the images."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from whichbackbone.experiments import training
from whichbackbone.experiments.datasets import Images, LabelledSet
from whichbackbone.experiments.transfer import features
from whichbackbone.experiments.transfer.scores import compact
from whichbackbone.experiments.transfer.splits import Split
from whichbackbone.measure import memory
from whichbackbone.models.resnet import Network


def rest(net: Network, stages: int, classes: int, dropout: float = 0.2, pool: str = "avg") -> nn.Sequential:
    """Return what follows the first ``stages`` stages of a net, with a new classifier, in evaluation mode.

    Args:
        net: the pretrained net, whose layers are shared.
        stages: how many stages are frozen.
        classes: of the new classifier.
        dropout: before the classifier.
        pool: timm's name of the pooling before it: "avg", or "catavgmax" for mean and maximum.

    Returns:
        A net whose children "0", "1" ... are the stages left, then the layers of the head.
    """
    pooling = SelectAdaptivePool2d(pool_type=pool, flatten=True)
    before = [*net.head][: features.pooling_index(net)]
    width = net.head[-1].in_features * pooling.feat_mult()
    return nn.Sequential(*net.stages[stages:], *before, pooling, nn.Dropout(dropout), nn.Linear(width, classes)).eval()


def whole(name: str, data: LabelledSet, seed: int = 0) -> nn.Sequential:
    """Return a pretrained net with a new classifier for the classes and channels of a set.

    ``seed`` draws the classifier's weights. The children are "0" (`features.Standardise`) and "1" (the net). Raises
    ``WeightsError`` if the weights are not to be had.
    """
    net, found = features.pretrained(name)
    torch.manual_seed(seed)
    net.head[-1] = nn.Linear(net.head[-1].in_features, len(data.classes))
    preprocessing = found.preprocessing
    return nn.Sequential(features.Standardise(preprocessing.mean, preprocessing.std, data.channels), net)


def fit_rest(name: str, stages: int, size: int, data: LabelledSet, split: Split, *, seed: int, flips: int | None = None,
             only_head: bool = False, watch: bool = False, pool: str = "avg", **how: Any) -> dict[str, Any]:
    """Train what follows ``stages`` frozen stages, on their activations and the targets of the set.

    Args:
        name: timm name of the pretrained net.
        stages: how many of its stages are frozen.
        size: side of the images in pixels.
        data: the set.
        split: positions to train and to test on.
        seed: of the new classifier, the order of images and dropout.
        flips: how many of the set's permitted flips to train and to answer on; None means all.
        only_head: train the classifier alone.
        watch: measure the test images after every epoch (to draw a curve, not to choose).
        pool: see `rest`.
        how: goes to `training.fit`.

    Returns:
        what `fit_model` does.
    """
    flips = len(data.versions(flips))
    maps = features.read(features.activations(name, stages, size, data, flips))
    net, _ = features.pretrained(name)
    torch.manual_seed(seed)
    model = rest(net, stages, len(data.classes), pool=pool)
    if only_head:
        model[:-1].requires_grad_(False)
    return fit_model(model, maps, data, split, seed=seed, flips=flips, watch=watch, **how)


def fit_whole(model: nn.Module, size: int, data: LabelledSet, split: Split, *, seed: int, flips: int | None = None,
              watch: bool = False, **how: Any) -> dict[str, Any]:
    """Train all of a model on images of ``size`` pixels a side; it takes (B, C, size, size) in [-1, 1].

    The other arguments, and what is returned, are those of `fit_rest`.
    """
    versions = data.versions(flips)
    images = features.flipped(features.read(features.cached_images(data, size)), versions)
    return fit_model(model, images, data, split, seed=seed, flips=len(versions), watch=watch, **how)


def fit_model(model: nn.Module, maps: Tensor, data: LabelledSet, split: Split, *, seed: int, flips: int, watch: bool,
              **how: Any) -> dict[str, Any]:
    """Train on the first ``flips`` versions of the training images, and answer the test images.

    Args:
        model: takes what ``maps`` holds, gives (B, K) logits.
        maps: images or activations, (at least flips N, ...): all images in one version after the other.
        data: the set.
        split: positions to train and to test on.
        seed: of the order of images and of dropout.
        flips: versions of each image.
        watch: measure the test images, without flips, after every epoch.
        how: goes to `training.fit`.

    Returns:
        p, the probabilities of the test images, averaged over the flips: a list of those of class 1 of two, or of lists
        of K; image, their positions; seconds of training; epoch_seconds and test_accuracy of each epoch (nan unless
        watched); step_bytes, see `step_bytes`; trained, the number of parameters that were trained.
    """
    model = model.to(memory_format=torch.channels_last)
    train = rows(maps, data.targets, split.train, flips)
    test = rows(maps, data.targets, split.test) if watch else None
    history = training.fit(model, train, test, seed=seed, copies=flips, watched=0, **how)
    p = probability(model, maps, split.test, len(data), flips)
    return dict(p=p.tolist(), image=split.test.tolist(), seconds=history.seconds.sum(),
                epoch_seconds=history.seconds.tolist(), test_accuracy=(1 - history.test_error).tolist(),
                step_bytes=step_bytes(model, train[: how.get("batch", 128)]),
                trained=sum(p.numel() for p in model.parameters() if p.requires_grad))


def rows(maps: Tensor, labels: Tensor, index: np.ndarray, flips: int = 1) -> Images:
    """Take the images at some positions, in one version after the other, as `training.fit` (``copies=flips``) wants.

    Args:
        maps: images or activations, (at least flips N, ...), all N in one version after the other.
        labels: (N,) or (N, K).
        index: positions, int (n,).
        flips: versions of each.
    """
    n = len(labels)
    chosen = torch.cat([torch.as_tensor(index) + f * n for f in range(flips)])
    return Images(maps[chosen], labels[torch.as_tensor(index)].repeat(flips, *[1] * (labels.ndim - 1)))


@torch.inference_mode()
def probability(model: nn.Module, maps: Tensor, index: np.ndarray, images: int, flips: int = 1) -> np.ndarray:
    """Return the probabilities of the images at some positions, averaged over their flips, in evaluation mode.

    Args:
        model: gives (B, K) logits.
        maps: see `rows`, with ``images`` images in each version.
        index: positions, int (n,).
        images: N, the number of images in the set.
        flips: versions of each.

    Returns:
        float32 (n,), the probability of class 1 of two, or (n, K).
    """
    model.eval()
    total = 0
    for f in range(flips):
        parts = np.array_split(index, -(-len(index) // 64))
        total = total + torch.cat([_softmax(model, maps[torch.as_tensor(part) + f * images]) for part in parts])
    return compact((total / flips).numpy(force=True))


def step_bytes(model: nn.Module, batch: Images) -> int:
    """Return the peak of live tensors in a training step on this batch, with weights, their gradients and momentum."""
    x, y = training.batch_of(model, batch)
    model.train()
    peak = memory.peak_bytes(lambda: F.cross_entropy(model(x), y).backward())
    model.zero_grad()
    held = sum(t.nbytes for t in model.state_dict().values())
    return peak + held + sum(p.nbytes for p in model.parameters() if p.requires_grad) + x.nbytes


def _softmax(model: nn.Module, maps: Tensor) -> Tensor:
    """Return the probabilities (n, K) of images or activations (n, ...)."""
    x, _ = training.batch_of(model, Images(maps, torch.zeros(len(maps))))
    return model(x).softmax(1)
