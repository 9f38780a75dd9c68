"""Families of notebooks 03 to 07: their parts, their refusals, their counts, and parity with timm."""

from collections import Counter

import pytest
import timm
import torch
from operators import operators
from timm.layers import Conv2dSame
from torch import nn

from whichbackbone import checks
from whichbackbone.evidence import published
from whichbackbone.measure import cost
from whichbackbone.models import efficientnet, mnasnet, mobilenet, regnet, resnest
from whichbackbone.models.mobilenet import V3_SMALL, InvertedResidual, Stage, V1Row, V2Row, V3Row, round8

FAMILIES = (mobilenet, mnasnet, efficientnet, regnet, resnest)
VARIANTS = [name for family in FAMILIES for name in family.VARIANTS]
SMALL = ("mobilenetv1_100", "mobilenetv2_110d", "mobilenetv3_small_050", "mobilenetv3_large_100", "mnasnet_small",
         "semnasnet_100", "efficientnet_b0", "efficientnet_lite0", "regnetx_002", "regnety_004", "resnest14d",
         "resnest50d_1s4x24d", "resnest50d_4s2x40d")  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_parity_with_timm(name):
    row = checks.parity(name)
    assert row["ok"], row




def in_place(counts: Counter) -> Counter:
    """Operators that write over their input counted with those that do not: some of timm's do, more of ours."""
    same = Counter()
    for (operator, shapes), n in counts.items():
        same[operator.rstrip("_"), shapes] += n
    return same


@pytest.mark.parametrize("name", SMALL)
def test_our_models_run_timms_operators(name):
    x = torch.randn(1, 3, 64, 64)
    ours, theirs = in_place(operators(checks.build(name), x)), in_place(operators(timm.create_model(name), x))
    convolutions = [{key: n for key, n in counts.items() if "convolution" in key[0]} for counts in (ours, theirs)]
    assert convolutions[0] == convolutions[1]
    if not name.startswith("resnest"):
        assert not ours - theirs, f"only ours: {ours - theirs}, only timm: {theirs - ours}"


def test_another_activation_is_caught():
    ours = checks.build("mobilenetv2_100")
    last = ours.stages[-1][-1].f
    last[2] = nn.ReLU()  # in place of ReLU6: the same shapes and parameters
    kept = checks.TOLERANCE
    theirs = checks.randomise(timm.create_model("mobilenetv2_100"))
    checks.copy_weights(theirs, ours).eval()
    x = 20 * torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        difference = (ours(x) - theirs(x)).abs().max() / theirs(x).abs().max()
    assert difference > kept


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
def test_an_unknown_variant_names_those_there_are(family):
    first = next(iter(family.VARIANTS))
    with pytest.raises(ValueError, match=f"no variant 'resnet18' in this family: choose one of {first}"):
        family.build("resnet18")


@pytest.mark.parametrize("name", SMALL)
def test_build_takes_other_classes_channels_and_drop_path(name):
    options = {} if name.startswith("mobilenetv1") else {"drop_path": 0.1}
    net = checks.build(name, num_classes=5, in_chans=1, **options)
    assert net.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 5)


# The inverted-residual line


@pytest.mark.parametrize(("c", "rounded"), [(1, 8), (8, 8), (11.9, 16), (14, 16), (20, 24), (22, 24), (33.6, 32)])
def test_widths_are_multiples_of_8_that_lose_at_most_a_tenth(c, rounded):
    assert round8(c) == rounded and rounded >= 0.9 * c


def test_the_skip_is_there_exactly_where_shapes_allow_it():
    assert InvertedResidual(16, 16).skip
    assert not InvertedResidual(16, 24).skip and not InvertedResidual(16, 16, s=2).skip


def test_a_block_with_f_zero_is_the_identity_and_leaves_its_input():
    block = InvertedResidual(16, 16).eval()
    nn.init.zeros_(block.f[-1].weight)
    x = torch.randn(1, 16, 7, 7)
    before = x.clone()
    assert torch.equal(block(x), before) and torch.equal(x, before)


@pytest.mark.parametrize(("width", "depth"), [(0, 1), (-1, 1), (1, 0)])
def test_a_multiplier_that_gives_no_channels_or_blocks_is_refused(width, depth):
    with pytest.raises(ValueError, match="they must be above 0"):
        Stage(t=6, c=24).scaled(width, depth)


@pytest.mark.parametrize("row", [V1Row(0), V1Row(-0.5), V2Row(width=0), V3Row(V3_SMALL, w_head=8, width=-1)])
def test_a_net_of_no_width_is_refused(row):
    make = {V1Row: mobilenet.mobilenet_v1, V2Row: mobilenet.mobilenet_v2, V3Row: mobilenet.mobilenet_v3}[type(row)]
    with pytest.raises(ValueError, match="must be above 0") as caught:
        make(row)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("w", [24, 32, 96])
def test_a_separable_convolution_is_a_full_one_of_rank_one_for_each_input_channel(w):
    depthwise, pointwise = nn.Conv2d(w, w, 3, groups=w, bias=False), nn.Conv2d(w, 2 * w, 1, bias=False)
    full = nn.Conv2d(w, 2 * w, 3, bias=False)
    free = full.weight[:, 0].flatten(1)
    assert torch.linalg.matrix_rank(free) == 9
    with torch.no_grad():
        full.weight.copy_(pointwise.weight * depthwise.weight.transpose(0, 1))
    x = torch.randn(1, w, 7, 7)
    assert torch.allclose(full(x), pointwise(depthwise(x)), atol=1e-5)
    assert all(torch.linalg.matrix_rank(full.weight[:, i].flatten(1)) == 1 for i in range(w))


