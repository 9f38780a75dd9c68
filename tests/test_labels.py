"""Names beside points and lines: apart from each other, inside the axes, in order; on linear and log axes."""

import itertools
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.transforms import Bbox

from whichbackbone import figures
from whichbackbone.teach import labels

NAMES = ("resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d seresnet50 densenet121 efficientnet_b0 "
         "efficientnet_b3 tf_efficientnet_lite0 mobilenetv2_100 mobilenetv3_large_100 mnasnet_100 regnety_032 "
         "resnest50d").split()  # fmt: skip


@pytest.fixture(autouse=True)
def close():
    figures.style()
    yield
    plt.close("all")


def boxes(texts: list, pad: float = 0) -> list[Bbox]:
    texts[0].figure.canvas.draw()
    return [text.get_window_extent().padded(pad) for text in texts]


def assert_apart_and_inside(ax: plt.Axes, texts: list) -> None:
    own, frame = boxes(texts), ax.get_window_extent()
    for (a, one), (b, other) in itertools.combinations(zip(texts, own, strict=True), 2):
        assert not one.overlaps(other), (a.get_text(), b.get_text())
    for text, box in zip(texts, own, strict=True):
        assert frame.padded(1).containsx(box.x0) and frame.padded(1).containsx(box.x1), (text.get_text(), box, frame)
        assert frame.padded(1).containsy(box.y0) and frame.padded(1).containsy(box.y1), (text.get_text(), box, frame)


def cloud(scale: str, seed: int) -> tuple[plt.Axes, np.ndarray, np.ndarray]:
    """Points near a dashed line, as in the figures of time against MACs."""
    random = np.random.default_rng(seed)
    x = np.exp(random.normal(1, 0.8, len(NAMES)))
    y = 12 * x * np.exp(random.normal(0, 0.2, len(x)))
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 4.2))
    ax.scatter(x, y, s=32)
    ax.plot([x.min(), x.max()], [12 * x.min(), 12 * x.max()], "--", lw=1)
    ax.set(xscale=scale, yscale=scale, title="Time", xlabel="GMACs", ylabel="ms")
    if scale == "log":
        figures.log_ticks(ax.xaxis, ax.yaxis)
    return ax, x, y


@pytest.mark.parametrize(("scale", "seed"), [("linear", 0), ("log", 3)])
def test_names_of_points_cover_neither_names_nor_points(scale, seed):
    ax, x, y = cloud(scale, seed)
    start = time.perf_counter()
    texts = labels.label_points(ax, x, y, NAMES, [figures.colour(name) for name in NAMES])
    assert time.perf_counter() - start < 20
    assert [text.get_text() for text in texts] == NAMES
    assert [text.get_color() for text in texts] == [figures.colour(name) for name in NAMES]
    assert_apart_and_inside(ax, texts)
    points = ax.transData.transform(np.column_stack([x, y]))
    covered = [(t.get_text(), i) for t, b in zip(texts, boxes(texts), strict=True)
               for i, p in enumerate(points) if b.contains(*p)]  # fmt: skip
    assert not covered if scale == "log" else len(covered) <= 1


def test_a_name_is_nearest_to_its_own_point_or_has_a_line_to_it():
    ax, x, y = cloud("log", 1)
    texts = labels.label_points(ax, x, y, NAMES, ["black"] * len(NAMES))
    points = ax.transData.transform(np.column_stack([x, y]))
    leaders = [ax.transData.transform(line.get_xydata()) for line in ax.artists + ax.lines
               if line.get_color() == labels.LEADER]  # fmt: skip
    for box, point in zip(boxes(texts), points, strict=True):
        near = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
        led = any(np.hypot(*(line[1] - point)) < 1 for line in leaders)
        assert led or np.hypot(*(near - point)) < 15


