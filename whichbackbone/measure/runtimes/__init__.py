"""One model, several ways to run it behind one `prepare`: eager (two layouts), compiled, ONNX Runtime, OpenVINO.

A runtime is imported when it is first used, so that a machine without it can measure the rest.
"""

import time

import numpy as np
import torch
from torch import nn

from whichbackbone.measure import timing
from whichbackbone.measure.runtimes import eager, onnx
from whichbackbone.measure.runtimes.base import TOLERANCE, Prepared, WrongOutput, difference
from whichbackbone.measure.runtimes.folding import fold_batch_norm

__all__ = ["NAMES", "TOLERANCE", "Prepared", "WrongOutput", "fold_batch_norm", "prepare"]

# Name -> function of (model, example, threads) that returns a callable without arguments.
_PREPARE = {
    "eager": eager.plain,
    "channels_last": eager.channels_last,
    "compile": eager.compiled,
    "onnxruntime": onnx.onnxruntime,
    "openvino": onnx.openvino,
}
NAMES = tuple(_PREPARE)


def prepare(model: nn.Module, x: torch.Tensor, runtime: str, threads: int) -> Prepared:
    """Make a model ready to run on an example in a runtime, and compare its output with eager's.

    Args:
        model: is put in eval mode and otherwise left as it is.
        x: the example, (batch, channels, height, width), on the CPU, fp32.
        runtime: one of `NAMES`.
        threads: of the runtime.

    Returns:
        What is to be timed, with the time that preparing it took.

    Raises:
        ValueError: for an unknown runtime; it names those there are.
        ModuleNotFoundError: if the runtime is not installed; it says what to install.
        WrongOutput: if the output differs from eager's by more than `TOLERANCE`.
    """
    if runtime not in _PREPARE:
        raise ValueError(f"unknown runtime {runtime!r}: choose one of {', '.join(NAMES)}")
    model.eval()
    with timing.limited_to(threads):
        expected = timing.inference(model, x)().numpy(force=True)
        start = time.perf_counter()
        run = _PREPARE[runtime](model, x, threads)
        output = np.asarray(run())
        prepare_s = time.perf_counter() - start
    return Prepared(runtime, run, prepare_s, difference(runtime, output, expected))