@pytest.mark.parametrize(("k", "s", "size"), [(k, s, size) for k in (3, 5) for s in (1, 2) for size in (7, 8, 15, 16)])
def test_same_padding_is_timms(k, s, size):
    ours, theirs = efficientnet.conv_same(3, 4, k, s), Conv2dSame(3, 4, k, s, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, size, size)
    assert torch.equal(ours(x), theirs(x)) and ours(x).shape[-1] == -(-size // s)


def test_counts_of_torchvision_to_the_unit():
    rows = published.models(source_id="torchvision_0.29", timm_name=VARIANTS).drop_duplicates("timm_name")
    rows = rows[rows.input_size == 224]
    assert len(rows) >= 15
    with torch.device("meta"):
        counts = {name: cost.total(checks.build(name), 224) for name in rows.timm_name}
    for row in rows.itertuples():
        ours = counts[row.timm_name]
        assert (ours.params / 1e6, round(ours.macs / 1e9, 3)) == (row.params_m, row.macs_g), row.timm_name


def test_mobilenet_v1_widths_have_the_counts_in_print():
    howard = published.models(source_id="howard2017", input_size=224)
    printed = howard.set_index("model").macs_g
    for alpha in (0.25, 0.5, 0.75, 1.0):
        with torch.device("meta"):
            macs = cost.total(mobilenet.mobilenet_v1(V1Row(alpha)), 224).macs / 1e9
        assert macs == pytest.approx(printed[f"MobileNetV1 {alpha:g}" if alpha < 1 else "MobileNetV1 1.0"], rel=0.02)


def test_compare_with_published_tells_which_count_agrees():
    rows = published.models(timm_name="mobilenetv2_100", source_id="torchvision_0.29")
    wrong = rows.assign(params_m=rows.params_m + 0.001)
    assert checks.compare_with_published(rows).agrees.tolist() == ["both"]
    assert checks.compare_with_published(wrong).agrees.tolist() == ["MACs"]
    assert checks.compare_with_published(rows.assign(macs_g=0.4, params_m=None)).agrees.tolist() == ["params"]


# RegNet


def test_the_line_is_quantised_to_few_widths():
    row = regnet.VARIANTS["regnetx_032"]
    assert len(row.widths()) == row.d and len(set(row.widths())) == 4 and row.widths() == sorted(row.widths())


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (dict(w_0=0, w_a=36, w_m=2.5, d=13, g=8), "expected w_0 >= 1"),
        (dict(w_0=24, w_a=-1, w_m=2.5, d=13, g=8), "w_a >= 0"),
        (dict(w_0=24, w_a=36, w_m=1.0, d=13, g=8), "w_m > 1"),
        (dict(w_0=24, w_a=36, w_m=2.5, d=0, g=8), "d >= 1"),
        (dict(w_0=3, w_a=0, w_m=2.5, d=2, g=8), "too narrow"),
    ],
)
def test_numbers_that_make_no_net_say_which_constraint(numbers, says):
    with pytest.raises(regnet.InvalidDesign, match=says):
        list(regnet.RegNetRow(**numbers).stages())


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        (dict(d=1, w=20, g=8), "expected w / b divisible by g: 20 channels, groups of 8"),
        (dict(d=0, w=16, g=8), "expected d, w / b and g of at least 1"),
        (dict(d=1, w=0), "expected d, w / b and g of at least 1, found w / b = 0"),
    ],
)
def test_a_stage_of_width_0_or_broken_groups_says_which_constraint(numbers, says):
    with pytest.raises(regnet.InvalidDesign, match=says):
        regnet.Stage(**numbers)


# ResNeSt


@pytest.mark.parametrize("K", [1, 2])
def test_weights_of_the_splits_sum_to_one_and_of_a_single_one_lie_between(K):
    u = torch.randn(2, 2, 32, 5, 5)
    a = resnest.SplitAttention(32, K=K, R=2).eval().weights(u)
    assert torch.allclose(a.sum(1), torch.ones(2, 32, 1, 1)) and a.std() > 0
    one = resnest.SplitAttention(32, K=K, R=1).eval().weights(u[:, :1])
    assert ((one > 0) & (one < 1)).all()


def test_radix_does_not_change_the_macs_of_the_convolution():
    convs = [cost.layers(resnest.SplitAttention(32, R=R).splits[0], (32, 8, 8)).macs.sum() for R in (1, 2, 4)]
    assert len(set(convs)) == 1


@pytest.mark.parametrize(("K", "R"), [(1, 2), (2, 1), (2, 2), (2, 4)])
def test_split_weights_are_equation_3_with_loops(K, R):
    c = 3
    g = torch.randn(2, K * R * c, 1, 1)  # for each group its splits, for each split its channels
    a = resnest.split_weights(g, K, R)
    for k in range(K):
        z = [g[:, (k * R + i) * c : (k * R + i + 1) * c] for i in range(R)]
        total = sum(z_i.exp() for z_i in z) if R > 1 else 1 + z[0].exp()
        for i in range(R):
            assert torch.allclose(a[:, i, k * c : (k + 1) * c], z[i].exp() / total)
    if K > 1 and R > 1:  # splits read in the order of the convolution's output are other weights
        assert not torch.allclose(a, resnest.split_weights(g, 1, R))


def test_groups_do_not_see_each_other():
    attention = resnest.SplitAttention(32, K=2, R=1).eval()
    x = torch.randn(1, 32, 6, 6)
    changed = x.clone()
    changed[:, 16:] += 1
    before, after = attention(x), attention(changed)
    assert torch.equal(before[:, :16], after[:, :16]) and not torch.allclose(before[:, 16:], after[:, 16:])
