"""Nets as ONNX files: kept by content, and refused where a converter dropped what is always zero."""

import copy

import onnx
import pytest
import timm
import torch
from onnx import helper
from torch import nn

from whichbackbone import checks
from whichbackbone.measure.runtimes import WrongOutput, exports

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    return tmp_path


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(7200, 5)).eval()


def test_what_was_exported_before_is_found(cache):
    first, second = (exports.exported(net(), X) for _ in range(2))
    assert first.path == second.path and first.seconds > 0 == second.seconds
    assert [path.name for path in (cache / exports.FOLDER).iterdir()] == [f"{first.path.rpartition('/')[2]}"]


def test_other_weights_and_another_shape_are_other_files():
    changed = net()
    with torch.no_grad():
        changed[0].weight[0, 0, 0, 0] += 1e-6
    paths = {exports.exported(model, x).path for model, x in ((net(), X), (changed, X), (net(), X.repeat(2, 1, 1, 1)))}
    assert len(paths) == 3


def test_weights_are_counted_at_each_use():
    model = net()
    assert exports.multiplied(exports.exported(model, X).path) == model[0].weight.numel() + model[4].weight.numel()


def test_a_branch_that_the_exporter_dropped_is_caught():
    """timm starts the last norm of each residual branch at zero; folded into its convolution, nothing is left of it."""
    fresh = timm.create_model("resnet18", num_classes=10).eval()
    with pytest.raises(WrongOutput, match=r"the exported graph multiplies by [\d,]+ of the model's [\d,]+ weights"):
        exports.exported(fresh, X)
    assert exports.exported(checks.randomise(copy.deepcopy(fresh)), X).seconds > 0


def test_a_graph_without_a_layer_counts_less(tmp_path):
    path = exports.exported(net(), X).path
    graph = onnx.load(path)
    product = next(node for node in graph.graph.node if node.op_type == "Gemm")
    graph.graph.node.remove(product)
    graph.graph.node.append(helper.make_node("Identity", [product.input[0]], [product.output[0]]))
    onnx.save(graph, tmp_path / "less.onnx")
    assert exports.multiplied(tmp_path / "less.onnx") == net()[0].weight.numel()


def test_a_full_disk_leaves_nothing_half_written(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "model.onnx")

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(OSError, match="No space left"):
        exports.exported(net(), X)
    assert not list((cache / exports.FOLDER).iterdir())
