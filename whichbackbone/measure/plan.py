"""Which points the speed table holds, how often each is visited, and which of them share a process. No torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whichbackbone.evidence import catalogue, claims
from whichbackbone.evidence.speed import YARD, Point

NETS_A_BLOCK = 6  # ResNet-50 among them: oneDNN keeps 1,024 compiled layers a process, and eight nets can need them all
VISITS, NAMED_VISITS, WIDE_VISITS = 4, 8, 2
RUNTIMES = ("eager", "channels_last", "onnxruntime", "openvino")
# Runtime and precision of what runs in fewer bits, beside fp32 in the same process: the gain is a ratio of one net.
# bf16 is refused where the processor has no instructions for it, and the row says so.
FEWER_BITS = (("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "bf16"),
              ("openvino", "int8"))  # fmt: skip
BATCH, TRAINING_BATCH = 8, 4  # a step needs more than one image: split attention normalises pooled features

# The nets of 2020 that the notebooks compare, each at the side it was trained at.
CORE = """resnet18 resnet34 resnet50 resnet50d resnet101 resnet152 resnext50_32x4d resnetv2_50 seresnet50
    wide_resnet50_2 densenet121 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_lite0 efficientnet_lite1 efficientnet_lite2
    mobilenetv1_100 mobilenetv2_050 mobilenetv2_100 mobilenetv2_140 mobilenetv3_small_100 mobilenetv3_large_100
    mnasnet_small mnasnet_100 mnasnet_140 semnasnet_100
    regnetx_004 regnetx_008 regnetx_016 regnetx_032 regnetx_040 regnetx_080
    regnety_004 regnety_008 regnety_016 regnety_032 regnety_040 regnety_080
    resnest14d resnest26d resnest50d resnest101e""".split()
# EfficientNets at the common side as well: half of the quarrel about them is one about input size.
AT_224 = tuple(f"efficientnet_b{n}" for n in range(1, 6))
# B0 with another activation, with and without its gates: which of them costs what in fewer bits.
FACTORIAL = tuple(f"efficientnet_b0_{gate}_{act}" for gate in ("se", "nose") for act in ("swish", "hswish", "relu6"))
# A dozen that are also timed at a larger batch, on one thread, compiled, cold, and in training.
WIDE = """resnet18 resnet50 resnet101 densenet121 efficientnet_b0 efficientnet_b3 efficientnet_lite0 mobilenetv2_100
    mobilenetv3_large_100 semnasnet_100 regnety_004 resnest26d""".split()


@dataclass(frozen=True)
class Group:
    """Points that are measured together: some nets in the same settings.

    Attributes:
        nets: (name, pixels) of the nets, without ResNet-50.
        settings: (batch, runtime, precision, threads, regime, mode, device) of each net.
        visits: how often.
    """

    nets: tuple[tuple[str, int], ...]
    settings: tuple[tuple, ...]
    visits: int


@dataclass(frozen=True)
class Block:
    """One process of one visit: at most NETS_A_BLOCK nets in some settings."""

    visit: int
    points: tuple[Point, ...]


def core() -> list[Group]:
    """What ``./run_all.sh`` measures: all nets in four runtimes, those of claims more often, a dozen in more ways.

    And all nets in fewer bits, in blocks of their own, those of the factorial more often.
    """
    hot = _settings(RUNTIMES)
    named = claimed()
    every = [(name, catalogue.net(name).size) for name in CORE if name != YARD] + [(name, 224) for name in AT_224]
    often = tuple(net for net in every if net in named)
    wide = tuple((name, catalogue.net(name).size) for name in WIDE if name != YARD)
    slow = _settings(RUNTIMES, batch=BATCH) + _settings(("eager",), batch=TRAINING_BATCH, mode="training")
    fine = (_settings(RUNTIMES, threads=1) + _settings(RUNTIMES, regime="cold_cache")
            + _settings(RUNTIMES, regime="cold_idle") + _settings(("compile",)))  # fmt: skip
    fewer = tuple(setting for name, precision in FEWER_BITS for setting in _settings((name,), precision=precision))
    once = [Group(wide, slow, 1), Group(wide, fine, 1)]
    return [
        Group(tuple(every), hot, VISITS),
        Group(tuple(every), fewer, VISITS),
        Group(tuple((name, 224) for name in FACTORIAL), fewer, NAMED_VISITS),
        *once,
        Group(often, hot, NAMED_VISITS - VISITS),
        *once * (WIDE_VISITS - 1),
    ]


def asked(
    nets: Sequence[str], runtimes: Sequence[str], precisions: Sequence[str], batches: Sequence[int],
    threads: Sequence[int], device: str, visits: int = VISITS,
) -> list[Group]:  # fmt: skip
    """Every combination that the command line asks for, of nets at the side that they were trained at."""
    settings = tuple(
        setting for batch in batches for precision in precisions for number in threads
        for setting in _settings(runtimes, batch=batch, precision=precision, threads=number, device=device)
    )  # fmt: skip
    sized = tuple((name, catalogue.net(name).size) for name in dict.fromkeys(nets) if name != YARD)
    return [Group(sized, settings, visits)]


def claimed() -> set[tuple[str, int]]:
    """(name, pixels) of the nets that a claim about time names."""
    sides = [case[side] for claim in claims.load() for case in claim["cases"] if case["kind"] == "speed"
             for side in ("a", "b")]  # fmt: skip
    return {(p.net, p.pixels) for p in (Point(**{k: v for k, v in side.items() if k != "per"}) for side in sides)}


def blocks(groups: Iterable[Group], seed: int) -> list[Block]:
    """All blocks of all visits: group after group, so that who stops early has measured the most telling points.

    In each visit other nets share a process, so that no net always has the same neighbours.
    """
    random = np.random.default_rng(seed)
    visits = [group for group in groups for _ in range(group.visits)]
    return [Block(number, _points(nets, group.settings)) for number, group in enumerate(visits)
            for nets in _drawn(group.nets, random)]  # fmt: skip


def _drawn(nets: Sequence[tuple[str, int]], random: np.random.Generator) -> list[list[tuple[str, int]]]:
    """Nets in groups of nearly equal size that leave room for ResNet-50; no net twice (at two sides) in one."""
    if not nets:
        return [[]]
    mixed = [nets[i] for i in random.permutation(len(nets))]
    parts = -(-len(mixed) // (NETS_A_BLOCK - 1))
    return [mixed[i::parts] for i in range(parts)]


def _points(nets: Sequence[tuple[str, int]], settings: Sequence[tuple]) -> tuple[Point, ...]:
    yard = (YARD, catalogue.net(YARD).size)
    return tuple(Point(name, pixels, *setting) for name, pixels in (yard, *nets) for setting in settings)


def _settings(
    runtimes: Sequence[str], batch: int = 1, precision: str = "fp32", threads: int = 0, regime: str = "hot",
    mode: str = "inference", device: str = "cpu",
) -> tuple[tuple, ...]:  # fmt: skip
    return tuple((batch, runtime, precision, threads, regime, mode, device) for runtime in runtimes)
