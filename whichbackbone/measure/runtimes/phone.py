"""Runtimes of phones and boards, which run on this processor too: LiteRT, ExecuTorch (XNNPACK), ncnn and MNN.

Each is a pair: `convert` writes a net as the runtime's own file, in fp32 or quantised by the runtime's own tool, and
`open` makes that file a function of images. Converted nets are kept by content, like ONNX files. :func:`survive` tries
one net in one runtime and tells how far it came.

A converter may crash or hang, so :func:`survive` works in a process of its own:
``python -m whichbackbone.measure.runtimes.phone`` reads its task from the standard input.

Packages: requirements-phone.txt.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from whichbackbone.folders import cache_folder
from whichbackbone.measure import calibration, timing
from whichbackbone.measure.runtimes import Subject
from whichbackbone.measure.runtimes.base import TOLERANCES, WrongOutput, quiet, signal_to_noise
from whichbackbone.measure.runtimes.exports import Export, _content, _expected, exported
from whichbackbone.optional import needs

Answer = Callable[[np.ndarray], np.ndarray]
Converter = Callable[[nn.Module, Tensor, Path, Tensor | None], None]
MODULE = "whichbackbone.measure.runtimes.phone"
FOLDER = "phone"
SEAL = "whole.json"  # name -> digest of each file of a converted net; written last
# Share of the bytes of all weights that a file holds at least. A file holds more than weights; a lost layer that is
# smaller than this share shows in the output.
KEPT = 0.98
BYTES = {"fp32": 4, "int8": 1}  # of a weight in a file
LIMIT_S = 600.0
ROUNDS = 5
COLUMNS = ("runtime", "precision", "threads", "converts", "seconds", "size_mb", "max_difference", "snr_db", "ms",
           "reason")  # fmt: skip


@dataclass(frozen=True)
class Runtime:
    """How a net comes into a runtime.

    Attributes:
        convert: (model, example, folder, images) writes files into the folder: fp32 where images is None, INT8
            calibrated on them, (n, channels, height, width), otherwise.
        open: (path, threads) -> function of images, (batch, channels, height, width), that returns outputs of its own.
        file: name of the one that `open` gets; others may lie beside it.
        packages: whose versions decide the file.
        precisions: in which it comes here.
    """

    convert: Converter
    open: Callable[[str, int], Answer]
    file: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32", "int8")


# ------------------------------------------------------------------------------------------------------------- LiteRT


def to_litert(model: nn.Module, x: Tensor, folder: Path, images: Tensor | None) -> None:
    """Write model.tflite: by litert-torch, and quantised by ai-edge-quantizer, a scale for each output channel.

    Raises ``ModuleNotFoundError`` if one of the two is not installed; it says what to install.
    """
    with needs("litert-torch", "litert_torch"):
        import litert_torch
    target = folder / "model.tflite"
    litert_torch.convert(model, (x,)).export(str(target))
    if images is None:
        return
    with needs("ai-edge-quantizer", "ai_edge_quantizer"):
        from ai_edge_quantizer import quantizer, recipe
    from ai_edge_litert.interpreter import Interpreter

    (signature, names), *_ = Interpreter(str(target)).get_signature_list().items()
    tool = quantizer.Quantizer(str(target), recipe.static_wi8_ai8())
    for end in ("INPUT", "OUTPUT"):  # it takes and gives numbers, as all others do
        tool.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
    batches = {signature: [{names["inputs"][0]: batch.numpy()} for batch in _batches(images, len(x))]}
    tool.quantize(tool.calibrate(batches)).export_model(str(target), overwrite=True)


def open_in_litert(path: str, threads: int) -> Answer:
    """Open a .tflite file with LiteRT's XNNPACK kernels and so many threads: images to outputs.

    Raises ``ModuleNotFoundError`` if LiteRT is not installed.
    """
    with needs("ai-edge-litert", "ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (source, *_), (target, *_) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(x: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])  # a copy

    return answer


# --------------------------------------------------------------------------------------------------------- ExecuTorch


def to_executorch(model: nn.Module, x: Tensor, folder: Path, images: Tensor | None) -> None:
    """Write model.pte for XNNPACK; quantised by torchao's PT2E, a scale for each output channel.

    Raises:
        ModuleNotFoundError: if ExecuTorch or torchao is not installed; it says what to install.
        WrongOutput: if no part of the net went to XNNPACK: ExecuTorch's own kernels are a reference, not to be timed.
    """
    with needs("executorch"):
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    program = torch.export.export(model, (x,))
    if images is not None:
        program = torch.export.export(_quantised_by_pt2e(program.module(), x, images), (x,))
    made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    if not any("executorch_call_delegate" in str(node.target) for node in made.exported_program().graph.nodes):
        raise WrongOutput("no layer of the net went to XNNPACK")
    (folder / "model.pte").write_bytes(made.to_executorch().buffer)


def _quantised_by_pt2e(graph: nn.Module, x: Tensor, images: Tensor) -> nn.Module:
    """Return an exported graph with scales from the images."""
    with needs("torchao"):
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    wish = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    watched = prepare_pt2e(graph, wish)
    with torch.no_grad():
        for batch in _batches(images, len(x)):
            watched(batch)
    return convert_pt2e(watched)


def open_in_executorch(path: str, threads: int) -> Answer:
    """Open a .pte file: images to outputs. ExecuTorch has one pool of threads for the process, which this call sets.

    Raises:
        ModuleNotFoundError: if ExecuTorch is not installed.
        RuntimeError: if the pool does not get so many threads.
    """
    with needs("executorch"):
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime as Execution
    portable_lib._unsafe_reset_threadpool(threads)
    if (found := portable_lib._threadpool_get_thread_count()) != threads:
        raise RuntimeError(f"ExecuTorch runs with {found} threads, not with {threads}")
    method = Execution.get().load_program(path).load_method("forward")
    return lambda x: method.execute((torch.from_numpy(x),))[0].numpy().copy()


# --------------------------------------------------------------------------------------------------------------- ncnn


def to_ncnn(model: nn.Module, x: Tensor, folder: Path, images: Tensor | None) -> None:
    """Write model.param and model.bin by pnnx, weights in fp32. The file takes one image at a time.

    Raises:
        ModuleNotFoundError: if pnnx is not installed.
        RuntimeError: if pnnx fails; with its last line.
    """
    with needs("pnnx"):
        from pnnx import EXEC_PATH
    one = x[:1]
    with tempfile.TemporaryDirectory() as work:  # pnnx writes half a dozen files more
        source = Path(work) / "net.pt"
        with torch.no_grad():
            torch.jit.trace(model, one).save(str(source))
        shape = ",".join(map(str, one.shape))
        done = subprocess.run([EXEC_PATH, str(source), f"inputshape=[{shape}]", "fp16=0"], cwd=work, text=True,
                              capture_output=True)  # fmt: skip
        if done.returncode or not (Path(work) / "net.ncnn.param").exists():
            raise RuntimeError(f"pnnx ended with {done.returncode}: {_last_line(done.stdout + done.stderr)}")
        for kind in ("param", "bin"):
            shutil.copyfile(Path(work) / f"net.ncnn.{kind}", folder / f"model.{kind}")


def open_in_ncnn(path: str, threads: int) -> Answer:
    """Open a .param file and the .bin beside it, in fp32 with so many threads: images to outputs, one by one.

    Raises:
        ModuleNotFoundError: if ncnn is not installed.
        RuntimeError: for a file that it cannot load, or a layer that fails.
    """
    with needs("ncnn"):
        import ncnn
    net = ncnn.Net()
    net.opt.num_threads = threads
    # Left alone, it keeps what it computes in 16 bits where the processor has instructions for that.
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(path) or net.load_model(str(Path(path).with_suffix(".bin"))):
        raise RuntimeError(f"ncnn cannot load {Path(path).name}")

    def one(image: np.ndarray) -> np.ndarray:
        # A Mat knows neither strides nor who owns its numbers: they lie in order, and are held until the end.
        held = np.ascontiguousarray(image)
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(held))
        code, output = extractor.extract("out0")
        if code:
            raise RuntimeError(f"ncnn's extractor ended with {code}")
        return np.array(output)

    return lambda x: np.stack([one(image) for image in x])


# ---------------------------------------------------------------------------------------------------------------- MNN


def to_mnn(model: nn.Module, x: Tensor, folder: Path, images: Tensor | None) -> None:
    """Write model.mnn from the ONNX file, and quantised by mnnquant: a scale for each channel of the weights.

    Raises:
        ModuleNotFoundError: if MNN is not installed.
        RuntimeError: if a tool fails; with its last line.
        ValueError: for calibration images that have no three channels.
    """
    target = folder / "model.mnn"
    _mnn_tool("mnnconvert", "-f", "ONNX", "--modelFile", exported(model, x).path, "--MNNModel", str(target),
              "--bizCode", "net")  # fmt: skip
    if images is not None:
        with tempfile.TemporaryDirectory() as work:
            _mnn_tool("mnnquant", str(target), f"{work}/int8.mnn", _mnn_wish(images, Path(work)))
            shutil.move(f"{work}/int8.mnn", target)


def _mnn_tool(*command: str) -> None:
    """Run a tool of MNN in a process of its own: mnnquant dies of some nets, and a call after it was seen to die.

    It is the extension module that is called, never MNN.tools nor the programs of that name: importing those wrappers
    runs `pip install` of a logging client in whatever Python comes first in the path, and then sends what was converted
    to a server. (The wrapper of mnnquant is broken besides: it does not give a command line, and dies of that.)
    """
    with needs("MNN", "_tools"):
        import _tools  # noqa: F401
    call = "import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", call, *command], text=True, capture_output=True, env=_environment())
    if done.returncode or not any(Path(part).is_file() for part in command if part.endswith(".mnn")):
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {_last_line(done.stdout + done.stderr)}")


def _mnn_wish(images: Tensor, folder: Path) -> str:
    """Write the images as PNG files, since MNN's tool reads nothing else, and what it should do; return that file."""
    if images.shape[1] != 3:
        raise ValueError(f"MNN calibrates on images of 3 channels, not of {images.shape[1]}")
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    step = ((high - low) / 255).clamp(min=1e-9)  # a photograph's 256 levels stay what they are
    levels = ((images - low.view(1, 3, 1, 1)) / step.view(1, 3, 1, 1)).round().clamp(0, 255).byte()
    (folder / "images").mkdir()
    for i, level in enumerate(levels):
        Image.fromarray(level.permute(1, 2, 0).numpy()).save(folder / "images" / f"{i:04d}.png")
    wish = dict(
        format="RGB", mean=(-low / step).tolist(), normal=step.tolist(), width=images.shape[3], height=images.shape[2],
        path=f"{folder / 'images'}/", used_image_num=len(images), feature_quantize_method="KL",
        weight_quantize_method="MAX_ABS",
    )  # fmt: skip
    path = folder / "wish.json"
    path.write_text(json.dumps(wish))
    return str(path)


