"""Tables, figures and sentences about counts and times that the family notebooks share."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from whichbackbone import figures
from whichbackbone.evidence import catalogue, published
from whichbackbone.measure import nets
from whichbackbone.teach import labels


def table(latency: pd.DataFrame, yard: str = nets.YARD) -> Styler:
    """Time, counts and pace of each net, the fastest first.

    Args:
        latency: what :func:`whichbackbone.measure.nets.latency` returned.
        yard: the net that times are compared with; it must be among them.
    """
    ratios, yardstick = nets.time_ratios(latency, yard), f"x {catalogue.net(yard).title}"
    shown = latency.assign(**{
        yardstick: [ratios[name].text(2) if name in ratios else "1" for name in latency.name],
        "GMAC/s": latency.macs / latency.median_ms / 1e6,
    })  # fmt: skip
    columns = ["name", "pixels", "median_ms", "low_ms", "high_ms", yardstick, "params", "macs", "activations", "GMAC/s"]
    millions = {column: lambda value: f"{value / 1e6:,.1f} M" for column in ("params", "macs", "activations")}
    return shown[columns].sort_values("median_ms").style.hide().format(precision=1).format(millions)


def time_against_macs(latency: pd.DataFrame, yard: str = nets.YARD) -> Figure:
    """Draw the time of each net against its MACs, and the line on which a MAC takes as long as one of ``yard``'s.

    Arguments as of :func:`table`. The bars are 95 % intervals of the medians.
    """
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 4.2))
    base = latency.set_index("name").loc[yard]
    gmacs = latency.macs / 1e9
    ends = np.array([gmacs.min() * 0.8, gmacs.max() * 1.25])
    colours = [figures.colour(name) for name in latency.name]
    ax.plot(ends, ends / base.macs * 1e9 * base.median_ms, color=figures.GREY, lw=1, ls="--", zorder=1)
    ax.vlines(gmacs, latency.low_ms, latency.high_ms, color=colours, lw=1.2)
    ax.scatter(gmacs, latency.median_ms, c=colours, s=32, zorder=3)
    ax.set(xscale="log", yscale="log", xlabel="GMACs at the net's own input size",
           ylabel=f"ms, batch 1, {base.threads} thread{'s' if base.threads > 1 else ''}",
           title=f"Above the dashed line a MAC takes longer than {catalogue.net(yard).title}'s")  # fmt: skip
    figures.log_ticks(ax.xaxis, ax.yaxis)
    labels.label_points(ax, list(gmacs), list(latency.median_ms), list(latency.name), colours)
    return fig


def caption(latency: pd.DataFrame, yard: str = nets.YARD) -> str:
    """The point of :func:`time_against_macs`: how many nets take longer for each MAC, counted by whole intervals."""
    ratios = nets.per_mac_ratios(latency, yard)
    longer = sum(ratio.low > 1 for ratio in ratios.values())
    return (f"{longer} of {len(ratios)} nets take longer for each MAC than {catalogue.net(yard).title} (dashed), by "
            "their whole 95 % intervals of this run.")  # fmt: skip


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
