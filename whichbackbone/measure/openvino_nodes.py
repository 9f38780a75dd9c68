"""Where a net's time goes inside OpenVINO, by OpenVINO's own counters."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from whichbackbone.measure import cost
from whichbackbone.measure.runtimes.exports import exported
from whichbackbone.measure.runtimes.onnx import openvino_settings
from whichbackbone.optional import needs


def by_layer(model: nn.Module, x: torch.Tensor, *, threads: int, rounds: int = 15) -> pd.DataFrame:
    """Time each node that OpenVINO runs for a net, and find the layer that it came from.

    OpenVINO folds batch norms into convolutions and applies activations and sums in the same node, whose time is then
    the convolution's. Counting costs time: the sum is a little more than what the net takes without counters.

    Args:
        model: in eval mode.
        x: (batch, channels, height, width), on the CPU, fp32.
        threads: of OpenVINO.
        rounds: inferences; the median of each node counts.

    Returns:
        One row a node: name (of the convolution or linear layer, else OpenVINO's own); kind ("other" where the node has
        no MACs; else that of :func:`whichbackbone.measure.cost.layers`); macs; out_side (pixels; nan for "other"); ms.

    Raises:
        ModuleNotFoundError: if OpenVINO is not installed.
    """
    nodes = _counted(exported(model, x).path, x.numpy(), threads, rounds)
    layers = cost.layers(model, tuple(x.shape[1:])).query("macs > 0").drop_duplicates("name").set_index("name")
    rows = []
    for (node, kind), ms in nodes.items():
        name = layer_of(node)
        if kind in MATRICES:
            rows.append((name, "linear", layers.macs[layers.kind == "linear"].sum(), 1, ms))
        elif name in layers.index:
            layer = layers.loc[name]
            shape = layer.out_shape
            rows.append((name, layer.kind, layer.macs, shape[1] if len(shape) > 2 else 1, ms))
        else:
            rows.append((node, "other", 0, np.nan, ms))
    return pd.DataFrame(rows, columns=["name", "kind", "macs", "out_side", "ms"])


def layer_of(node: str) -> str:
    """Name of the module that a node of an exported net computes: "/layer1/layer1.0/conv1/Conv" is layer1.0.conv1.

    The exporter writes a part of the path for each module that it is in, and the parts of a sequence repeat its name.
    """
    name = before = ""
    for part in node.strip("/").split("/"):
        if part.partition("_")[0].split(".")[0] in OPERATIONS:
            break
        if before and part.startswith(f"{before}."):
            name = name.removesuffix(before) + part
        else:
            name = f"{name}.{part}" if name else part
        before = part
    return name


OPERATIONS = ("Conv", "Gemm", "MatMul")
MATRICES = ("FullyConnected", "MatMul")  # OpenVINO names the classifier after its output


def _counted(path: str, x: np.ndarray, threads: int, rounds: int) -> dict[tuple[str, str], float]:
    """Median milliseconds of each node that was executed, by its name and OpenVINO's type."""
    with needs("openvino"):
        from openvino import Core
    settings = openvino_settings(threads) | {"PERF_COUNT": True}
    request = Core().compile_model(path, "CPU", settings).create_infer_request()
    request.infer([x])
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        request.infer([x])
        for info in request.profiling_info:
            if info.status == info.Status.EXECUTED:
                times = found.setdefault((info.node_name, info.node_type), [])
                times.append(info.real_time.total_seconds() * 1e3)
    return {node: _median(times) for node, times in found.items()}


def _median(times: Sequence[float]) -> float:
    return float(np.median(times))
