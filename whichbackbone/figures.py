"""One look for every figure: white ground, colour-blind-safe colours fixed per family, direct labels, alt text."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image as Pillow

from whichbackbone.evidence import catalogue

DPI = 150
MAX_BYTES = 150_000
WIDTH = 8.0  # inches, the width of a notebook's column

# Okabe & Ito 2008, "Color Universal Design": distinguishable with every common form of colour blindness.
COLOURS = {
    "ResNet": "#0072B2",
    "EfficientNet": "#D55E00",
    "MobileNet": "#009E73",
    "MnasNet": "#E69F00",
    "RegNet": "#CC79A7",
    "ResNeSt": "#56B4E9",
    "DenseNet": "#000000",
}
GREY = "#6B6B6B"


def colour(name: str) -> str:
    """Colour (hex) of a family, or of the family of a model given by its timm name."""
    return COLOURS.get(name) or COLOURS[catalogue.family(name)]


def style() -> None:
    """Set matplotlib's defaults for the study; call once at the top of a notebook.

    Figures are shown by :func:`save` alone: a figure may take several cells, and should not appear half drawn.
    """
    plt.rcdefaults()
    plt.ioff()
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 4.5),
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "axes.prop_cycle": plt.cycler(color=[*COLOURS.values()]),
        }
    )


def save(fig: Figure, name: str, *, folder: Path, alt: str, caption: str) -> None:
    """Write ``folder/name.png``, show it with its caption, and close it.

    Args:
        name: the number of the notebook and what the figure shows, such as ``"02_degradation"``. Written out in the
            call, it declares the figure: ``run_all.sh`` counts a run as good only when every declared one was written.
        alt: what the picture shows, for those who cannot see it.
        caption: its point in one line.

    Raises ``ValueError`` for a missing alt text or caption, and when the picture is over 150 KB.
    """
    if not alt.strip() or not caption.strip():
        raise ValueError(f"figure {name!r} needs an alt text and a caption")
    png, width = _png(fig)
    plt.close(fig)
    if len(png) > MAX_BYTES:
        raise ValueError(f"figure {name!r} has {len(png):,} bytes, over {MAX_BYTES:,}: draw less or make it smaller")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.png"
    temporary.write_bytes(png)
    temporary.replace(folder / f"{name}.png")
    # Two thirds of its pixels: sharp on dense screens, as wide as the text on others.
    display(Image(png, format="png", alt=alt, width=width * 2 // 3), Markdown(f"*{caption}*"))


def log_ticks(*axes: Axis) -> None:
    """Plain numbers at 1, 2 and 5 times the powers of ten of a logarithmic axis (``ax.xaxis``), and nothing between."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def point_intervals(
    ax: Axes, rows: pd.DataFrame, *, colours: Mapping[str, str] | None = None, dodge: float = 0.4
) -> np.ndarray:
    """Draw a dot and its interval for each row, labels from top to bottom in the order in which they first stand.

    The intervals are drawn as they are given; nothing is estimated here.

    Args:
        ax: the axes; set a log scale before or after.
        rows: columns ``label``, ``value``, ``low``, ``high`` (all three in the unit of the x axis; without bounds the
            dot stands alone) and, where several dots share a label, ``group``.
        colours: colour of each group, or of each label where there are no groups. Left out, a label that is a model or
            a family has the family's colour, and all else is grey.
        dodge: distance between the first and the last group of a label, where labels are 1 apart.

    Returns:
        Height (y) of each row, for texts beside it.

    Raises:
        ValueError: when a label (and group) stands twice or has no colour, or an interval does not hold its value.
    """
    import seaborn as sns  # here, because few cells draw with it and it takes half a second

    hue = "group" if "group" in rows else "label"
    keys = ["label", "group"] if hue == "group" else ["label"]
    if (twice := rows.duplicated(keys)).any():
        raise ValueError(f"{' / '.join(map(str, rows.loc[twice, keys].iloc[0]))!r} stands twice")
    bounds = rows.assign(low=rows.low.fillna(rows.value), high=rows.high.fillna(rows.value))
    wrong = (bounds.low > bounds.value) | (bounds.high < bounds.value)
    for row in bounds[wrong].itertuples():
        raise ValueError(f"the interval of {row.label!r}, {row.low:g} to {row.high:g}, does not hold {row.value:g}")
    # Of three numbers the middle one is the median, and the outer ones are where a percentile interval of 100 % ends.
    long = bounds.melt(keys, ["low", "value", "high"], value_name="x").dropna(subset="x")
    labels, groups = (list(dict.fromkeys(rows[column])) for column in ("label", hue))
    apart = dodge if hue == "group" and len(groups) > 1 else 0
    sns.pointplot(
        long, x="x", y="label", hue=hue, order=labels, hue_order=groups, palette=_palette(groups, colours), ax=ax,
        estimator="median", errorbar=("pi", 100), dodge=apart or False, linestyle="none",
        marker="o", markersize=6, err_kws={"linewidth": 2}, legend=False,
    )  # fmt: skip
    ax.set(xlabel="", ylabel="")
    shift = dict(zip(groups, np.linspace(-apart / 2, apart / 2, len(groups)), strict=True))
    return np.array([labels.index(label) + shift[own] for label, own in zip(rows.label, rows[hue], strict=True)])


