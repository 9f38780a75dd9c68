"""Draw nets and blocks: boxes with the data flowing down, and the lines that skip them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import schemdraw
from matplotlib.figure import Figure
from schemdraw import flow


def blocks(
    columns: Mapping[str, Sequence[str]], skips: Mapping[str, Mapping[tuple[int, int], str]] | None = None
) -> Figure:
    """Draw block diagrams side by side, data flowing down.

    Args:
        columns: title -> the layers from input to output. A layer ``"+"`` is drawn as the circle of an addition,
            ``"x"`` as that of a multiplication, ``"|"`` as the bare line of an identity.
        skips: title -> {(from, to): label}: lines that leave before layer ``from`` and join at layer ``to``.

    Returns:
        The figure, for :func:`figures.save`.

    Raises:
        ValueError: for a skip of a column, or to a layer, that is not there.
    """
    for title, lines in (skips or {}).items():
        layers = columns.get(title)
        if layers is None:
            raise ValueError(f"a skip belongs to {title!r}, and the columns are {', '.join(columns)}")
        for start, end in lines:
            if not 0 <= start < end < len(layers):
                raise ValueError(f"a skip of {title!r} goes from {start} to {end}; its layers: 0 to {len(layers) - 1}")
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
    """Draw one chain of layers, and its skips, at horizontal position ``left``."""
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
