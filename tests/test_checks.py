"""The checks themselves: they must know the right model, and catch each kind of wrong one."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from whichbackbone import checks
from whichbackbone.models import resnet


@pytest.fixture(scope="module")
def timm18():
    return timm.create_model("resnet18")


def test_build_finds_every_family_and_passes_options_on():
    assert set(resnet.VARIANTS) <= set(checks.builders())
    assert checks.build("resnet18", num_classes=7, in_chans=1)(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_build_refuses_an_unknown_name_in_one_line_that_lists_the_known():
    with pytest.raises(ValueError, match="no model 'resnet19' built here: choose one of .*resnet18, ") as caught:
        checks.build("resnet19")
    assert "\n" not in str(caught.value)


def test_randomise_leaves_nothing_at_zero_or_one(timm18):
    before = [m.momentum for m in timm18.modules() if isinstance(m, nn.BatchNorm2d)]
    model = checks.randomise(timm18, seed=3)
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert tensor.unique().numel() > tensor.numel() // 2, name
            assert ((tensor == 0) | (tensor == 1)).float().mean() < 1e-3, name
    assert not any(m.training for m in model.modules())
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == before


def test_randomise_follows_its_seed(timm18):
    one, other, again = (checks.randomise(timm18, seed).fc.weight.detach().clone() for seed in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_randomised_logits_are_of_ordinary_size_however_deep():
    with torch.inference_mode():
        logits = checks.randomise(timm.create_model("resnet101"))(torch.randn(2, 3, 64, 64))
    assert 0.1 < logits.std() < 1000


def test_copy_weights_names_the_first_layer_that_disagrees(timm18):
    wider = resnet.build("resnet18")
    wider.stages[2][0].f[0] = resnet.conv(128, 255, 3, 2)
    named = r"layer3\.0\.conv1\.weight \(256, .* has stages\.2\.0\.f\.0\.weight \(255"
    with pytest.raises(checks.MismatchError, match=named):
        checks.copy_weights(timm18, wider)


def test_copy_weights_catches_layers_in_another_order(timm18):
    class ShortcutFirst(resnet.Residual):
        def __init__(self, old):
            nn.Module.__init__(self)
            self.shortcut, self.f, self.relu, self.drop_path = old.shortcut, old.f, old.relu, old.drop_path

    ours = resnet.build("resnet18")
    ours.stages[1][0] = ShortcutFirst(ours.stages[1][0])
    with pytest.raises(checks.MismatchError, match=r"layer2\.0\.conv1\.weight .* stages\.1\.0\.shortcut\.0\.weight"):
        checks.copy_weights(timm18, ours)


def test_copy_weights_catches_kinds_in_another_order():
    timms, ours = nn.BatchNorm2d(4), nn.Module()
    for name in ("bias", "weight"):
        ours.register_parameter(name, nn.Parameter(torch.zeros(4)))
    with pytest.raises(checks.MismatchError, match="has weight .* has bias"):
        checks.copy_weights(timms, ours)


@pytest.mark.parametrize(("longer", "who"), [("theirs", "timm"), ("ours", "we")])
def test_copy_weights_catches_a_layer_too_many(longer, who):
    short, long = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(checks.MismatchError, match=rf"only {who} have 1\.weight"):
        checks.copy_weights(*((long, short) if longer == "theirs" else (short, long)))


def test_copy_weights_copies_and_shares_nothing(timm18):
    ours = checks.copy_weights(checks.randomise(timm18), resnet.build("resnet18"))
    pairs = zip(timm18.state_dict().values(), ours.state_dict().values(), strict=True)
    assert all(torch.equal(x, y) and x.data_ptr() != y.data_ptr() for x, y in pairs)


# Each fault keeps names, number and shapes of all weights: only what comes out can tell.
def eps_of_one_norm(model: nn.Module) -> None:
    model.stages[1][0].f[1].eps = 1e-3


def eps_of_all_norms_slightly(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 2e-5


def stride_in_the_other_conv(model: nn.Module) -> None:
    f = model.stages[1][0].f
    f[0].stride, f[3].stride = (1, 1), (2, 2)


def padding_on_one_side(model: nn.Module) -> None:
    old = model.stages[1][0].f[0]  # TensorFlow's SAME would pad like this at an even size
    old.padding = (0, 0)
    model.stages[1][0].f[0] = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), old)


def two_layers_swapped(model: nn.Module) -> None:
    f = model.stages[0][0].f
    f[0], f[3] = f[3], f[0]


def relu_lost(model: nn.Module) -> None:
    model.stages[3][1].f[2] = nn.Identity()


def skip_lost(model: nn.Module) -> None:
    model.stages[3][1].shortcut = None


def pool_of_another_kind(model: nn.Module) -> None:
    model.stem[3] = nn.AvgPool2d(3, 2, 1)


class CopiedFirst(nn.Module):
    """Plants its fault when the model is put into eval mode, which parity does after copying the weights."""

    def __init__(self, fault):
        super().__init__()
        self.model, self.fault = resnet.build("resnet18"), fault

    def eval(self):
        fault, self.fault = self.fault, lambda model: None
        fault(self.model)
        return super().eval()

    def forward(self, x):
        return self.model(x)


FAULTS = (eps_of_one_norm, eps_of_all_norms_slightly, stride_in_the_other_conv, padding_on_one_side, two_layers_swapped,
          relu_lost, skip_lost, pool_of_another_kind)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_parity_catches_a_fault_that_leaves_all_shapes_as_they_are(fault):
    row = checks.parity("resnet18", CopiedFirst(fault))
    assert row["params_ours"] == row["params_timm"]
    assert not row["ok"], f"{fault.__name__} went unseen: {row}"


def test_parity_is_not_fooled_by_the_wrapper():
    assert checks.parity("resnet18", CopiedFirst(lambda model: None))["ok"]


def test_parity_of_v1_with_v15_fails_though_all_weights_fit():
    ours = resnet.resnet(replace(resnet.VARIANTS["resnet50"], stride_on=1))
    row = checks.parity("resnet50", ours)
    assert not row["ok"] and row["macs_ours"] < row["macs_timm"] and row["difference"] > 0.01


def test_parity_of_average_that_rounds_down_fails():
    ours = resnet.build("resnet50d")
    for module in ours.modules():
        if isinstance(module, nn.AvgPool2d):
            module.ceil_mode = False
    with pytest.raises(RuntimeError, match="size"):  # the odd test size makes shortcut and F disagree
        checks.parity("resnet50d", ours)


def test_parity_of_a_net_that_yields_no_number_fails():
    class NotANumber(CopiedFirst):
        def forward(self, x):
            return self.model(x) * float("nan")

    assert not checks.parity("resnet18", NotANumber(lambda model: None))["ok"]
