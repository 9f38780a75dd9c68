"""Is a model built from scratch the model it claims to be? timm's model of the same name is the ground truth."""

import pkgutil
from collections.abc import Callable
from functools import cache
from importlib import import_module

import pandas as pd
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from whichbackbone import models
from whichbackbone.measure import cost

TOLERANCE = 1e-5  # of the range of timm's logits

# Odd at every scale of a net of stride 32 (161, 81, 41, 21, 11, 6), so that padding and rounding must agree as well.
SIZE = 161


class MismatchError(ValueError):
    """Two models that should be the same differ in their layers."""


@cache
def builders() -> dict[str, Callable[..., nn.Module]]:
    """Return the ``build`` function of its family for each timm name, and for the ablations, which timm does not have.

    A new module in ``models`` is found by itself.
    """
    families = [import_module(f"{models.__name__}.{m.name}") for m in pkgutil.iter_modules(models.__path__)]
    return {name: family.build for family in families for name in family.VARIANTS | getattr(family, "ABLATIONS", {})}


def build(timm_name: str, **options) -> nn.Module:
    """Build our model of a timm name, with random weights; options go to the family's ``build``.

    Raises ``ValueError`` if no model of that name is built here.
    """
    if timm_name not in builders():
        raise ValueError(f"no model {timm_name!r} built here: choose one of {', '.join(builders())}")
    return builders()[timm_name](timm_name, **options)


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, side: int = 64, images: int = 8) -> nn.Module:
    """Give all weights, biases and batch-norm statistics random values, and return the model in eval mode.

    Fresh models agree too easily: their biases are 0 and their norms do nothing. The statistics come from a pass over
    noise, so that activations stay near 1 in a deep net and no gate saturates.

    Args:
        model: is changed.
        seed: of the values.
        side: pixels of the noise. A net whose outputs matter at a large side takes its statistics there: those of small
            images, which are mostly border, let a deep EfficientNet's activations grow without bound at 224 pixels.
        images: of noise.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() > 1:  # convolutions and linear layers: keep the size of what passes through a ReLU
                p.copy_(noise * (2 / p[0].numel()) ** 0.5)
            else:  # norms: scale around 1; biases: around 0
                p.copy_((isinstance(module, _BatchNorm) and name == "weight") + 0.2 * noise)
    norms = [m for m in model.eval().modules() if isinstance(m, _BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.train()
        m.momentum = 1.0  # the statistics become those of this one batch
    model(torch.randn(images, _in_chans(model), side, side, generator=generator))
    for m, momentum in zip(norms, momenta, strict=True):
        m.momentum = momentum
    return model.eval()


@torch.no_grad()
def copy_weights(timm_model: nn.Module, ours: nn.Module) -> nn.Module:
    """Copy all parameters and statistics of timm's model into ours, in order, and return ours.

    Layers have other names here than in timm, so order, kind (weight, bias, running_mean ...) and shape must agree.
    Raises ``MismatchError``, which names the first tensor that disagrees.
    """
    theirs, mine = timm_model.state_dict(), ours.state_dict()
    for (a, x), (b, y) in zip(theirs.items(), mine.items(), strict=False):
        if (a.rpartition(".")[2], x.shape) != (b.rpartition(".")[2], y.shape):
            raise MismatchError(
                f"timm's {type(timm_model).__name__} has {a} {tuple(x.shape)} where our {type(ours).__name__} "
                f"has {b} {tuple(y.shape)}: define the layers in timm's order"
            )
    if len(theirs) != len(mine):
        extra, owner = (list(theirs)[len(mine)], "timm") if len(theirs) > len(mine) else (list(mine)[len(theirs)], "we")
        raise MismatchError(
            f"timm's {type(timm_model).__name__} has {len(theirs)} tensors, our {type(ours).__name__} "
            f"{len(mine)}: only {owner} have {extra}"
        )
    ours.load_state_dict(dict(zip(mine, theirs.values(), strict=True)))
    return ours


def parity(timm_name: str, ours: nn.Module | None = None, seed: int = 0) -> dict[str, object]:
    """Compare our model of a name with timm's: parameters, MACs at timm's input size, and logits.

    Args:
        timm_name: of both models.
        ours: our model, built here if it is None.
        seed: of the weights and the images.

    Returns:
        name; params_ours, params_timm, macs_ours, macs_timm; difference, the largest difference of the logits of two
        images, over the range of timm's, after copying timm's randomised weights; ok, whether the counts are equal and
        the difference is at most `TOLERANCE`.

    Raises:
        MismatchError: if the layers differ.
    """
    ours = build(timm_name) if ours is None else ours
    import timm  # the ground truth of a check alone: a machine without it can measure

    theirs = randomise(timm.create_model(timm_name), seed)
    size = theirs.default_cfg["input_size"]
    copy_weights(theirs, ours).eval()
    x = torch.randn(2, size[0], SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        expected, logits = theirs(x), ours(x)
    mine, timms = cost.total(ours, size), cost.total(theirs, size)
    difference = ((logits - expected).abs().max() / (expected.max() - expected.min())).item()
    return dict(
        name=timm_name,
        params_ours=mine.params,
        params_timm=timms.params,
        macs_ours=mine.macs,
        macs_timm=timms.macs,
        difference=difference,
        # False as well if the difference is not a number.
        ok=(mine.params, mine.macs) == (timms.params, timms.macs) and difference <= TOLERANCE,
    )


def compare_with_published(rows: pd.DataFrame) -> pd.DataFrame:
    """Put our counts beside printed ones, and say which agree to the digits printed.

    Args:
        rows: rows of ``published.models`` with a timm_name that is built here.

    Returns:
        One row per printed count (those that repeat one of the same source are left out), with the columns: timm_name,
        input_size (pixels), source_id, "params printed (M)", "params ours (M)", "MACs printed (G)", "MACs ours (G)",
        and "agrees": both, params, MACs or neither. A count that was not printed cannot disagree.
    """
    rows = rows.dropna(subset=["input_size"]).dropna(subset=["params_m", "macs_g"], how="all")
    rows = rows.drop_duplicates(["timm_name", "source_id", "params_m", "macs_g", "input_size"]).reset_index(drop=True)
    with torch.device("meta"):  # counting needs shapes, no numbers
        counts = [cost.total(build(row.timm_name), int(row.input_size)) for row in rows.itertuples()]
    params, macs = [c.params / 1e6 for c in counts], [c.macs / 1e9 for c in counts]
    same = zip(map(_agrees, params, rows.params_m), map(_agrees, macs, rows.macs_g), strict=True)
    words = {(True, True): "both", (True, False): "params", (False, True): "MACs", (False, False): "neither"}
    added = {"params printed (M)": rows.params_m, "params ours (M)": params, "MACs printed (G)": rows.macs_g,
             "MACs ours (G)": macs, "agrees": [words[pair] for pair in same]}  # fmt: skip
    return rows[["timm_name", "input_size", "source_id"]].assign(**added)


def _agrees(ours: float, printed: float) -> bool:
    """Whether ``ours`` rounds to the digits of ``printed``; a number does not hold final zeros, so 1.0 is read as 1."""
    if pd.isna(printed):
        return True
    digits = len(f"{printed:.10g}".partition(".")[2])
    return abs(ours - printed) <= 0.5000001 * 10**-digits


def _in_chans(model: nn.Module) -> int:
    """Return the number of channels that the model takes."""
    return next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
