"""The inverted-residual line begins: MobileNetV1, V2 and V3, and the block that MnasNet and EfficientNet share."""
# Written by export from notebooks/03_mobilenet.ipynb, do not edit.

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

from torch import Tensor, nn

from whichbackbone.models import resnet
from whichbackbone.models.resnet import DropPath, Network, conv, decay

Make = Callable[[], nn.Module]  # makes a layer that needs no arguments, such as an activation


def round8(c: float) -> int:
    """Channels rounded to a multiple of 8, at least 8, and one step higher where that would lose over 10 %."""
    rounded = max(8, int(c + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * c else rounded


class SqueezeExcite(resnet.SqueezeExcite):
    """x * gate(W_2 act(W_1 z)), z the mean of each channel: 02's gate, its inner width w_r and activations free."""

    def __init__(self, w: int, w_r: int, act: Make, gate: Make) -> None:
        nn.Module.__init__(self)
        self.gate = nn.Sequential(nn.Conv2d(w, w_r, 1), act(), nn.Conv2d(w_r, w, 1), gate())


@dataclass(frozen=True)
class Layers:
    """What the nets of this line fill one block with: functions that make its layers."""

    act: Make = partial(nn.ReLU6, inplace=True)
    se_act: Make = partial(nn.ReLU, inplace=True)
    se_gate: Make = nn.Sigmoid
    se_width: Callable[[int, int], int] = lambda w_in, w_t: w_in // 4  # from the widths before and after expansion
    conv: Callable[..., nn.Conv2d] = conv
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d

    def conv_norm(self, w_in: int, w_out: int, k: int = 1, s: int = 1, g: int = 1) -> list[nn.Module]:
        """Convolution and batch norm, linear: (N, w_in, H, W) -> (N, w_out, H/s, W/s)."""
        return [self.conv(w_in, w_out, k, s, g), self.norm(w_out)]

    def conv_act(self, w_in: int, w_out: int, k: int = 1, s: int = 1, g: int = 1) -> list[nn.Module]:
        """Convolution, batch norm, activation: the same shapes."""
        return [*self.conv_norm(w_in, w_out, k, s, g), self.act()]


class InvertedResidual(nn.Module):
    """x + F(x): widen t times by 1x1, filter each channel by k x k, weigh channels, narrow by 1x1 without activation.

    Sandler et al. 2018, Figure 3b; with ``se``, the block of MnasNet, MobileNetV3 and EfficientNet ("MBConv"). With
    t = 1 there is nothing to widen, and the first 1x1 falls away. The skip is there where shapes allow it.
    """

    def __init__(self, w_in: int, w_out: int, t: float = 6, k: int = 3, s: int = 1, se: bool = False,
                 layers: Layers = Layers(), p: float = 0.0) -> None:
        super().__init__()
        w_t = round8(w_in * t)
        widen = layers.conv_act(w_in, w_t) if t != 1 else []
        weigh = [SqueezeExcite(w_t, layers.se_width(w_in, w_t), layers.se_act, layers.se_gate)] if se else []
        self.f = nn.Sequential(*widen, *layers.conv_act(w_t, w_t, k, s, g=w_t), *weigh, *layers.conv_norm(w_t, w_out))
        self.skip = s == 1 and w_in == w_out
        self.drop_path = DropPath(p) if p else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_out, H/s, W/s)."""
        return self.drop_path(self.f(x)) + x if self.skip else self.f(x)


@dataclass(frozen=True)
class Stage:
    """n inverted residuals of which the first has stride s: one line of the papers' tables, with their symbols."""

    t: float  # expansion
    c: int  # output channels
    n: int = 1  # blocks
    s: int = 1  # stride of the first
    k: int = 3  # kernel
    se: bool = False
    act: Make | None = None  # where it is not the net's own

    def scaled(self, width: float, depth: float = 1.0) -> "Stage":
        """The same with ``width`` times the channels, to a multiple of 8, and ``depth`` times the blocks, rounded up.

        ValueError for a multiplier that is not above 0.
        """
        if width <= 0 or depth <= 0:
            raise ValueError(f"width {width} and depth {depth} multiply channels and blocks: they must be above 0")
        return replace(self, c=round8(self.c * width), n=ceil(self.n * depth))


def stages(w_in: int, rows: Iterable[Stage], layers: Layers, drop_path: float = 0.0) -> nn.Sequential:
    """The body of a net: (N, w_in, H, W) -> (N, c of the last row, ...). Later blocks are dropped more often."""
    rows, body = list(rows), nn.Sequential()
    p = decay(sum(row.n for row in rows), drop_path)
    for row in rows:
        own = replace(layers, act=row.act) if row.act else layers
        stage = nn.Sequential()
        for i in range(row.n):
            stage.append(InvertedResidual(w_in, row.c, row.t, row.k, 1 if i else row.s, row.se, own, next(p)))
            w_in = row.c
        body.append(stage)
    return body


def classifier(w: int, num_classes: int, dropout: float = 0.0) -> list[nn.Module]:
    """Global average and linear layer: (N, w, H, W) -> (N, num_classes)."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *drop, nn.Linear(w, num_classes)]


@dataclass(frozen=True)
class V1Row:
    """MobileNetV1: Table 1 of Howard et al. 2017, and its width multiplier alpha."""

    alpha: float = 1.0


@dataclass(frozen=True)
class V2Row:
    """MobileNetV2: Table 2 of Sandler et al. 2018, and how timm scales it."""

    width: float = 1.0
    depth: float = 1.0
    ends: bool = True  # whether the width multiplies stem and head, and the depth the first and last stage


@dataclass(frozen=True)
class V3Row:
    """MobileNetV3: Table 1 (large) or 2 (small) of Howard et al. 2019."""

    stages: tuple[Stage, ...]
    w_head: int
    width: float = 1.0


V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))  # (c, s)


def mobilenet_v1(row: V1Row, num_classes: int = 1000, in_chans: int = 3) -> Network:
    """Depthwise separable convolutions one after another, no skip. ValueError for a width that gives no channels."""
    if row.alpha <= 0:
        raise ValueError(f"alpha {row.alpha} multiplies channels: it must be above 0")
    layers, w_in = Layers(), round8(32 * row.alpha)
    stem, body = nn.Sequential(*layers.conv_act(in_chans, w_in, 3, 2)), nn.Sequential()
    for c, s in V1:
        w = round8(c * row.alpha)
        body.append(nn.Sequential(*layers.conv_act(w_in, w_in, 3, s, g=w_in), *layers.conv_act(w_in, w)))
        w_in = w
    return Network(stem, body, nn.Sequential(*classifier(w_in, num_classes)))


V2 = (
    Stage(t=1, c=16),
    Stage(t=6, c=24, n=2, s=2),
    Stage(t=6, c=32, n=3, s=2),
    Stage(t=6, c=64, n=4, s=2),
    Stage(t=6, c=96, n=3),
    Stage(t=6, c=160, n=3, s=2),
    Stage(t=6, c=320),
)


def mobilenet_v2(row: V2Row, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Inverted residuals between a 3x3 stem and a 1x1 head, which never has fewer than 1280 channels."""
    layers = Layers()
    ends = row.width if row.ends else 1.0
    w_stem, w_head = round8(32 * ends), max(1280, round8(1280 * ends))
    last = len(V2) - 1
    rows = [r.scaled(row.width, row.depth if row.ends or 0 < i < last else 1.0) for i, r in enumerate(V2)]
    return Network(
        nn.Sequential(*layers.conv_act(in_chans, w_stem, 3, 2)),
        stages(w_stem, rows, layers, drop_path),
        nn.Sequential(*layers.conv_act(rows[-1].c, w_head), *classifier(w_head, num_classes)))


relu, hswish = partial(nn.ReLU, inplace=True), partial(nn.Hardswish, inplace=True)

V3_LARGE = (
    Stage(t=1, c=16, act=relu),
    Stage(t=4, c=24, s=2, act=relu),
    Stage(t=3, c=24, act=relu),
    Stage(t=3, c=40, n=3, s=2, k=5, se=True, act=relu),
    Stage(t=6, c=80, s=2),
    Stage(t=2.5, c=80),
    Stage(t=2.3, c=80, n=2),
    Stage(t=6, c=112, n=2, se=True),
    Stage(t=6, c=160, n=3, s=2, k=5, se=True),
)
V3_SMALL = (
    Stage(t=1, c=16, s=2, se=True, act=relu),
    Stage(t=4.5, c=24, s=2, act=relu),
    Stage(t=3.67, c=24, act=relu),
    Stage(t=4, c=40, s=2, k=5, se=True),
    Stage(t=6, c=40, n=2, k=5, se=True),
    Stage(t=3, c=48, n=2, k=5, se=True),
    Stage(t=6, c=96, n=3, s=2, k=5, se=True),
)


def mobilenet_v3(row: V3Row, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Searched stages, h-swish; the last 1x1 of the head stands behind the pooling, where it costs next to nothing."""
    layers = Layers(act=hswish, se_gate=nn.Hardsigmoid, se_width=lambda w_in, w_t: round8(w_t / 4))
    rows = [r.scaled(row.width) for r in row.stages]
    w_stem = 16 if row.width < 0.75 else round8(16 * row.width)
    w_last = round8(6 * row.stages[-1].c * row.width)
    pool, flatten, linear = classifier(row.w_head, num_classes)
    return Network(
        nn.Sequential(*layers.conv_act(in_chans, w_stem, 3, 2)),
        stages(w_stem, rows, layers, drop_path),
        nn.Sequential(*layers.conv_act(rows[-1].c, w_last), pool, nn.Conv2d(w_last, row.w_head, 1), hswish(), flatten,
                      linear))


VARIANTS: dict[str, V1Row | V2Row | V3Row] = {
    "mobilenetv1_100": V1Row(),
    "mobilenetv1_125": V1Row(alpha=1.25),
    "mobilenetv2_035": V2Row(width=0.35),
    "mobilenetv2_050": V2Row(width=0.5),
    "mobilenetv2_075": V2Row(width=0.75),
    "mobilenetv2_100": V2Row(),
    "mobilenetv2_110d": V2Row(width=1.1, depth=1.2, ends=False),
    "mobilenetv2_120d": V2Row(width=1.2, depth=1.4, ends=False),
    "mobilenetv2_140": V2Row(width=1.4),
    "mobilenetv3_small_050": V3Row(V3_SMALL, w_head=1024, width=0.5),
    "mobilenetv3_small_075": V3Row(V3_SMALL, w_head=1024, width=0.75),
    "mobilenetv3_small_100": V3Row(V3_SMALL, w_head=1024),
    "mobilenetv3_large_075": V3Row(V3_LARGE, w_head=1280, width=0.75),
    "mobilenetv3_large_100": V3Row(V3_LARGE, w_head=1280),
}


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, random weights; V2 and V3 take ``drop_path``. ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    make = {V1Row: mobilenet_v1, V2Row: mobilenet_v2, V3Row: mobilenet_v3}[type(VARIANTS[name])]
    return make(VARIANTS[name], num_classes, in_chans, **options)
