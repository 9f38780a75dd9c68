"""Block diagrams: every layer and every skip is drawn, and a skip that leads nowhere is an error."""

import matplotlib.pyplot as plt
import pytest

from whichbackbone import figures
from whichbackbone.teach import diagrams


@pytest.fixture(autouse=True)
def close():
    figures.style()
    yield
    plt.close("all")


def test_blocks_draws_every_layer_and_skip(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "display", lambda *parts: None)
    layers = {"plain": ["3x3", "relu", "3x3"], "residual": ["3x3", "relu", "3x3", "+", "relu"], "SE": ["|", "x"]}
    fig = diagrams.blocks(layers, skips={"residual": {(0, 3): "identity"}, "SE": {(0, 1): "gate"}})
    texts = [t.get_text() for t in fig.axes[0].texts]
    assert {"plain", "residual", "SE", "identity", "gate", "+", "×"} <= set(texts)
    assert texts.count("3x3") == 4 and texts.count("relu") == 3 and "|" not in texts
    figures.save(fig, "02_blocks", folder=tmp_path, alt="Three blocks.", caption="What a skip adds.")
    assert (tmp_path / "02_blocks.png").exists()


def test_a_skip_is_drawn():
    lines = [len(diagrams.blocks({"a": ["f", "+"]}, skips=s).axes[0].lines) for s in (None, {"a": {(0, 1): ""}})]
    assert lines[1] > lines[0]


@pytest.mark.parametrize(
    ("skips", "said"),
    [
        ({"b": {(0, 1): ""}}, "a skip belongs to 'b', and the columns are a"),
        ({"a": {(0, 2): ""}}, "a skip of 'a' goes from 0 to 2; its layers: 0 to 1"),
        ({"a": {(1, 1): ""}}, "a skip of 'a' goes from 1 to 1"),
        ({"a": {(-1, 1): ""}}, "a skip of 'a' goes from -1 to 1"),
    ],
)
def test_a_skip_that_leads_nowhere(skips, said):
    with pytest.raises(ValueError, match=said):
        diagrams.blocks({"a": ["f", "+"]}, skips=skips)
