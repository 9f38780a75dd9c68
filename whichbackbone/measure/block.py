"""One block of a visit: a fresh process that times a few nets and prints a line of JSON for each point.

``python -m whichbackbone.measure.block`` reads its task from the standard input. A process of its own, since where its
memory lies changes every time in it, and since a runtime may take the process with it.
"""

import copy
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import machine
from whichbackbone.evidence.speed import Point
from whichbackbone.measure import calibration, cost, peaks, runtimes, timing
from whichbackbone.measure.runtimes import Refused, Subject

ROUNDS = 3  # hot samples a point: what differs between processes is far more than what differs within one
LEAST, SECONDS = 1, 5.0  # samples of a point, once all of its group have taken so long
COLD_ROUNDS = 3
LR = 1e-3
AMP = {"cuda": torch.float16, "mps": torch.float16, "cpu": torch.bfloat16}
AUTOCAST = ("fp32", "amp", "bf16")  # precisions that torch's autocast reaches, from fp32 weights
PEAK = dict(n=1024, seconds=0.3)


@dataclass(frozen=True)
class Ready:
    """A point that can be timed, with what making it ready took."""

    point: Point
    call: Callable[[], object]
    prepare_s: float = 0.0
    export_s: float = 0.0
    snr_db: float = math.inf


def measure(
    points: Sequence[Point], seed: int = 0, told: Callable[[Point], None] = lambda point: None, counted: bool = True
) -> list[dict]:
    """Time points that share a process. Never raises for a point: a failure is a row.

    Args:
        points: of one device; threads are those of the point.
        seed: of the order of the rounds.
        told: is called with each point before it is made ready, so that who reads knows where a process died.
        counted: whether to count params, macs and activations as well.

    Returns:
        One row a point: the columns of :class:`Point`; status ("ok" or the reason); ms (median of the samples), low_q,
        high_q (quartiles, ms); rounds; calls (a sample); warmup_ms; flagged, whether the samples exceed the warm-up by
        over 15 %; prepare_s, export_s; snr_db, the signal-to-noise of the output in this precision (of random weights;
        empty where it is that of fp32); params, macs and activations (of one image); peak_gflops, of the same process
        after the last sample.
    """
    ready, rows = [], []
    nets = {key: _net(*key) for key in dict.fromkeys((p.net, p.pixels) for p in points)}
    subjects: dict[tuple, Subject] = {}
    for point in points:
        told(point)
        try:
            net = nets[point.net, point.pixels]
            if isinstance(net, Exception):
                raise net
            subject = subjects.setdefault((point.net, point.pixels, point.batch), Subject(net, _images(point)))
            ready.append(_prepared(point, subject))
        except _Refusal as refusal:
            rows.append(_row(point, status=str(refusal)))
        except Exception as error:
            rows.append(_row(point, status=timing.reason(error)))
    for group in _alike(ready):
        rows += _timed(group, seed)
    threads = max(point.threads for point in points)
    peak = round(peaks.peak_gflops(threads, **PEAK), 1)
    good = {key: net for key, net in nets.items() if isinstance(net, nn.Module)} if counted else {}
    counts = {key: vars(cost.total(net, key[1])) for key, net in good.items()}
    return [row | counts.get((row["net"], row["pixels"]), {}) | dict(peak_gflops=peak) for row in rows]


def subject(point: Point) -> Subject:
    """The net of a point, with random weights, and the images of its batch. Raises what building it raises."""
    net = _net(point.net, point.pixels)
    if isinstance(net, Exception):
        raise net
    return Subject(net, _images(point))


def _net(name: str, pixels: int) -> nn.Module | Exception:
    """A net with random weights, the same in each visit."""
    try:
        # timm starts the last norm of a residual branch at zero, and a converter removes what is always zero.
        return checks.randomise(checks.build(name), zlib.crc32(f"{name} {pixels}".encode()), side=pixels, images=2)
    except Exception as error:
        return error


def _images(point: Point) -> torch.Tensor:
    """A batch of photographs, always the same: INT8 is calibrated on such, and its noise should be told on such."""
    return calibration.photographs(point.pixels, point.batch)


def _prepared(point: Point, subject: Subject) -> Ready:
    if point.mode == "training":
        return Ready(point, _training_step(subject.model, subject.x, point))
    if point.device != "cpu" or point.precision not in runtimes.PRECISIONS[point.runtime]:
        return Ready(point, _on_device(subject, point))
    found = subject.try_to_prepare(point.runtime, point.threads, point.precision)
    if isinstance(found, Refused):
        raise _Refusal(found.reason)
    return Ready(point, found.run, found.prepare_s, found.export_s, found.snr_db)


class _Refusal(Exception):
    """A runtime refused; the message is a line that says all."""


