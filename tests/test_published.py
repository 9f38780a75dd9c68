"""The published tables can be quoted, and agree with the models that they describe."""

from functools import cache
from unittest import mock

import pandas as pd
import pytest
import timm
import torch
from torch import nn

from whichbackbone import figures
from whichbackbone.evidence import published
from whichbackbone.measure import cost


def test_filters():
    rows = published.models(timm_name=["resnet50", "efficientnet_b0"], source="torchvision 0.29.1")
    assert set(rows.timm_name) == {"resnet50", "efficientnet_b0"} and list(rows.index) == [0, 1, 2]
    assert len(published.speed(kind="train")) + len(published.speed(kind="infer")) == len(published.speed()) > 1000
    assert published.models(timm_name="no_such_model").empty


@pytest.mark.parametrize("table", [published.models, published.speed])
def test_unknown_column_names_those_there_are(table):
    with pytest.raises(KeyError, match="no column 'colour': it has .*timm_name"):
        table(colour="blue")


def test_one_figure_or_none():
    rows = published.models(timm_name="resnet50", source="torchvision 0.29.1")
    assert published.one(rows, "macs_g") == 4.089
    with pytest.raises(LookupError, match="expected one published imagenet_top1, found 2"):
        published.one(rows, "imagenet_top1")
    with pytest.raises(LookupError, match="found 0"):
        published.one(rows[:0], "macs_g")


def faults(rows: pd.DataFrame) -> list[str]:
    """What keeps rows from being quoted: no source, no place in it, or nobody has read it there."""
    found = [f"no {c}" for c in ("model", "source", "source_locator") if rows[c].fillna("").str.strip().eq("").any()]
    unverified = rows.astype(str).apply(lambda c: c.str.contains("memory-unverified")).any(axis=None)
    return found + ["memory-unverified"] * bool(unverified)


@pytest.mark.parametrize("table", [published.models, published.speed])
def test_every_row_was_read_in_a_source(table):
    rows = table()
    assert not faults(rows)
    assert faults(rows.assign(source=["", *rows.source[1:]])) == ["no source"]
    assert faults(rows.assign(source_locator=[None, *rows.source_locator[1:]])) == ["no source_locator"]
    assert faults(rows.assign(precision=["memory-unverified", *rows.model[1:]])) == ["memory-unverified"]


@pytest.mark.parametrize("table", [published.models, published.speed])
def test_every_model_has_a_family_with_a_colour(table):
    names = set(table().timm_name.dropna()) - {"dpn68b"}  # stands in a benchmark beside models of the study
    assert {figures.colour(name) for name in names} == set(figures.COLOURS.values())


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Shapes are all that counting needs; on the meta device drawing weights and normalising take half of the time."""
    with (
        mock.patch.object(torch.Tensor, "normal_", lambda self, *_, **__: self),
        mock.patch.object(nn.functional, "batch_norm", lambda x, *_, **__: torch.empty_like(x)),
    ):
        yield


@cache
def on_meta(name: str) -> nn.Module:
    """timm's model without weights."""
    with torch.device("meta"):
        return timm.create_model(name)


@cache
def counted(name: str, size: int) -> tuple[float, float, float]:
    """Parameters (M), MACs (G), and MACs with 2 for each element that a batch norm passes on (G), as fvcore adds."""
    layers = cost.layers(on_meta(name), size)
    norms = sum(channels * h * w for channels, h, w in layers[layers.kind == "norm"].out_shape)
    params = sum(p.numel() for p in on_meta(name).parameters())
    return params / 1e6, layers.macs.sum() / 1e9, (layers.macs.sum() + 2 * norms) / 1e9


def once(**where: object) -> list[tuple]:
    """(timm name, pixels, parameters in M, MACs in G) of the rows, each model once, at its size nearest to 224."""
    rows = published.models(**where)[["timm_name", "input_size", "params_m", "macs_g"]]
    rows = rows.sort_values("input_size", key=lambda size: abs(size - 224)).drop_duplicates("timm_name")
    return list(rows.astype({"input_size": int}).itertuples(index=False, name=None))


def agrees(printed: float, exact: float, digits: int) -> bool:
    """``exact`` rounds to ``printed``; rounding of a half is left open."""
    return abs(printed - exact) <= 0.5 * 10**-digits + 1e-9