def seed_dots(
    ax: Axes, rows: pd.DataFrame, *, value: str, label: str = "label", colours: Mapping[str, str] | None = None
) -> pd.Series:
    """Draw a dot for each row (a seed, a split) and a bar at the mean of each label, from top to bottom.

    Args:
        ax: the axes.
        rows: one row a dot, with the columns ``label`` and ``value`` (in the unit of the x axis).
        value, label: names of these two columns.
        colours: colour of each label; left out, as in :func:`point_intervals`.

    Returns:
        Mean of each label, in the order drawn: the first is at height 0, the second at 1.
    """
    import seaborn as sns

    names = list(dict.fromkeys(rows[label]))
    palette = _palette(names, colours)
    sns.stripplot(
        rows, x=value, y=label, hue=label, order=names, hue_order=names, palette=palette, ax=ax, jitter=False, size=6,
        alpha=0.55, edgecolor="white", linewidth=0.5, legend=False,
    )  # fmt: skip
    means = rows.groupby(label)[value].mean()[names]
    for height, name in enumerate(names):
        ax.plot([means[name]] * 2, [height - 0.25, height + 0.25], color=palette[name], lw=2.5)
    ax.set(xlabel="", ylabel="")
    return means


def heat(
    ax: Axes, table: pd.DataFrame, *, unit: str, digits: str = ".2f", centre: float | None = None,
    limits: tuple[float, float] | None = None,
) -> None:  # fmt: skip
    """Draw a table as a heat map with its numbers; a cell without a number stays white.

    Args:
        ax: the axes.
        table: rows and columns as they are to stand; the names of index and columns become the axes' titles.
        unit: what the numbers are, written beside the colour bar.
        digits: format of the numbers, such as ``".1f"``.
        centre: where the numbers turn from one side to the other, such as 1 for a ratio; None: they only grow.
        limits: numbers at the ends of the colours; None: the smallest and the largest of the table.

    Raises:
        ValueError: for a table without any number, or an empty unit.
    """
    import seaborn as sns

    if not table.notna().any(axis=None):
        raise ValueError("a table without a number has no heat")
    if not unit.strip():
        raise ValueError("a heat map needs its unit")
    low, high = limits or (None, None)
    sns.heatmap(
        table, ax=ax, annot=True, fmt=digits, cmap="viridis" if centre is None else "PuOr", center=centre, vmin=low,
        vmax=high, linewidths=0.8, linecolor="white", annot_kws={"size": 8.5}, cbar_kws={"label": unit},
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(length=0)
    ax.tick_params(axis="y", labelrotation=0)
    if max(len(str(column)) for column in table.columns) > 5:
        ax.set_xticks(ax.get_xticks(), ax.get_xticklabels(), rotation=30, ha="right", rotation_mode="anchor")
    for tick in ax.get_yticklabels():
        tick.set_color(_palette([tick.get_text()], None, other="black")[tick.get_text()])


def _palette(names: Iterable[str], colours: Mapping[str, str] | None, other: str = GREY) -> dict[str, str]:
    """Return the colour of each name: the given one; without ``colours`` that of its family, or ``other``."""
    if colours is not None:
        if missing := [name for name in names if name not in colours]:
            raise ValueError(f"no colour is given for {', '.join(map(str, missing))}")
        return {name: colours[name] for name in names}
    palette = {}
    for name in names:
        try:
            palette[name] = colour(name)
        except ValueError:
            palette[name] = other
    return palette


def _png(fig: Figure) -> tuple[bytes, int]:
    """The figure at 150 dpi in at most 128 colours, a third of the size and to the eye the same; and its width."""
    raw = io.BytesIO()
    fig.savefig(raw, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    small = io.BytesIO()
    picture = Pillow.open(raw).convert("RGB").quantize(128, method=Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    picture.save(small, format="png", optimize=True, dpi=(DPI, DPI))
    return small.getvalue(), picture.width
