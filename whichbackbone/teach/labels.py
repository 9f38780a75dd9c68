"""Write names beside points and lines, so that no name covers another one, a point or a line.

All functions count in pixels. Call them when everything else of the figure stands: data, scales, limits, titles.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text
from scipy.optimize import isotonic_regression

LEADER = "#BBBBBB"  # the thin line from a name to its point
END = "label of an end"  # marks the texts that must stay inside the axes when a later call moves the limits
CORNERS = ("upper left", "upper right", "lower left", "lower right")


def label_points(
    ax: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str], colours: Sequence[str], size: float = 7.5
) -> list[Text]:
    """Write a name beside each point, and draw a thin line to the point where the name had to move away.

    Names stay inside the axes and keep off each other and off all points and lines that the axes hold already. Where
    there is no room for that, they cover lines first, then points.

    Args:
        ax: axes of any scale.
        x, y: data coordinates of the points.
        texts, colours: name of each point and its colour.
        size: font size in points.

    Returns:
        The texts, in the order of the points.

    Raises:
        ValueError: when the arguments differ in length, or a point has no place on the axes (0 on a log axis).
    """
    points = _pixels(ax, x, y, texts)
    labels = [
        ax.text(a, b, text, fontsize=size, color=colour, ha="center", va="center")
        for a, b, text, colour in zip(x, y, texts, colours, strict=True)
    ]
    if not labels:
        return []
    marks, lines = _drawn(ax)
    marks = np.vstack([marks, np.column_stack([points, np.full(len(points), 4 * _dot(ax))])])
    to_data = ax.transData.inverted()
    # A first guess; with a limit on time instead of steps it would depend on how fast the machine is.
    avoid = to_data.transform(np.vstack([marks[:, :2], lines[::4]]))
    adjust_text(labels, x=avoid[:, 0], y=avoid[:, 1], ax=ax, expand=(1.25, 1.7), force_text=(0.3, 0.5), iter_lim=60)
    boxes = [label.get_window_extent() for label in labels]
    sizes = np.array([(box.width, box.height) for box in boxes])
    centres = np.array([(box.x0 + box.x1, box.y0 + box.y1) for box in boxes]) / 2
    centres = _settle(centres, sizes, points, marks, lines, ax.get_window_extent().extents, _dot(ax))
    for label, centre, half, point in zip(labels, centres, sizes / 2, points, strict=True):
        label.set_position(to_data.transform(centre))
        edge = np.clip(point, centre - half, centre + half)
        if np.hypot(*(edge - point)) > 7 * _dot(ax):
            ax.add_artist(Line2D(*to_data.transform([edge, point]).T, color=LEADER, lw=0.5, zorder=1))
    return labels


def label_ends(
    ax: Axes, x: float | Sequence[float], heights: Sequence[float], texts: Sequence[str], colours: Sequence[str] | str,
    *, side: str = "right", gap: float = 9, size: float = 9,
) -> list[Text]:  # fmt: skip
    """Write a text beside the end of each line, moved up or down as little as is needed to stand apart.

    Texts keep the order of their heights and stay inside the axes, whose x limits are widened to make room. The ends
    may as well be those of rows (bars, intervals), each with its own ``x``.

    Args:
        ax: axes of any scale.
        x: data coordinate of all ends, or one for each.
        heights: data coordinates (y) of the ends.
        texts, colours: what to write beside each end, and in which colour (one for all, or one for each).
        side: ``"right"`` or ``"left"`` of the ends.
        gap: distance between an end and its text, in points.
        size: font size in points.

    Returns:
        The texts, in the order of the heights given.

    Raises:
        ValueError: when the arguments differ in length, an end has no place on the axes, or the texts do not fit.
    """
    if side not in ("right", "left"):
        raise ValueError(f"unknown side {side!r}: choose right or left")
    x = [x] * len(heights) if np.isscalar(x) else list(x)
    colours = [colours] * len(heights) if isinstance(colours, str) else colours
    ends = _pixels(ax, x, heights, texts)
    labels = [
        ax.annotate(text, (a, b), (gap if side == "right" else -gap, 0), textcoords="offset points", color=colour,
                    ha="left" if side == "right" else "right", va="center", fontsize=size, gid=END,
                    annotation_clip=False)
        for a, b, text, colour in zip(x, heights, texts, colours, strict=True)
    ]  # fmt: skip
    if not labels:
        return []
    tall = [label.get_window_extent().height + 1.5 * _dot(ax) for label in labels]
    frame = ax.get_window_extent()
    for label, end, place in zip(labels, ends, spread(ends[:, 1], tall, frame.y0, frame.y1), strict=True):
        label.xyann = (label.xyann[0], (place - end[1]) / _dot(ax))
    _make_room(ax)
    return labels


def spread(heights: Sequence[float], sizes: Sequence[float], low: float, high: float) -> np.ndarray:
    """Move texts in one column apart, as little as possible (least squares), and keep their order.

    Args:
        heights: where the middle of each text should be, in any order.
        sizes: height of each text, in the same unit.
        low, high: all texts must lie between these.

    Returns:
        The new middles, in the order given.

    Raises:
        ValueError: when the texts are together higher than ``high - low``.
    """
    heights, sizes = np.asarray(heights, float), np.asarray(sizes, float)
    if sizes.sum() > high - low:
        raise ValueError(
            f"{len(sizes)} texts need {sizes.sum():.0f} of height and there are {high - low:.0f}: "
            "make the figure higher, or write less"
        )
    order = np.argsort(heights, kind="stable")
    # Once the sizes of those below are taken off, "apart" means "not falling".
    below = np.cumsum(sizes[order]) - sizes[order] / 2
    flat = isotonic_regression(heights[order] - below).x
    moved = np.empty_like(heights)
    moved[order] = np.clip(flat, low, high - sizes.sum()) + below
    return moved


def colour_key(ax: Axes, words: Mapping[str, str], corner: str = "upper left", size: float = 9) -> list[Text]:
    """Write words, each in the colour that it explains, below one another in a corner of the axes.

    Args:
        ax: the axes.
        words: text -> its colour, from top to bottom.
        corner: one of ``CORNERS``.
        size: font size in points.

    Returns:
        The texts.

    Raises:
        ValueError: for an unknown corner.
    """
    if corner not in CORNERS:
        raise ValueError(f"unknown corner {corner!r}: choose one of {', '.join(CORNERS)}")
    upper, right = corner.startswith("upper"), corner.endswith("right")
    step = 1.35 * size
    first = -0.5 * step if upper else (len(words) - 0.5) * step
    return [
        ax.annotate(text, (float(right), float(upper)), (-6 if right else 6, first - number * step),
                    xycoords="axes fraction", textcoords="offset points", color=colour, ha="right" if right else "left",
                    va="center", fontsize=size, weight="bold")
        for number, (text, colour) in enumerate(words.items())
    ]  # fmt: skip


def _dot(ax: Axes) -> float:
    """Pixels in a point (1/72 inch)."""
    return ax.figure.dpi / 72


def _pixels(ax: Axes, x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> np.ndarray:
    """Pixels (n, 2) of data coordinates, once the layout is final. ValueError for a point that has no place."""
    ax.figure.draw_without_rendering()  # else places are counted for another size of the axes
    places = [(ax.convert_xunits(a), ax.convert_yunits(b)) for a, b in zip(x, y, strict=True)]
    pixels = ax.transData.transform(np.array(places, float).reshape(-1, 2))
    for place, pixel, text in zip(places, pixels, texts, strict=True):
        # A log axis sends 0 very far down instead of nowhere.
        if not np.isfinite(pixel).all() or (np.abs(pixel) > 1e5).any():
            raise ValueError(f"{text!r} at {place} has no place on these axes")
    return pixels


def _drawn(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    """What the axes show: points as (n, 3) of x, y, radius, and lines as (m, 2) samples; all in pixels."""
    marks, lines = [np.empty((0, 3))], [np.empty((0, 2))]
    for line in ax.lines:
        path = line.get_transform().transform(line.get_xydata()) if len(line.get_xydata()) else np.empty((0, 2))
        path = path[np.isfinite(path).all(1)]
        if line.get_marker() not in ("None", None, "", " "):
            marks.append(np.column_stack([path, np.full(len(path), line.get_markersize() / 2 * _dot(ax))]))
        if line.get_linestyle() != "None" and len(path) > 1:
            lines.append(_samples(path))
    for collection in ax.collections:
        if isinstance(collection, LineCollection):
            paths = [collection.get_transform().transform(s) for s in collection.get_segments() if len(s) > 1]
            lines += [_samples(path) for path in paths if np.isfinite(path).all()]
        elif isinstance(collection, PathCollection):
            places = collection.get_offset_transform().transform(np.ma.getdata(collection.get_offsets()))
            radii = np.resize(np.sqrt(collection.get_sizes()) / 2 * _dot(ax), len(places))
            marks.append(np.column_stack([places, radii])[np.isfinite(places).all(1)])
    return np.vstack(marks), np.vstack(lines)


def _samples(path: np.ndarray, apart: float = 4) -> np.ndarray:
    """Points along a line (n, 2), at most ``apart`` pixels from each other; far outside the figure there are fewer."""
    steps = np.hypot(*np.diff(path, axis=0).T)
    counts = np.clip(np.ceil(steps / apart), 1, 2000).astype(int)
    pieces = [np.linspace(a, b, n, endpoint=False) for a, b, n in zip(path[:-1], path[1:], counts, strict=True)]
    return np.vstack([*pieces, path[-1:]])


def _settle(
    centres: np.ndarray, sizes: np.ndarray, points: np.ndarray, marks: np.ndarray, lines: np.ndarray,
    frame: np.ndarray, dot: float,
) -> np.ndarray:  # fmt: skip
    """Move one label after the other to the place around its point that costs least, until none moves.

    Args:
        centres, sizes, points: (n, 2) pixels: where labels are, how large, and what they name.
        marks: (m, 3) points to keep off, with their radii. lines: (k, 2) samples of lines to keep off.
        frame: x0, y0, x1, y1 of the axes. dot: pixels in a point.

    Returns:
        The new centres.
    """
    centres = centres.copy()
    angles = np.arange(24) * np.pi / 12
    around = np.column_stack([np.cos(angles), np.sin(angles)])
    gaps = np.array([5, 8, 12, 18, 26, 36, 50, 68, 90, 120, 160]) * dot
    leaders = [_leader(*label) for label in zip(centres, sizes, points, strict=True)]
    for _ in range(12):
        before = centres.copy()
        for i, (size, point) in enumerate(zip(sizes, points, strict=True)):
            tried = np.vstack([centres[i], *(point + around * (size / 2 + gap) for gap in gaps)])
            others = np.arange(len(centres)) != i
            crossed = np.vstack([lines, *(leaders[j] for j in np.flatnonzero(others))])
            cost = _cost(tried, size, point, (centres[others], sizes[others]), marks, crossed, frame, dot)
            centres[i] = tried[cost.argmin()]
            leaders[i] = _leader(centres[i], size, point)
        if np.array_equal(before, centres):
            break
    return centres


def _cost(tried, size, point, others, marks, lines, frame, dot) -> np.ndarray:
    """What each tried centre (n, 2) of one label costs: its distance from the point, and what it would cover."""
    half = size / 2 + dot  # a point of air around
    distance = np.hypot(*np.maximum(np.abs(tried - point) - size / 2, 0).T) / dot
    centres, sizes = others
    gap = np.abs(tried[:, None] - centres) - half - sizes / 2
    on_labels = (gap < 0).all(2).sum(1)
    outside = np.maximum(frame[:2] - (tried - half), 0) + np.maximum(tried + half - frame[2:], 0)
    apart = np.maximum(np.abs(tried[:, None] - marks[:, :2]) - half, 0)
    on_marks = (np.hypot(*apart.transpose(2, 0, 1)) < marks[:, 2]).sum(1)
    on_lines = (np.abs(tried[:, None] - lines) < half).all(2).sum(1)
    return distance + 4000 * on_labels + 2000 * (outside.sum(1) > 0) + outside.sum(1) + 150 * on_marks + 6 * on_lines


def _leader(centre: np.ndarray, size: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Samples (n, 2) of the thin line from a label to its point."""
    return _samples(np.array([np.clip(point, centre - size / 2, centre + size / 2), point]))


def _make_room(ax: Axes) -> None:
    """Widen the x limits until every text that ``label_ends`` wrote is inside. ValueError if it cannot be."""
    scale = ax.xaxis.get_transform()
    for _ in range(20):
        frame = ax.get_window_extent()
        boxes = [text.get_window_extent() for text in ax.texts if text.get_gid() == END]
        left = max(0.0, frame.x0 - min(box.x0 for box in boxes))
        right = max(0.0, max(box.x1 for box in boxes) - frame.x1)
        if left < 0.5 and right < 0.5:
            return
        room = frame.width - max(box.width for box in boxes)
        if room < 0.15 * frame.width:
            raise ValueError("a text is nearly as wide as the axes: write less, or make the figure wider")
        low, high = scale.transform(ax.get_xlim())
        # Everything moves inwards by about as much as is added on the other side, so a little more is added each time.
        low, high = low - 1.1 * left / room * (high - low), high + 1.1 * right / room * (high - low)
        ax.set_xlim(*scale.inverted().transform([low, high]))
    raise ValueError("the texts beside the ends find no room: write less, or make the figure wider")
