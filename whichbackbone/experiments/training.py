"""One fit loop for every live experiment: stochastic gradient descent under a one-cycle schedule.

All nets of a comparison get the same recipe, since a recipe can move accuracy more than an architecture does.
Everything random follows from the seed. Each measured column says in which mode the net was.
"""

import copy
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from whichbackbone.experiments.datasets import Images


class Diverged(RuntimeError):
    """The loss became infinite or not a number."""


class OutOfMemory(MemoryError):
    """A step of training does not fit in memory at the chosen batch."""


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
    optimizer: str = "sgd",
    rates: Mapping[str, float] | None = None,
    average: float = 0.0,
    freeze_norms: bool = False,
    copies: int = 1,
) -> pd.DataFrame:
    """Train `model` in place and return its history, one row per epoch.

    The optimizer is SGD with Nesterov momentum 0.9, or AdamW. The learning rate rises to `lr` over the first 30 % of
    the steps, then falls along a cosine to nothing. Only parameters that require a gradient are trained. `seed` orders
    the images and drives dropout, but draws no weights: build the model after `torch.manual_seed`. With one thread, a
    run repeats bit by bit on the same machine.

    Args:
        model: takes (B, C, H, W) float images (see `batch_of`), gives (B, K) logits.
        train: images to train on; an incomplete last batch is skipped (batch norm of few images is noise).
        test: images for `test_error`.
        epochs: passes over `train`; the schedule is stretched over all of them.
        lr: the highest learning rate.
        batch: images a step.
        weight_decay: on all parameters.
        seed: see above; the state of torch's global generator is left as it was.
        threads: torch threads on the CPU while this runs.
        watched: number of training images, the first ones, on which `train_error` is measured.
        optimizer: "sgd" or "adamw".
        rates: discriminative learning rates: the beginning of a parameter's name -> factor on `lr`. The first beginning
            that fits counts, and a factor of 0 freezes.
        average: decay of an exponential average of the weights over the steps, 0 for none. The averaged weights are
            then measured, and the model holds them in the end.
        freeze_norms: batch norms use and keep their running statistics while everything else trains.
        copies: `train` holds every image in this many versions (flips, say): n images in one version, then all n in the
            next, and so on. An epoch takes one version of each image, at random.

    Returns:
        epoch (from 1); train_loss and running_error over the epoch, in training mode, while the weights move;
        train_error and test_error at the end of the epoch, in evaluation mode (test_error is nan without `test`);
        seconds of training alone in this epoch. Errors are fractions.

    Raises:
        ValueError: if there is less than one batch of images, or for an unknown optimizer.
        OutOfMemory: if a step does not fit in memory; says which batch does.
        Diverged: if the loss becomes infinite or not a number.
    """
    images = len(train) // copies
    steps = images // batch
    if steps < 1 or epochs < 1:
        raise ValueError(f"{images} images, batch {batch}, {epochs} epochs: expected at least one batch, one epoch")
    groups = _groups(model, lr, weight_decay, rates or {})
    stepper = _optimizer(optimizer, groups, lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        stepper, [group["lr"] for group in groups], total_steps=epochs * steps, cycle_momentum=False)
    averaged = None
    if average:
        averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(average), use_buffers=True)
    measured = averaged.module if averaged else model
    history = []
    with _seeded(seed, threads):
        for epoch in range(1, epochs + 1):
            start, loss_sum, wrong = time.perf_counter(), 0.0, 0.0
            model.train()
            if freeze_norms:
                _freeze_norms(model)
            for index in _order(images, copies)[: steps * batch].split(batch):
                x, y = batch_of(model, train[index])
                stepper.zero_grad()
                try:
                    logits = model(x)
                    loss = F.cross_entropy(logits, y)
                    loss.backward()
                except (RuntimeError, MemoryError) as failure:
                    if not _out_of_memory(failure):
                        raise
                    raise OutOfMemory(_advice(model, train[index])) from None
                stepper.step()
                schedule.step()
                if averaged:
                    averaged.update_parameters(model)
                loss_sum += loss.item()
                wrong += _wrong(logits, y)
                if not loss_sum < float("inf"):
                    raise Diverged(f"loss is {loss.item()} in epoch {epoch} at learning rate {lr}: lower it")
            row = dict(epoch=epoch, train_loss=loss_sum / steps, running_error=wrong / (steps * batch))
            row["seconds"] = time.perf_counter() - start
            row["train_error"] = error(measured, train[: min(watched, images)]) if watched else float("nan")
            row["test_error"] = error(measured, test) if test else float("nan")
            history.append(row)
    if averaged:
        model.load_state_dict(averaged.module.state_dict())
    columns = ["epoch", "train_loss", "running_error", "train_error", "test_error", "seconds"]
    return pd.DataFrame(history, columns=columns)