def open_in_mnn(path: str, threads: int) -> Answer:
    """Open a .mnn file in fp32 (or INT8, if it is quantised) with so many threads: images to outputs.

    Raises ``ModuleNotFoundError`` if MNN is not installed.
    """
    with needs("MNN"):
        import MNN.expr as expr
        import MNN.nn as layers
    manager = layers.create_runtime_manager(({"backend": 0, "numThread": threads, "precision": "high"},))
    module = layers.load_module_from_file(path, [], [], runtime_manager=manager)

    def answer(x: np.ndarray) -> np.ndarray:
        output = module.forward([expr.const(x, list(x.shape), expr.NCHW)])
        return expr.convert(output[0] if isinstance(output, list) else output, expr.NCHW).read().copy()

    return answer


# --------------------------------------------------------------------------------------------------------- all of them

RUNTIMES = {
    "litert": Runtime(to_litert, open_in_litert, "model.tflite", ("litert-torch", "ai-edge-quantizer")),
    "executorch": Runtime(to_executorch, open_in_executorch, "model.pte", ("executorch", "torchao")),
    # ncnn quantises with programs that its wheel does not carry (ncnn2table, ncnn2int8).
    "ncnn": Runtime(to_ncnn, open_in_ncnn, "model.param", ("pnnx",), ("fp32",)),
    "mnn": Runtime(to_mnn, open_in_mnn, "model.mnn", ("MNN",)),
}
NAMES = tuple(RUNTIMES)


