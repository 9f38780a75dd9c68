"""Runtimes that read ONNX files: ONNX Runtime and OpenVINO. Each is imported when it is used."""

from collections.abc import Callable

import torch

from whichbackbone.optional import needs


def onnxruntime(path: str, x: torch.Tensor, threads: int, precision: str) -> Callable[[], object]:
    """Return one call of an ONNX file in ONNX Runtime's CPU provider, on ``x``, with so many threads.

    The file decides the precision: fp32, or INT8 if it is a quantised one.

    Raises ``ModuleNotFoundError`` if ONNX Runtime is not installed.
    """
    with needs("onnxruntime"):
        from onnxruntime import InferenceSession, SessionOptions
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would otherwise spin after a call and steal time from whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


# What OpenVINO computes in where the file does not say INT8. Left alone, on newer CPUs it would choose bf16 by itself and
# win by computing less.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}


def openvino(path: str, x: torch.Tensor, threads: int, precision: str) -> Callable[[], object]:
    """Return one call of an ONNX or OpenVINO file in OpenVINO on the CPU, on ``x``, with so many threads.

    Raises:
        ModuleNotFoundError: if OpenVINO is not installed.
        RuntimeError: for bf16 or fp16 on a processor that lacks it, where OpenVINO would compute in fp32 in silence.
    """
    with needs("openvino"):
        from openvino import Core
    core = Core()
    if precision in ("bf16", "fp16") and precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError(f"this processor has no instructions for {precision}")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
    }
    request, feed = core.compile_model(path, "CPU", settings).create_infer_request(), [x.numpy()]
    return lambda: request.infer(feed)[0]