def test_names_are_placed_the_same_way_each_time():
    places = []
    for _ in range(2):
        ax = plt.subplots(figsize=(3, 2))[1]
        texts = labels.label_points(ax, [0.5, 0.5, 0.6], [0.5, 0.5, 0.5], NAMES[:3], ["black"] * 3)
        places.append([text.get_position() for text in texts])
    assert places[0] == places[1]


def test_points_on_one_spot():
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], label="line")
    x, y, names = [1 + i / 100 for i in range(6)], [2.0] * 6, [f"model_{i}" for i in range(6)]
    assert_apart_and_inside(ax, labels.label_points(ax, x, y, names, ["#000000"] * 6))


def test_a_name_keeps_off_what_is_drawn():
    fig, ax = plt.subplots()
    ax.set(xlim=(0, 10), ylim=(0, 10))
    ax.vlines([5.2, 5.5, 6, 6.5], 0, 10)
    ax.scatter([5, 4.4], [5, 5])
    ax.axhline(5.4)
    (text,) = labels.label_points(ax, [5], [5], ["a name"], ["black"])
    (box,) = boxes([text])
    to_pixels = ax.transData.transform
    assert not box.contains(*to_pixels((4.4, 5)))
    assert box.x1 < to_pixels((5.2, 0))[0] and not box.y0 < to_pixels((0, 5.4))[1] < box.y1


def test_no_points_no_names():
    ax = plt.subplots()[1]
    assert labels.label_points(ax, [], [], [], []) == [] == labels.label_ends(ax, 1, [], [], [])


@pytest.mark.parametrize(("scale", "side"), [("linear", "right"), ("log", "right"), ("log", "left")])
def test_ends_stand_apart_in_order_inside(scale, side):
    fig, ax = plt.subplots(figsize=(4, 3))
    heights = [350, 352, 353, 150, 351]
    for height in heights:
        ax.plot([224, 512, 800], [height * 0.7, height / 3, height])
    ax.set(xscale=scale, yscale=scale, title="Time of the feature maps", xlabel="px")
    ax.minorticks_off()
    x, places = (800, heights) if side == "right" else (224, [h * 0.7 for h in heights])
    texts = labels.label_ends(ax, x, places, NAMES[:5], "black", side=side)
    assert_apart_and_inside(ax, texts)
    middles = [(box.y0 + box.y1) / 2 for box in boxes(texts)]
    assert np.argsort(middles).tolist() == np.argsort(heights).tolist()
    edge = ax.transData.transform((x, 1))[0]
    assert all(box.x0 > edge if side == "right" else box.x1 < edge for box in boxes(texts))


def test_an_end_that_is_alone_is_not_moved():
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 1])
    (text,) = labels.label_ends(ax, 1, [0.5], ["half"], ["black"])
    assert text.xyann == (9, pytest.approx(0))


def test_both_sides_and_two_calls_find_room():
    fig, ax = plt.subplots(figsize=(4, 3))
    ax.plot([20, 44], [14, 13])
    ax.plot([20, 44], [45, 91])
    texts = labels.label_ends(ax, 20, [14, 45], ["14 % at the start", "45 %"], "black", side="left")
    texts += labels.label_ends(ax, 44, [13, 91], ["13 % residual", "91 % plain"], ["blue", "grey"])
    assert_apart_and_inside(ax, texts)


def test_rows_each_with_its_own_end_and_an_axis_that_runs_down():
    fig, ax = plt.subplots(figsize=(4, 2))
    rows = ["a", "b", "c"]
    ax.barh(rows, [1, 5, 3])
    ax.invert_yaxis()
    texts = labels.label_ends(ax, [1, 5, 3], rows, ["1.0 times", "5.0 times", "3.0 times"], "black")
    assert_apart_and_inside(ax, texts)
    assert [b.y0 for b in boxes(texts)] == sorted((b.y0 for b in boxes(texts)), reverse=True)


