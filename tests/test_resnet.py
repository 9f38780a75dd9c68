"""The ResNet family: its parts, its counts in print, parity with timm, and its export from notebook 02."""

from dataclasses import FrozenInstanceError, replace

import export_models
import nbformat
import pytest
import timm
import torch
from operators import operators
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import published
from whichbackbone.measure import cost
from whichbackbone.models import resnet
from whichbackbone.models.resnet import VARIANTS, DropPath, Residual, cifar_resnet, shortcut

HE = "he2015"


def count(row, pixels=224):
    with torch.device("meta"):
        return cost.total((resnet.resnet if isinstance(row, resnet.ResNetRow) else resnet.densenet)(row), pixels)


# Parts


@pytest.mark.parametrize("option", "ABD")
def test_every_shortcut_reaches_the_shape_of_f(option):
    x = torch.randn(2, 8, 9, 9)
    assert shortcut(8, 16, 2, option)(x).shape == resnet.basic(8, 16, 2)(x).shape == (2, 16, 5, 5)
    assert isinstance(shortcut(8, 8, 1, option), nn.Identity)


def test_option_a_is_the_input_subsampled_and_free():
    x, path = torch.randn(1, 4, 6, 6), shortcut(4, 6, 2, "A")
    y = path(x)
    assert torch.equal(y[:, :4], x[:, :, ::2, ::2]) and not y[:, 4:].any() and not list(path.parameters())


def test_a_residual_unit_with_f_zero_is_relu_and_a_plain_one_is_dead():
    f = resnet.basic(4, 4)
    nn.init.zeros_(f[-1].weight)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(Residual(f, nn.Identity()).eval()(x.clone()), x.relu())
    assert not Residual(f, None).eval()(x.clone()).any()


def test_blocks_leave_their_input_as_it_was():
    for block in (Residual(resnet.basic(4, 4), nn.Identity()), resnet.PreActResidual(4, resnet.basic(4, 4), None),
                  resnet.DenseLayer(4, 2)):
        x = torch.randn(2, 4, 5, 5)
        before = x.clone()
        block(x)
        assert torch.equal(x, before), type(block).__name__


def test_drop_path_drops_whole_samples_keeps_the_mean_and_rests_in_eval():
    torch.manual_seed(0)
    x, drop = torch.ones(4000, 2, 3, 3), DropPath(0.25)
    y = drop.train()(x)
    assert y.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(y.amin((1, 2, 3)), y.amax((1, 2, 3)))
    assert y.mean().item() == pytest.approx(1, abs=0.05)
    assert drop.eval()(x) is x


def test_drop_path_grows_linearly_with_depth():
    net = resnet.build("resnet50", drop_path=0.16)
    rates = [m.p for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.01 * i for i in range(1, 17)])


def test_rows_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        VARIANTS["resnet50"].d = 128


@pytest.mark.parametrize("name", VARIANTS)
def test_build_takes_other_classes_and_channels(name):
    assert resnet.build(name, num_classes=5, in_chans=1).eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 5)


def test_an_unknown_variant_names_those_there_are():
    with pytest.raises(ValueError, match="no variant 'resnet51' in this family: choose one of resnet18, .*resnet50d"):
        resnet.build("resnet51")


# The small twins


def test_twins_differ_in_the_additions_only():
    nets = []
    for residual in (False, True):
        torch.manual_seed(1)
        nets.append(cifar_resnet(20, residual, widths=(8, 16, 32), num_classes=36, in_chans=1))
    plain, residual = nets
    for (a, x), (b, y) in zip(plain.state_dict().items(), residual.state_dict().items(), strict=True):
        assert a == b and torch.equal(x, y)
    assert cost.total(plain, (1, 24, 24)) == cost.total(residual, (1, 24, 24))
    x = torch.randn(2, 1, 24, 24)
    assert not torch.allclose(plain(x), residual(x))


@pytest.mark.parametrize("depth", [8, 20, 44])
def test_depth_counts_the_weighted_layers(depth):
    net = cifar_resnet(depth)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in net.modules()) == depth


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth {depth} is not 6n"):
        cifar_resnet(depth)


def test_cifar_resnet_has_the_parameters_in_print():
    # He et al. 2015, Table 6: ResNet-20 0.27M, ResNet-32 0.46M, ResNet-44 0.66M, ResNet-56 0.85M.
    millions = [count_parameters(cifar_resnet(depth)) / 1e6 for depth in (20, 32, 44, 56)]
    assert [round(m, 2) for m in millions] == [0.27, 0.46, 0.66, 0.85]


