"""One model, several ways to run it: eager (two layouts), compiled, ONNX Runtime, OpenVINO, behind one prepare()."""

import contextlib
import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from whichbackbone.measure import timing

TOLERANCE = 1e-3  # of the range of eager's output; fp32 runtimes differ by about 1e-6


class WrongOutput(RuntimeError):
    """A runtime that is not computing the same function, so that its time means nothing."""


@dataclass(frozen=True)
class Prepared:
    """A model ready to be timed.

    ``run`` takes no argument and does one forward pass on the example. ``prepare_s`` is the time in seconds of
    converting or compiling, including the first call, which belongs to no run time. ``max_difference`` is the largest
    absolute difference from eager's output, as a share of the range of that output.
    """

    runtime: str
    run: Callable[[], object]
    prepare_s: float
    max_difference: float


def prepare(model: nn.Module, x: torch.Tensor, runtime: str, threads: int) -> Prepared:
    """Make ``model`` ready to run on the example ``x`` (batch, channels, height, width; CPU, fp32) in a runtime.

    The model is put in eval mode and otherwise left as it is. The output is compared with eager's before anything is
    timed.

    Raises ``ValueError`` for an unknown runtime, naming those there are, and :class:`WrongOutput` when the output is
    not eager's.
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
    return Prepared(runtime, run, prepare_s, _difference(runtime, output, expected))


def fold_batch_norm(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """A copy in eval mode whose batch norms are multiplied into the convolutions before them.

    Which convolution feeds which batch norm is read off one run on ``x``. An activation inside the norm layer (as timm
    has it) stays. ONNX Runtime, OpenVINO and torch.compile's freezing do the same by themselves.

    Raises :class:`WrongOutput` when folding changes the function, as where a convolution's output has a second reader.
    """
    model = copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    made_by, pairs = {}, []

    def watch(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            made_by[id(output)] = (layer, output)  # keeps the tensor alive, so that its id stays its own
        elif id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])][0], layer))

    handles = [m.register_forward_hook(watch) for m in names if isinstance(m, nn.Conv2d | _BatchNorm)]
    expected = timing.inference(model, x)().numpy(force=True)
    for handle in handles:
        handle.remove()
    for conv, norm in pairs:
        model.set_submodule(names[conv], fuse_conv_bn_eval(conv, norm))
        model.set_submodule(names[norm], getattr(norm, "act", nn.Identity()))
    _difference("folded batch norm", timing.inference(model, x)().numpy(force=True), expected)
    return model


def _difference(name: str, output: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference as a share of the range of ``expected``; :class:`WrongOutput` over the tolerance."""
    difference = float(np.abs(output - expected).max() / (np.ptp(expected) or 1))
    if not difference <= TOLERANCE:  # not a number is wrong, too
        raise WrongOutput(f"{name} differs from eager by {difference:.1e} of the output's range, over {TOLERANCE:.0e}")
    return difference


def _eager(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    return timing.inference(model, x)


def _channels_last(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return timing.inference(model, x.to(memory_format=torch.channels_last))


def _compile(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    # Dynamo compiles at most eight models of one class, counted by code object, and runs the ninth eagerly in silence.
    # So each model gets a code object of its own, and fullgraph makes an error of any part that would stay eager.
    forward.__code__ = forward.__code__.replace()
    # Inductor keeps what it compiled on disk; a warm cache would make the compile time look like nothing.
    with tempfile.TemporaryDirectory() as folder, _environment(TORCHINDUCTOR_CACHE_DIR=folder), _quiet():
        run = timing.inference(torch.compile(forward, fullgraph=True), x)
        run()
    return run


def _onnxruntime(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its threads would otherwise spin after a call and steal time from whoever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with _onnx_file(model, x) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    # fp32 everywhere: on newer CPUs OpenVINO would choose bf16 by itself and win by computing less.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    with _onnx_file(model, x) as path:
        compiled = openvino.Core().compile_model(path, "CPU", settings)
    request, feed = compiled.create_infer_request(), [x.numpy()]
    return lambda: request.infer(feed)[0]


_PREPARE = {
    "eager": _eager,
    "channels_last": _channels_last,
    "compile": _compile,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
NAMES = tuple(_PREPARE)


@contextlib.contextmanager
def _onnx_file(model: nn.Module, x: torch.Tensor):
    """Path of the model as an ONNX file, there as long as the context."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = str(Path(folder) / "model.onnx")
        # The TorchScript exporter: a second a model where the newer one takes ten, and both give the same graph here.
        torch.onnx.export(model, (x,), path, dynamo=False)
        yield path


@contextlib.contextmanager
def _environment(**variables: str):
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet():
    """Exporters and compilers warn about their own insides, which tells a reader of times nothing."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