@pytest.mark.parametrize("function", [labels.label_points, labels.label_ends])
def test_what_has_no_place(function):
    ax = plt.subplots()[1]
    ax.plot([1, 10], [1, 10])
    ax.set(yscale="log")
    with pytest.raises(ValueError, match=r"'zero' at .* has no place on these axes"):
        function(ax, [1, 2], [1, 0], ["one", "zero"], ["black"] * 2)
    with pytest.raises(ValueError, match="'not a number' at"):
        function(ax, [float("nan")], [1], ["not a number"], ["black"])
    with pytest.raises(ValueError, match="zip"):
        function(ax, [1, 2], [1, 2], ["one"], ["black"] * 2)


def test_more_than_fits():
    ax = plt.subplots(figsize=(3, 1))[1]
    with pytest.raises(ValueError, match="20 texts need .* make the figure higher"):
        labels.label_ends(ax, 0.5, np.linspace(0, 1, 20), ["text"] * 20, "black")
    with pytest.raises(ValueError, match="write less, or make the figure wider"):
        labels.label_ends(ax, 0.5, [0.5], ["a text that is far too long for this figure"], "black")
    with pytest.raises(ValueError, match="unknown side 'above'"):
        labels.label_ends(ax, 0.5, [0.5], ["text"], "black", side="above")


@pytest.mark.parametrize(
    ("heights", "moved"),
    [
        ([5, 1, 9], [5, 1, 9]),  # far enough apart
        ([5, 5], [4, 6]),  # as little as possible: half each
        ([5, 4.9, 5.1], [5, 3, 7]),
        ([0, 9.9], [1, 9]),  # inside
        ([10, 10, 10], [5, 7, 9]),
        ([], []),
    ],
)
def test_spread(heights, moved):
    assert labels.spread(heights, [2] * len(heights), 0, 10) == pytest.approx(moved)


def test_spread_keeps_order_and_distance_whatever_comes():
    random = np.random.default_rng(0)
    for _ in range(200):
        n = random.integers(1, 8)
        heights, sizes = random.normal(5, 3, n), random.uniform(0.2, 1.2, n)
        moved = labels.spread(heights, sizes, 0, 10)
        order = np.argsort(heights)
        assert (np.diff(moved[order]) >= (sizes[order][1:] + sizes[order][:-1]) / 2 - 1e-9).all()
        assert (moved - sizes / 2 >= -1e-9).all() and (moved + sizes / 2 <= 10 + 1e-9).all()


def test_spread_says_what_does_not_fit():
    with pytest.raises(ValueError, match="3 texts need 12 of height and there are 10"):
        labels.spread([1, 2, 3], [4, 4, 4], 0, 10)


@pytest.mark.parametrize("corner", labels.CORNERS)
def test_the_colours_explained_in_a_corner(corner):
    ax = plt.subplots()[1]
    words = {"searched with latency": "#E69F00", "searched with MACs": "#0072B2"}
    texts = labels.colour_key(ax, words, corner)
    assert {t.get_text(): t.get_color() for t in texts} == words
    assert_apart_and_inside(ax, texts)
    first, second = boxes(texts)
    frame = ax.get_window_extent()
    assert first.y0 > second.y0
    assert (first.y1 > frame.y1 - 15) == corner.startswith("upper") == (second.y0 > frame.y0 + 30)
    assert (first.x0 < frame.x0 + 15) == corner.endswith("left")


def test_an_unknown_corner():
    with pytest.raises(ValueError, match="unknown corner 'middle': choose one of upper left"):
        labels.colour_key(plt.subplots()[1], {"a": "black"}, "middle")


def test_an_end_outside_the_axes_still_has_its_text():
    fig, ax = plt.subplots(figsize=(6, 4))
    ax.plot([1, 2], [1, 20])
    ax.set(ylim=(0, 10), xlim=(1, 2))
    texts = labels.label_ends(ax, 2, [20, 1], ["far above", "inside"], "black")
    frame = ax.get_window_extent()
    for text in texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 + 1 and frame.y0 - 1 <= box.y0 and box.y1 <= frame.y1 + 1