def count_parameters(net):
    return sum(p.numel() for p in net.parameters())


# Counts in print


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet101", "resnet152"])
def test_macs_of_table_1_to_the_digit(name):
    layout = {"stride_on": 1} if VARIANTS[name].bottleneck else {"shortcut": "A"}
    printed = published.one(published.models(timm_name=name, source_id=HE), "macs_g")
    assert round(count(replace(VARIANTS[name], **layout)).macs / 1e9, 1) == printed


def test_resnet50_of_the_paper_is_one_digit_above_what_it_prints():
    row = replace(VARIANTS["resnet50"], stride_on=1)
    printed = published.one(published.models(timm_name="resnet50", source_id=HE), "macs_g")
    assert printed < count(row).macs / 1e9 < printed + 0.1  # 3.858, printed as 3.8


def test_counts_of_torchvision_to_the_unit():
    rows = published.models(source_id="torchvision_0.29", timm_name=list(VARIANTS)).drop_duplicates("timm_name")
    assert len(rows) == 7
    for row in rows.itertuples():
        ours = count(VARIANTS[row.timm_name])
        assert (ours.params / 1e6, round(ours.macs / 1e9, 3)) == (row.params_m, row.macs_g), row.timm_name


# Parity


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_with_timm(name):
    row = checks.parity(name)
    assert row["ok"], row


@pytest.mark.parametrize("name", VARIANTS)
def test_our_models_run_timms_operators(name):
    x = torch.randn(1, 3, 64, 64)
    ours, theirs = operators(resnet.build(name), x), operators(timm.create_model(name), x)
    assert not ours - theirs, f"only ours: {ours - theirs}, only timm: {theirs - ours}"
    # DenseNet joins as it goes, where timm keeps a list and joins it once more in each block.
    assert {operator for operator, _ in theirs - ours} <= {"aten::cat"}


def test_an_extra_operator_is_seen():
    net, x = resnet.build("resnet18"), torch.randn(1, 3, 64, 64)
    before = operators(net, x)
    net.stages[0][0].relu = nn.ReLU(inplace=False)
    assert operators(net, x) - before


# Export


@pytest.fixture
def small(tmp_path):
    """A checkout with one family notebook that exports one function."""
    (tmp_path / "notebooks").mkdir()
    cells = [
        nbformat.v4.new_markdown_cell("# Title\n\n> What it holds."),
        nbformat.v4.new_code_cell("#| export\ndef w():\n    return 64"),
        nbformat.v4.new_code_cell("assert w() == 64"),
        nbformat.v4.new_code_cell("#| export\nTABLE = {\n    'a':  1,\n}"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "02_resnet.ipynb")
    return tmp_path


def test_export_writes_the_marked_cells_in_order(small, capsys):
    assert export_models.main([], root=small) == 0
    assert (small / "whichbackbone/models/resnet.py").read_text() == (
        '"""What it holds."""\n# Written by export from notebooks/02_resnet.ipynb, do not edit.\n\n'
        "def w():\n    return 64\n\n\nTABLE = {\n    'a':  1,\n}\n"
    )
    assert export_models.main(["--check"], root=small) == 0


@pytest.mark.parametrize("edit", ["module", "notebook", "missing"])
def test_check_names_the_module_that_is_out_of_date(small, edit, capsys):
    export_models.main([], root=small)
    module, notebook = small / "whichbackbone/models/resnet.py", small / "notebooks/02_resnet.ipynb"
    if edit == "module":
        module.write_text(module.read_text().replace("64", "63"))
    elif edit == "notebook":
        notebook.write_text(notebook.read_text().replace("return 64", "return 65"))
    else:
        module.unlink()
    state = module.read_text() if module.exists() else None
    assert export_models.main(["--check"], root=small) == 1
    assert "whichbackbone/models/resnet.py differs from its notebook: run" in capsys.readouterr().err
    assert (module.read_text() if module.exists() else None) == state


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": []}'])
def test_export_of_a_damaged_notebook_says_so(small, text, capsys):
    (small / "notebooks/02_resnet.ipynb").write_text(text)
    assert export_models.main([], root=small) == 1
    message = capsys.readouterr().err
    assert "02_resnet.ipynb" in message and message.count("\n") == 1
    assert not (small / "whichbackbone").exists()
