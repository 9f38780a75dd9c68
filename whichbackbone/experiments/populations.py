"""Populations of nets: draw nets of a design space and train each briefly.

This is the method of Radosavovic et al. 2019 and 2020: one good net may be luck of the search, while the distribution
of errors describes the whole space. Distributions are compared by :mod:`whichbackbone.evidence.intervals`.
"""

import time
from collections.abc import Sequence

import pandas as pd
import torch

from whichbackbone.experiments import datasets, sweep, training
from whichbackbone.measure import cost
from whichbackbone.models import regnet

TESTED = 2000  # test images
GUESSING = 1 - 1 / len(datasets.CLASSES)  # error of a net that guesses
# Notebook 06's standard profile.
SETTING = dict(nets=8, size=20, low=0.5e6, high=0.65e6, images=3200, epochs=3, difficulty=0.5)


def experiment(
    seed: int, *, nets: int, size: int, low: float, high: float, images: int, epochs: int, difficulty: float,
    spaces: Sequence[str] = tuple(regnet.STEPS), folder: str | None = None, workers: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Draw nets from each design space and train each of them.

    A net that did not train is part of its space too: its error is that of guessing.

    Args:
        seed: of the nets, their weights and the order of images: another one is another experiment.
        nets: drawn from each space.
        size: side of the images in pixels.
        low: least MACs of a net at that size.
        high: most MACs of a net at that size.
        images: to train on.
        epochs: see `training.fit`.
        difficulty: see `datasets.glyphs`.
        spaces: names, keys of `regnet.STEPS`.
        folder: see `sweep.run`.
        workers: see `sweep.run`.

    Returns:
        One row per net: space, stages, depth, b and g (nan where each stage has its own), w_m (RegNets only), then the
        columns of `sweep.run` and `train`.
    """
    drawn = [
        _design(space, row, line) for space in spaces for row, line in regnet.sample(space, nets, size, low, high, seed)
    ]
    task = dict(size=size, images=images, epochs=epochs, difficulty=difficulty)
    configs = [dict(stages=net["stages"], **task) for net in drawn]
    for split, n in (("train", images), ("test", TESTED)):
        datasets.glyphs(split, n, size, difficulty)  # drawn once here, read by all workers
    runs = sweep.run(train, configs, seed=seed, folder=folder, workers=workers)
    runs["error"] = runs.error.where(runs.status == "ok", GUESSING)
    return pd.DataFrame(drawn).assign(seed=seed).join(runs.drop(columns="stages"))


def _design(space: str, row: regnet.AnyNetRow, line: regnet.RegNetRow | None) -> dict[str, object]:
    """Return a drawn net as a row of `experiment`'s table; ``line`` is the line of its widths, if it has one."""
    stages = [[s.d, s.w, s.b, s.g] for s in row.stages]
    return dict(
        space=space, stages=stages, depth=sum(s.d for s in row.stages),
        b=float("nan") if space == "AnyNetX_A" else row.stages[0].b,
        g=float("nan") if space in ("AnyNetX_A", "AnyNetX_B") else max(s.g for s in row.stages),  # narrow stages: less
        w_m=line.w_m if line else float("nan"),
    )  # fmt: skip


def train(
    stages: Sequence[Sequence[float]], size: int, images: int, epochs: int, difficulty: float, seed: int,
    se: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Train one tiny AnyNet on glyphs; a function for `sweep.run`.

    Args:
        stages: depth d, width w, bottleneck ratio b and group width g of each of the four stages.
        size: side of the images in pixels.
        images: to train on.
        epochs: see `training.fit`.
        difficulty: see `datasets.glyphs`.
        seed: of the starting weights and of the order of images. All nets get the same images.
        se: squeeze and excitation in every block (Y blocks).

    Returns:
        error, a fraction of 2,000 test images of held-out faces; train_error, of 1,000 training images; train_loss of
        the last epoch; macs, params and activations of one image; seconds of CPU.
    """
    start = time.process_time()
    body = tuple(regnet.Stage(int(d), int(w), b, int(g)) for d, w, b, g in stages)
    row = regnet.AnyNetRow(body, se, **regnet.TINY_STEM)
    torch.manual_seed(seed)
    net = regnet.anynet(row, len(datasets.CLASSES), in_chans=1).to(memory_format=torch.channels_last)
    seen = datasets.glyphs("train", images, size, difficulty)
    history = training.fit(net, seen, epochs=epochs, batch=64, lr=0.1, seed=seed, watched=1)
    size_of = cost.total(net, (1, size, size))
    return dict(
        error=training.error(net, datasets.glyphs("test", TESTED, size, difficulty)),
        train_error=training.error(net, seen[:1000]), train_loss=float(history.train_loss.iloc[-1]),
        macs=size_of.macs, params=size_of.params, activations=size_of.activations,
        seconds=time.process_time() - start,
    )  # fmt: skip
