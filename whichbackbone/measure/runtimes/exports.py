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
    path, expected = cache_folder() / FOLDER / f"{_content(model, x)}.onnx", _expected(model)
    if is_whole(path, expected):
        return Export(str(path), 0.0)
    start = time.perf_counter()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / "model.onnx"
        with quiet():
            # The TorchScript exporter: a second a model where the newer one takes ten, and both give the same graph.
            torch.onnx.export(model, (x,), str(new), dynamo=False)
        found = multiplied(new)
        if found < expected:  # more is no fault: an exporter may write a mean as a product
            raise WrongOutput(f"the exported graph multiplies by {found:,} of the model's {expected:,} weights")
        new.replace(path)
    return Export(str(path), time.perf_counter() - start)


def is_whole(path: Path, weights: int) -> bool:
    """Whether a file is there, can be read, and multiplies by so many weights: a damaged one is made again."""
    try:
        return path.is_file() and multiplied(path) >= weights
    except ModuleNotFoundError:
        raise
    except Exception:  # each library has its own for a file that it cannot read
        return False


def multiplied(path: Path) -> int:
    """Weights that the convolutions and matrix products of a file multiply by, counted at each use.

    Args:
        path: an ONNX file, or OpenVINO's own (.xml); quantised ones too.
    """
    return _in_openvino(path) if path.suffix == ".xml" else _in_onnx(path)


def _in_onnx(path: Path) -> int:
    with needs("onnx"):
        import onnx
    graph = onnx.load(path).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    # A quantised weight is an integer that a node turns back into a number.
    sizes |= {node.output[0]: sizes.get(node.input[0], 0) for node in graph.node if node.op_type == "DequantizeLinear"}
    products = (node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul"))
    return sum(sizes.get(node.input[1], 0) for node in products)


def _in_openvino(path: Path) -> int:
    with needs("openvino"):
        from openvino import Core
    products = ("Convolution", "GroupConvolution", "MatMul")
    nodes = [op for op in Core().read_model(path).get_ops() if op.get_type_name() in products]
    return sum(_constant(node.input_value(1).get_node()) for node in nodes)


def _constant(node) -> int:
    """Size of the constant that a chain of conversions begins with; 0 where it begins with something else."""
    while node.get_type_name() != "Constant":
        if node.get_type_name() not in ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize"):
            return 0
        node = node.input_value(0).get_node()
    return math.prod(node.shape)


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
