"""One look for every figure: white ground, colour-blind-safe colours fixed per family, direct labels, alt text."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import schemdraw
from adjustText import adjust_text
from IPython.display import Image, Markdown, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image as Pillow
from schemdraw import flow

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


def label_points(
    ax: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], colours: Sequence[str]
) -> None:
    """Write a name beside each point, moved so that none covers another."""
    # The layout must be final before positions are adjusted, or the labels are placed for another size.
    ax.figure.draw_without_rendering()
    labels = [ax.text(a, b, text, fontsize=7.5, color=c) for a, b, text, c in zip(x, y, texts, colours, strict=True)]
    line = {"arrowstyle": "-", "color": "#BBBBBB", "lw": 0.5}
    adjust_text(labels, x=list(x), y=list(y), ax=ax, expand=(1.25, 1.7), force_text=(0.3, 0.5), arrowprops=line)


def blocks(
    columns: Mapping[str, Sequence[str]], skips: Mapping[str, Mapping[tuple[int, int], str]] | None = None
) -> Figure:
    """Block diagrams side by side, data flowing down.

    Args:
        columns: title -> the layers from input to output. A layer ``"+"`` is drawn as the circle of an addition,
            ``"x"`` as that of a multiplication, ``"|"`` as the bare line of an identity.
        skips: title -> {(from, to): label}: lines that leave before layer ``from`` and join at layer ``to``.
    """
    fig, ax = plt.subplots(figsize=(min(2.7 * len(columns), 10.5), 0.62 * max(map(len, columns.values())) + 1.4))
    ax.set_axis_off()
    ax.set_aspect("equal")
    drawing = schemdraw.Drawing(canvas=ax, show=False)
    drawing.config(fontsize=9, unit=0.5, lw=1.2)
    for number, (title, layers) in enumerate(columns.items()):
        ax.text(6.8 * number, -0.6, title, ha="center", va="bottom", fontsize=10, weight="bold")
        _column(drawing, 6.8 * number, layers, (skips or {}).get(title, {}))
    drawing.draw(show=False)
    return fig


def _column(drawing, left: float, layers: Sequence[str], skips: Mapping[tuple[int, int], str]) -> None:
    """One chain of layers at horizontal position ``left``."""
    inputs, shapes = [], []
    y = -0.9
    for text in layers:
        inputs.append(y)
        drawing += flow.Arrow().at((left, y)).to((left, y - 0.7))
        y -= 0.7
        if text in ("+", "x"):
            shape = flow.Circle(r=0.35).at((left, y)).anchor("N").label("+" if text == "+" else "×").fill("#FFFFFF")
            y -= 0.7
        elif text == "|":
            shape = flow.Arrow(arrow="").at((left, y)).to((left, y - 0.9))
            y -= 0.9
        else:
            shape = flow.Box(w=4, h=0.9).at((left, y)).anchor("N").label(text).fill("#EAF2F8")
            y -= 0.9
        drawing += shape
        shapes.append((y, text))
    drawing += flow.Arrow().at((left, y)).to((left, y - 0.7))
    # A line around another one needs its own lane, further out.
    for (start, end), label in skips.items():
        inner = sum(start <= s and e <= end for s, e in skips) - 1
        top = inputs[start] - 0.2 + 0.1 * inner
        middle = shapes[end][0] + (0.35 if shapes[end][1] in ("+", "x") else 0.45)
        edge = left + (0.35 if shapes[end][1] in ("+", "x") else 2)
        right = left + 2.4 + 0.55 * inner
        drawing += flow.Line().at((left, top)).to((right, top))
        drawing += flow.Line().at((right, top)).to((right, middle)).label(label, loc="bottom", rotate=90, fontsize=8)
        drawing += flow.Arrow().at((right, middle)).to((edge, middle))


def _png(fig: Figure) -> tuple[bytes, int]:
    """The figure at 150 dpi in at most 256 colours, a third of the size and to the eye the same; and its width."""
    raw = io.BytesIO()
    fig.savefig(raw, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08)
    small = io.BytesIO()
    picture = Pillow.open(raw).convert("RGB").quantize(256, method=Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    picture.save(small, format="png", optimize=True, dpi=(DPI, DPI))
    return small.getvalue(), picture.width
