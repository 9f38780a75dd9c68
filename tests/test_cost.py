"""Counts equal those by hand, by the papers and by other counters."""

import numpy as np
import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from whichbackbone.measure import cost

# layer, channels in, and by hand on 6x6 pixels: kind, MACs, parameters, activations
BY_HAND = [
    (nn.Conv2d(4, 8, 3, padding=1, bias=False), 4, "full", 8 * 36 * 4 * 9, 8 * 4 * 9, 8 * 36),
    (nn.Conv2d(4, 8, 3, stride=2, padding=1), 4, "full", 8 * 9 * 4 * 9, 8 * 4 * 9 + 8, 8 * 9),
    (nn.Conv2d(4, 8, (1, 3), padding=(0, 1), bias=False), 4, "full", 8 * 36 * 4 * 3, 8 * 4 * 3, 8 * 36),
    (nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False), 4, "grouped", 8 * 36 * 2 * 9, 8 * 2 * 9, 8 * 36),
    (nn.Conv2d(4, 8, 1, groups=2, bias=False), 4, "grouped", 8 * 36 * 2, 8 * 2, 8 * 36),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), 4, "depthwise", 4 * 36 * 9, 4 * 9, 4 * 36),
    (nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False), 4, "depthwise", 8 * 36 * 9, 8 * 9, 8 * 36),
    (nn.Conv2d(1, 4, 3, padding=1, bias=False), 1, "full", 4 * 36 * 9, 4 * 9, 4 * 36),
    (nn.Conv2d(4, 8, 1, bias=False), 4, "pointwise", 8 * 36 * 4, 8 * 4, 8 * 36),
    (nn.ConvTranspose2d(4, 8, 2, stride=2, bias=False), 4, "full", 4 * 36 * 8 * 4, 4 * 8 * 4, 8 * 144),
    (nn.Linear(6, 5), 4, "linear", 4 * 6 * 6 * 5, 6 * 5 + 5, 0),  # on the last axis: 24 vectors of 6
    (nn.BatchNorm2d(4), 4, "norm", 0, 8, 0),
    (nn.GroupNorm(2, 4), 4, "norm", 0, 8, 0),
    (nn.SiLU(), 4, "activation", 0, 0, 0),
    (nn.Hardsigmoid(), 4, "activation", 0, 0, 0),
    (nn.MaxPool2d(2), 4, "pool", 0, 0, 0),
    (nn.AdaptiveAvgPool2d(1), 4, "pool", 0, 0, 0),
]


@pytest.mark.parametrize(("layer", "w_in", "kind", "macs", "params", "activations"), BY_HAND, ids=lambda v: str(v)[:24])
def test_by_hand(layer, w_in, kind, macs, params, activations):
    (row,) = cost.layers(nn.Sequential(layer), (w_in, 6, 6)).itertuples()
    assert (row.kind, row.macs, row.params, row.activations) == (kind, macs, params, activations)
    out = layer(torch.zeros(1, w_in, 6, 6))
    assert row.in_shape == (w_in, 6, 6) and row.out_shape == out.shape[1:]
    assert row.bytes_moved == 4 * (w_in * 36 + params + out.numel())


def test_every_kind_was_counted_by_hand():
    assert {kind for _, _, kind, *_ in BY_HAND} == set(cost.KINDS)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Dropout(), nn.Flatten(), nn.Sequential()])
def test_what_costs_nothing_has_no_row(layer):
    assert cost.layers(nn.Sequential(layer), 8).empty and cost.kind_of(layer) is None


@pytest.mark.parametrize(
    ("name", "size", "params_m", "macs_g", "activations_m"),
    [  # pycls model zoo, as printed
        ("resnet50", 224, 25.6, 4.1, 11.1),
        ("regnety_004", 224, 4.3, 0.4, 3.9),
        ("efficientnet_b0", 224, 5.3, 0.4, 6.7),
        ("efficientnet_b1", 240, 7.8, 0.7, 10.9),
    ],
)
def test_as_the_papers_print(name, size, params_m, macs_g, activations_m):
    total = cost.total(timm.create_model(name), size)
    found = [round(v, 1) for v in (total.params / 1e6, total.macs / 1e9, total.activations / 1e6)]
    assert found == [params_m, macs_g, activations_m]


class Twice(nn.Module):
    """One convolution, applied two times."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


def test_a_layer_that_runs_twice_costs_twice_but_has_its_parameters_once():
    rows = cost.layers(Twice(), 8)
    assert rows.macs.tolist() == [3 * 64 * 27] * 2 and rows.params.tolist() == [84, 0]
    assert cost.total(Twice(), 8).macs == 2 * 3 * 64 * 27 and cost.total(Twice(), 8).params == 84


def test_total_sums_the_layers_and_counts_parameters_outside_of_them():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    model.scale = nn.Parameter(torch.ones(7))
    rows, total = cost.layers(model, 16), cost.total(model, 16)
    assert (total.macs, total.activations) == (rows.macs.sum(), rows.activations.sum())
    assert total.params == rows.params.sum() + 7


def test_rows_follow_the_data():
    model = nn.ModuleDict({"last": nn.Conv2d(4, 2, 1), "first": nn.Conv2d(3, 4, 1)})
    model.forward = lambda x: model["last"](model["first"](x))
    rows = cost.layers(model, 8)
    assert rows.name.tolist() == ["first", "last"]
    assert cost.intensity(rows)[0] == pytest.approx(2 * 64 * 12 / (4 * (3 * 64 + 16 + 4 * 64)))


def test_other_counters_agree():
    """On convolutions and linear layers alone; what else they count is the subject of notebook 01."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1),
        nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(), nn.Linear(16 * 14 * 14, 10),
    ).eval()  # fmt: skip
    x = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        model(x)
    macs = cost.total(model, 32).macs
    assert macs == FlopCountAnalysis(model, x).unsupported_ops_warnings(False).total() == counter.get_total_flops() / 2
    wrong = cost.total(model[:1], 32).macs
    assert wrong != macs


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train(training)
    model[1].eval()  # frozen on purpose
    before = {name: t.clone() for name, t in model.state_dict().items()}
    cost.layers(model, 8)
    with pytest.raises(ValueError):  # and after a failure too
        cost.layers(model, 1)
    assert [m.training for m in model] == [training, False, training] and model.training is training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())


def test_sizes():
    expected = cost.total(nn.Conv2d(3, 4, 3), 8)
    for size in ((3, 8, 8), [3, 8, 8], np.int64(8)):  # the last as tables hold it
        assert cost.total(nn.Conv2d(3, 4, 3), size) == expected


@pytest.mark.parametrize("size", [0, -1, 224.0, "224", None, (224, 224), (3, 0, 8), (3, 8.0, 8), (1, 3, 8, 8)])
def test_wrong_input_size(size):
    with pytest.raises(ValueError, match="input_size .*expected a side in pixels or \\(channels, height, width\\)"):
        cost.layers(nn.Conv2d(3, 4, 3), size)


@pytest.mark.parametrize("size", [(1, 8, 8), 2])
def test_a_size_that_the_model_does_not_take(size):
    with pytest.raises(ValueError, match="Conv2d does not run on an input of \\("):
        cost.total(nn.Conv2d(3, 4, 3), size)