def converted(subject: Subject, runtime: str, precision: str = "fp32") -> Export:
    """Convert a net for a runtime, or find what was converted before.

    Args:
        subject: the net, an example, which decides the size of the batch, and for INT8 the calibration images.
        runtime: one of `NAMES`.
        precision: ``"fp32"`` or ``"int8"``.

    Returns:
        The file that the runtime's `open` takes, and the seconds that making it took.

    Raises:
        ValueError: for an unknown runtime or precision, a net with a norm whose weights are all zero, and images that
            cannot calibrate.
        ModuleNotFoundError: if a package is not installed.
        WrongOutput: if the file is too small to hold all weights.
        OSError: if it cannot be written; nothing is left half written.
    """
    _check(runtime, precision)
    _refuse_zeros(subject.model)
    how, x = RUNTIMES[runtime], subject.x
    images = calibration.checked(subject.images, x) if precision == "int8" else None
    folder = cache_folder() / FOLDER / _name(subject, runtime, precision, images)
    if _is_whole(folder):
        return Export(str(folder / how.file), 0.0)
    start = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as new:
        with quiet():
            how.convert(subject.model, x, Path(new), images)
        needed = _expected(subject.model) * BYTES[precision]
        if (found := _size(Path(new))) < KEPT * needed:
            raise WrongOutput(f"{runtime}'s file has {found:,} bytes, and the net's weights alone {needed:,}")
        (Path(new) / SEAL).write_text(json.dumps(_digests(Path(new))))
        shutil.copytree(new, half := Path(f"{new}-whole"))
        half.rename(folder)
    return Export(str(folder / how.file), time.perf_counter() - start)


