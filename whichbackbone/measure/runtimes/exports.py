"""Nets as ONNX files, kept by content: a net with the same weights is exported once on a machine."""

import hashlib
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from whichbackbone.folders import cache_folder
from whichbackbone.measure.runtimes.base import WrongOutput, quiet
from whichbackbone.optional import needs

FOLDER = "exports"


@dataclass(frozen=True)
class Export:
    """An ONNX file, and the seconds that it took to make; 0 where it was there already."""

    path: str
    seconds: float


def exported(model: nn.Module, x: torch.Tensor) -> Export:
    """Export a model for the shape of ``x``, or find what was exported before.

    What is exported is counted: an exporter that drops a layer whose result is always zero (the last norm of a residual
    branch starts at zero in many libraries) would make a net that is fast because it computes less.

    Args:
        model: in eval mode.
        x: (batch, channels, height, width).

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        WrongOutput: if the graph does not multiply by all weights of the model's layers.
        OSError: if the file cannot be written; nothing is left half written.
    """
    path = cache_folder() / FOLDER / f"{_content(model, x)}.onnx"
    if path.is_file():
        return Export(str(path), 0.0)
    start = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / "model.onnx"
        with quiet():
            # The TorchScript exporter: a second a model where the newer one takes ten, and both give the same graph.
            torch.onnx.export(model, (x,), str(new), dynamo=False)
        found, expected = multiplied(new), _expected(model)
        if found < expected:  # more is no fault: an exporter may write a mean as a product
            raise WrongOutput(f"the exported graph multiplies by {found:,} of the model's {expected:,} weights")
        new.replace(path)
    return Export(str(path), time.perf_counter() - start)


def multiplied(path: Path) -> int:
    """Weights that the convolutions and matrix products of an ONNX file multiply by, counted at each use."""
    with needs("onnx"):
        import onnx
    graph = onnx.load(path).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    products = (node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    return sum(sizes.get(node.input[1], 0) for node in products)


def _expected(model: nn.Module) -> int:
    """The same of a model."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


def _content(model: nn.Module, x: torch.Tensor) -> str:
    """Name of what a model computes: its layers, its weights, the shape of its input, and the exporter's version."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{torch.__version__} {tuple(x.shape)} {model}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
