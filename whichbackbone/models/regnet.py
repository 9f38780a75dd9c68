"""RegNet: the AnyNet design space as data, and the four numbers that generate a RegNet from it."""
# Written by export from notebooks/06_regnet.ipynb, do not edit.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import log
from random import Random

from torch import nn

from whichbackbone.models.mobilenet import SqueezeExcite, classifier
from whichbackbone.models.resnet import Network, Residual, bottleneck, conv, decay, norm_relu, shortcut


class InvalidDesign(ValueError):
    """Numbers that describe no net; the message says which constraint they break."""


@dataclass(frozen=True)
class Stage:
    """d_i blocks of width w_i, bottleneck ratio b_i and group width g_i: one of AnyNet's four stages."""

    d: int
    w: int
    b: float = 1.0  # the 3x3 convolution is w / b wide
    g: int = 1  # channels a group of the 3x3: 1 is depthwise

    def __post_init__(self) -> None:
        if self.d < 1 or self.g < 1 or self.w_b < 1:
            raise InvalidDesign(f"{self}: expected d, w / b and g of at least 1, found w / b = {self.w_b}")
        if self.w_b % self.g:
            raise InvalidDesign(f"{self}: expected w / b divisible by g: {self.w_b} channels, groups of {self.g}")

    @property
    def w_b(self) -> int:
        """Width of the 3x3 convolution."""
        return round(self.w / self.b)


def nearest(d: int, w: int, b: float, g: int) -> Stage:
    """The nearest stage that can be built: g at most w / b, then w / b moved to a multiple of g."""
    if (g := min(g, int(w / b))) < 1:
        raise InvalidDesign(f"a stage has width {w}, too narrow for b = {b}: expected w >= b and g >= 1")
    return Stage(d, w=int(round(w / b / g) * g * b), b=b, g=g)


@dataclass(frozen=True)
class AnyNetRow:
    """A net of the space AnyNetX: stem, body of stages that each halve the resolution, head. With ``se``, AnyNetY."""

    stages: tuple[Stage, ...]
    se: bool = False
    w_stem: int = 32
    s_stem: int = 2


