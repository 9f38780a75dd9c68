"""What a model costs on paper: parameters, MACs, activations and bytes moved, layer by layer.

The study counts in one way. **MACs** are the multiply-accumulates of convolutions and linear layers at the stated input
size, batch 1; FLOPs = 2 x MACs. **Activations** are the elements that convolutions output (RegNet, section 3.3).
**Bytes moved** assume that each layer reads its input and its weights and writes its output once, in fp32; caches and
fused kernels move fewer, unfused ones more.
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
    """Count each layer of a model, in the order of execution, at batch 1.

    Args:
        model: any image model; it is run on shapes only (torch's meta device), without computing or using memory.
        input_size: side in pixels of an RGB image, or (channels, height, width).

    Returns:
        One row per layer: name, kind (one of ``KINDS``), in_shape, out_shape, kernel, stride, groups, macs, params,
        activations (0 unless it is a convolution), bytes_moved.

    Raises:
        ValueError: if ``input_size`` is no size, or one that the model does not run on.
    """
    rows, shape = [], _shape(input_size)
    try:
        with _record_layers(model, rows), torch.inference_mode():
            _forward_on_meta(model, shape)
    except RuntimeError as error:
        raise ValueError(f"{type(model).__name__} does not run on an input of {shape}: {error}") from error
    columns = ["name", "kind", "in_shape", "out_shape", "kernel", "stride", "groups"]
    return pd.DataFrame(rows, columns=[*columns, "macs", "params", "activations", "bytes_moved"])


def total(model: nn.Module, input_size: int | tuple[int, ...] = 224) -> SimpleNamespace:
    """Return ``params`` (all of the model's), ``macs`` and ``activations`` of one image; see `layers`."""
    rows = layers(model, input_size)
    params = sum(p.numel() for p in model.parameters())
    return SimpleNamespace(params=params, macs=int(rows.macs.sum()), activations=int(rows.activations.sum()))


def intensity(rows: pd.DataFrame) -> pd.Series:
    """Return the arithmetic intensity of each layer of `layers`, in FLOPs per byte: the x axis of a roofline."""
    return 2 * rows["macs"] / rows["bytes_moved"]


def kind_of(layer: nn.Module) -> str | None:
    """Return the kind of a layer (one of ``KINDS``), or ``None`` for a container, an identity or dropout.

    An ungrouped convolution is pointwise if its kernel is 1x1, else full. A grouped one is depthwise if every input
    channel is a group of its own, else grouped.
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
    """Return the row of `layers` for a layer that turned ``x`` into ``y``."""
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
def _record_layers(model: nn.Module, rows: list) -> Iterator[None]:
    """Append a row when a layer runs, as long as the context lasts. A layer that runs twice has two rows.

    Its parameters count in the first row only.
    """
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
    """Run a model in eval mode on one image (channels, height, width) without numbers; its mode is set back."""
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
    """Return (channels, height, width) of an ``input_size``; raise ``ValueError`` if it is none."""
    shape = (3, size, size) if isinstance(size, Integral) else size
    sides = [n for n in shape if isinstance(n, Integral) and n > 0] if isinstance(shape, tuple | list) else []
    if len(sides) != 3 or len(shape) != 3:
        raise ValueError(f"input_size {size!r}: expected a side in pixels or (channels, height, width)")
    return tuple(map(int, sides))
