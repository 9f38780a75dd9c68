"""What a net of the study is (family, title, year, input size), and how runtimes and devices are called on a page."""

import re
from dataclasses import dataclass
from functools import cache

from whichbackbone.evidence import published

FAMILIES = ("ResNet", "EfficientNet", "MobileNet", "MnasNet", "RegNet", "ResNeSt", "DenseNet")
_FAMILY_BY_PREFIX = {
    "resnest": "ResNeSt",
    "regnet": "RegNet",
    "densenet": "DenseNet",
    "mobilenet": "MobileNet",
    "mnasnet": "MnasNet",
    "semnasnet": "MnasNet",
    "efficientnet": "EfficientNet",
    "resnext": "ResNet",
    "resnet": "ResNet",
    "seresnet": "ResNet",
    "seresnext": "ResNet",
    "wide_resnet": "ResNet",
}
# Year of the first text about each family, on arXiv.
YEARS = {"ResNet": 2015, "DenseNet": 2016, "MobileNet": 2017, "MnasNet": 2018, "EfficientNet": 2019, "RegNet": 2020,
         "ResNeSt": 2020}  # fmt: skip
# Side in pixels at which a net was trained, where it is not 224.
SIZES = {f"efficientnet_b{n}": side for n, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))} | {
    f"efficientnet_lite{n}": side for n, side in enumerate((224, 240, 260, 280, 300))}  # fmt: skip

# Ways to run one model on one machine -> what a page calls them.
RUNTIMES = {
    "eager": "eager",
    "channels_last": "eager, channels-last",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
PRECISIONS = {"fp32": "fp32", "amp": "mixed precision", "bf16": "bf16", "fp16": "fp16", "int8": "INT8"}
HARDWARE = {"cpu": "CPU", "gpu": "GPU", "phone": "phone"}
TASKS = ("classification", "transfer", "detection", "segmentation")
DENSE = ("detection", "segmentation")  # need feature maps at several strides, of larger images


@dataclass(frozen=True)
class Net:
    """A net of the study: timm's name, its family, what papers call it, year of the family, side it was trained at."""

    name: str
    family: str
    title: str
    year: int
    size: int


def net(name: str) -> Net:
    """What is known of a timm name. Raises ``ValueError`` for a name of no family of the study."""
    found = family(name)
    return Net(name, found, titles().get(name, name), YEARS[found], SIZES.get(plain(name), 224))


def plain(name: str) -> str:
    """The name without the prefix that says where timm's weights come from."""
    return re.sub("^(tf|gluon|ig)_", "", name)


def family(name: str) -> str:
    """Family of a model by its timm name. Raises ``ValueError`` for a name of no family of the study."""
    bare = plain(name)
    for prefix, found in _FAMILY_BY_PREFIX.items():
        if bare.startswith(prefix):
            return found
    raise ValueError(f"{name!r} belongs to no family of this study: {', '.join(FAMILIES)}")


def is_ablation(name: str) -> bool:
    """Whether this is a net of the study with a part exchanged, which nobody published weights of."""
    return "_se_" in name or "_nose_" in name


def is_known(name: object) -> bool:
    """Whether this is a timm name of a family of the study."""
    return isinstance(name, str) and plain(name).startswith(tuple(_FAMILY_BY_PREFIX))


@cache
def titles() -> dict[str, str]:
    """Timm name -> the name that papers print, from the published rows."""
    rows = published.models().dropna(subset=["timm_name"])
    rows = rows[~rows.model.eq(rows.timm_name)].drop_duplicates("timm_name")
    return dict(zip(rows.timm_name, rows.model, strict=True))
