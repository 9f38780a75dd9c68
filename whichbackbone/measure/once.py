"""Opens one net and answers once: the fresh process of :func:`whichbackbone.measure.serving.cold_start`.

It imports nothing that serving does not need, so that its time and memory are those of a small server.
"""

import json
import sys
import time
from collections.abc import Callable

Opening = Callable[[str, int, int], Callable[[], object]]  # of (path, side, threads): one call on an image of zeros


def _onnxruntime() -> Opening:
    import numpy as np
    import onnxruntime

    def opened(path: str, side: int, threads: int) -> Callable[[], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: np.zeros((1, 3, side, side), np.float32)}
        return lambda: session.run(None, feed)

    return opened


def _openvino() -> Opening:
    import numpy as np
    import openvino

    def opened(path: str, side: int, threads: int) -> Callable[[], object]:
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
        return lambda: request.infer([np.zeros((1, 3, side, side), np.float32)])

    return opened


def _eager() -> Opening:
    import torch

    def opened(path: str, side: int, threads: int) -> Callable[[], object]:
        torch.set_num_threads(threads)
        net = torch.export.load(path).module()

        def call() -> object:
            with torch.inference_mode():
                return net(torch.zeros(1, 3, side, side))

        return call

    return opened


IMPORTS = {"onnxruntime": _onnxruntime, "openvino": _openvino, "eager": _eager}


def main(runtime: str, path: str, side: str, threads: str, started: str) -> None:
    """Print one line of JSON: the fields of ``serving.Start``. ``started`` is when the process was asked for."""
    import psutil

    opened = IMPORTS[runtime]()
    imported = time.time()
    call = opened(path, int(side), int(threads))
    loaded = time.time()
    call()
    answered = time.time()
    print(json.dumps(dict(
        import_s=imported - float(started), load_s=loaded - imported, first_s=answered - loaded,
        total_s=answered - float(started), rss_mb=psutil.Process().memory_info().rss / 1e6,
    )))  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
