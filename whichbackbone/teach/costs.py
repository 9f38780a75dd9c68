"""Tables, figures and sentences about counts and times that the family notebooks share."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from whichbackbone import figures
from whichbackbone.evidence import catalogue, published
from whichbackbone.evidence.speed import YARD, Table
from whichbackbone.measure import nets
from whichbackbone.teach import labels


def latency(speed: Table, names: Sequence[str]) -> pd.DataFrame:
    """Time and counts of nets in eager mode at batch 1, hot, each at the side it was trained at.

    Args:
        speed: the speed table.
        names: of nets, ResNet-50 among them; those that were not measured are left out.

    Returns:
        The columns of :meth:`Table.points`, indexed by the net, in the order of ``names``, with per_mac, per_mac_low
        and per_mac_high: how many times longer one of its MACs takes than one of ResNet-50's.
    """
    rows = speed.points(net=list(names), runtime="eager", batch=1, threads=0, regime="hot", mode="inference")
    rows = rows[rows.label == rows.net].set_index("net", drop=False)
    rows = rows.loc[[name for name in names if name in rows.index]]
    share = rows.macs[YARD] / rows.macs
    return rows.assign(per_mac=rows.to_yard * share, per_mac_low=rows.low * share, per_mac_high=rows.high * share)


def table(rows: pd.DataFrame) -> Styler:
    """Time, counts and pace of each net of :func:`latency`, the fastest first."""
    yardstick = f"x {catalogue.net(YARD).title}"
    times = [f"{r.to_yard:.2f} ({r.low:.2f} to {r.high:.2f})" if r.net != YARD else "1" for r in rows.itertuples()]
    shown = rows.assign(**{yardstick: times, "GMAC/s": rows.macs / rows.ms / 1e6})
    columns = ["net", "pixels", "ms", "low_ms", "high_ms", yardstick, "params", "macs", "activations", "GMAC/s",
               "visits"]  # fmt: skip
    millions = {column: lambda value: f"{value / 1e6:,.1f} M" for column in ("params", "macs", "activations")}
    return shown[columns].sort_values("ms").style.hide().format(millions, precision=1)


def time_against_macs(rows: pd.DataFrame) -> Figure:
    """Draw the time of each net of :func:`latency` against its MACs, with 95 % intervals.

    On the dashed line a MAC takes as long as one of ResNet-50's.
    """
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 4.2))
    base = rows.loc[YARD]
    gmacs = rows.macs / 1e9
    ends = np.array([gmacs.min() * 0.8, gmacs.max() * 1.25])
    colours = [figures.colour(name) for name in rows.net]
    ax.plot(ends, ends / base.macs * 1e9 * base.ms, color=figures.GREY, lw=1, ls="--", zorder=1)
    ax.vlines(gmacs, rows.low_ms, rows.high_ms, color=colours, lw=1.2)
    ax.scatter(gmacs, rows.ms, c=colours, s=32, zorder=3)
    ax.set(xscale="log", yscale="log", xlabel="GMACs at the net's own input size",
           ylabel=f"ms, batch 1, {base.threads} thread{'s' if base.threads > 1 else ''}, hot",
           title=f"Above the dashed line a MAC takes longer than {catalogue.net(YARD).title}'s")  # fmt: skip
    figures.log_ticks(ax.xaxis, ax.yaxis)
    labels.label_points(ax, list(gmacs), list(rows.ms), list(rows.net), colours)
    return fig


def caption(rows: pd.DataFrame) -> str:
    """The point of :func:`time_against_macs`: how many nets take longer for each MAC, counted by whole intervals."""
    others = rows[rows.net != YARD]
    return (f"{int((others.per_mac_low > 1).sum())} of {len(others)} nets take longer for each MAC than "
            f"{catalogue.net(YARD).title} (dashed), by their whole 95 % intervals.")  # fmt: skip


def where_from(speed: Table) -> str:
    """Which visits the times come from, in one sentence under a table."""
    runs, day = len(speed.runs), speed.runs[-1]
    return (f"From the speed table of {speed.machine}: {runs} run{'s' if runs > 1 else ''}, the newest of "
            f"{day[:4]}-{day[4:6]}-{day[6:8]}, hot, batch 1, eager, {speed.threads} threads.")  # fmt: skip


def printed_table(printed: pd.DataFrame) -> Styler:
    """Rows of :func:`checks.compare_with_published` with the names of their sources."""
    columns = ["timm_name", "input_size", "params printed (M)", "params ours (M)", "MACs printed (G)", "MACs ours (G)"]
    shown = printed.assign(source=printed.source_id.map(published.source))[[*columns, "agrees", "source"]]
    return shown.style.hide().format(precision=3).format("{:.0f}", subset="input_size")


def agreement(printed: pd.DataFrame) -> str:
    """In how many rows of :func:`checks.compare_with_published` which counts agree, in one sentence."""
    rows = {word: int((printed.agrees == word).sum()) for word in ("both", "params", "MACs", "neither")}
    return (f"To the digits printed, **{rows['both']} of {len(printed)}** rows agree in both counts, {rows['params']} "
            f"in the parameters alone, {rows['MACs']} in the MACs alone, {rows['neither']} in neither.")  # fmt: skip


def beside_timm(times: pd.DataFrame) -> str:
    """Time of our nets over timm's with 95 % intervals, in one sentence, from :func:`nets.against_timm`'s rows."""
    ratios = nets.ours_over_timm(times)
    return "Time of ours over timm's: " + "; ".join(f"`{net}` {r.text(3)}" for net, r in ratios.items()) + "."
