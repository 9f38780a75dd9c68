"""Runtimes that read ONNX files: ONNX Runtime and OpenVINO. Each is imported when it is used."""

from collections.abc import Callable

import numpy as np
import torch

from whichbackbone.optional import needs

Answer = Callable[[np.ndarray], np.ndarray]
# What OpenVINO computes in where the file does not say INT8. Left alone, on newer CPUs it would choose bf16 by itself,
# and win by computing less.
HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16", "fp16": "f16"}


def open_in_onnxruntime(path: str, threads: int) -> Answer:
    """Open an ONNX file in ONNX Runtime's CPU provider, with so many threads: images to outputs.

    The file decides the precision: fp32, or INT8 if it is a quantised one. Raises ``ModuleNotFoundError`` if ONNX
    Runtime is not installed.
    """
    with needs("onnxruntime"):
        from onnxruntime import InferenceSession, SessionOptions
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would otherwise spin after a call and steal time from whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def open_in_openvino(path: str, threads: int, precision: str = "fp32") -> Answer:
    """Open an ONNX or OpenVINO file in OpenVINO on the CPU, with so many threads: images to outputs.

    The next call overwrites the outputs of the one before.

    Raises:
        ModuleNotFoundError: if OpenVINO is not installed.
        RuntimeError: for bf16 or fp16 on a processor that lacks it, where OpenVINO would compute in fp32 in silence.
    """
    with needs("openvino"):
        from openvino import Core
    core = Core()
    if precision in ("bf16", "fp16") and precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError(f"this processor has no instructions for {precision}")
    request = core.compile_model(path, "CPU", openvino_settings(threads, precision)).create_infer_request()
    return lambda x: request.infer([x])[0]


def openvino_settings(threads: int, precision: str = "fp32") -> dict[str, object]:
    """How OpenVINO is compiled here: for one call at a time, with so many threads, in one precision."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": HINTS[precision],
    }


def onnxruntime(path: str, x: torch.Tensor, threads: int, precision: str) -> Callable[[], object]:
    """Return one call of :func:`open_in_onnxruntime` on ``x``."""
    answer, images = open_in_onnxruntime(path, threads), x.numpy()
    return lambda: answer(images)


def openvino(path: str, x: torch.Tensor, threads: int, precision: str) -> Callable[[], object]:
    """Return one call of :func:`open_in_openvino` on ``x``."""
    answer, images = open_in_openvino(path, threads, precision), x.numpy()
    return lambda: answer(images)


OPENERS: dict[str, Callable[[str, int], Answer]] = {"onnxruntime": open_in_onnxruntime, "openvino": open_in_openvino}
