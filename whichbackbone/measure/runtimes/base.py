"""What all runtimes share: a model that is ready to be timed, and the check that it computes the same function."""

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

# Largest difference from eager's output that a runtime may show, as a share of that output's range. In fp32 they
# differ by about 1e-6; bf16 and fp16 have 8 and 11 bits, through a hundred layers. INT8 of random weights can differ by
# anything: its signal-to-noise is told instead, and only what is no number, or off by the whole range, is refused.
TOLERANCE = 1e-3
TOLERANCES = {"fp32": TOLERANCE, "amp": 0.1, "bf16": 0.1, "fp16": 0.1, "int8": 1.0}


class WrongOutput(RuntimeError):
    """A runtime does not compute the same function as eager, so its time means nothing."""


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be timed.

    Attributes:
        runtime: its name.
        run: takes no argument and does one forward pass on the example.
        prepare_s: seconds of loading or compiling, the first call included. They belong to no run time.
        export_s: seconds of writing the model for the runtime; 0 where it needs no file, or has one from before.
        max_difference: the largest absolute difference from eager's output, as a share of the range of that output.
        snr_db: power of eager's output over that of the difference, in decibels.
    """

    runtime: str
    run: Callable[[], object]
    prepare_s: float
    export_s: float
    max_difference: float
    snr_db: float


@dataclass(frozen=True)
class Refused:
    """A runtime that does not run a model, and why, in one line."""

    runtime: str
    reason: str


def difference(name: str, output: np.ndarray, expected: np.ndarray, tolerance: float = TOLERANCE) -> float:
    """Return the largest absolute difference of two outputs as a share of the range of ``expected``.

    Args:
        name: of what gave ``output``, for the message.
        output: of any shape.
        expected: eager's output, of the same shape.
        tolerance: see `TOLERANCES`.

    Raises:
        WrongOutput: if the difference is over the tolerance or not a number.
    """
    found = float(np.abs(output - expected).max() / (np.ptp(expected) or 1))
    if not found <= tolerance:
        raise WrongOutput(f"{name} differs from eager by {found:.1e} of the output's range, over {tolerance:.0e}")
    return found


def signal_to_noise(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the power of ``expected`` over that of the difference, in decibels; ``inf`` where nothing differs."""
    noise = float(np.square(output.astype(float) - expected).sum())
    return 10 * math.log10(float(np.square(expected.astype(float)).sum()) / noise) if noise else math.inf


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters and compilers write about their own insides: warnings and the error stream."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
