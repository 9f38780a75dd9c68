"""What a model costs on paper: parameters, MACs, activations and bytes moved, layer by layer.

One convention, stated once. **MACs**: multiply-accumulates of convolutions and linear layers at the stated input size,
batch 1; FLOPs = 2 x MACs. **Activations**: elements output by convolutions (RegNet, section 3.3). **Bytes moved**: each
layer reads its input and its weights and writes its output once, in fp32; what a cache or a fused kernel saves, and
what an unfused one repeats, is the difference between this and reality.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from types import SimpleNamespace

import pandas as pd
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

KINDS = ("full", "grouped", "depthwise", "pointwise", "linear", "norm", "activation", "pool")
FP32_BYTES = 4

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# torch gives activation functions no common base class; all of them live in this module.
_ACTIVATIONS = tuple(
    c
    for c in vars(nn.modules.activation).values()
    if isinstance(c, type) and issubclass(c, nn.Module) and c not in (nn.Module, nn.MultiheadAttention)
)


def layers(model: nn.Module, input_size: int | tuple[int, ...] = 224) -> pd.DataFrame:
    """One row per layer in the order of execution, at batch 1.

    Args:
        model: any image model; it runs on shapes only (torch's meta device), so this takes no compute and no memory.
        input_size: side in pixels of an RGB image, or (channels, height, width).

    Returns:
        Columns name, kind (one of ``KINDS``), in_shape, out_shape, kernel, stride, groups, macs, params, activations
        (of convolutions; else 0), bytes_moved.

    Raises ``ValueError`` when ``input_size`` is no size, or one that the model does not run on.
    """
    rows, shape = [], _shape(input_size)
    try:
        with _watched(model, rows), torch.inference_mode():
            _forward_on_meta(model, shape)
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} does not run on an input of {shape}: {error}") from error
    columns = ["name", "kind", "in_shape", "out_shape", "kernel", "stride", "groups"]
    return pd.DataFrame(rows, columns=[*columns, "macs", "params", "activations", "bytes_moved"])


def total(model: nn.Module, input_size: int | tuple[int, ...] = 224) -> SimpleNamespace:
    """``params`` (all parameters of the model), ``macs`` and ``activations`` of one image."""
    rows = layers(model, input_size)
    params = sum(p.numel() for p in model.parameters())
    return SimpleNamespace(params=params, macs=int(rows.macs.sum()), activations=int(rows.activations.sum()))


def intensity(rows: pd.DataFrame) -> pd.Series:
    """Arithmetic intensity of each layer in FLOPs per byte: the x axis of a roofline."""
    return 2 * rows["macs"] / rows["bytes_moved"]


def kind_of(layer: nn.Module) -> str | None:
    """The kind of a layer, or ``None`` for a module that is none (a container, an identity, dropout).

    A convolution is pointwise when its kernel is 1x1 and it is not grouped; depthwise when every input channel is a
    group of its own; grouped in between; else full.
    """
    if isinstance(layer, _ConvNd):
        if layer.groups == 1:
            return "pointwise" if set(layer.kernel_size) == {1} else "full"
        return "depthwise" if layer.groups == layer.in_channels else "grouped"
    for kind, types in (("linear", nn.Linear), ("norm", _NORMS), ("pool", _POOLS), ("activation", _ACTIVATIONS)):
        if isinstance(layer, types):
            return kind
    return None


def _row(name: str, layer: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
    params = sum(p.numel() for p in layer.parameters(recurse=False))
    macs = 0
    if isinstance(layer, _ConvNd):
        # Each output element sums kernel area x channels of its group; if transposed, each input element feeds as many.
        macs = (x if layer.transposed else y).numel() * layer.weight[0].numel()
    elif isinstance(layer, nn.Linear):
        macs = y.numel() * layer.in_features
    return dict(
        name=name,
        kind=kind_of(layer),
        in_shape=tuple(x.shape[1:]),
        out_shape=tuple(y.shape[1:]),
        kernel=getattr(layer, "kernel_size", None),
        stride=getattr(layer, "stride", None),
        groups=getattr(layer, "groups", None),
        macs=macs,
        params=params,
        activations=y.numel() if isinstance(layer, _ConvNd) else 0,
        bytes_moved=FP32_BYTES * (x.numel() + params + y.numel()),
    )


@contextmanager
def _watched(model: nn.Module, rows: list) -> Iterator[None]:
    """Hooks that append a row when a layer runs. A layer that runs twice counts twice, its parameters once."""
    seen, handles = set(), []

    def hook(name: str):
        def record(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            row = _row(name, layer, inputs[0], output)
            rows.append(row | {"params": 0 if name in seen else row["params"]})
            seen.add(name)

        return record

    try:
        for name, layer in model.named_modules():
            if kind_of(layer) is not None:
                handles.append(layer.register_forward_hook(hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _forward_on_meta(model: nn.Module, shape: tuple[int, int, int]) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shadows = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    was_training = [m for m in model.modules() if m.training]
    model.eval()
    try:
        functional_call(model, shadows, (torch.empty(1, *shape, device="meta"),))
    finally:
        for module in was_training:
            module.training = True


def _shape(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    shape = (3, size, size) if isinstance(size, Integral) else size
    sides = [n for n in shape if isinstance(n, Integral) and n > 0] if isinstance(shape, tuple | list) else []
    if len(sides) != 3 or len(shape) != 3:
        raise ValueError(f"input_size {size!r}: expected a side in pixels or (channels, height, width)")
    return tuple(map(int, sides))
