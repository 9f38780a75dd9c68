"""OpenVINO's nodes are found again as layers of the net, and what has MACs is told from what has none."""

import pytest
import timm
import torch

from whichbackbone import checks
from whichbackbone.measure import cost
from whichbackbone.measure.openvino_nodes import by_layer, layer_of


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("/conv1/Conv", "conv1"),
        ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
        ("/layer4/layer4.0/downsample/downsample.0/Conv", "layer4.0.downsample.0"),
        ("/blocks/blocks.1/blocks.1.0/se/conv_reduce/Conv_output_0", "blocks.1.0.se.conv_reduce"),
        ("/maxpool/MaxPool", "maxpool.MaxPool"),
    ],
)
def test_a_node_names_its_layer(node, layer):
    assert layer_of(node) == layer


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_every_layer_with_macs_is_one_node(name):
    net = checks.randomise(timm.create_model(name), side=64, images=2)
    rows = by_layer(net, torch.rand(1, 3, 64, 64), threads=1, rounds=2)
    layers = cost.layers(net, 64)
    assert rows[rows.kind != "other"].macs.sum() == layers.macs.sum(), "nothing is lost or counted twice"
    assert (rows.ms >= 0).all() and rows.ms.sum() > 0
    shown = rows[rows.kind.isin(["full", "pointwise", "depthwise"])].set_index("name")
    assert shown.kind.to_dict() == layers.set_index("name").kind.reindex(shown.index).to_dict()
    assert rows.out_side[rows.kind == "other"].isna().all()
