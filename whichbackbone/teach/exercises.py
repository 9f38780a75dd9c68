"""Predict, then check: the exercises of the notebooks, whose answers are computed here rather than typed.

To add an exercise, add one entry to EXERCISES: a function that computes the answer, and a hint.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from numbers import Real
from types import SimpleNamespace

import timm
import torch

from whichbackbone.evidence import chooser, intervals
from whichbackbone.measure import cost
from whichbackbone.models import efficientnet, mobilenet, regnet, resnest, resnet


@dataclass(frozen=True)
class Exercise:
    """``answer`` computes the truth when asked. A number is right within ``tolerance``, a fraction of the truth."""

    answer: Callable[[], object]
    hint: str
    tolerance: float = 0.01

    def accepts(self, given: object) -> bool:
        """Whether ``given`` is right: numbers within the tolerance, text whatever its case, all else by equality."""
        truth = self.answer()
        if isinstance(truth, Real) and isinstance(given, Real):
            return abs(given - truth) <= self.tolerance * abs(truth)
        if isinstance(truth, str) and isinstance(given, str):
            return given.strip().casefold() == truth.casefold()
        if is_dataclass(truth) and is_dataclass(given):  # a notebook's own copy of the class is another class
            return (type(given).__name__, asdict(given)) == (type(truth).__name__, asdict(truth))
        return type(given) is type(truth) and given == truth


def _v1_saving() -> float:
    """GMACs that ResNet-50 saves when the first 1x1 of a stage carries the stride, as in the paper."""
    rows = (resnet.ResNetRow(n=(3, 4, 6, 3), stride_on=k) for k in (3, 1))
    with torch.device("meta"):  # shapes without numbers: counting needs no more
        later, paper = (cost.total(resnet.resnet(row), 224).macs for row in rows)
    return (later - paper) / 1e9


def _group_width(C: int) -> int:
    """Width d for which a C x d bottleneck of conv2_x comes closest to the parameters of the 1 x 64 one."""
    def params(C: int, d: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in resnet.bottleneck(256, C * d, 256, g=C).parameters())

    return min(range(1, 65), key=lambda d: abs(params(C, d) - params(1, 64)))


def _timm_cost(name: str, size: int = 224) -> SimpleNamespace:
    """Counts of timm's model at ``size`` pixels."""
    with torch.device("meta"):
        return cost.total(timm.create_model(name), size)


def _depthwise_intensity() -> float:
    """FLOPs per byte of a 3x3 depthwise convolution on 14x14x512."""
    layer = torch.nn.Conv2d(512, 512, 3, padding=1, groups=512, bias=False)
    return cost.intensity(cost.layers(layer, (512, 14, 14))).item()


def _receptive_field_of_2015() -> int:
    """Pixels each way that ResNet-50's last stage sees when the first 1x1 of a stage carries the stride."""
    r, j = 11, 4  # after the 7x7 and the pool
    for blocks, s in ((3, 1), (4, 2), (6, 2), (3, 2)):
        j *= s  # before the 3x3 of the stage's first block
        r += 2 * j * blocks
    return r


def _pointwise_share() -> float:
    """Share of MobileNetV1's MACs that its 1x1 convolutions do."""
    with torch.device("meta"):
        layers = cost.layers(mobilenet.build("mobilenetv1_100"), 224)
    return float(layers.macs[layers.kind == "pointwise"].sum() / layers.macs.sum())