def tried(subject: Subject, runtime: str, precision: str = "fp32", threads: int = 2) -> dict[str, object]:
    """Do what :func:`survive` does in this process, which a crash or a hang takes with it."""
    _check(runtime, precision)
    row = _row(runtime, precision, threads)
    try:
        with timing.limited_to(threads):
            file = converted(subject, runtime, precision)
            row |= dict(converts=True, seconds=file.seconds, size_mb=_size(Path(file.path).parent) / 1e6)
            answer = RUNTIMES[runtime].open(file.path, threads)
            images = np.ascontiguousarray(subject.x.numpy())  # photographs have their channels last in memory
            output, expected = np.asarray(answer(images)), subject.expected
        if output.shape != expected.shape:
            raise WrongOutput(f"{runtime} returns {output.shape} where eager returns {expected.shape}")
        row |= dict(max_difference=float(np.abs(output - expected).max() / (np.ptp(expected) or 1)),
                    snr_db=signal_to_noise(output, expected))  # fmt: skip
        if not row["max_difference"] <= TOLERANCES[precision]:  # not a number is over it as well
            return row | dict(reason=f"differs from eager by more than {TOLERANCES[precision]:.0e} of its range")
        found = timing.measure({"net": lambda: answer(images)}, threads=threads, rounds=ROUNDS, min_rounds=1, seconds=5)
        status, ms = found.loc[0, ["status", "median_ms"]]
        return row | (dict(ms=float(ms)) if status == "ok" else dict(reason=status))
    except Exception as error:  # each runtime fails in its own way, and that is what the row tells
        return row | dict(reason=timing.reason(error))