def _training_step(net: nn.Module, x: torch.Tensor, point: Point) -> Callable[[], object]:
    """Forward, loss, backward, and a step of SGD with momentum, on labels of noise."""
    layout = _layout(point)
    model = copy.deepcopy(net).to(point.device, memory_format=layout).train()
    x = x.to(point.device, memory_format=layout)
    labels = torch.arange(len(x), device=point.device)
    optimiser = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)

    def step() -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        with _autocast(point):
            loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        optimiser.step()
        return loss

    return step


def _on_device(subject: Subject, point: Point) -> Callable[[], object]:
    """One forward pass on an accelerator, or in mixed precision; its output is compared with fp32 on the CPU."""
    if point.runtime not in ("eager", "channels_last", "compile"):
        known = ", ".join(runtimes.PRECISIONS[point.runtime])
        raise _Refusal(f"{point.runtime} runs on the CPU in {known} here, not on {point.device} in {point.precision}")
    if point.precision not in AUTOCAST:
        raise _Refusal(f"{point.runtime} runs in {', '.join(AUTOCAST)} here, not in {point.precision}")
    if point.precision == "bf16" and point.device == "cpu" and not machine.multiplies_bf16():
        raise _Refusal("this processor has no instructions for bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    expected = torch.from_numpy(subject.expected)
    layout = _layout(point)
    model = copy.deepcopy(subject.model).to(point.device, memory_format=layout)
    x = subject.x.to(point.device, memory_format=layout)
    forward = torch.compile(model, fullgraph=True) if point.runtime == "compile" else model

    def run() -> torch.Tensor:
        with torch.inference_mode(), _autocast(point):
            return forward(x)

    output = run().float().cpu()
    runtimes.difference(f"{point.runtime} in {point.precision}", output.numpy(), expected.numpy(),
                        runtimes.TOLERANCES[point.precision])  # fmt: skip
    return run


def _layout(point: Point) -> torch.memory_format:
    return torch.channels_last if point.runtime == "channels_last" else torch.contiguous_format


@contextmanager
def _autocast(point: Point) -> Iterator[None]:
    dtype = torch.bfloat16 if point.precision == "bf16" else AMP[point.device]
    with torch.autocast(point.device, dtype=dtype, enabled=point.precision != "fp32"):
        yield


def _alike(ready: Iterable[Ready]) -> list[list[Ready]]:
    """Points in groups that the timer can interleave: same threads, regime, mode and batch."""
    groups: dict[tuple, list[Ready]] = {}
    for one in ready:
        p = one.point
        groups.setdefault((p.threads, p.regime, p.mode, p.batch), []).append(one)
    return list(groups.values())


def _timed(group: Sequence[Ready], seed: int) -> list[dict]:
    first = group[0].point
    calls = {str(i): one.call for i, one in enumerate(group)}
    if first.regime == "hot":
        frame = timing.measure(
            calls, threads=first.threads, device=first.device, rounds=ROUNDS, min_rounds=LEAST, seconds=SECONDS,
            warmup_tolerance=0.15, seed=seed, crowd="six nets, each in several runtimes",
        )  # fmt: skip
    else:
        after = first.regime.removeprefix("cold_")
        frame = timing.cold(calls, after=after, threads=first.threads, device=first.device, rounds=COLD_ROUNDS,
                            seed=seed)  # fmt: skip
    return [
        _row(one.point, status=row.status, ms=row.median_ms, low_q=row.q25_ms, high_q=row.q75_ms, rounds=row.rounds,
             calls=row.calls_per_sample, warmup_ms=row.warmup_ms, flagged=bool(row.drifted), prepare_s=one.prepare_s,
             export_s=one.export_s, snr_db=one.snr_db if math.isfinite(one.snr_db) else None)
        for one, row in zip(group, frame.itertuples(), strict=True)
    ]  # fmt: skip


def _row(point: Point, status: str, **found: Any) -> dict:
    empty = dict(ms=None, low_q=None, high_q=None, rounds=0, calls=0, warmup_ms=None, flagged=False, prepare_s=0.0,
                 export_s=0.0, snr_db=None)  # fmt: skip
    row = asdict(point) | dict(status=status) | empty | found
    return {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in row.items()}


def main(source: TextIO = sys.stdin, target: TextIO = sys.stdout) -> None:
    """Read ``{"points": [...], "seed": n, "counted": true}``; write lines ``{"doing": i}`` and ``{"row": {...}}``."""
    task = json.load(source)
    points = [Point(**point) for point in task["points"]]

    def say(**line: object) -> None:
        print(json.dumps(line), file=target, flush=True)

    place = {point: i for i, point in enumerate(points)}
    for row in measure(points, task["seed"], lambda point: say(doing=place[point]), task["counted"]):
        say(row=row)


if __name__ == "__main__":
    main()
