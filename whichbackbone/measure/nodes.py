"""Where a net's time goes inside ONNX Runtime and OpenVINO, in fp32 or INT8, by their own counters."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from whichbackbone.measure import cost
from whichbackbone.measure.openvino_nodes import MATRICES, layer_of
from whichbackbone.measure.runtimes import Subject
from whichbackbone.measure.runtimes.onnx import openvino_settings
from whichbackbone.optional import needs

PARTS = ("full", "grouped", "pointwise", "depthwise", "linear", "activation", "gate", "convert", "other")
GATES = ("SqueezeExcite", "SEModule", "SplitAttn", "SplitAttention", "Gate")  # names of classes, timm's and ours
CONVERTING = ("QuantizeLinear", "DequantizeLinear", "Reorder", "Convert", "FakeQuantize")
ACTIVATIONS = ("Sigmoid", "Mul", "Clip", "Relu", "HardSwish", "HardSigmoid", "QLinearSigmoid", "QLinearMul", "Swish")


def by_node(subject: Subject, runtime: str, precision: str = "fp32", *, threads: int, rounds: int = 15) -> pd.DataFrame:
    """Time each node that a runtime runs for a net, and say what part of the net it is.

    Counting costs time: the sum is a little more than what the net takes without counters. What a runtime fuses into
    one node counts as the part that has MACs.

    Args:
        subject: the net, with its images of calibration.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        precision: ``"fp32"`` or ``"int8"``.
        threads: of the runtime.
        rounds: inferences; the median of each node counts.

    Returns:
        One row a node, in the order in which they run: node (the runtime's name), layer (of the net), part (one of
        PARTS: a kind of layer with MACs, an activation that stands alone, a gate of squeeze-and-excitation with its
        pooling and its product, a conversion between precisions, or other), computes (``"int8"`` or ``"fp32"``), ms.

    Raises:
        ModuleNotFoundError: if the runtime or what quantises for it is not installed.
        KeyError: for another runtime.
    """
    file = subject.quantised(runtime) if precision == "int8" else subject.file
    counted = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](file.path, subject, threads, rounds)
    kinds = _kinds(subject)
    rows = [dict(node=node, layer=layer_of(_bare(node)), part=_part(subject.model, kinds, _bare(node), kind),
                 computes=computes, ms=ms) for (node, kind, computes), ms in counted.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=["node", "layer", "part", "computes", "ms"])


def _kinds(subject: Subject) -> dict[str, str]:
    """Layer with MACs -> its kind; convolutions of a single pixel belong to a gate."""
    layers = cost.layers(subject.model, tuple(subject.x.shape[1:])).query("macs > 0")
    return {row.name: "gate" if row.kind == "pointwise" and row.out_shape[1:] == (1, 1) else row.kind
            for row in layers.itertuples(index=False)}  # fmt: skip


def _part(model: nn.Module, kinds: Mapping[str, str], node: str, operator: str) -> str:
    if operator in CONVERTING:
        return "convert"
    layer = layer_of(node)
    if layer in kinds:
        return kinds[layer]
    if operator in MATRICES or operator in ("Gemm", "QGemm"):
        return "linear"
    path = _module(model, node)
    if any(type(module).__name__ in GATES for module in path):
        return "gate"
    if cost.kind_of(path[-1]) == "activation" or operator in ACTIVATIONS:
        return "activation"
    return "other"


def _module(model: nn.Module, node: str) -> list[nn.Module]:
    """The modules that a node lies in, from the net to the innermost: its name is a path."""
    found = [model]
    for step in re.split(r"[/.]", layer_of(node)):
        child = getattr(found[-1], step, None)
        if not isinstance(child, nn.Module):
            break
        found.append(child)
    return found


def _bare(node: str) -> str:
    """A node's name without what quantisers and fusions add to it."""
    return re.sub(r"(_token_\d+|_quant|_output_0.*|/fq_.*|/WithoutBiases.*|_kernel_time)$", "", node)


def _onnxruntime(path: str, subject: Subject, threads: int, rounds: int) -> dict[tuple[str, str, str], float]:
    with needs("onnxruntime"):
        from onnxruntime import InferenceSession, SessionOptions
    with tempfile.TemporaryDirectory() as folder:
        options = SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "profile")
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: subject.x.numpy()}
        for _ in range(rounds + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    fused = _convolutions(path)
    times: dict[tuple[str, str, str], list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            operator = event["args"]["op_name"]
            computes = "int8" if operator.startswith(("QLinear", "QGemm", "QAttention")) else "fp32"
            name = event["name"].removesuffix("_kernel_time")
            if operator == "Conv":
                name = fused.get(name.removesuffix("_nchwc"), name)
            times.setdefault((name, operator, computes), []).append(event["dur"] / 1e3)
    return {key: float(np.median(of[1:])) for key, of in times.items()}


def _convolutions(path: str) -> dict[str, str]:
    """Each tensor of an ONNX file -> the last convolution before it: a fused node is named after what comes last."""
    with needs("onnx"):
        import onnx
    made: dict[str, tuple[int, str]] = {}
    for place, node in enumerate(onnx.load(path, load_external_data=False).graph.node):
        before = [made[name] for name in node.input if name in made]
        if own := (place, node.name) if node.op_type == "Conv" else max(before, default=None):
            made |= dict.fromkeys(node.output, own)
    return {tensor: name for tensor, (_, name) in made.items()}


def _openvino(path: str, subject: Subject, threads: int, rounds: int) -> dict[tuple[str, str, str], float]:
    with needs("openvino"):
        from openvino import Core
    settings = openvino_settings(threads) | {"PERF_COUNT": True}
    request = Core().compile_model(path, "CPU", settings).create_infer_request()
    times: dict[tuple[str, str, str], list[float]] = {}
    for number in range(rounds + 1):
        request.infer([subject.x.numpy()])
        for info in request.profiling_info if number else []:
            if info.status == info.Status.EXECUTED:
                computes = "int8" if info.exec_type.lower().endswith(("i8", "u8")) else "fp32"
                times.setdefault((info.node_name, info.node_type, computes), []).append(
                    info.real_time.total_seconds() * 1e3)  # fmt: skip
    return {key: float(np.median(of)) for key, of in times.items()}