def survive(
    subject: Subject, runtime: str, precision: str = "fp32", threads: int = 2, limit_s: float = LIMIT_S
) -> dict[str, object]:
    """Convert a net for a runtime, compare its output with eager's and time it, in a process of its own.

    Args:
        subject: a net that can be pickled, and an example. The process reads them from a file.
        runtime: one of `NAMES`.
        precision: ``"fp32"`` or ``"int8"``.
        threads: of the runtime.
        limit_s: seconds after which the process is ended.

    Returns:
        `COLUMNS`: runtime, precision, threads; converts; seconds of converting (0: found from before); size_mb (1e6
        bytes); max_difference, as a share of the range of eager's output; snr_db; ms, the median of hot samples;
        reason, one line that says why something is missing. What was not reached is None, and so is the time of a net
        whose output is wrong. A crash or a hang is such a reason.

    Raises:
        ValueError: for an unknown runtime or precision.
    """
    _check(runtime, precision)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "subject.pt"
        images = subject.images if precision == "int8" else None
        torch.save(dict(model=subject.model, x=subject.x, images=images), source)
        task = dict(subject=str(source), runtime=runtime, precision=precision, threads=threads)
        with open(Path(folder) / "log", "w+") as log:
            # A group of its own: a converter starts programs, which would outlive it.
            child = subprocess.Popen([sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=log, text=True, start_new_session=True, env=_environment())  # fmt: skip
            try:
                said, _ = child.communicate(json.dumps(task), timeout=limit_s)
            except subprocess.TimeoutExpired:
                return _row(runtime, precision, threads) | dict(reason=f"was not done after {limit_s:g} s")
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.communicate()
            log.seek(0)
            last = _last_line(log.read())
    if child.returncode == 0:
        return json.loads(said)
    code = child.returncode
    how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return _row(runtime, precision, threads) | dict(reason=f"{how}: {last}"[:200])


def _check(runtime: str, precision: str) -> None:
    if runtime not in RUNTIMES:
        raise ValueError(f"unknown runtime {runtime!r}: choose one of {', '.join(NAMES)}")
    if precision not in RUNTIMES[runtime].precisions:
        have = ", ".join(RUNTIMES[runtime].precisions)
        raise ValueError(f"{runtime} has no {precision} here: choose one of {have}")


def _refuse_zeros(model: nn.Module) -> None:
    """Raise ``ValueError`` where a norm multiplies by zeros alone: a converter removes all that feeds it."""
    for name, layer in model.named_modules():
        norm = isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
        if norm and layer.weight is not None and not bool(layer.weight.any()):
            raise ValueError(f"the weights of {name} are all zero, and a converter removes what is always zero: "
                             "randomise the net (whichbackbone.checks) or train it")  # fmt: skip


def _row(runtime: str, precision: str, threads: int) -> dict[str, object]:
    return dict.fromkeys(COLUMNS) | dict(runtime=runtime, precision=precision, threads=threads, converts=False,
                                         reason="")  # fmt: skip


def _batches(images: Tensor, size: int) -> list[Tensor]:
    """Images in batches of the size that the file takes; some stand twice where the last one is not full."""
    count = -(-len(images) // size)
    return [images[torch.arange(i * size, (i + 1) * size) % len(images)] for i in range(count)]


def _name(subject: Subject, runtime: str, precision: str, images: Tensor | None) -> str:
    """Name of what decides a converted net: the net, the images, and the versions of what converts."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(" ".join(_version(package) for package in RUNTIMES[runtime].packages).encode())
    if images is not None:
        digest.update(str(tuple(images.shape)).encode() + images.contiguous().numpy().tobytes())
    return f"{_content(subject.model, subject.x)}-{runtime}-{precision}-{digest.hexdigest()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != SEAL)


def _size(folder: Path) -> int:
    """Bytes of a converted net."""
    return sum(path.stat().st_size for path in _files(folder))


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.blake2b(path.read_bytes(), digest_size=12).hexdigest() for path in _files(folder)}


def _is_whole(folder: Path) -> bool:
    """Whether a converted net is there as it was written: a damaged one could crash its runtime, and is made again."""
    try:
        return json.loads((folder / SEAL).read_text()) == _digests(folder)
    except (OSError, ValueError):
        return False


def _environment() -> dict[str, str]:
    """That of this process, and where Python finds what it has found here, in whatever folder it runs."""
    return os.environ | dict(PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")


@contextlib.contextmanager
def _own_output() -> Iterator[int]:
    """Send what native code writes to the standard output to the error stream, and give the output's descriptor."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield kept
    finally:
        sys.stdout.flush()
        os.close(kept)


def main() -> None:
    """Read a task, ``{"subject": path, "runtime": ..., "precision": ..., "threads": n}``; write its row, in JSON."""
    task = json.load(sys.stdin)
    with _own_output() as target:
        # Written by `survive`, in a folder that only this user reads: a whole net, so more than weights is unpickled.
        kept = torch.load(task["subject"], weights_only=False)
        row = tried(Subject(**kept), task["runtime"], task["precision"], task["threads"])
        os.write(target, json.dumps(row).encode())
    # Some runtimes crash when the interpreter takes them apart, after all is said.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
