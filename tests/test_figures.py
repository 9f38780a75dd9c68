"""Figures are small, described, in the family's colour, and declared by their name."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn
from IPython.display import Image, Markdown
from PIL import Image as Pillow

from whichbackbone import figures
from whichbackbone.evidence import catalogue


@pytest.fixture
def shown(monkeypatch) -> list:
    """What a notebook would display."""
    displayed = []
    monkeypatch.setattr(figures, "display", lambda *parts: displayed.extend(parts))
    return displayed


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def line() -> plt.Figure:
    figures.style()
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], label="line")
    return fig


def test_saves_shows_and_closes(tmp_path, shown):
    folder = tmp_path / "new" / "figures"
    figures.save(fig := line(), "02_degradation", folder=folder, alt="One rising line.", caption="It rises.")
    assert [p.name for p in folder.iterdir()] == ["02_degradation.png"]
    picture = Pillow.open(folder / "02_degradation.png")
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255), "white, also where pages are dark"
    assert picture.info["dpi"][0] == pytest.approx(figures.DPI, abs=1)
    assert picture.width == pytest.approx(figures.WIDTH * figures.DPI, rel=0.1)
    image, caption = shown
    assert isinstance(image, Image) and image.alt == "One rising line."
    assert image.data == (folder / "02_degradation.png").read_bytes()
    assert isinstance(caption, Markdown) and caption.data == "*It rises.*"
    assert not plt.fignum_exists(fig.number)


@pytest.mark.parametrize("missing", ["alt", "caption"])
@pytest.mark.parametrize("text", ["", "  \n"])
def test_what_cannot_be_seen_must_be_said(tmp_path, shown, missing, text):
    words = dict(alt="A line.", caption="It rises.") | {missing: text}
    with pytest.raises(ValueError, match="'02_line' needs an alt text and a caption"):
        figures.save(line(), "02_line", folder=tmp_path, **words)
    assert not any(tmp_path.iterdir()) and not shown


def test_a_picture_that_is_too_large_is_refused(tmp_path, shown):
    (tmp_path / "02_noise.png").write_bytes(b"the last good one")
    fig = line()
    fig.axes[0].imshow(np.random.default_rng(0).random((900, 1200, 3)), aspect="auto")
    with pytest.raises(ValueError, match=r"'02_noise' has [\d,]+ bytes, over 150,000"):
        figures.save(fig, "02_noise", folder=tmp_path, alt="Noise.", caption="Too much.")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the last good one"] and not shown
    assert not plt.fignum_exists(fig.number)


def test_a_dense_plot_still_fits(tmp_path, shown):
    fig = line()
    random = np.random.default_rng(0)
    for name in figures.COLOURS:
        fig.axes[0].scatter(*random.random((2, 60)), color=figures.colour(name), label=name)
    fig.axes[0].legend()
    figures.save(fig, "09_dense", folder=tmp_path, alt="Dots.", caption="Many.")
    assert 5_000 < (tmp_path / "09_dense.png").stat().st_size < figures.MAX_BYTES
    colours = {c for _, c in Pillow.open(tmp_path / "09_dense.png").convert("RGB").getcolors(1 << 20)}
    assert all(min(sum(abs(a - b) for a, b in zip(rgb(c), near, strict=True)) for near in colours) < 30
               for c in figures.COLOURS.values()), "reducing the palette keeps the families apart"  # fmt: skip


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("resnet50", "ResNet"),
        ("resnet50.a1_in1k", "ResNet"),
        ("resnetv2_50", "ResNet"),
        ("resnext50_32x4d", "ResNet"),
        ("seresnet50", "ResNet"),
        ("wide_resnet50_2", "ResNet"),
        ("resnest50d", "ResNeSt"),
        ("densenet121", "DenseNet"),
        ("tf_efficientnet_b0", "EfficientNet"),
        ("tf_mobilenetv3_large_100", "MobileNet"),
        ("gluon_seresnext50_32x4d", "ResNet"),
        ("semnasnet_100", "MnasNet"),
        ("regnety_008_tv", "RegNet"),
    ],
)
def test_family_and_colour(name, family):
    assert catalogue.family(name) == family
    assert figures.colour(name) == figures.colour(family) == figures.COLOURS[family]


def test_families_differ_in_colour():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)
    assert all(re.fullmatch("#[0-9A-F]{6}", c) for c in figures.COLOURS.values())


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "", "my_resnet50"])
def test_unknown_family_names_those_there_are(name):
    with pytest.raises(ValueError, match="belongs to no family of this study: ResNet, EfficientNet"):
        figures.colour(name)


def test_style_starts_from_the_defaults():
    plt.rcParams["font.size"] = 99
    figures.style()
    assert plt.rcParams["font.size"] == 10 and plt.rcParams["figure.facecolor"] == "white"


def test_style_is_the_same_whatever_seaborn_did():
    figures.style()
    house = dict(plt.rcParams)
    seaborn.set_theme("poster", style="darkgrid", palette="pastel")
    assert plt.rcParams["axes.facecolor"] != house["axes.facecolor"]
    figures.style()
    assert dict(plt.rcParams) == house


def intervals(*rows: tuple, columns: str = "label value low high") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def drawn(ax: plt.Axes) -> dict[tuple[float, float], str]:
    """(x, y) of every dot and every end of an interval -> its colour."""
    return {(round(float(x), 6), round(float(y), 6)): plt.matplotlib.colors.to_hex(line.get_color()).upper()
            for line in ax.lines for x, y in line.get_xydata() if not np.isnan(x)}  # fmt: skip


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_intervals_are_drawn_as_given_in_the_family_colour(scale):
    figures.style()
    before = dict(plt.rcParams)
    fig, ax = plt.subplots()
    ax.set_xscale(scale)
    rows = intervals(("resnet50", 1.0, 0.5, 4.0), ("efficientnet_b0", 9.0, 9.0, 9.5), ("mine", 2.0, np.nan, np.nan))
    heights = figures.point_intervals(ax, rows)
    assert heights.tolist() == [0, 1, 2] and [t.get_text() for t in ax.get_yticklabels()] == rows.label.tolist()
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first row is on top"
    blue, orange = figures.colour("ResNet"), figures.colour("EfficientNet")
    assert drawn(ax) == {(0.5, 0): blue, (1.0, 0): blue, (4.0, 0): blue, (9.0, 1): orange, (9.5, 1): orange,
                         (2.0, 2): figures.GREY}  # fmt: skip
    assert ax.get_xlabel() == ax.get_ylabel() == "" and ax.get_legend() is None
    assert dict(plt.rcParams) == before


def test_groups_stand_beside_each_other():
    fig, ax = plt.subplots()
    rows = [("eager", "SE", 1.0, 0.9, 1.1), ("eager", "Swish", 2.0, 1.9, 2.1), ("OpenVINO", "SE", 3.0, 2.9, 3.1)]
    rows = intervals(*rows, columns="label group value low high")
    heights = figures.point_intervals(ax, rows, colours={"SE": "#0000FF", "Swish": "#00FF00"}, dodge=0.4)
    assert heights == pytest.approx([-0.2, 0.2, 0.8])
    ends = {(x, y): c for first, y, c in ((0.9, -0.2, "#0000FF"), (1.9, 0.2, "#00FF00"), (2.9, 0.8, "#0000FF"))
            for x in (first, round(first + 0.1, 6), round(first + 0.2, 6))}  # fmt: skip
    assert drawn(ax) == ends
    alone = rows[rows.group == "SE"]
    assert figures.point_intervals(plt.subplots()[1], alone, colours={"SE": "#0000FF"}).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (intervals(("a", 1.0, 0.5, 2.0), ("a", 1.0, 0.5, 2.0)), "'a' stands twice"),
        (intervals(("a", 1.0, 1.5, 2.0)), "the interval of 'a', 1.5 to 2, does not hold 1"),
        (intervals(("b", 1.0, 0.5, 2.0)), "no colour is given for b"),
    ],
)
def test_intervals_that_cannot_be_right(rows, said):
    with pytest.raises(ValueError, match=said):
        figures.point_intervals(plt.subplots()[1], rows, colours={"a": "#000000"})


def test_seeds_are_dots_and_their_mean_a_bar():
    figures.style()
    before = dict(plt.rcParams)
    fig, ax = plt.subplots()
    rows = pd.DataFrame({"net": ["resnet18", "mine", "resnet18", "mine"], "error": [1.0, 5.0, 3.0, 6.0]})
    means = figures.seed_dots(ax, rows, value="error", label="net")
    assert means.to_dict() == {"resnet18": 2.0, "mine": 5.5} and list(means.index) == ["resnet18", "mine"]
    places = {tuple(map(float, at)) for c in ax.collections for at in np.round(c.get_offsets(), 6)}
    assert places == {(1, 0), (3, 0), (5, 1), (6, 1)}
    assert [(set(line.get_xdata()), line.get_color()) for line in ax.lines] == [
        ({2.0}, figures.colour("ResNet")), ({5.5}, figures.GREY)]  # fmt: skip
    assert dict(plt.rcParams) == before


def test_heat_says_every_number_and_the_unit():
    figures.style()
    before = dict(plt.rcParams)
    fig, ax = plt.subplots()
    table = pd.DataFrame({"eager": [1.0, 0.5], "ONNX Runtime": [np.nan, 2.0]}, index=["resnet50", "theirs"])
    figures.heat(ax, table, unit="time / eager's", centre=1, digits=".1f")
    assert [t.get_text() for t in ax.texts] == ["1.0", "0.5", "2.0"], "a missing number is not 0 and not nan"
    assert [t.get_text() for t in ax.get_xticklabels()] == list(table.columns)
    colours = {t.get_text(): t.get_color() for t in ax.get_yticklabels()}
    assert colours == {"resnet50": figures.colour("ResNet"), "theirs": "black"}
    assert ax.figure.axes[1].get_ylabel() == "time / eager's"
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize(
    ("table", "unit", "said"),
    [(pd.DataFrame({"a": [np.nan]}), "ms", "without a number"), (pd.DataFrame({"a": [1.0]}), " ", "needs its unit")],
)
def test_a_heat_map_of_nothing(table, unit, said):
    with pytest.raises(ValueError, match=said):
        figures.heat(plt.subplots()[1], table, unit=unit)
