"""PyTorch itself as a runtime: eager, eager with channels last, and compiled."""

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Iterator

import torch
from torch import nn

from whichbackbone.measure import timing
from whichbackbone.measure.runtimes.base import quiet

SWITCHES = ("TORCHDYNAMO_DISABLE", "TORCH_COMPILE_DISABLE")


def plain(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return one forward pass of the model as it is, on ``x``, as a callable."""
    return timing.inference(model, x)


def channels_last(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return one forward pass of a copy whose weights and example have the channels last in memory."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return timing.inference(model, x.to(memory_format=torch.channels_last))


def compiled(model: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], object]:
    """Return one forward pass of the model as ``torch.compile`` makes it, called once.

    It is compiled anew, unless $TORCHINDUCTOR_CACHE_DIR names a folder that holds it from before.

    Raises:
        RuntimeError: where the environment switches the compiler off, and it would silently run eagerly.
    """
    if off := [name for name in SWITCHES if os.environ.get(name, "0") not in ("", "0")]:
        raise RuntimeError(f"torch.compile is switched off by {off[0]}")

    def forward(x: torch.Tensor) -> torch.Tensor:
        return model(x)

    # Dynamo compiles at most eight models of one class, counted by code object, and runs the ninth eagerly in silence.
    # So each model gets a code object of its own, and fullgraph makes an error of any part that would stay eager.
    forward.__code__ = forward.__code__.replace()
    # Inductor keeps what it compiled on disk; a warm cache would make the compile time look like nothing.
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        _environment(TORCHINDUCTOR_CACHE_DIR=os.environ.get("TORCHINDUCTOR_CACHE_DIR", folder)),
    ):
        run = timing.inference(torch.compile(forward, fullgraph=True), x)
        run()
    return run


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables, and set them back afterwards."""
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
