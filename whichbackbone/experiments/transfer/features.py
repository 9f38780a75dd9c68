"""Features of frozen nets: computed once for every image by a fast runtime, and stored on disk.

The first stages of a pretrained net need no gradient, so one pass gives their activations for every permitted flip of
every image. An epoch of training then costs the last stages alone, in memory and in time.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from skimage.feature import hog
from torch import Tensor, nn

from whichbackbone import checks, weights
from whichbackbone.evidence import machine
from whichbackbone.experiments.datasets import LabelledSet
from whichbackbone.folders import cache_folder
from whichbackbone.measure import runtimes
from whichbackbone.models.resnet import Network

POOLINGS = ("mean", "max")  # how a map becomes one number: its typical value, and its most striking one
AS_IT_IS = ((),)  # one version of each image: no dimension reversed

# ------------------------------------------------------------------------------------------------------------- nets


def pretrained(name: str) -> tuple[Network, weights.Weights]:
    """Build this timm name with its ImageNet weights, in evaluation mode; return the net and its weights' source.

    Raises ``WeightsError`` if the weights are neither on this machine nor to be downloaded.
    """
    found = weights.load(name)
    return found.into(checks.build(name), classifier=found.holds == "classifier").eval(), found


class Standardise(nn.Module):
    """Turn images in [-1, 1], as `training.batch_of` gives them, into the input that pretrained weights expect.

    ``mean`` and ``std`` are those of the weights, for red, green and blue in 0..1. A grey image becomes three equal
    channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
        super().__init__()
        self.copies = 3 // channels
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1 or 3, H, W) -> (N, 3, H, W)."""
        # Before the arithmetic: OpenVINO fails to fold a factor that broadcasts.
        colour = torch.cat([x] * self.copies, 1) if self.copies > 1 else x
        return ((colour + 1) / 2 - self.mean) / self.std


def trunk(net: Network, stages: int, preprocessing: weights.Preprocessing, channels: int) -> nn.Sequential:
    """Return the first ``stages`` stages of a net for images in [-1, 1] with 1 or 3 channels, in evaluation mode.

    ``stages=-1`` means everything but the classifier, which gives pooled features.
    """
    first = [Standardise(preprocessing.mean, preprocessing.std, channels), net.stem]
    body = [*net.stages, *net.head[:-1]] if stages < 0 else net.stages[:stages]
    return nn.Sequential(*first, *body).eval()


def pooling_index(net: Network) -> int:
    """Return the position in the net's head of the layer that turns the map into a vector."""
    return next(i for i, layer in enumerate(net.head) if isinstance(layer, nn.AdaptiveAvgPool2d))


class PooledStages(nn.Module):
    """The map of every stage from ``after`` on, pooled by mean and by maximum into one vector.

    The last map is that of the head's convolution; its mean is the feature that the net's own classifier reads. With
    ``after=0`` the input are images in [-1, 1] with ``channels`` channels; else it is the map after so many stages,
    which is pooled too. ``columns`` maps (number of the stage, or "head"; one of POOLINGS) to a slice of the vector.
    """

    def __init__(self, net: Network, preprocessing: weights.Preprocessing, channels: int, after: int = 0) -> None:
        super().__init__()
        first = [] if after else [Standardise(preprocessing.mean, preprocessing.std, channels), net.stem]
        self.first = nn.Sequential(*first)
        parts = [*net.stages[max(after, 1) - 1 :], net.head[: pooling_index(net)]]
        widths = [next(w for m in reversed(list(part.modules())) if (w := getattr(m, "num_features", None)))
                  for part in parts]  # of each part's last batch norm
        self.maps = nn.ModuleList([nn.Identity(), *parts[1:]] if after else parts)
        ends = np.cumsum([w for width in widths for w in (width, width)]).tolist()
        names = [*range(max(after, 1), len(net.stages) + 1), "head"]
        keys = [(name, pooled) for name in names for pooled in POOLINGS]
        self.columns = dict(zip(keys, map(slice, [0, *ends], ends), strict=False))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D)."""
        x, seen = self.first(x), []
        for part in self.maps:
            x = part(x)
            seen += [x.mean((2, 3)), x.amax((2, 3))]
        return torch.cat(seen, 1)


# ----------------------------------------------------------------------------------------------------------- images


def resized(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (N, C, H, W) to uint8 (N, C, size, size), bicubic and antialiased."""
    if images.shape[-2:] == (size, size):
        return images
    chunks = (F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True) for part in images.split(256))
    return torch.cat([chunk.round().clamp(0, 255).byte() for chunk in chunks])


def flipped(images: Tensor, versions: Sequence[tuple[int, ...]]) -> Tensor:
    """Return all images in one version after the other: (N, C, H, W) -> (len(versions) N, C, H, W).

    A version is a tuple of the dimensions to reverse, see `LabelledSet.versions`.
    """
    return torch.cat([images.flip(dims) if dims else images for dims in versions])


def hogs(images: Tensor, pixels: int = 16) -> np.ndarray:
    """Compute histograms of oriented gradients (Dalal and Triggs 2005) of images.

    Args:
        images: uint8 (N, C, H, W). Of several channels, the one with the largest gradient counts at each pixel.
        pixels: side of a cell of the histogram.

    Returns:
        float32 (N, features).
    """
    return np.stack([hog(image, pixels_per_cell=(pixels, pixels), cells_per_block=(2, 2), channel_axis=0).astype(
        np.float32) for image in images.numpy()])