def _params(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _b7_over_b0() -> float:
    """Factor in MACs from B0 to B7, each at its own size."""
    with torch.device("meta"):
        b7, b0 = (cost.total(efficientnet.build(f"efficientnet_{b}"), efficientnet.SCALES[b][2]) for b in ("b7", "b0"))
    return b7.macs / b0.macs


def _same_rows(k: int = 5, s: int = 2, size: int = 112) -> tuple[int, int]:
    """Rows of zeros above and below that ConvSame adds: a kernel row of ones over an image of ones misses that many."""
    layer = efficientnet.ConvSame(1, 1, k, s, bias=False)
    torch.nn.init.ones_(layer.weight)
    with torch.inference_mode():
        rows = layer(torch.ones(1, 1, size, size))[0, 0, :, size // 4] / k  # rows that are image and not zeros
    return k - round(rows[0].item()), k - round(rows[-1].item())


def _fifth_stage_values() -> int:
    """Values that the fifth stage of EfficientNet-Lite0 gives for one image of 224 pixels."""
    with torch.device("meta"):
        net = efficientnet.build("tf_efficientnet_lite0")
        return torch.nn.Sequential(net.stem, *net.stages[:5])(torch.empty(1, 3, 224, 224)).numel()


EXERCISES: dict[str, Exercise] = {
    "01_five_by_five": Exercise(
        lambda: next(N for N in range(1, 1000) if 25 * N >= 20 * (25 + N)), tolerance=0,
        hint="the saving is 1 / (1/N + 1/25); set it to 20 and solve for N"),
    "01_intensity": Exercise(
        _depthwise_intensity, tolerance=0.02,
        hint="18 FLOPs per output element; input, output and 9 x 512 weights move once, 4 bytes each"),
    "01_receptive_field": Exercise(
        _receptive_field_of_2015, tolerance=0,
        hint="11 pixels and a jump of 4 after the stem; a stage's jump now doubles before its first 3x3, not in it"),
    "02_stride": Exercise(
        _v1_saving, tolerance=0.05,
        hint="three blocks change stride; in each, the first 1x1 then makes a map of a quarter of the pixels"),
    "02_cardinality": Exercise(
        lambda: _group_width(8), tolerance=0,
        hint="a C x d bottleneck has 256 C d + 9 C d^2 + 256 C d weights; set it equal to the same at C = 1, d = 64"),
    "02_combine": Exercise(
        lambda: resnet.ResNetRow(n=(3, 4, 6, 3), C=32, d=4, r=16),
        hint="start from the row of resnext50_32x4d and add the one number that makes seresnet50 of resnet50"),
    "03_pointwise": Exercise(
        _pointwise_share, tolerance=0.01,
        hint="per pixel and layer the 1x1 costs M x N and the 3x3 depthwise 9 x M; then the stem and 1024 x 1000"),
    "03_dimensions": Exercise(
        lambda: next(n for n in range(1, 100) if (n + 1) / 2**n < 0.01), tolerance=0,
        hint="at most one of n units is above zero with probability (n + 1) / 2^n"),
    "03_expansion": Exercise(
        lambda: _params(mobilenet.InvertedResidual(32, 32, t=6)), tolerance=0,
        hint="32 x 192 and 192 x 32 weights in the two 1x1, 9 x 192 in the 3x3, two a channel in each batch norm"),
    "04_reward": Exercise(
        lambda: (1 - 2**-0.07) * 100, tolerance=0.03,
        hint="ACC must grow by the factor that (LAT/T)^w loses when LAT doubles, w = -0.07"),
    "04_flat_space": Exercise(
        lambda: 10, tolerance=0,
        hint="the flat space chooses 15 times where the factorised one chooses 5 times: 15 - 5"),
    "04_width": Exercise(
        lambda: mobilenet.round8(40 * 0.35), tolerance=0,
        hint="40 x 0.35 = 14: the nearest multiple of 8 is 16, unless rounding loses more than 10 %"),
    "05_scaled": Exercise(
        lambda: mobilenet.Stage(t=6, c=80, n=3, s=2, se=True).scaled(1.1, 1.2),
        hint="88 is a multiple of 8, and 3.6 blocks are rounded up; t, s, k and the gate stay"),
    "05_padding": Exercise(
        _same_rows,
        hint="56 windows of 5 rows, 2 apart, span 115 rows: three are missing, and the odd one goes below"),
    "05_b7": Exercise(
        _b7_over_b0, tolerance=0.02,
        hint="seven doublings by 1.92 give the order; count both with cost.total, at 600 and at 224 pixels"),
    "06_first_stage": Exercise(
        lambda: list(regnet.VARIANTS["regnetx_002"].stages())[0].w, tolerance=0,
        hint="w_0 of regnetx_002 is 24, and s_0 = 0"),
    "06_depth": Exercise(
        lambda: 3 * regnet.VARIANTS["regnety_016"].d + 2, tolerance=0,
        hint="three convolutions in each block, one in the stem, and the classifier; shortcuts are not counted"),
    "06_groups": Exercise(
        lambda: {s.w_b // s.g for s in regnet.VARIANTS["regnetx_320"].stages()}, tolerance=0,
        hint="a set of w / g over the four stages, g = 168; list(VARIANTS['regnetx_320'].stages()) shows them"),
    "07_splits": Exercise(
        lambda: (8, resnest.SplitAttention(64, K=2, R=4).splits[0].weight.shape[1]),
        hint="G = K R groups share the 64 channels of the input"),
    "07_gate": Exercise(
        lambda: sum(_params(resnest.SplitAttention(64).attend[i]) for i in (0, 3)), tolerance=0,
        hint="64 to w_r = max(32, 64 x 2 / 4), then w_r to 2 x 64, each with a bias for each output"),
    "07_row": Exercise(
        lambda: resnest.ResNeStRow(n=(3, 4, 6, 3), R=4, pool_first=True),
        hint="R s K x d: only R and pool_first differ from the row of resnest50d"),
    "08_majority": Exercise(
        lambda: (1508 + 295) / (1508 + 295 + 106 + 715) * 100, tolerance=0.005,
        hint="0 and 1/3 lie below the cut; divide by all 2,624"),
    "08_standard_error": Exercise(
        lambda: (0.8842 * (1 - 0.8842) / 656) ** 0.5 * 100, tolerance=0.03,
        hint="the square root of p (1 - p) / n, times 100"),
    "08_activations": Exercise(
        lambda: _fifth_stage_values() * 2624 * 4 * 2 / 1e6, tolerance=0.01,
        hint="112 channels at a sixteenth of 224 pixels each way; two bytes a value"),
    "09_bug_1": Exercise(lambda: "warm-up", "what does the first call do that no later one does"),
    "09_bug_2": Exercise(lambda: "train mode", "which call is missing after create_model"),
    "09_bug_3": Exercise(lambda: "no synchronisation", "has the work been done when submit returns"),
    "09_bug_4": Exercise(lambda: "preprocessing", "what else stands inside the timed function"),
    "09_bug_5": Exercise(lambda: "compile time", "what is paid once, and divided by twenty here"),
    "09_bug_6": Exercise(lambda: "threads", "what differs between the two measurements besides the model"),
    "09_bug_7": Exercise(lambda: "crowded process", "what do the others throw out between two calls of one net"),
    "09_macs_ratio": Exercise(
        lambda: _timm_cost("resnet50").macs / _timm_cost("efficientnet_b0").macs, tolerance=0.03,
        hint="at equal GFLOP/s time is proportional to MACs, and both stand in the first table"),
    "09_roofline": Exercise(
        lambda: max(100e6 / 80e9, 20e6 / 20e9) * 1e3, tolerance=0.01,
        hint="the time of the arithmetic and the time of the bytes: the longer one decides"),
    "09_resolution": Exercise(
        lambda: _timm_cost("efficientnet_b5", 456).activations / _timm_cost("efficientnet_b5").activations,
        tolerance=0.05, hint="activations of a convolution grow with the number of its output pixels"),
    "14_noise": Exercise(
        lambda: intervals.test_set_noise(80, chooser.VALIDATION_IMAGES), tolerance=0.03,
        hint="the variance of each is p (1 - p) / n, that of the difference twice as much; 1.96 deviations hold 95 %"),
    "14_front": Exercise(
        lambda: int(intervals.on_front([2, 3, 4, 5], [1, 3, 2, 5]).sum()), tolerance=0,
        hint="one of them is slower and less accurate than another"),
    "14_strides": Exercise(
        lambda: sum((512 // s) ** 2 for s in (4, 8, 16, 32)), tolerance=0,
        hint="(512 / 4)^2 + (512 / 8)^2 + ..."),
}


def check(exercise: str, answer: object) -> None:
    """Say whether ``answer`` is right; None stands for "not answered yet". ValueError for an unknown exercise."""
    if exercise not in EXERCISES:
        raise ValueError(f"no exercise {exercise!r}: choose one of {', '.join(EXERCISES)}")
    if answer is None:
        print(f"{exercise}: no answer yet. Put yours in the place of None and run the cell.")
    elif EXERCISES[exercise].accepts(answer):
        print(f"{exercise}: right.")
    else:
        print(f"{exercise}: not yet. Hint: {EXERCISES[exercise].hint}.")


@dataclass(frozen=True)
class Prediction:
    """A guess, made before the number is known."""

    question: str
    guess: float | None

    def reveal(self, truth: float, unit: str = "") -> None:
        """Print the measured number beside the guess, and how far off that was."""
        measured = f"measured {truth:.3g} {unit}".strip()
        if self.guess is None:
            print(f"{self.question} {measured} (no guess made)")
        else:
            off = f"off by {abs(self.guess - truth) / abs(truth):.0%}" if truth else f"off by {abs(self.guess):.3g}"
            print(f"{self.question} {measured}, you guessed {self.guess:.3g}: {off}")


def predict(question: str, guess: float | None = None) -> Prediction:
    """Ask before the cell that computes: put a number for None, then call ``reveal`` on what this returns."""
    if guess is not None and not isinstance(guess, Real):
        raise ValueError(f"a guess is a number, not {guess!r}")
    return Prediction(question, guess)
