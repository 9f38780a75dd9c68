"""The ResNet family, each member one row: ResNet, v2, ResNeXt, SE-ResNet, Wide ResNet, ResNet-D, DenseNet."""
# Written by export from notebooks/02_resnet.ipynb, do not edit.

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


def conv(w_in: int, w_out: int, k: int, s: int = 1, g: int = 1) -> nn.Conv2d:
    """Convolution, k x k in g groups: (N, w_in, H, W) -> (N, w_out, H/s, W/s). No bias, since a batch norm follows."""
    return nn.Conv2d(w_in, w_out, k, stride=s, padding=k // 2, groups=g, bias=False)


def norm_relu(w: int) -> tuple[nn.Module, nn.Module]:
    """Batch norm, then ReLU in place: the batch norm made a new tensor, which nothing else reads."""
    return nn.BatchNorm2d(w), nn.ReLU(inplace=True)


def basic(w_in: int, w_out: int, s: int = 1) -> nn.Sequential:
    """F of ResNet-18 and 34: 3x3, 3x3."""
    return nn.Sequential(
        conv(w_in, w_out, 3, s), *norm_relu(w_out),
        conv(w_out, w_out, 3), nn.BatchNorm2d(w_out),
    )


def bottleneck(w_in: int, w_b: int, w_out: int, s: int = 1, g: int = 1, stride_on: int = 3) -> nn.Sequential:
    """F of ResNet-50 and deeper: 1x1 down to w_b channels, 3x3 in g groups, 1x1 up to w_out.

    ``stride_on`` is the kernel that carries the stride: 1 in He et al. 2015, 3 in every code since ("v1.5").
    """
    s_1x1, s_3x3 = (s, 1) if stride_on == 1 else (1, s)
    return nn.Sequential(
        conv(w_in, w_b, 1, s_1x1), *norm_relu(w_b),
        conv(w_b, w_b, 3, s_3x3, g), *norm_relu(w_b),
        conv(w_b, w_out, 1), nn.BatchNorm2d(w_out),
    )


class ZeroPad(nn.Module):
    """Shortcut A: every s-th pixel, new channels filled with zeros. Free of parameters and of MACs."""

    def __init__(self, new: int, s: int) -> None:
        super().__init__()
        self.new, self.s = new, s

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + new, H/s, W/s)."""
        return nn.functional.pad(x[:, :, :: self.s, :: self.s], (0, 0, 0, 0, 0, self.new))


def shortcut(w_in: int, w_out: int, s: int, option: str = "B") -> nn.Module:
    """W_s of Eq. 2: identity where shapes agree, else option A (zeros), B (1x1 conv) or D (average, then 1x1 conv)."""
    if w_in == w_out and s == 1:
        return nn.Identity()
    if option == "A":
        return ZeroPad(w_out - w_in, s)
    if option == "B" or s == 1:
        return nn.Sequential(conv(w_in, w_out, 1, s), nn.BatchNorm2d(w_out))
    average = nn.AvgPool2d(2, s, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(average, conv(w_in, w_out, 1), nn.BatchNorm2d(w_out))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, F(x) of a whole sample is dropped with probability p.

    What stays is divided by 1 - p here, where the paper multiplies by 1 - p when testing; the mean is the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, some samples zero."""
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.p)
        return x * (keep / (1 - self.p))


class Residual(nn.Module):
    """y = relu(F(x) + W_s x), Eq. 1 and 2 of He et al. 2015. Without a shortcut, a plain unit: y = relu(F(x))."""

    def __init__(self, f: nn.Module, shortcut: nn.Module | None, p: float = 0.0) -> None:
        super().__init__()
        self.f, self.shortcut = f, shortcut
        self.drop_path = DropPath(p) if p else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_out, H/s, W/s)."""
        y = self.drop_path(self.f(x))
        if self.shortcut is not None:
            y += self.shortcut(x)  # in place: no backward pass needs F(x) itself
        return self.relu(y)


class PreActResidual(nn.Module):
    """y = x + F(relu(bn(x))): nothing stands on the identity path (He et al. 2016, Figure 4e)."""

    def __init__(self, w_in: int, f: nn.Module, project: nn.Module | None, p: float = 0.0) -> None:
        super().__init__()
        self.project = project  # where the width changes, the shortcut too starts from the activated input
        self.act = nn.Sequential(*norm_relu(w_in))
        self.f = f
        self.drop_path = DropPath(p) if p else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_out, H/s, W/s)."""
        a = self.act(x)
        return self.drop_path(self.f(a)) + (x if self.project is None else self.project(a))


