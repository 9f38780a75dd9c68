"""Figures are small, described, in the family's colour, and declared by their name."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
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


def test_blocks_draws_every_layer_and_skip(tmp_path, shown):
    layers = {"plain": ["3x3", "relu", "3x3"], "residual": ["3x3", "relu", "3x3", "+", "relu"], "SE": ["|", "x"]}
    fig = figures.blocks(layers, skips={"residual": {(0, 3): "identity"}, "SE": {(0, 1): "gate"}})
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert {"plain", "residual", "SE", "identity", "gate", "+", "×"} <= set(texts)
    assert texts.count("3x3") == 4 and texts.count("relu") == 3 and "|" not in texts
    figures.save(fig, "02_blocks", folder=tmp_path, alt="Three blocks.", caption="What a skip adds.")
    assert (tmp_path / "02_blocks.png").exists()


def test_a_skip_is_drawn():
    lines = [len(figures.blocks({"a": ["f", "+"]}, skips=s).axes[0].lines) for s in (None, {"a": {(0, 1): ""}})]
    assert lines[1] > lines[0]


def test_labels_do_not_cover_each_other():
    fig = line()
    ax, names = fig.axes[0], [f"model_{i}" for i in range(6)]
    x, y = [1 + i / 100 for i in range(6)], [2.0] * 6
    figures.label_points(ax, x, y, names, ["#000000"] * 6)
    fig.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.texts if t.get_text() in names]
    covered = sum(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert len(boxes) == 6 and covered <= 1, "where all would lie on one another"