@torch.inference_mode()
def error(model: nn.Module, data: Images, batch: int = 125) -> float:
    """Return the fraction of `data` that `model` gets wrong in evaluation mode; the model's mode is set back.

    Args:
        model: see `fit`.
        data: images with their labels.
        batch: images in one forward pass.
    """
    training = model.training
    model.eval()
    parts = (batch_of(model, data[i : i + batch]) for i in range(0, len(data), batch))
    wrong = sum(_wrong(model(x), y) for x, y in parts)
    model.train(training)
    return wrong / len(data)


def batch_of(model: nn.Module, data: Images) -> tuple[Tensor, Tensor]:
    """Return images, float (B, C, H, W) in [-1, 1], and their labels, both on the device of the model.

    Images that are not uint8 (activations that a frozen part gave) are only turned into float.
    """
    device = next(model.parameters()).device
    x = data.images.to(device)
    scaled = x.float().div_(127.5).sub_(1) if x.dtype == torch.uint8 else x.float()
    return scaled, data.labels.to(device)


def gradient_norms(model: nn.Module, x: Tensor, y: Tensor) -> pd.DataFrame:
    """Measure how much of the gradient of the loss on one batch reaches each layer.

    A copy of the model does it, in training mode, where batch norm uses the batch. Batch norms are not listed, but the
    weights that they scale are.

    Args:
        model: as for `fit`.
        x: (B, C, H, W), see `batch_of`.
        y: (B,) classes or (B, K) probabilities.

    Returns:
        One row per convolution and linear layer that is trained, in the order of definition: layer (its name),
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


def _order(images: int, copies: int) -> Tensor:
    """Return the positions of all images in random order, int64 (images,), each in one of its versions."""
    order = torch.randperm(images)
    return order if copies == 1 else order + images * torch.randint(copies, (images,))


def _groups(model: nn.Module, lr: float, weight_decay: float, rates: Mapping[str, float]) -> list[dict]:
    """Group the parameters to train by their learning rate, as optimizers take them.

    Raises ``ValueError`` if no parameter's name begins with a key of ``rates``.
    """
    by_rate, used = {}, set()
    for name, p in model.named_parameters():
        prefix = next((prefix for prefix in rates if name.startswith(prefix)), None)
        used.add(prefix)
        factor = rates[prefix] if prefix is not None else 1.0
        if p.requires_grad and factor:
            by_rate.setdefault(factor, []).append(p)
    if stray := set(rates) - used:
        raise ValueError(f"rates for {', '.join(sorted(stray))}, but no parameter's name begins so")
    return [dict(params=ps, lr=lr * factor, weight_decay=weight_decay) for factor, ps in by_rate.items()]


def _optimizer(name: str, groups: list[dict], lr: float) -> torch.optim.Optimizer:
    """Return the optimizer of this name; raise ``ValueError`` for an unknown one."""
    if name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr)
    raise ValueError(f"unknown optimizer {name!r}: choose sgd or adamw")


def _freeze_norms(model: nn.Module) -> None:
    """Put batch norms in evaluation mode, which every ``model.train()`` undoes."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def _out_of_memory(failure: BaseException) -> bool:
    """Whether an exception says that memory was short, on a CPU or on an accelerator."""
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(failure, MemoryError | torch.OutOfMemoryError) or any(t in str(failure) for t in texts)


def _advice(model: nn.Module, data: Images) -> str:
    """Halve the batch until a step of training fits in memory, and say in one line which batch does."""
    fits = batch = len(data)
    while fits > 1:
        fits //= 2
        try:
            x, y = batch_of(model, data[:fits])
            F.cross_entropy(model(x), y).backward()
            model.zero_grad()
            return f"batch {batch} does not fit in memory, {fits} does: say batch={fits}"
        except (RuntimeError, MemoryError, ValueError) as failure:  # ValueError: batch norm of one value
            if not _out_of_memory(failure):
                break
    return f"batch {batch} does not fit in memory, nor does any smaller one: take smaller images or a smaller model"


def _wrong(logits: Tensor, y: Tensor) -> int:
    """Count the rows of logits (B, K) whose largest is not the class, (B,), or the most probable one, (B, K)."""
    classes = y if y.ndim == 1 else y.argmax(1)
    return (logits.argmax(1) != classes).sum().item()


@contextmanager
def _seeded(seed: int, threads: int) -> Iterator[None]:
    """Seed torch and set its threads, as long as the context lasts; both are set back afterwards."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
