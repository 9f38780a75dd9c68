"""What a served net costs beyond its usual time: tails, a busy neighbour, arrivals, a cold start, the whole path."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image

from whichbackbone.folders import REPOSITORY
from whichbackbone.measure.calibration import MEAN, STD

QUANTILES = (0.5, 0.9, 0.99)
ONCE = "whichbackbone.measure.once"
BUSY = "import numpy as np\na = np.random.rand(1024, 1024).astype('f4')\nprint(flush=True)\nwhile True: a @ a"
LIMIT = 300  # seconds that a cold start may take


def alone(call: Callable[[], object], count: int) -> np.ndarray:
    """Milliseconds of each of ``count`` calls, one after another."""
    call()
    times = np.empty(count)
    for i in range(count):
        start = time.perf_counter()
        call()
        times[i] = time.perf_counter() - start
    return times * 1e3


def open_loop(call: Callable[[], object], load: float, count: int, usual_ms: float, seed: int = 0) -> np.ndarray:
    """Milliseconds from arrival to answer, where requests do not wait for each other's answers.

    They arrive at random (exponential gaps), and one after another is served in the order of arrival. Who waits for an
    answer before sending the next request never sees a queue, and reports too good a tail.

    Args:
        call: serves one request.
        load: share of the time that serving would take if each call took its usual time; below 1.
        count: requests.
        usual_ms: usual time of a call.
        seed: of the arrivals.

    Raises:
        ValueError: for a load that no server keeps up with, or that is none.
    """
    if not 0 < load < 1:
        raise ValueError(f"load {load}: give a share between 0 and 1; at 1 the queue grows without end")
    gaps = np.random.default_rng(seed).exponential(usual_ms / load / 1e3, count)
    arrivals, times = np.cumsum(gaps), np.empty(count)
    begin = time.perf_counter()
    for i, arrival in enumerate(arrivals):
        while (left := begin + arrival - time.perf_counter()) > 0:
            time.sleep(left)
        call()
        times[i] = time.perf_counter() - begin - arrival
    return times * 1e3


@contextmanager
def neighbour(processes: int) -> Iterator[None]:
    """Other processes that multiply matrices without end, one thread each, as long as the context lasts."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    running: list[subprocess.Popen] = []
    try:
        for _ in range(processes):
            running.append(subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, env=one))
        for process in running:
            process.stdout.readline()  # until it has begun
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


def quantiles(times: np.ndarray) -> dict[str, float]:
    """p50, p90 and p99 of times, in their unit."""
    return {f"p{100 * q:.0f}": float(np.quantile(times, q)) for q in QUANTILES}


@dataclass(frozen=True)
class Start:
    """A fresh process that opens one net and answers once.

    Attributes:
        import_s, load_s, first_s: seconds until its libraries are imported, of opening the file, of the first call.
        total_s: of all, from the start of the process.
        rss_mb: memory (1e6 bytes) that the process holds after the first call.
    """

    import_s: float
    load_s: float
    first_s: float
    total_s: float
    rss_mb: float


def cold_start(runtime: str, path: str, side: int, threads: int) -> Start:
    """Start a process that opens a net and answers once; it imports nothing that serving does not need.

    Args:
        runtime: ``"onnxruntime"`` or ``"openvino"`` for their files, ``"eager"`` for one that ``torch.export`` saved.
        path: of the file.
        side: pixels of the image.
        threads: of the runtime.

    Raises:
        RuntimeError: if the process fails, with its last line.
    """
    start = time.time()
    command = [sys.executable, "-m", ONCE, runtime, path, str(side), str(threads), repr(start)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=REPOSITORY)
    if done.returncode:
        raise RuntimeError(f"{runtime} did not answer: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
    return Start(**json.loads(done.stdout.strip().splitlines()[-1]))


def whole_path(photo: bytes, infer: Callable[[np.ndarray], np.ndarray], side: int, count: int) -> pd.DataFrame:
    """Time each step from the bytes of a photograph to the five likeliest classes.

    Args:
        photo: an encoded image, such as a JPEG file.
        infer: takes (1, 3, side, side), fp32, and returns (1, classes).
        side: pixels that the net sees: the middle of the image, whose shorter side is made 256 / 224 of it.
        count: images.

    Returns:
        One row an image: decode, resize, normalise, infer, choose, in ms.
    """
    mean, std = (np.array(of, np.float32).reshape(3, 1, 1) for of in (MEAN, STD))
    rows = []
    for _ in range(count + 1):
        marks = [time.perf_counter()]
        image = Image.open(io.BytesIO(photo)).convert("RGB")
        marks.append(time.perf_counter())
        pixels = _middle(image, side)
        marks.append(time.perf_counter())
        x = ((np.asarray(pixels).transpose(2, 0, 1) / np.float32(255) - mean) / std)[None]
        marks.append(time.perf_counter())
        y = infer(x)
        marks.append(time.perf_counter())
        np.argsort(-y[0])[:5]
        marks.append(time.perf_counter())
        rows.append(np.diff(marks) * 1e3)
    return pd.DataFrame(rows[1:], columns=["decode", "resize", "normalise", "infer", "choose"])


def _middle(image: Image.Image, side: int) -> Image.Image:
    edge = min(image.size) * 224 / 256
    left, top = ((length - edge) / 2 for length in image.size)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def table(times: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Quantiles of several lists of times (ms), one row each."""
    return pd.DataFrame([dict(what=name, calls=len(of)) | quantiles(np.asarray(of)) for name, of in times.items()])
