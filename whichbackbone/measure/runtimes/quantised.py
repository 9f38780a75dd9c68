"""Nets in INT8: ONNX files quantised after training, by NNCF for OpenVINO and by ONNX Runtime's own tool.

Kept by content like the ONNX files themselves: the same net with the same calibration images is quantised once on a
machine.
"""

import contextlib
import hashlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from torch import Tensor

from whichbackbone.evidence import machine
from whichbackbone.measure import calibration
from whichbackbone.measure.runtimes.base import WrongOutput, quiet
from whichbackbone.measure.runtimes.exports import Export, is_whole, multiplied
from whichbackbone.optional import needs


def quantised(file: Export, runtime: str, images: Tensor, x: Tensor, weight_bits: int | None = None) -> Export:
    """Quantise an ONNX file for a runtime, or find what was quantised before.

    Weights get a scale for each output channel, activations one for each tensor, from the least and the greatest value
    that the images give them. Where the processor adds pairs of products in 16 bits (x86 without VNNI), weights get 7
    bits, since two products of 8 bits can overflow there; both tools recommend it.

    Args:
        file: in fp32.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        images: (n, channels, height, width), n at least ``calibration.LEAST``, as the net expects them.
        x: the net's example, (batch, channels, height, width): the file takes batches of that size alone.
        weight_bits: 7 or 8; None is what this processor needs.

    Returns:
        The quantised file and the seconds that making it took, without those of the fp32 file.

    Raises:
        ModuleNotFoundError: if the tool is not installed.
        ValueError: for images that cannot calibrate, and for other bits.
        WrongOutput: if the tool dropped layers.
        OSError: if the file cannot be written; nothing is left half written.
    """
    tool, package, suffix = _TOOLS[runtime]
    images = calibration.checked(images, x)
    if weight_bits not in (None, 7, 8):
        raise ValueError(f"weights of {weight_bits} bits: 7 or 8")
    few = weight_bits == 7 if weight_bits else not machine.multiplies_bytes()
    path = Path(file.path)
    path = path.with_name(f"{path.stem}-{runtime}-{_content(images, package, few)}{suffix}")
    expected = multiplied(Path(file.path))
    if is_whole(path, expected):
        return Export(str(path), 0.0)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _silent():
        new = Path(folder) / f"model{suffix}"
        tool(file.path, str(new), _batches(images, len(x)), few)
        found = multiplied(new)
        if found < expected:
            raise WrongOutput(f"the quantised graph multiplies by {found:,} of the net's {expected:,} weights")
        for part in sorted(Path(folder).glob("model.*"), key=lambda p: p.suffix == suffix):  # the one looked for last
            part.replace(path.with_suffix(part.suffix))
    return Export(str(path), time.perf_counter() - start)


def _by_onnxruntime(source: str, target: str, batches: list[np.ndarray], few: bool) -> None:
    with needs("onnxruntime"), needs("onnx"):
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    import onnx

    class Reader(CalibrationDataReader):
        def __init__(self, name: str):
            self.left: Iterator = iter(batches)
            self.name = name

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else {self.name: batch}

    ready = str(Path(target).with_name("ready.onnx"))  # with the shape of every tensor, which the tool needs
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    quantize_static(
        ready, target, Reader(onnx.load(source).graph.input[0].name), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, reduce_range=few,
    )  # fmt: skip


def _by_nncf(source: str, target: str, batches: list[np.ndarray], few: bool) -> None:
    with needs("nncf"), needs("openvino"):
        import nncf
        import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    fix = OverflowFix.ENABLE if few else OverflowFix.DISABLE
    made = nncf.quantize(
        openvino.Core().read_model(source), nncf.Dataset(batches), subset_size=len(batches),
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
    )  # fmt: skip
    openvino.save_model(made, target, compress_to_fp16=False)


# Runtime -> what quantises for it, the package whose version decides the result, and how its file ends.
_TOOLS: dict[str, tuple[Callable[[str, str, list[np.ndarray], bool], None], str, str]] = {
    "onnxruntime": (_by_onnxruntime, "onnxruntime", ".onnx"),
    "openvino": (_by_nncf, "nncf", ".xml"),
}
NAMES = tuple(_TOOLS)


def _batches(images: Tensor, size: int) -> list[np.ndarray]:
    """Images in batches of the size that the file takes; some stand twice where the last one is not full."""
    count = -(-len(images) // size)
    return [images[np.arange(i * size, (i + 1) * size) % len(images)].numpy() for i in range(count)]


def _content(images: Tensor, package: str, few: bool) -> str:
    """Name of what decides the quantised file beside the fp32 one."""
    try:
        tool = version(package)
    except PackageNotFoundError:
        tool = "none"
    digest = hashlib.blake2b(digest_size=6)
    digest.update(f"{package} {tool} {few} {tuple(images.shape)}".encode())
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Hide the tools' progress bars and advice as well: the output of a block is read by a program."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet(), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
