"""Compute the numbers that answers of the question bank state.

An expression of ``data/questions/`` may use:

- ``model(name)``: the net of a timm name, built here where this study builds it, else timm's; shapes without numbers
- ``params(what)``, ``macs(what, size)``, ``activations(what, size)``: its counts for one image of ``size`` pixels each
  way (224); ``what`` is a name or a module
- ``layers(what, size)``: the same layer by layer, as :func:`whichbackbone.measure.cost.layers` gives it
- ``conv(M, N, k, s, g)``: a convolution without bias from M to N channels, k x k (3), stride s (1), g groups (1)
- ``separable(M, N, k)``: a depthwise and a pointwise one in its place
- ``receptive_field((k, s), ...)``: side in pixels that one output of these layers sees
- ``printed(column, **where)``: the one value of a column of ``published.models``; ``timed(**where)``: of
  ``published.speed``
- ``resnet``, ``mobilenet``, ``efficientnet``, ``regnet``, ``resnest`` (the nets built here), ``cost``, ``catalogue``,
  ``math``, ``nn`` and ``torch``
"""

import math
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import catalogue, published
from whichbackbone.measure import cost
from whichbackbone.models import efficientnet, mobilenet, regnet, resnest, resnet
from whichbackbone.teach.questions import Question, QuestionsError


def check(question: Question) -> None:
    """Compute every number that a question states.

    Raises:
        QuestionsError: for an expression that fails, is not true, or gives another number than the text, naming file
            and line.
    """
    file = question.place.partition(",")[0]
    for number in question.numbers:
        where = f"{file}, line {number.line}: question {question.id!r}"
        try:
            with torch.device("meta"):
                truth = eval(number.expression, dict(NAMES))
        except Exception as error:  # whatever it is, it belongs to the line
            raise QuestionsError(f"{where}: {number.expression}: {type(error).__name__}: {error}") from None
        if isinstance(truth, bool | np.bool_):
            if not truth:
                raise QuestionsError(f"{where} says {number.text!r}, and {number.expression} is not true")
        elif number.value is None:
            raise QuestionsError(f"{where} says {number.text!r}, which has no digit: give it a value and a tolerance")
        elif not abs(truth - number.value) <= number.tolerance * (1 + 1e-9):
            raise QuestionsError(f"{where} says {number.text!r}, and {number.expression} is {truth:.6g}")


@cache
def model(name: str) -> nn.Module:
    """Build the net of a timm name on torch's meta device, from this study's own code where there is some."""
    with torch.device("meta"):
        return checks.build(name) if name in checks.builders() else timm.create_model(name)


@cache
def layers(what: str | nn.Module, size: int = 224) -> pd.DataFrame:
    """Count a net (by its name) or a module layer by layer, for an image, or maps, of ``size`` pixels each way."""
    net = model(what) if isinstance(what, str) else what
    channels = next(m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d))
    return cost.layers(net, (channels, size, size))


def params(what: str | nn.Module) -> int:
    """Count the parameters of a net (by its name) or a module."""
    return sum(p.numel() for p in (model(what) if isinstance(what, str) else what).parameters())


def macs(what: str | nn.Module, size: int = 224) -> int:
    """Count the multiply-accumulates of one image of ``size`` pixels each way."""
    return int(layers(what, size).macs.sum())


def activations(what: str | nn.Module, size: int = 224) -> int:
    """Count the elements that convolutions output for one image of ``size`` pixels each way."""
    return int(layers(what, size).activations.sum())


def conv(M: int, N: int, k: int = 3, s: int = 1, g: int = 1) -> nn.Conv2d:
    """Make a convolution without bias from M to N channels whose output is as large as its input, over the stride."""
    return nn.Conv2d(M, N, k, s, padding=k // 2, groups=g, bias=False)


def separable(M: int, N: int, k: int = 3) -> nn.Sequential:
    """Make a depthwise k x k convolution on M channels and a pointwise one from M to N."""
    return nn.Sequential(conv(M, M, k, g=M), conv(M, N, 1))


def receptive_field(*layers: tuple[int, int]) -> int:
    """Compute the side in pixels that one output sees of the input, through layers of (kernel, stride)."""
    side, step = 1, 1
    for kernel, stride in layers:
        side, step = side + (kernel - 1) * step, step * stride
    return side


def printed(column: str, **where: object) -> float:
    """Return the one value of a column of :func:`published.models` in the rows that ``where`` chooses."""
    return published.one(published.models(**where), column)


def timed(**where: object) -> float:
    """Return the one figure of :func:`published.speed` in the rows that ``where`` chooses, in the unit of the row."""
    return published.one(published.speed(**where), "images_per_s_or_ms")


NAMES: dict[str, Any] = {
    thing.__name__.rpartition(".")[2]: thing
    for thing in (model, params, macs, activations, layers, conv, separable, receptive_field, printed, timed, resnet,
                  mobilenet, efficientnet, regnet, resnest, cost, catalogue, math, nn, torch)
}  # fmt: skip
