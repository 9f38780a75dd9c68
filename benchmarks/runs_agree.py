"""Is a time here a fact or luck? The last run of the speed table against the pool of the two before it.

    python -m benchmarks.runs_agree

reads three runs of this machine that ``python -m whichbackbone measure --again`` made, writes
``benchmarks/runs_agree.md``, and exits with 1 when a bound is missed. Measures nothing itself.
"""

import math
import sys
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pandas as pd

from benchmarks.timer_against_peers import markdown
from whichbackbone.evidence import catalogue, intervals, machine, speed, store
from whichbackbone.evidence.speed import KEY, YARD, Point, Table
from whichbackbone.measure import plan

RUNS, APART = 3, timedelta(hours=1)
AGREE, HALF, TAU = 0.90, 0.10, 0.97  # least share of points; largest median half-width; least rank correlation


def runs_of(rows: pd.DataFrame) -> list[str]:
    """The newest three runs that visited every net in every runtime as often as the plan first asks, oldest first.

    What the plan asks of a dozen nets beyond that, such as a larger batch, is not compared here.

    Raises:
        LookupError: where there are fewer, or two of them began within an hour.
    """
    first = plan.core()[0]
    wanted = {point for block in plan.blocks([first], seed=0) for point in block.points}
    often = rows.groupby(["run", *KEY]).filter(lambda part: part.visit.nunique() >= first.visits)
    whole = [run for run, part in often.groupby("run") if wanted <= set(_as_asked(part, rows.threads.max()))][-RUNS:]
    if len(whole) < RUNS:
        raise LookupError(
            f"{len(whole)} runs of this machine have all nets, not {RUNS}: python -m whichbackbone measure --again"
        )
    starts = [datetime.fromisoformat(store.record_of(run).started) for run in whole]
    if close := [b - a for a, b in pairwise(starts) if b - a < APART]:
        raise LookupError(f"two of the runs began {close[0]} apart: leave an hour between them")
    return whole


def _as_asked(rows: pd.DataFrame, most: int) -> list[Point]:
    """Points of the rows, with 0 for all cores as a plan writes it."""
    points = (Point(**row) for row in rows[KEY].drop_duplicates().to_dict("records"))
    return [replace(point, threads=0) if point.threads == most else point for point in points]


def compared(earlier: Table, last: Table) -> pd.DataFrame:
    """runtime, label, both ratios to ResNet-50, the difference of their logarithms with its interval, half-width."""
    rows = []
    hot = dict(batch=1, threads=0, regime="hot", mode="inference", precision="fp32", device="cpu")
    for row in earlier.points(**hot, runtime=list(plan.RUNTIMES)).itertuples():
        point = Point(**{name: getattr(row, name) for name in KEY})
        if point == point.yard() or last.missing([point]):
            continue
        a, b = (table.ratio(point, point.yard()) for table in (earlier, last))
        gap = intervals.quotient(b, a)
        rows.append(dict(runtime=point.runtime, net=point.label, earlier=a.value, last=b.value, over=gap.value,
                         low=gap.low, high=gap.high, half=math.sqrt(a.high / a.low) - 1))  # fmt: skip
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a runtime: how many points agree, how wide their ratios are, how alike the order is."""
    rows = []
    for runtime, part in table.groupby("runtime", sort=False):
        agree = (part.low <= 1) & (part.high >= 1)
        tau = intervals.correlation(part.earlier, part["last"], "kendall").value
        rows.append({"runtime": catalogue.RUNTIMES[runtime], "points": len(part), "agree": f"{agree.mean():.0%}",
                     "median half-width": f"{part.half.median():.1%}", "Kendall's tau": f"{tau:.3f}",
                     "median of last / earlier": f"{part.over.median():.3f}"})  # fmt: skip
    return pd.DataFrame(rows)


def main() -> int:
    """Compare, write the tables, and return the exit code."""
    rows = speed.read(machine.slug())
    runs = runs_of(rows)
    earlier = Table(rows[rows.run.isin(runs[:-1])], machine.slug())
    last = Table(rows[rows.run.eq(runs[-1])], machine.slug(), earlier.between_runs())
    table = compared(earlier, last)
    agree = ((table.low <= 1) & (table.high >= 1)).mean()
    half = table.half.median()
    parts = summary(table)
    taus = parts["Kendall's tau"].astype(float)
    good = agree >= AGREE and half <= HALF and taus.min() >= TAU
    worst = table.assign(off=(table.over - 1).abs()).nlargest(8, "off").drop(columns="off")
    text = f"""# Three runs of the speed table

Written by `python -m benchmarks.runs_agree` from runs {", ".join(runs)} of `{machine.slug()}`, each at least
{plan.VISITS} visits of all nets in the four runtimes, begun at least an hour apart.

The last run against the pool of the two before it, each net's time over ResNet-50's ({YARD}), batch 1, hot: for
**{agree:.0%}** of {len(table)} points the 95 % interval of the difference of the logarithms holds zero (bound:
{AGREE:.0%}); the median half-width of the pooled ratios is **{half:.1%}** (bound: {HALF:.0%}); the least Kendall's tau
between the orders of the nets is **{taus.min():.3f}** (bound: {TAU}).

{markdown(parts)}

## The points that differ most

{markdown(worst)}
"""
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    print(text if good else f"{text}\nA bound is missed.")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
