"""One model, several ways to run it behind one `prepare`: eager (two layouts), compiled, ONNX Runtime, OpenVINO.

The last two also run it in fewer bits. A runtime is imported when it is first used, so that a machine without it can
measure the rest.
"""

import time
from functools import cached_property

import numpy as np
import torch
from torch import nn

from whichbackbone.measure import calibration, timing
from whichbackbone.measure.runtimes import eager, onnx, quantised
from whichbackbone.measure.runtimes.base import (
    TOLERANCE,
    TOLERANCES,
    Prepared,
    Refused,
    WrongOutput,
    difference,
    signal_to_noise,
)
from whichbackbone.measure.runtimes.exports import Export, exported
from whichbackbone.measure.runtimes.folding import fold_batch_norm

__all__ = [
    "NAMES", "PRECISIONS", "TOLERANCE", "TOLERANCES", "Prepared", "Refused", "Subject", "WrongOutput",
    "fold_batch_norm", "prepare",
]  # fmt: skip

# Name -> function of (model, example, threads) that returns a callable without arguments.
_FROM_MODEL = {"eager": eager.plain, "channels_last": eager.channels_last, "compile": eager.compiled}
# The same of (path of a file, example, threads, precision).
_FROM_FILE = {"onnxruntime": onnx.onnxruntime, "openvino": onnx.openvino}
NAMES = (*_FROM_MODEL, *_FROM_FILE)
# Precisions in which a runtime runs a model that is prepared here.
PRECISIONS = dict.fromkeys(_FROM_MODEL, ("fp32",)) | {
    "onnxruntime": ("fp32", "int8"), "openvino": ("fp32", "bf16", "fp16", "int8")}  # fmt: skip


class Subject:
    """A model and an example, on which several runtimes are to be prepared: what they share is made once.

    Args:
        model: is put in eval mode and otherwise left as it is.
        x: the example, (batch, channels, height, width), on the CPU, fp32.
        images: what INT8 is calibrated on, (n, channels, height, width); photographs if left out.
    """

    def __init__(self, model: nn.Module, x: torch.Tensor, images: torch.Tensor | None = None):
        self.model, self.x = model.eval(), x
        self._images = images

    @cached_property
    def expected(self) -> np.ndarray:
        """Eager's output."""
        return timing.inference(self.model, self.x)().numpy(force=True)

    @cached_property
    def images(self) -> torch.Tensor:
        """What INT8 is calibrated on."""
        return calibration.photographs(self.x.shape[-1]) if self._images is None else self._images

    @cached_property
    def file(self) -> Export:
        """The model as an ONNX file in fp32."""
        return exported(self.model, self.x)

    def quantised(self, runtime: str, weight_bits: int | None = None) -> Export:
        """The model as a file in INT8 that a runtime reads, with the seconds that quantising took."""
        return quantised.quantised(self.file, runtime, self.images, self.x, weight_bits)

    def prepare(self, runtime: str, threads: int, precision: str = "fp32") -> Prepared:
        """See :func:`prepare`."""
        _check(runtime, precision)
        with timing.limited_to(threads):
            expected = self.expected
            if runtime in _FROM_MODEL:
                file, start = Export("", 0.0), time.perf_counter()
                run = _FROM_MODEL[runtime](self.model, self.x, threads)
            else:
                file = self._file(runtime, precision)
                start = time.perf_counter()
                run = _FROM_FILE[runtime](file.path, self.x, threads, precision)
            output = np.asarray(run())
            prepare_s = time.perf_counter() - start
        name = runtime if precision == "fp32" else f"{runtime} in {precision}"
        return Prepared(
            runtime, run, prepare_s, file.seconds,
            difference(name, output, expected, TOLERANCES[precision]), signal_to_noise(output, expected),
        )  # fmt: skip

    def _file(self, runtime: str, precision: str) -> Export:
        return self.quantised(runtime) if precision == "int8" else self.file

    def try_to_prepare(self, runtime: str, threads: int, precision: str = "fp32") -> Prepared | Refused:
        """Do what :meth:`prepare` does, but return the reason where a runtime is missing, switched off or refuses.

        A runtime can fail in any way, and one that does must not cost what others measure. ``ValueError`` for an
        unknown runtime or precision is raised, since no net can help that.
        """
        _check(runtime, precision)
        try:
            return self.prepare(runtime, threads, precision)
        except Exception as error:
            return Refused(runtime, timing.reason(error))


def prepare(
    model: nn.Module, x: torch.Tensor, runtime: str, threads: int, precision: str = "fp32",
    images: torch.Tensor | None = None,
) -> Prepared:  # fmt: skip
    """Make a model ready to run on an example in a runtime, and compare its output with eager's.

    Args:
        model, x, images: see :class:`Subject`.
        runtime: one of `NAMES`.
        threads: of the runtime.
        precision: one of `PRECISIONS` of the runtime.

    Returns:
        What is to be timed, with the time that preparing it took.

    Raises:
        ValueError: for an unknown runtime or a precision that it does not have; it names those there are.
        ModuleNotFoundError: if the runtime, or what quantises for it, is not installed; it says what to install.
        WrongOutput: if the output differs from eager's by more than `TOLERANCES`.
    """
    return Subject(model, x, images).prepare(runtime, threads, precision)


def _check(runtime: str, precision: str) -> None:
    if runtime not in NAMES:
        raise ValueError(f"unknown runtime {runtime!r}: choose one of {', '.join(NAMES)}")
    if precision not in PRECISIONS[runtime]:
        raise ValueError(f"{runtime} has no {precision} here: choose one of {', '.join(PRECISIONS[runtime])}")
