"""Nets that are built here, timed beside timm's of the same name; all other times are in the speed table."""

from collections.abc import Sequence

import pandas as pd
import timm
import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import catalogue
from whichbackbone.evidence.intervals import Interval
from whichbackbone.measure import timing


def against_timm(names: Sequence[str], *, rounds: int, seconds: float) -> pd.DataFrame:
    """Time our nets and timm's with the same weights, net by net in the same rounds, batch 1, eager.

    Args:
        names: timm names of nets that are built here.
        rounds: of each pair.
        seconds: budget of all pairs together.

    Returns:
        Two rows a net: net (timm's name), built (``"ours"`` or ``"timm"``), and the columns of
        :func:`timing.measure`, whose name is net and builder.
    """
    frames = []
    for net in names:
        theirs = timm.create_model(net).eval()
        pair: dict[str, nn.Module] = {"ours": checks.copy_weights(theirs, checks.build(net)).eval(), "timm": theirs}
        image = _image(catalogue.net(net).size)
        times = timing.measure({f"{net}, {built}": timing.inference(model, image) for built, model in pair.items()},
                               rounds=rounds, seconds=seconds / len(names))  # fmt: skip
        times.insert(0, "built", list(pair))
        times.insert(0, "net", net)
        frames.append(times)
    return pd.concat(frames, ignore_index=True)


def ours_over_timm(times: pd.DataFrame) -> dict[str, Interval]:
    """How many times longer our net takes than timm's, from the rows of :func:`against_timm`."""
    return {net: timing.ratio(times, f"{net}, ours", f"{net}, timm") for net in times["net"].unique()}


def _image(side: int) -> torch.Tensor:
    """A batch of one image of noise, always the same."""
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
