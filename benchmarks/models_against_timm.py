"""Do our models, written to be read, run as fast as timm's? Each variant is timed against timm's, interleaved.

    python -m benchmarks.models_against_timm

writes ``benchmarks/models_against_timm.md``, and exits with 1 when a variant is more than 3 % slower. Takes about
12 s a variant on 2 cores; the machine should have nothing else to do.
"""

import sys
import time
from pathlib import Path

import pandas as pd
import timm
import torch

from benchmarks.timer_against_peers import conditions, markdown, warn_if_busy
from whichbackbone import checks
from whichbackbone.evidence import machine
from whichbackbone.measure import timing

SLOWER = 1.03  # the largest median ratio of ours to timm's that is let pass
SECONDS = 8.0  # for the rounds of one variant


def compare(name: str, x: torch.Tensor) -> dict[str, object]:
    """Median times (ms) of timm's model and ours with the same weights, and their ratio with its 95 % interval."""
    theirs = timm.create_model(name).eval()
    ours = checks.copy_weights(theirs, checks.build(name)).eval()
    calls = {"timm": timing.inference(theirs, x), "ours": timing.inference(ours, x)}
    frame = timing.measure(calls, rounds=60, min_rounds=15, seconds=SECONDS)
    ratio = timing.ratio(frame, "ours", "timm")
    timm_ms, ours_ms = frame.median_ms
    return {"model": name, "timm, ms": timm_ms, "ours, ms": ours_ms, "ours / timm": ratio.value, "from": ratio.low,
            "to": ratio.high}  # fmt: skip


def main() -> int:
    """Measure, write the table, and return the exit code."""
    torch.set_num_threads(machine.usable_cores())
    torch.manual_seed(0)
    warn_if_busy()
    start = time.perf_counter()
    x = torch.randn(1, 3, 224, 224)
    rows = pd.DataFrame([compare(name, x) for name in checks.builders()])
    slow = rows[rows["ours / timm"] > SLOWER]
    worst = rows["ours / timm"].max()
    text = f"""# Our models against timm's

Written by `python -m benchmarks.models_against_timm`. {conditions(start)}

Batch 1, 224 pixels, eager, the same weights; both run in every round, in random order. The ratio is the median over
rounds with its 95 % interval. Largest: **{worst:.3f}** (bound: {SLOWER}).

{markdown(rows, 3)}
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text if slow.empty else f"{text}\nA bound is missed: {', '.join(slow['model'])}.")
    return 0 if slow.empty else 1


if __name__ == "__main__":
    sys.exit(main())