def test_counts_equal_torchvision_to_every_printed_digit():
    """torchvision prints parameters in full, MACs (it calls them GFLOPS) to three decimals; all agree."""
    for name, size, params, macs in once(source="torchvision 0.29.1"):
        ours = counted(name, size)
        assert agrees(params, ours[0], 6) and agrees(macs, ours[1], 3), name


def test_counts_equal_timm_to_every_printed_digit():
    """timm's MACs are fvcore's: it adds 2 for each element that a batch norm passes on, 1 for each that is averaged."""
    for name, size, params, macs in once(source="timm results files"):
        ours = counted(name, size)
        averaged = 0.0003  # the most that any of them averages, in G
        assert agrees(params, ours[0], 2), (name, params)
        assert agrees(macs, ours[2], 2) or agrees(macs, ours[2] + averaged, 2), (name, size, macs)


# Where the model as released is not what its paper prints (claims.md, "Notes on the two tables" and entry 12).
EXPLAINED = {
    ("He et al. 2015", "resnet34", "macs_g"): "option A shortcuts, which multiply nothing",
    ("He et al. 2015", "resnet50", "macs_g"): "stride on the first 1x1 (v1); released code has it on the 3x3",
    ("He et al. 2015", "resnet101", "macs_g"): "stride on the first 1x1 (v1)",
    ("He et al. 2015", "resnet152", "macs_g"): "stride on the first 1x1 (v1)",
    ("Radosavovic et al. 2020", "resnet50", "params_m"): "prints 22.6 for 25.6; pycls's own model zoo has 25.6",
    ("Radosavovic et al. 2020", "resnet101", "params_m"): "44.549 rounded twice",
    ("Radosavovic et al. 2020", "efficientnet_b2", "params_m"): "quotes the EfficientNet paper",
    ("Radosavovic et al. 2020", "efficientnet_b4", "macs_g"): "quotes the EfficientNet paper",
    ("Radosavovic et al. 2020", "efficientnet_b5", "macs_g"): "quotes the EfficientNet paper",
    ("Tan & Le 2019", "tf_efficientnet_b2", "params_m"): "the released model has 9.11; pycls and torchvision agree",
    ("Tan & Le 2019", "tf_efficientnet_b4", "macs_g"): "the released model has 4.39; pycls and torchvision agree",
    ("Tan & Le 2019", "tf_efficientnet_b5", "macs_g"): "the released model has 10.27; pycls and torchvision agree",
    ("Tan & Le 2019", "tf_efficientnet_b7", "macs_g"): "the released model has 37.75; torchvision agrees",
}


def test_counts_equal_the_papers_or_the_reason_is_known():
    rows = published.models()
    papers = ("pycls model zoo", *{source for source, *_ in EXPLAINED})
    rows = rows[rows.source.str.startswith(papers) & rows.timm_name.notna() & rows.input_size.notna()]
    disagree = set()
    for row in rows.drop_duplicates(["source", "timm_name", "params_m", "macs_g"]).itertuples():
        for column, exact in zip(("params_m", "macs_g"), counted(row.timm_name, int(row.input_size)), strict=False):
            printed = getattr(row, column)
            digits = len(f"{printed:g}".partition(".")[2])
            if pd.notna(printed) and not agrees(printed, exact, digits):
                disagree.add((row.source.partition(",")[0], row.timm_name, column))
    assert disagree == set(EXPLAINED)


def test_a_wrong_count_is_caught():
    params, macs, with_norms = counted("resnet18", 224)
    assert agrees(11.69, params, 2) and not agrees(11.70, params, 2)
    assert agrees(1.82, with_norms, 2) and not agrees(1.82, macs, 2), "timm's digits need the norms that fvcore counts"


def test_detectors_are_sourced_and_say_what_the_paper_says():
    rows = published.detection()
    assert not faults(rows.assign(model=rows.detector))
    assert not rows.duplicated(["detector", "backbone", "source"]).any()
    ours, yolo = (rows[rows.backbone.str.startswith(name)].iloc[0] for name in ("MnasNet", "Darknet"))
    assert ours["map"] > yolo["map"] and ours.map_small < yolo.map_small, "claims.md, entry 3"
    with pytest.raises(KeyError, match="no column 'colour': it has .*detector"):
        published.detection(colour="blue")


def test_transfer_rows_say_whether_they_compare():
    rows = published.transfer()
    assert set(rows.comparable) == {"yes", "partly", "no"} and rows.why.str.len().gt(5).all()
    assert published.transfer(comparable="yes").accuracy.tolist() == [88.42, 82.44]
    assert not faults(rows.assign(model=rows.method))
