"""Batch norm multiplied into the convolution before it, as runtimes do before they run a net."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from whichbackbone.measure import timing
from whichbackbone.measure.runtimes.base import difference


def fold_batch_norm(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return a copy in eval mode whose batch norms are multiplied into the convolutions before them.

    ONNX Runtime, OpenVINO and the freezing of torch.compile do the same by themselves. An activation inside the norm
    layer (timm has such layers) stays.

    Args:
        model: is left as it is.
        x: an example, (batch, channels, height, width); one run on it shows which convolution feeds which batch norm.

    Raises:
        WrongOutput: if folding changes the function, as it does where something else reads a convolution's output.
    """
    model = copy.deepcopy(model).eval()
    expected = timing.inference(model, x)().numpy(force=True)
    names = {module: name for name, module in model.named_modules()}
    for conv, norm in _pairs(model, x):
        model.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        model.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
    difference("folded batch norm", timing.inference(model, x)().numpy(force=True), expected)
    return model


def _pairs(model: nn.Module, x: torch.Tensor) -> list[tuple[nn.Conv2d, _BatchNorm]]:
    """Return each convolution whose output a batch norm receives, with that batch norm, as one run on ``x`` shows."""
    made_by, pairs = {}, []

    def watch(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            made_by[id(output)] = (layer, output)  # holds the tensor alive, so that no other gets its id
        elif id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], layer))

    handles = [m.register_forward_hook(watch) for m in model.modules() if isinstance(m, nn.Conv2d | _BatchNorm)]
    try:
        timing.inference(model, x)()
    finally:
        for handle in handles:
            handle.remove()
    return pairs
