"""MnasNet: nets found by a search that measured latency on a phone, as rows of stages of inverted residuals."""
# Written by export from notebooks/04_mnasnet.ipynb, do not edit.

from dataclasses import dataclass
from functools import partial

from torch import nn

from whichbackbone.models.mobilenet import Layers, Stage, classifier, round8, stages
from whichbackbone.models.resnet import Network


@dataclass(frozen=True)
class MnasNetRow:
    """One MnasNet: the stages that the search chose (Tan et al. 2019, Figure 7) and a width multiplier."""

    stages: tuple[Stage, ...]
    width: float = 1.0
    w_stem: int = 32


B1 = (  # searched without squeeze-and-excitation
    Stage(t=1, c=16),
    Stage(t=3, c=24, n=3, s=2),
    Stage(t=3, c=40, n=3, s=2, k=5),
    Stage(t=6, c=80, n=3, s=2, k=5),
    Stage(t=6, c=96, n=2),
    Stage(t=6, c=192, n=4, s=2, k=5),
    Stage(t=6, c=320),
)


A1 = (
    Stage(t=1, c=16),
    Stage(t=6, c=24, n=2, s=2),
    Stage(t=3, c=40, n=3, s=2, k=5, se=True),
    Stage(t=6, c=80, n=4, s=2),
    Stage(t=6, c=112, n=2, se=True),
    Stage(t=6, c=160, n=3, s=2, k=5, se=True),
    Stage(t=6, c=320),
)


SMALL = (
    Stage(t=1, c=8),
    Stage(t=3, c=16, s=2),
    Stage(t=6, c=16, n=2, s=2),
    Stage(t=6, c=32, n=4, s=2, k=5, se=True),
    Stage(t=6, c=32, n=3, se=True),
    Stage(t=6, c=88, n=3, s=2, k=5, se=True),
    Stage(t=6, c=144),
)


def mnasnet(row: MnasNetRow, num_classes: int = 1000, in_chans: int = 3, drop_path: float = 0.0) -> Network:
    """Stem, the row's stages with ReLU, a 1x1 head of 1280 channels that the width does not multiply."""
    layers = Layers(act=partial(nn.ReLU, inplace=True))
    rows = [stage.scaled(row.width) for stage in row.stages]
    w_stem = round8(row.w_stem * row.width)
    return Network(
        nn.Sequential(*layers.conv_act(in_chans, w_stem, 3, 2)),
        stages(w_stem, rows, layers, drop_path),
        nn.Sequential(*layers.conv_act(rows[-1].c, 1280), *classifier(1280, num_classes)))


VARIANTS: dict[str, MnasNetRow] = {
    "mnasnet_050": MnasNetRow(B1, width=0.5),
    "mnasnet_075": MnasNetRow(B1, width=0.75),
    "mnasnet_100": MnasNetRow(B1),
    "mnasnet_140": MnasNetRow(B1, width=1.4),
    "semnasnet_050": MnasNetRow(A1, width=0.5),
    "semnasnet_075": MnasNetRow(A1, width=0.75),
    "semnasnet_100": MnasNetRow(A1),
    "semnasnet_140": MnasNetRow(A1, width=1.4),
    "mnasnet_small": MnasNetRow(SMALL, w_stem=8),
}


def build(name: str, num_classes: int = 1000, in_chans: int = 3, **options: float) -> Network:
    """Variant of this timm name, random weights; takes ``drop_path``. ValueError for an unknown name."""
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r} in this family: choose one of {', '.join(VARIANTS)}")
    return mnasnet(VARIANTS[name], num_classes, in_chans, **options)
