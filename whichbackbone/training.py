"""One fit loop for every live experiment: stochastic gradient descent with momentum under a one-cycle schedule.

The recipe is the same for all that are compared, since a recipe can move accuracy more than an architecture does.
What is random follows from the seed; what is measured says in which mode it was measured.
"""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whichbackbone.datasets import Images


class Diverged(RuntimeError):
    """The loss is no longer a number."""


def fit(
    model: nn.Module,
    train: Images,
    test: Images | None = None,
    *,
    epochs: int,
    lr: float = 0.1,
    batch: int = 128,
    weight_decay: float = 5e-4,
    seed: int = 0,
    threads: int = 1,
    watched: int = 2000,
) -> pd.DataFrame:
    """Train `model` in place and return its history, one row per epoch.

    SGD, Nesterov momentum 0.9; the learning rate rises to `lr` over the first 30 % of the steps, then falls along a
    cosine to nothing. Only parameters that require a gradient are trained. `seed` orders the images and drives dropout;
    the starting weights are the caller's: build the model after `torch.manual_seed`. Repeats bit by bit on one machine
    with one thread.

    Args:
        model: takes (B, C, H, W) float images (see `batch_of`), gives (B, K) logits.
        train: images to train on; an incomplete last batch is left out (batch norm of few images is noise).
        test: images for `test_error`.
        epochs: passes over `train`; the schedule is stretched over all of them.
        lr: the highest learning rate.
        batch: images a step.
        weight_decay: on all parameters.
        seed: see above; the state of torch's global generator is left as it was.
        threads: torch threads on the CPU while this runs.
        watched: number of training images, the first ones, on which `train_error` is measured.

    Returns:
        epoch (from 1); train_loss and running_error over the epoch, in training mode, while the weights move;
        train_error and test_error at the end of the epoch, in evaluation mode (test_error is nan without `test`);
        seconds of training alone in this epoch. Errors are fractions.

    Raises:
        ValueError: if there is less than one batch of images.
        Diverged: if the loss becomes infinite or not a number.
    """
    steps = len(train) // batch
    if steps < 1 or epochs < 1:
        raise ValueError(f"{len(train)} images, batch {batch}, {epochs} epochs: expected at least one batch, one epoch")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, cycle_momentum=False)
    history = []
    with _settled(seed, threads):
        for epoch in range(1, epochs + 1):
            start, loss_sum, wrong = time.perf_counter(), 0.0, 0.0
            model.train()
            for index in torch.randperm(len(train))[: steps * batch].split(batch):
                x, y = batch_of(model, train[index])
                logits = model(x)
                loss = F.cross_entropy(logits, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                loss_sum += loss.item()
                wrong += _wrong(logits, y)
                if not loss_sum < float("inf"):
                    raise Diverged(f"loss is {loss.item()} in epoch {epoch} at learning rate {lr}: lower it")
            row = dict(epoch=epoch, train_loss=loss_sum / steps, running_error=wrong / (steps * batch))
            row["seconds"] = time.perf_counter() - start
            row["train_error"] = error(model, train[:watched])
            row["test_error"] = error(model, test) if test else float("nan")
            history.append(row)
    columns = ["epoch", "train_loss", "running_error", "train_error", "test_error", "seconds"]
    return pd.DataFrame(history, columns=columns)


@torch.inference_mode()
def error(model: nn.Module, data: Images, batch: int = 500) -> float:
    """Fraction of `data` that `model` gets wrong, in evaluation mode; the model's mode is left as it was."""
    training = model.training
    model.eval()
    parts = (batch_of(model, data[i : i + batch]) for i in range(0, len(data), batch))
    wrong = sum(_wrong(model(x), y) for x, y in parts)
    model.train(training)
    return wrong / len(data)


def batch_of(model: nn.Module, data: Images) -> tuple[Tensor, Tensor]:
    """Images as float in [-1, 1] and their labels, on the device of the model."""
    device = next(model.parameters()).device
    return data.images.to(device).float().div_(127.5).sub_(1), data.labels.to(device)


def gradient_norms(model: nn.Module, x: Tensor, y: Tensor) -> pd.DataFrame:
    """How much of the gradient of the loss on one batch reaches each layer, from the input to the output.

    Measured in training mode, where batch norm uses the batch, on a copy: the model is left as it was. Batch norms are
    not listed: the weights that they scale are.

    Args:
        model: as for `fit`.
        x: (B, C, H, W), see `batch_of`.
        y: (B,) classes or (B, K) probabilities.

    Returns:
        one row per convolution and linear layer that is trained, in the order of definition: layer (its name),
        gradient and weight (L2 norms).
    """
    model = copy.deepcopy(model).train()
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return pd.DataFrame(
        [
            dict(layer=name, gradient=w.grad.norm().item(), weight=w.detach().norm().item())
            for name, w in weights.items()
            if w.grad is not None  # frozen layers have none
        ]
    )


def _wrong(logits: Tensor, y: Tensor) -> int:
    """Number of rows whose largest logit is not the (most probable) class."""
    classes = y if y.ndim == 1 else y.argmax(1)
    return (logits.argmax(1) != classes).sum().item()


@contextmanager
def _settled(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and fix its threads, and put both back afterwards."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
