"""Each node that a runtime runs is found again as a part of the net, in fp32 and in INT8."""

import pytest
import torch

from whichbackbone import checks
from whichbackbone.measure import cost, nodes
from whichbackbone.measure.runtimes import Subject


@pytest.fixture(scope="module", params=["resnet18", "efficientnet_b0"])
def subject(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHICHBACKBONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        net = checks.randomise(checks.build(request.param), side=64, images=2)
        generator = torch.Generator().manual_seed(0)
        yield Subject(net, torch.randn(1, 3, 64, 64, generator=generator),
                      torch.randn(8, 3, 64, 64, generator=generator))  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nodes_are_layers_of_the_net(subject, runtime, precision):
    rows = nodes.by_node(subject, runtime, precision, threads=1, rounds=2)
    assert set(rows.part) <= set(nodes.PARTS) and (rows.ms >= 0).all() and rows.ms.sum() > 0
    layers = cost.layers(subject.model, 64).query("macs > 0 and kind != 'linear'")
    kinds = {row.name: "gate" if row.out_shape[1] == 1 and row.kind == "pointwise" else row.kind
             for row in layers.itertuples()}  # fmt: skip
    convolutions = rows[rows.part.isin(["full", "pointwise", "depthwise"])]
    # In the last stage of so small an image pointwise layers see one pixel, as those of a gate do.
    for row in convolutions.itertuples():
        assert kinds[row.layer] == row.part
    expected = {name for name, kind in kinds.items() if kind in ("full", "pointwise", "depthwise")}
    assert expected == set(convolutions.layer), "each convolution once, fused or not"
    has_gates = any("gate" in name for name in kinds)
    assert ("gate" in set(rows.part)) == has_gates
    if precision == "fp32":
        assert set(rows.computes) == {"fp32"}
    else:
        assert (rows[rows.part.isin(["full", "pointwise"])].computes == "int8").all()
        assert rows.part.eq("convert").any()