def cached_images(data: LabelledSet, size: int) -> Path:
    """Return the file of the images, uint8 (N, C, size, size), and write it at the first call.

    Processes that read this file need not decode the images again. Raises ``OSError`` if the disk is full.
    """
    file = cache_folder() / f"{data.name}-{data.fingerprint}-{size}px.npy"
    if not file.exists():
        _save(file, resized(data.images, size).numpy())
    return file


# ------------------------------------------------------------------------------------------------------ activations


@torch.inference_mode()
def run_once(model: nn.Module, images: Tensor, versions: Sequence[tuple[int, ...]] = AS_IT_IS, threads: int = 1,
             batch: int = 16) -> np.ndarray:
    """Run a model over every version of every image, by OpenVINO.

    Args:
        model: takes float (B, C, H, W), images in [-1, 1].
        images: uint8 (N, C, H, W); or the maps of an earlier part, float, which are taken as they are.
        versions: the dimensions that each version reverses, see `LabelledSet.versions`.
        threads: of OpenVINO.
        batch: images in one call.

    Returns:
        (len(versions) N, ...), all images in one version after the other: maps as float16, vectors as float32.

    Raises:
        OverflowError: if a value is too large for that type.
        ModuleNotFoundError: if OpenVINO is not installed.
    """
    example = torch.rand(batch, *images.shape[1:]) * 2 - 1
    ready = runtimes.prepare(model, example, "openvino", threads)  # runs on whatever stands in `example`
    shape = model(example[:1]).shape[1:]
    given = np.empty((len(versions) * len(images), *shape), np.float16 if len(shape) > 1 else np.float32)
    for f, dims in enumerate(versions):
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            turned = (part.flip(dims) if dims else part).float()
            example[: len(part)] = turned / 127.5 - 1 if images.dtype == torch.uint8 else turned
            output = np.asarray(ready.run())[: len(part)]
            _require_range(output, given.dtype)
            first = f * len(images) + start
            given[first : first + len(part)] = output
    return given


def activations(name: str, stages: int, size: int, data: LabelledSet, flips: int = 1, threads: int = 0,
                after: int = 0) -> Path:
    """Return the file of the activations of a pretrained net, and compute it at the first call.

    Args:
        name: timm name of the net.
        stages: how many stages of the net; -1 means all but the classifier, which gives pooled features.
        size: side of the images in pixels.
        data: the images.
        flips: how many of the flips that the set permits.
        threads: of the runtime; 0 means every core that this process may use.
        after: compute them from the stored activations after so many stages, 0 from the images.

    Returns:
        A .npy file, float16 (flips N, C, h, w) or float32 (flips N, C). `read` maps it, so processes share its pages.

    Raises:
        WeightsError: if the weights are neither on this machine nor to be downloaded.
        ValueError: if the set permits fewer flips.
        OSError: if the disk is full; it names the file.
    """
    net, found = pretrained(name)
    body = net.stages[after:stages] if after else trunk(net, stages, found.preprocessing, data.channels)
    return _computed(f"{stages}", body.eval(), name, found, size, data, flips, threads, after)


def pooled_stages(name: str, size: int, data: LabelledSet, flips: int = 1, threads: int = 0,
                  after: int = 0) -> tuple[Path, dict[tuple[int | str, str], slice]]:
    """Return the file of `PooledStages` of a pretrained net for every image, and compute it at the first call.

    Arguments and exceptions are those of `activations`, which has ``stages`` besides.

    Returns:
        A .npy file, float32 (flips N, D), and `PooledStages.columns`, which tells what its columns hold.
    """
    net, found = pretrained(name)
    body = PooledStages(net, found.preprocessing, data.channels, after)
    return _computed(f"pooled{after}", body, name, found, size, data, flips, threads, after), body.columns


def _computed(what: str, body: nn.Module, name: str, found: weights.Weights, size: int, data: LabelledSet, flips: int,
              threads: int, after: int) -> Path:
    """Return the file of the output of ``body`` for every image; compute it, and note the seconds, if it is missing."""
    versions = data.versions(flips)
    shown = "".join(flip[0] for flip in data.flips[:flips])  # a (as it is), l, u, h
    file = cache_folder() / f"{data.name}-{data.fingerprint}-{name}-{found.sha256[:8]}-{what}-{size}px-{shown}.npy"
    if not file.exists():
        threads = threads or machine.usable_cores()
        before = activations(name, after, size, data, flips, threads) if after else None
        start = time.perf_counter()
        if before:  # it holds all versions already
            made = run_once(body, read(before), AS_IT_IS, threads)
        else:
            made = run_once(body, resized(data.images, size), versions, threads)
        _save(file, made)
        file.with_suffix(".seconds").write_text(f"{time.perf_counter() - start}\n")
    return file


def compute_seconds(file: Path) -> float:
    """Return the seconds in which a file of `activations` or `pooled_stages` was computed; nan if no note says so."""
    note = file.with_suffix(".seconds")
    return float(note.read_text()) if note.exists() else float("nan")


def read(file: Path) -> Tensor:
    """Map a file of `activations` into memory and return it as a tensor; parts that are not used take no memory."""
    return torch.from_numpy(np.load(file, mmap_mode="c"))


def _require_range(output: np.ndarray, kind: np.dtype) -> None:
    """Raise ``OverflowError`` if a value does not fit in this type of number."""
    largest = np.abs(output).max()
    if not largest <= np.finfo(kind).max:
        raise OverflowError(f"activations up to {largest:.3g} do not fit in {kind}: take those of another stage")


def _save(file: Path, array: np.ndarray) -> None:
    """Write a .npy file whole or not at all; raise ``OSError`` with the file's name if the disk is full."""
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
