"""One model, several ways to run it behind one `prepare`: eager (two layouts), compiled, ONNX Runtime, OpenVINO.

A runtime is imported when it is first used, so that a machine without it can measure the rest.
"""

import time
from functools import cached_property

import numpy as np
import torch
from torch import nn

from whichbackbone.measure import timing
from whichbackbone.measure.runtimes import eager, onnx
from whichbackbone.measure.runtimes.base import TOLERANCE, Prepared, Refused, WrongOutput, difference
from whichbackbone.measure.runtimes.exports import Export, exported
from whichbackbone.measure.runtimes.folding import fold_batch_norm

__all__ = ["NAMES", "TOLERANCE", "Prepared", "Refused", "Subject", "WrongOutput", "fold_batch_norm", "prepare"]

# Name -> function of (model, example, threads) that returns a callable without arguments.
_FROM_MODEL = {"eager": eager.plain, "channels_last": eager.channels_last, "compile": eager.compiled}
# The same of (path of an ONNX file, example, threads).
_FROM_FILE = {"onnxruntime": onnx.onnxruntime, "openvino": onnx.openvino}
NAMES = (*_FROM_MODEL, *_FROM_FILE)


class Subject:
    """A model and an example, on which several runtimes are to be prepared: what they share is made once.

    Args:
        model: is put in eval mode and otherwise left as it is.
        x: the example, (batch, channels, height, width), on the CPU, fp32.
    """

    def __init__(self, model: nn.Module, x: torch.Tensor):
        self.model, self.x = model.eval(), x

    @cached_property
    def expected(self) -> np.ndarray:
        """Eager's output."""
        return timing.inference(self.model, self.x)().numpy(force=True)

    @cached_property
    def file(self) -> Export:
        """The model as an ONNX file."""
        return exported(self.model, self.x)

    def prepare(self, runtime: str, threads: int) -> Prepared:
        """See :func:`prepare`."""
        _check(runtime)
        with timing.limited_to(threads):
            expected = self.expected
            file = self.file if runtime in _FROM_FILE else None
            start = time.perf_counter()
            if file:
                run = _FROM_FILE[runtime](file.path, self.x, threads)
            else:
                run = _FROM_MODEL[runtime](self.model, self.x, threads)
            output = np.asarray(run())
            prepare_s = time.perf_counter() - start
        return Prepared(runtime, run, prepare_s, file.seconds if file else 0.0, difference(runtime, output, expected))

    def try_to_prepare(self, runtime: str, threads: int) -> Prepared | Refused:
        """Do what :meth:`prepare` does, but return the reason where a runtime is missing, switched off or refuses.

        A runtime can fail in any way, and one that does must not cost what others measure. ``ValueError`` for an
        unknown runtime is raised, since no net can help that.
        """
        _check(runtime)
        try:
            return self.prepare(runtime, threads)
        except Exception as error:
            return Refused(runtime, timing.reason(error))


def prepare(model: nn.Module, x: torch.Tensor, runtime: str, threads: int) -> Prepared:
    """Make a model ready to run on an example in a runtime, and compare its output with eager's.

    Args:
        model, x: see :class:`Subject`.
        runtime: one of `NAMES`.
        threads: of the runtime.

    Returns:
        What is to be timed, with the time that preparing it took.

    Raises:
        ValueError: for an unknown runtime; it names those there are.
        ModuleNotFoundError: if the runtime is not installed; it says what to install.
        WrongOutput: if the output differs from eager's by more than `TOLERANCE`.
    """
    return Subject(model, x).prepare(runtime, threads)


def _check(runtime: str) -> None:
    if runtime not in NAMES:
        raise ValueError(f"unknown runtime {runtime!r}: choose one of {', '.join(NAMES)}")