def block(w_in: int, stage: Stage, s: int, se: bool, p: float = 0.0) -> Residual:
    """X block: 1x1, 3x3 in groups, 1x1 around a skip; Y block: the same with the gate after the 3x3."""
    f = bottleneck(w_in, stage.w_b, stage.w, s, stage.w_b // stage.g)
    if se:  # the gate is a quarter as wide as the block's input
        f.insert(6, SqueezeExcite(stage.w_b, round(w_in / 4), lambda: nn.ReLU(inplace=True), nn.Sigmoid))
    return Residual(f, shortcut(w_in, stage.w, s), p)


def anynet(row: AnyNetRow, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """(N, in_chans, H, W) -> (N, num_classes). InvalidDesign for a stage that cannot be built."""
    w_in, body = row.w_stem, nn.Sequential()
    p = decay(sum(stage.d for stage in row.stages), drop_path)
    for stage in row.stages:
        blocks = nn.Sequential()
        for i in range(stage.d):
            blocks.append(block(w_in, stage, 1 if i else 2, row.se, next(p)))
            w_in = stage.w
        body.append(blocks)
    stem = nn.Sequential(conv(in_chans, row.w_stem, 3, row.s_stem), *norm_relu(row.w_stem))
    return Network(stem, body, nn.Sequential(*classifier(w_in, num_classes)))


@dataclass(frozen=True, kw_only=True)
class Line:
    """The quantised linear parameterisation (Radosavovic et al. 2020, Eqs. 2-4)."""

    w_0: int  # initial width
    w_a: float  # slope: width added by each block
    w_m: float  # factor between the widths of stages
    d: int  # blocks
    q: int = 8  # widths are multiples of it

    def widths(self) -> list[int]:
        """Width of each of the d blocks: w_0 + w_a j, moved to the nearest power w_0 w_m^s, then to a multiple of q."""
        if self.w_0 < 1 or self.w_a < 0 or self.w_m <= 1 or self.d < 1:
            raise InvalidDesign(f"{self}: expected w_0 >= 1, w_a >= 0, w_m > 1 and d >= 1")
        u = [self.w_0 + self.w_a * j for j in range(self.d)]  # Eq. 2
        s = [round(log(u_j / self.w_0) / log(self.w_m)) for u_j in u]  # Eq. 3
        return [round(self.w_0 * self.w_m**s_j / self.q) * self.q for s_j in s]  # Eq. 4


@dataclass(frozen=True, kw_only=True)
class RegNetRow(Line):
    """A line, with one g and b for all stages."""

    g: int
    b: float = 1.0
    se: bool = False

    def stages(self) -> Iterator[Stage]:
        """Blocks of one width make a stage, whose width is then moved to a multiple of its group width times b."""
        for w, blocks in groupby(self.widths()):
            yield nearest(len(list(blocks)), w, self.b, self.g)

    def anynet(self) -> AnyNetRow:
        """The net of the larger space that these numbers pick."""
        return AnyNetRow(tuple(self.stages()), self.se)


X: dict[str, RegNetRow] = {
    "regnetx_002": RegNetRow(w_0=24, w_a=36.44, w_m=2.49, d=13, g=8),
    "regnetx_004": RegNetRow(w_0=24, w_a=24.48, w_m=2.54, d=22, g=16),
    "regnetx_006": RegNetRow(w_0=48, w_a=36.97, w_m=2.24, d=16, g=24),
    "regnetx_008": RegNetRow(w_0=56, w_a=35.73, w_m=2.28, d=16, g=16),
    "regnetx_016": RegNetRow(w_0=80, w_a=34.01, w_m=2.25, d=18, g=24),
    "regnetx_032": RegNetRow(w_0=88, w_a=26.31, w_m=2.25, d=25, g=48),
    "regnetx_040": RegNetRow(w_0=96, w_a=38.65, w_m=2.43, d=23, g=40),
    "regnetx_064": RegNetRow(w_0=184, w_a=60.83, w_m=2.07, d=17, g=56),
    "regnetx_080": RegNetRow(w_0=80, w_a=49.56, w_m=2.88, d=23, g=120),
    "regnetx_120": RegNetRow(w_0=168, w_a=73.36, w_m=2.37, d=19, g=112),
    "regnetx_160": RegNetRow(w_0=216, w_a=55.59, w_m=2.1, d=22, g=128),
    "regnetx_320": RegNetRow(w_0=320, w_a=69.86, w_m=2.0, d=23, g=168),
}


Y: dict[str, RegNetRow] = {
    "regnety_002": RegNetRow(w_0=24, w_a=36.44, w_m=2.49, d=13, g=8, se=True),
    "regnety_004": RegNetRow(w_0=48, w_a=27.89, w_m=2.09, d=16, g=8, se=True),
    "regnety_006": RegNetRow(w_0=48, w_a=32.54, w_m=2.32, d=15, g=16, se=True),
    "regnety_008": RegNetRow(w_0=56, w_a=38.84, w_m=2.4, d=14, g=16, se=True),
    "regnety_016": RegNetRow(w_0=48, w_a=20.71, w_m=2.65, d=27, g=24, se=True),
    "regnety_032": RegNetRow(w_0=80, w_a=42.63, w_m=2.66, d=21, g=24, se=True),
    "regnety_040": RegNetRow(w_0=96, w_a=31.41, w_m=2.24, d=22, g=64, se=True),
    "regnety_064": RegNetRow(w_0=112, w_a=33.22, w_m=2.27, d=25, g=72, se=True),
    "regnety_080": RegNetRow(w_0=192, w_a=76.82, w_m=2.19, d=17, g=56, se=True),
    "regnety_120": RegNetRow(w_0=168, w_a=73.36, w_m=2.37, d=19, g=112, se=True),
    "regnety_160": RegNetRow(w_0=200, w_a=106.23, w_m=2.48, d=18, g=112, se=True),
    "regnety_320": RegNetRow(w_0=232, w_a=115.89, w_m=2.53, d=20, g=232, se=True),
}
VARIANTS = X | Y


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, random weights; takes ``drop_path``. ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    return anynet(VARIANTS[name].anynet(), num_classes, in_chans, **options)


STEPS = {
    "AnyNetX_A": "everything free",
    "AnyNetX_B": "+ one bottleneck ratio b",
    "AnyNetX_C": "+ one group width g",
    "AnyNetX_D": "+ widths never fall",
    "AnyNetX_E": "+ depths never fall",
    "RegNetX": "+ widths on a line",
}  # A to E lie inside one another; RegNetX lies in D, and in E only where its depths do not fall
B, G = (1, 2, 4), (1, 2, 4, 8, 16)  # to choose from
WIDE = G[1:]  # groups of more than one channel
VARIED = {  # RegNets that differ in one thing: what b and g are drawn from; b below 1 is the inverted bottleneck
    "b = 1/2": ((0.5,), WIDE), "b = 1": ((1,), WIDE), "b = 2": ((2,), WIDE), "b = 4": ((4,), WIDE),
    "g = 1": ((1,), (1,)),
}
MOST_D, MOST_W, TINY_STEM = 4, 128, dict(w_stem=8, s_stem=1)


def log_uniform(random: Random, low: int, high: int) -> int:
    """A whole number in low..high; each doubling is equally likely."""
    return int(low * (high / low + 1 / low) ** random.random())


def draw(space: str, random: Random) -> tuple[AnyNetRow, RegNetRow | None]:
    """A tiny net of a space of ``STEPS`` or ``VARIED``, and the line it comes from if it is a RegNet."""
    if space in VARIED:
        return draw_line(random, *VARIED[space])
    if space == "RegNetX":
        return draw_line(random)
    step = list(STEPS).index(space)  # the number of freedoms taken away
    d, w = ([log_uniform(random, 1, most) for _ in range(4)] for most in (MOST_D, MOST_W // 8))
    b, g = ([random.choice(choices) for _ in range(4)] for choices in (B, G))
    b, g = b[:1] * 4 if step >= 1 else b, g[:1] * 4 if step >= 2 else g
    d, w = sorted(d) if step >= 4 else d, sorted(w) if step >= 3 else w
    stages = tuple(nearest(d_i, 8 * w_i, b_i, g_i) for d_i, w_i, b_i, g_i in zip(d, w, b, g, strict=True))
    return AnyNetRow(stages, **TINY_STEM), None


def draw_line(random: Random, bs: Sequence[float] = B, gs: Sequence[int] = G) -> tuple[AnyNetRow, RegNetRow]:
    """A tiny RegNet of four stages: w_m uniform as in the paper, b and g out of bs and gs, the rest log-uniform."""
    while True:
        line = RegNetRow(
            w_0=8 * log_uniform(random, 1, 4), w_a=4 * 16 ** random.random(), w_m=random.uniform(1.5, 3),
            d=log_uniform(random, 4, 4 * MOST_D), g=random.choice(gs), b=random.choice(bs))
        stages = tuple(line.stages())
        if len(stages) == 4 and max(s.w for s in stages) <= MOST_W and max(s.d for s in stages) <= MOST_D:
            return AnyNetRow(stages, **TINY_STEM), line


def macs(row: AnyNetRow, size: int, in_chans: int = 1, num_classes: int = 36) -> int:
    """Multiply-accumulates of one image of size x size, by arithmetic: thousands of draws are thrown away for it."""
    side = -(-size // row.s_stem)
    w_in, count = row.w_stem, 9 * side**2 * in_chans * row.w_stem
    for stage in row.stages:
        gate = 2 * stage.w_b * round(w_in / 4) + 2 * (stage.d - 1) * stage.w_b * round(stage.w / 4) if row.se else 0
        half = -(-side // 2)
        first = side**2 * w_in * stage.w_b + half**2 * w_in * stage.w  # 1x1 before the stride, and the shortcut
        inner = half**2 * stage.w_b * (9 * stage.g + stage.w)
        count += first + gate + stage.d * inner + (stage.d - 1) * half**2 * stage.w * stage.w_b
        w_in, side = stage.w, half
    return count + w_in * num_classes


def sample(
    space: str, n: int, size: int, low: float, high: float, seed: int
) -> list[tuple[AnyNetRow, RegNetRow | None]]:
    """Draw n different nets of a space with low <= MACs <= high at this size; ValueError if there are too few."""
    random, found = Random(f"{space} {seed}"), {}
    for _ in range(200_000):
        row, line = draw(space, random)
        if low <= macs(row, size) <= high:
            found.setdefault(row, line)
            if len(found) == n:
                return list(found.items())
    raise ValueError(f"{space}: only {len(found)} of {n} nets have {low:,.0f} to {high:,.0f} MACs at {size} pixels")
