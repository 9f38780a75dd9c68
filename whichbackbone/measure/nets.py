"""Nets that are built here, timed and counted at their own input size: what the family notebooks have alike."""

from collections.abc import Sequence

import pandas as pd
import timm
import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import catalogue
from whichbackbone.evidence.intervals import Interval
from whichbackbone.measure import cost, timing

YARD = "resnet50"


def latency(names: Sequence[str], *, rounds: int, seconds: float) -> pd.DataFrame:
    """Time nets in eager mode at batch 1, all interleaved, and count them.

    Args:
        names: timm names of nets that are built here.
        rounds, seconds: of :func:`timing.measure`.

    Returns:
        One row a net: the columns of :func:`timing.measure`, then pixels (side of the input that the net was trained
        at), params, macs and activations of one image.
    """
    sides = {name: catalogue.net(name).size for name in names}
    images = {side: _image(side) for side in sides.values()}
    nets = {name: checks.build(name).eval() for name in names}
    times = timing.measure({name: timing.inference(net, images[sides[name]]) for name, net in nets.items()},
                           rounds=rounds, seconds=seconds)  # fmt: skip
    counts = [dict(pixels=sides[name], **vars(cost.total(net, sides[name]))) for name, net in nets.items()]
    return times.join(pd.DataFrame(counts))


def time_ratios(latency: pd.DataFrame, yard: str = YARD) -> dict[str, Interval]:
    """How many times longer each net takes than ``yard``, from the same rounds; ``yard`` itself left out."""
    return {name: timing.ratio(latency, name, yard) for name in latency["name"] if name != yard}


def per_mac_ratios(latency: pd.DataFrame, yard: str = YARD) -> dict[str, Interval]:
    """How many times longer one of each net's MACs takes than one of ``yard``'s; ``yard`` itself left out."""
    macs = latency.set_index("name").macs
    return {name: ratio.times(macs[yard] / macs[name]) for name, ratio in time_ratios(latency, yard).items()}


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