class SqueezeExcite(nn.Module):
    """x * sigmoid(W_2 relu(W_1 z)), z the mean of each channel (Hu et al. 2018, Eq. 2-4); r is the reduction."""

    def __init__(self, w: int, r: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.Conv2d(w, w // r, 1), nn.ReLU(inplace=True),
            nn.Conv2d(w // r, w, 1), nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, w, H, W) -> the same shape, each channel scaled by a number between 0 and 1."""
        return x * self.gate(x.mean((2, 3), keepdim=True))


@dataclass(frozen=True)
class ResNetRow:
    """One ResNet: a column of Table 1 of He et al. 2015, and what later papers changed about it."""

    n: tuple[int, int, int, int]  # blocks in conv2_x, conv3_x, conv4_x, conv5_x
    bottleneck: bool = True
    C: int = 1  # cardinality, the groups of the 3x3 convolution (ResNeXt)
    d: int = 64  # width of one group in conv2_x, doubled stage by stage (ResNeXt's "4d"; 128 in Wide ResNet-50-2)
    r: int = 0  # reduction of squeeze-and-excitation; 0 is none
    preact: bool = False
    deep_stem: bool = False  # three 3x3 instead of one 7x7 (ResNet-C and D)
    shortcut: str = "B"  # A | B | D where shapes change
    stride_on: int = 3  # the kernel that carries the stride: 1 in He et al. 2015

    def widths(self, stage: int) -> tuple[int, int]:
        """(w_b, w_out): channels inside and after the blocks of stage 0 to 3."""
        w = 64 * 2**stage
        return (self.C * self.d * 2**stage, 4 * w) if self.bottleneck else (w, w)


def block(row: ResNetRow, stage: int, w_in: int, s: int, p: float = 0.0) -> nn.Module:
    """Block that ``row`` prescribes for this stage: (N, w_in, H, W) -> (N, w_out, H/s, W/s)."""
    w_b, w_out = row.widths(stage)
    f = bottleneck(w_in, w_b, w_out, s, row.C, row.stride_on) if row.bottleneck else basic(w_in, w_out, s)
    if row.r:
        f.append(SqueezeExcite(w_out, row.r))
    if not row.preact:
        return Residual(f, shortcut(w_in, w_out, s, row.shortcut), p)
    # The norm and ReLU after each convolution now stand before it: the first moves out of F, the last falls away.
    project = conv(w_in, w_out, 1, s) if (w_in, s) != (w_out, 1) else None
    return PreActResidual(w_in, f[:-1], project, p)


def decay(L: int, drop_path: float) -> Iterator[float]:
    """Linear decay rule: block 1 to L is dropped with probability drop_path * 1/L to drop_path (Huang et al. 2016)."""
    return (drop_path * i / L for i in range(1, L + 1))


def stages(row: ResNetRow, drop_path: float = 0.0) -> Iterator[nn.Sequential]:
    """conv2_x to conv5_x; the first block of each stage but the first halves the resolution."""
    w_in, p = 64, decay(sum(row.n), drop_path)
    for stage, n in enumerate(row.n):
        _, w_out = row.widths(stage)
        first = block(row, stage, w_in, 2 if stage else 1, next(p))
        yield nn.Sequential(first, *(block(row, stage, w_out, 1, next(p)) for _ in range(n - 1)))
        w_in = w_out


def stem(row: ResNetRow, in_chans: int) -> nn.Sequential:
    """conv1 and the max pool: (N, in_chans, 224, 224) -> (N, 64, 56, 56)."""
    if row.deep_stem:
        convs = [conv(in_chans, 32, 3, 2), *norm_relu(32), conv(32, 32, 3), *norm_relu(32), conv(32, 64, 3)]
    else:
        convs = [conv(in_chans, 64, 7, 2)]
    norm = () if row.preact else norm_relu(64)  # with pre-activation the first block brings its own
    return nn.Sequential(*convs, *norm, nn.MaxPool2d(3, stride=2, padding=1))


def head(row: ResNetRow, num_classes: int) -> nn.Sequential:
    """Global average, then the classifier: (N, w, 7, 7) -> (N, num_classes)."""
    w, pool = row.widths(3)[1], nn.AdaptiveAvgPool2d(1)
    if row.preact:  # timm writes the classifier of v2 as a 1x1 convolution; the arithmetic is that of a linear layer
        return nn.Sequential(*norm_relu(w), pool, nn.Conv2d(w, num_classes, 1), nn.Flatten())
    return nn.Sequential(pool, nn.Flatten(), nn.Linear(w, num_classes))


class Network(nn.Module):
    """head(stages(stem(x))): images (N, in_chans, H, W) -> logits (N, num_classes)."""

    def __init__(self, stem: nn.Module, stages: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.stages, self.head = stem, stages, head
        for module in self.modules():  # He et al. 2015b: keeps the size of gradients through conv and ReLU
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """H and W are free, at least 32; the papers use 224."""
        return self.head(self.stages(self.stem(x)))


def resnet(row: ResNetRow, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Any ResNet that a row can describe; blocks are dropped in training with up to ``drop_path`` probability."""
    return Network(stem(row, in_chans), nn.Sequential(*stages(row, drop_path)), head(row, num_classes))


class DenseLayer(nn.Module):
    """[x, H(x)]: H is bn-relu-1x1 to 4k channels, then bn-relu-3x3 to k (Huang et al. 2017, DenseNet-B)."""

    def __init__(self, w_in: int, k: int) -> None:
        super().__init__()
        self.h = nn.Sequential(*norm_relu(w_in), conv(w_in, 4 * k, 1), *norm_relu(4 * k), conv(4 * k, k, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, w_in, H, W) -> (N, w_in + k, H, W): nothing is added, k new channels join the old ones."""
        return torch.cat((x, self.h(x)), 1)


def transition(w: int) -> nn.Sequential:
    """Halves the channels (compression theta = 0.5, DenseNet-C), then the resolution."""
    return nn.Sequential(*norm_relu(w), conv(w, w // 2, 1), nn.AvgPool2d(2))


@dataclass(frozen=True)
class DenseNetRow:
    """One DenseNet-BC: a column of Table 1 of Huang et al. 2017."""

    n: tuple[int, int, int, int]  # layers in each dense block
    k: int = 32  # growth rate: channels that each layer adds


def densenet(row: DenseNetRow, num_classes: int = 1000, in_chans: int = 3) -> Network:
    """Four dense blocks, with a transition before each but the first."""
    w, stages = 2 * row.k, nn.Sequential()
    stem = nn.Sequential(conv(in_chans, w, 7, 2), *norm_relu(w), nn.MaxPool2d(3, stride=2, padding=1))
    for i, n in enumerate(row.n):
        stage = nn.Sequential(transition(w)) if i else nn.Sequential()
        w = w // 2 if i else w
        for _ in range(n):
            stage.append(DenseLayer(w, row.k))
            w += row.k
        stages.append(stage)
    head = nn.Sequential(*norm_relu(w), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(w, num_classes))
    return Network(stem, stages, head)


VARIANTS: dict[str, ResNetRow | DenseNetRow] = {
    "resnet18": ResNetRow(n=(2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetRow(n=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetRow(n=(3, 4, 6, 3)),
    "resnet101": ResNetRow(n=(3, 4, 23, 3)),
    "resnet152": ResNetRow(n=(3, 8, 36, 3)),
    "resnetv2_50": ResNetRow(n=(3, 4, 6, 3), preact=True),
    "wide_resnet50_2": ResNetRow(n=(3, 4, 6, 3), d=128),
    "resnext50_32x4d": ResNetRow(n=(3, 4, 6, 3), C=32, d=4),
    "densenet121": DenseNetRow(n=(6, 12, 24, 16), k=32),
    "seresnet50": ResNetRow(n=(3, 4, 6, 3), r=16),
    "resnet50d": ResNetRow(n=(3, 4, 6, 3), deep_stem=True, shortcut="D"),
}


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, random weights. ``drop_path=0.1`` gives a ResNet stochastic depth.

    Raises ``ValueError`` for an unknown name.
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    row = VARIANTS[name]
    return (resnet if isinstance(row, ResNetRow) else densenet)(row, num_classes, in_chans, **options)


def cifar_resnet(depth: int, residual: bool = True, widths: tuple[int, int, int] = (16, 32, 64),
                 num_classes: int = 10, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Small net of He et al. 2015, section 4.2: depth = 6n + 2 layers. ``residual=False`` is its plain twin.

    Shortcuts are option A, so the twins have equal parameters, equal MACs and, from one seed, equal initial weights.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"depth {depth} is not 6n + 2: choose 8, 14, 20, 32, 44, 56, 110 ...")
    p = decay(3 * n, drop_path)

    def unit(w_in: int, w: int, s: int) -> Residual:
        return Residual(basic(w_in, w, s), shortcut(w_in, w, s, "A") if residual else None, next(p))

    stem = nn.Sequential(conv(in_chans, widths[0], 3), *norm_relu(widths[0]))
    stages = nn.Sequential(*(
        nn.Sequential(unit(w_in, w, s), *(unit(w, w, 1) for _ in range(n - 1)))
        for s, (w_in, w) in zip((1, 2, 2), pairwise((widths[0], *widths)), strict=True)))
    return Network(stem, stages, nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)))
