"""EfficientNet: B0 from its table, B1 to B7 derived from it by compound scaling, and the Lite models."""
# Written by export from notebooks/05_efficientnet.ipynb, do not edit.

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor, nn

from whichbackbone.models.mobilenet import Layers, Stage, classifier, round8, stages
from whichbackbone.models.resnet import Network


class ConvSame(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: ceil(H/s) rows out, and an odd row of zeros goes to the bottom.

    PyTorch pads both sides alike, so with stride 2 and an even size its kernel looks one pixel further up and left.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_out, ceil(H/s), ceil(W/s))."""
        (k, _), (s, _) = self.kernel_size, self.stride
        height, width = (max(k - s if size % s == 0 else k - size % s, 0) for size in x.shape[-2:])
        x = nn.functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


def conv_same(w_in: int, w_out: int, k: int, s: int = 1, g: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded as TensorFlow does; with stride 1 that is what PyTorch does."""
    if s == 1:
        return nn.Conv2d(w_in, w_out, k, padding=k // 2, groups=g, bias=False)
    return ConvSame(w_in, w_out, k, s, groups=g, bias=False)


B0 = (
    Stage(t=1, c=16, se=True),
    Stage(t=6, c=24, n=2, s=2, se=True),
    Stage(t=6, c=40, n=2, s=2, k=5, se=True),
    Stage(t=6, c=80, n=3, s=2, se=True),
    Stage(t=6, c=112, n=3, k=5, se=True),
    Stage(t=6, c=192, n=4, s=2, k=5, se=True),
    Stage(t=6, c=320, se=True),
)


@dataclass(frozen=True)
class EfficientNetRow:
    """One EfficientNet: what B0's widths and depths are multiplied with, and the image size in pixels."""

    width: float
    depth: float
    resolution: int
    dropout: float = 0.2
    lite: bool = False  # stem, head, first and last stage not scaled
    se: bool = True  # squeeze-and-excitation
    act: Callable[..., nn.Module] = nn.SiLU  # Swish
    tf: bool = False  # padding and batch-norm epsilon of the original weights, which were trained in TensorFlow


def efficientnet(row: EfficientNetRow, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0,
                 dropout: float = 0.0) -> Network:
    """B0 scaled as ``row`` says."""
    layers = Layers(act=partial(row.act, inplace=True), se_act=partial(nn.SiLU, inplace=True))
    if row.tf:
        layers = replace(layers, conv=conv_same, norm=partial(nn.BatchNorm2d, eps=1e-3))
    last = len(B0) - 1
    rows = [replace(r.scaled(row.width, 1.0 if row.lite and i in (0, last) else row.depth), se=row.se)
            for i, r in enumerate(B0)]
    w_stem, w_head = (32, 1280) if row.lite else (round8(32 * row.width), round8(1280 * row.width))
    return Network(
        nn.Sequential(*layers.conv_act(in_chans, w_stem, 3, 2)),
        stages(w_stem, rows, layers, drop_path),
        nn.Sequential(*layers.conv_act(rows[-1].c, w_head), *classifier(w_head, num_classes, dropout)))


SCALES = {  # width, depth, resolution, dropout: as shipped, rounded
    "b0": (1.0, 1.0, 224, 0.2), "b1": (1.0, 1.1, 240, 0.2), "b2": (1.1, 1.2, 260, 0.3), "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4), "b5": (1.6, 2.2, 456, 0.4), "b6": (1.8, 2.6, 528, 0.5), "b7": (2.0, 3.1, 600, 0.5),
    "lite0": (1.0, 1.0, 224, 0.2), "lite1": (1.0, 1.1, 240, 0.2), "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3), "lite4": (1.4, 1.8, 300, 0.3),
}

LITE = dict(lite=True, se=False, act=nn.ReLU6)
VARIANTS: dict[str, EfficientNetRow] = {
    f"{prefix}efficientnet_{name}": EfficientNetRow(*scale, tf=bool(prefix), **LITE if name.startswith("lite") else {})
    for prefix in ("", "tf_") for name, scale in SCALES.items()
}
ABLATIONS: dict[str, EfficientNetRow] = {  # B0 with and without gates, with other activations; nobody published weights
    f"efficientnet_b0_{gate}_{act}": EfficientNetRow(*SCALES["b0"], se=gate == "se", act=layer)
    for gate in ("se", "nose") for act, layer in (("swish", nn.SiLU), ("hswish", nn.Hardswish), ("relu6", nn.ReLU6))
}


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, or ablation, random weights; takes ``drop_path``. ValueError for an unknown name."""
    if name not in VARIANTS | ABLATIONS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    return efficientnet((VARIANTS | ABLATIONS)[name], num_classes, in_chans, **options)
