"""What does the sweep's engine cost, and what do two workers gain? The same sweep in three ways, taking turns.

    python -m benchmarks.sweep_engine

writes ``benchmarks/sweep_engine.md``, and exits with 1 when a bound is missed. Takes about 10 minutes on 2 cores; the
machine should have nothing else to do.

The sweep is one as notebook 06 runs it: tiny RegNets trained on glyphs, so that real training, real results and the
store of finished runs are in it, and nearly as many, so that starting the workers weighs as little as there: a sweep of
a minute gains less from a second worker.

*Overhead* is the share of one worker's wall time that is not spent in the runs
themselves; starting the workers, which happens once a sweep however long it is, is reported beside it.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from benchmarks.timer_against_peers import conditions, markdown, warn_if_busy
from whichbackbone.experiments import datasets, populations, sweep
from whichbackbone.models import regnet

GAIN = 1.7  # least times that two workers are faster than one
OVERHEAD = 0.05  # largest share of the sweep's time
REPETITIONS = 2
RUNS, TASK = 96, dict(size=20, images=1000, epochs=3, difficulty=0.5)
WAYS = {"this process": 0, "1 worker": 1, "2 workers": 2}


def configurations(runs: int = RUNS) -> list[dict[str, object]]:
    """Nets of equal MACs, so that the runs take about as long as each other."""
    nets = regnet.sample("RegNetX", runs, TASK["size"], 0.6e6, 0.8e6, seed=0)
    return [dict(stages=[[s.d, s.w, s.b, s.g] for s in row.stages], **TASK) for row, _ in nets]


def timed(configs: Sequence[dict[str, object]], workers: int) -> dict[str, float]:
    """Wall seconds of a sweep, of its start (a sweep of one run that does nothing), and of the runs together."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sweep.run(_nothing, [dict(x=x) for x in range(max(1, workers))], workers=workers, progress=False)
        ready = time.perf_counter()
        rows = sweep.run(populations.train, configs, folder=Path(folder) / "runs", workers=workers, progress=False)
        wall = time.perf_counter() - ready
    if not (rows.status == "ok").all():
        raise RuntimeError(f"a run failed: {rows.status[rows.status != 'ok'].iloc[0]}")
    return dict(wall=wall, start=ready - start, runs=float(rows.run_seconds.sum()))


def _nothing(x: int, seed: int) -> dict[str, int]:
    return dict(x=x)


def measured(configs: Sequence[dict[str, object]], repetitions: int = REPETITIONS) -> pd.DataFrame:
    """One row for each way and repetition; the ways take turns in random order."""
    random, rows = np.random.default_rng(0), []
    for repetition in range(repetitions):
        for way in random.permutation(list(WAYS)):
            rows.append(dict(way=str(way), repetition=repetition, **timed(configs, WAYS[way])))
    return pd.DataFrame(rows)


def summary(rows: pd.DataFrame) -> tuple[pd.DataFrame, float, float]:
    """The table of medians, the gain of two workers over one, and the engine's overhead with one worker.

    The gain is the median over repetitions of a ratio within the repetition. The overhead is what remains of one
    worker's wall time after its runs and the start of the workers.
    """
    wall = rows.pivot(index="repetition", columns="way", values="wall")
    gain = float(median(wall["1 worker"] / wall["2 workers"]))
    one = rows[rows.way == "1 worker"]
    engine = median((one.wall - one.start - one.runs) / one.wall)
    table = rows.groupby("way")[["wall", "start", "runs"]].median().reindex(list(WAYS)).reset_index()
    table["workers / wall"] = [table.wall[1] / wall for wall in table.wall]
    table.columns = ["way", "whole sweep, s", "of it start, s", "sum of the runs, s", "x one worker"]
    return table, gain, float(engine)


def main() -> int:
    """Measure, write the table, and return the exit code."""
    os.environ.pop("DASK_SCHEDULER_ADDRESS", None)
    warn_if_busy()
    start = time.perf_counter()
    for split, n in (("train", TASK["images"]), ("test", populations.TESTED)):
        datasets.glyphs(split, n, TASK["size"], TASK["difficulty"])
    rows = measured(configurations())
    table, gain, engine = summary(rows)
    one = rows[rows.way == "1 worker"]
    with_start = median((one.wall - one.runs) / one.wall)
    good = gain >= GAIN and engine <= OVERHEAD
    text = f"""# The engine of the sweeps

Written by `python -m benchmarks.sweep_engine`. {conditions(start)}

{RUNS} short trainings ({TASK["images"]} images, {TASK["epochs"]} epochs), {REPETITIONS} repetitions in which the
three ways take turns in random order; medians, wall time. Two workers are **{gain:.2f}x** as fast as one (bound:
{GAIN}x). Handing out runs, fetching and storing results is **{engine:.1%}** of one worker's sweep (bound:
{OVERHEAD:.0%}); with the start of its process, which is paid once a sweep, {with_start:.1%} of this one.

{markdown(table)}

*start*: a sweep that computes nothing, workers' start and end included. *sum of the runs*: as clocked inside the runs;
with two workers both slow down a little, since they share caches and memory.
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text if good else f"{text}\nA bound is missed.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
