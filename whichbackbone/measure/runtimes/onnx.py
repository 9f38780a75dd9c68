"""Runtimes that read ONNX files: ONNX Runtime and OpenVINO. Each is imported when it is used."""

from collections.abc import Callable

import torch

from whichbackbone.optional import needs


def onnxruntime(path: str, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return one call of an ONNX file in ONNX Runtime's CPU provider, on ``x``, with so many threads.

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


def openvino(path: str, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return one call of an ONNX file in OpenVINO on the CPU, on ``x``, with so many threads, in fp32.

    Raises ``ModuleNotFoundError`` if OpenVINO is not installed.
    """
    with needs("openvino"):
        from openvino import Core
    # fp32 everywhere: on newer CPUs OpenVINO would choose bf16 by itself and win by computing less.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = Core().compile_model(path, "CPU", settings)
    request, feed = compiled.create_infer_request(), [x.numpy()]
    return lambda: request.infer(feed)[0]
