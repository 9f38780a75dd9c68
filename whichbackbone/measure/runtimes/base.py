"""What all runtimes share: a model that is ready to be timed, and the check that it computes the same function."""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-3  # of the range of eager's output; fp32 runtimes differ by about 1e-6


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
    """

    runtime: str
    run: Callable[[], object]
    prepare_s: float
    export_s: float
    max_difference: float


@dataclass(frozen=True)
class Refused:
    """A runtime that does not run a model, and why, in one line."""

    runtime: str
    reason: str


def difference(name: str, output: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference of two outputs as a share of the range of ``expected``.

    Args:
        name: of what gave ``output``, for the message.
        output: of any shape.
        expected: eager's output, of the same shape.

    Raises:
        WrongOutput: if the difference is over `TOLERANCE` or not a number.
    """
    found = float(np.abs(output - expected).max() / (np.ptp(expected) or 1))
    if not found <= TOLERANCE:
        raise WrongOutput(f"{name} differs from eager by {found:.1e} of the output's range, over {TOLERANCE:.0e}")
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters and compilers write about their own insides: warnings and the error stream."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        yield
