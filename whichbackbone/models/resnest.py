"""ResNeSt: a bottleneck whose 3x3 convolution makes several splits of the features and attends to them."""
# Written by export from notebooks/07_resnest.ipynb, do not edit.

from dataclasses import dataclass

from torch import Tensor, nn

from whichbackbone.models.mobilenet import classifier, round8
from whichbackbone.models.resnet import Network, Residual, conv, decay, norm_relu, shortcut


def split_weights(g: Tensor, K: int, R: int) -> Tensor:
    """a_i^k(c) of Eq. 3, the weight of each split in each channel, from G(s).

    (N, R w, 1, 1), group-major, to (N, R, w, 1, 1), radix-major. R = 1 has no other split to compete with: its weight
    is a sigmoid as in squeeze-and-excitation.
    """
    N, w = len(g), g.shape[1] // R
    if R == 1:
        return g.sigmoid().view(N, 1, w, 1, 1)
    return g.view(N, K, R, w // K).transpose(1, 2).softmax(1).reshape(N, R, w, 1, 1)


class SplitAttention(nn.Module):
    """3x3 convolution into R splits in each of K cardinal groups, and their sum weighted channel by channel.

    Zhang et al. 2020, Eqs. 1 to 3, in the radix-major layout of their appendix: one convolution in K R groups.
    """

    def __init__(self, w: int, s: int = 1, K: int = 1, R: int = 2) -> None:
        super().__init__()
        self.K, self.R = K, R
        self.splits = nn.Sequential(conv(w, w * R, 3, s, g=K * R), *norm_relu(w * R))
        w_r = max(32, round8(w * R / 4))
        self.attend = nn.Sequential(
            nn.Conv2d(w, w_r, 1, groups=K), *norm_relu(w_r),
            nn.Conv2d(w_r, w * R, 1, groups=K),
        )

    def weights(self, u: Tensor) -> Tensor:
        """Splits (N, R, w, H, W) -> the weight of each in each channel, (N, R, w, 1, 1)."""
        return split_weights(self.attend(u.sum(1).mean((2, 3), keepdim=True)), self.K, self.R)

    def forward(self, x: Tensor) -> Tensor:
        """(N, w, H, W) -> (N, w, H/s, W/s)."""
        u = self.splits(x).unflatten(1, (self.R, -1))
        return (u * self.weights(u)).sum(1)


@dataclass(frozen=True)
class ResNeStRow:
    """One ResNeSt; the paper writes R s K x d, such as 2s1x64d."""

    n: tuple[int, int, int, int]  # blocks in each stage
    R: int = 2  # radix: splits in a cardinal group; 0 is a plain convolution, as in ResNeXt
    K: int = 1  # cardinality
    d: int = 64  # width of a cardinal group in the first stage
    w_stem: int = 32
    pool_first: bool = False  # whether the average that halves the resolution stands before the 3x3


def bottleneck(row: ResNeStRow, w_in: int, w: int, s: int) -> nn.Sequential:
    """F of a ResNeSt block: 1x1 to the width of the groups, split attention, 1x1 to 4 w.

    The stride is an average over 3x3 beside the convolution, which reads every pixel alike.
    """
    w_b = int(w * row.d / 64) * row.K
    pool = [nn.AvgPool2d(3, s, padding=1)] if s > 1 else []
    attention = (SplitAttention(w_b, 1, row.K, row.R) if row.R
                 else nn.Sequential(conv(w_b, w_b, 3, 1, g=row.K), *norm_relu(w_b)))
    middle = [*pool, attention] if row.pool_first else [attention, *pool]
    return nn.Sequential(conv(w_in, w_b, 1), *norm_relu(w_b), *middle, conv(w_b, 4 * w, 1), nn.BatchNorm2d(4 * w))


def resnest(row: ResNeStRow, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Deep stem, four stages, shortcuts that average (ResNet-D), classifier."""
    c, p, body = row.w_stem, decay(sum(row.n), drop_path), nn.Sequential()
    stem = nn.Sequential(
        conv(in_chans, c, 3, 2), *norm_relu(c), conv(c, c, 3), *norm_relu(c), conv(c, 2 * c, 3), *norm_relu(2 * c),
        nn.MaxPool2d(3, stride=2, padding=1))
    w_in = 2 * c
    for stage, n in enumerate(row.n):
        w, blocks = 64 * 2**stage, nn.Sequential()
        for i in range(n):
            s = 2 if stage and not i else 1
            blocks.append(Residual(bottleneck(row, w_in, w, s), shortcut(w_in, 4 * w, s, "D"), next(p)))
            w_in = 4 * w
        body.append(blocks)
    return Network(stem, body, nn.Sequential(*classifier(w_in, num_classes)))


VARIANTS: dict[str, ResNeStRow] = {
    "resnest14d": ResNeStRow(n=(1, 1, 1, 1)),
    "resnest26d": ResNeStRow(n=(2, 2, 2, 2)),
    "resnest50d": ResNeStRow(n=(3, 4, 6, 3)),
    "resnest50d_1s4x24d": ResNeStRow(n=(3, 4, 6, 3), R=1, K=4, d=24, pool_first=True),
    "resnest50d_4s2x40d": ResNeStRow(n=(3, 4, 6, 3), R=4, K=2, d=40, pool_first=True),
    "resnest101e": ResNeStRow(n=(3, 4, 23, 3), w_stem=64),
    "resnest200e": ResNeStRow(n=(3, 24, 36, 3), w_stem=64),
    "resnest269e": ResNeStRow(n=(3, 30, 48, 8), w_stem=64),
}


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, random weights; takes ``drop_path``. ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    return resnest(VARIANTS[name], num_classes, in_chans, **options)
