"""The fit loop learns, repeats, measures what it says it measures, and leaves global state alone."""

import math

import pytest
import torch
from torch import nn

from whichbackbone.experiments import training
from whichbackbone.experiments.datasets import Images


def blobs(n: int, seed: int = 0) -> Images:
    """Two classes of 8x8 images that differ in which half is bright."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    images = torch.randint(0, 120, (n, 1, 8, 8), generator=g)
    images[labels == 1, :, :4] += 130
    images[labels == 0, :, 4:] += 130
    return Images(images.to(torch.uint8), labels)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(144, 2))


def test_learns_and_reports():
    model = net()
    history = training.fit(model, blobs(512), blobs(100, seed=1), epochs=3, batch=64)
    assert list(history) == ["epoch", "train_loss", "running_error", "train_error", "test_error", "seconds"]
    assert history.epoch.tolist() == [1, 2, 3] and (history.seconds > 0).all()
    assert history.test_error.iloc[-1] < 0.05 < 0.5 == pytest.approx(training.error(net(), blobs(100)), abs=0.5)
    assert training.error(model, blobs(100, seed=1)) == history.test_error.iloc[-1]
    assert training.error(model, blobs(512)) == history.train_error.iloc[-1]


def test_error_counts_by_hand():
    """A model that always says class 1 gets exactly the zeros wrong, and keeps its mode."""
    model = net().train()
    with torch.no_grad():
        model[-1].weight.zero_()
        model[-1].bias.copy_(torch.tensor([0.0, 1.0]))
    data = blobs(40)[torch.arange(30)]
    assert training.error(model, data, batch=7) == 15 / 30 and model.training
    soft = Images(data.images, nn.functional.one_hot(data.labels, 2) * 0.8 + 0.1)
    assert training.error(model, soft) == 15 / 30


def test_train_error_uses_evaluation_mode_on_the_first_images():
    data = blobs(256)
    wrong = Images(data.images, data.labels.clone())
    wrong.labels[:50] = 1 - wrong.labels[:50]  # the watched ones are mislabelled, so they are what stays wrong
    history = training.fit(net(), wrong, epochs=4, batch=64, watched=50)
    assert history.train_error.iloc[-1] > 0.8 and history.running_error.iloc[-1] < 0.5
    assert history.test_error.isna().all()


def test_repeats_bit_by_bit_and_depends_on_the_seed():
    def last(seed):
        model = net()
        training.fit(model, blobs(256), epochs=2, batch=64, seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(last(0), last(0))
    assert not torch.equal(last(0), last(1))


def test_leaves_global_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    model = net()
    torch.manual_seed(5)
    training.fit(model, blobs(128), epochs=1, batch=64, threads=threads + 1)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_frozen_parameters_stay_and_soft_labels_train():
    model = net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    data = blobs(256)
    soft = Images(data.images, nn.functional.one_hot(data.labels, 2) * 0.9 + 0.05)
    history = training.fit(model, soft, data, epochs=3, batch=64)
    assert torch.equal(model[0].weight, before) and history.test_error.iloc[-1] < 0.05


def test_bad_input():
    with pytest.raises(ValueError, match="at least one batch"):
        training.fit(net(), blobs(10), epochs=1)
    with pytest.raises(training.Diverged, match="lower it"):
        training.fit(net(), blobs(512), epochs=9, lr=1e12, batch=64)


def test_gradient_norms_by_hand():
    """For logits W f the gradient is the mean of (softmax - onehot) f^T; and nothing of the model changes."""
    model = net()
    model[3] = nn.Identity()
    x, y = training.batch_of(model, blobs(16))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms = training.gradient_norms(model.eval(), x, y)
    assert norms.layer.tolist() == ["0", "5"]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        features = model[:-1].train()(x)
        residual = model[-1](features).softmax(1) - nn.functional.one_hot(y, 2)
        by_hand = (residual.T @ features / len(y)).norm().item()
    assert math.isclose(norms.gradient[1], by_hand, rel_tol=1e-5)
    assert math.isclose(norms.weight[1], model[-1].weight.norm().item(), rel_tol=1e-6)


def test_copies_take_one_version_of_each_image(monkeypatch):
    seen = []
    monkeypatch.setattr(training, "batch_of", lambda model, data: seen.append(data.images[:, 0, 0, 0]) or (
        data.images.float() / 255, data.labels))
    n = 64
    images = (torch.arange(2 * n) % 256).byte().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    data = Images(images, torch.arange(2 * n) % 2)
    training.fit(net(), data, epochs=1, batch=16, copies=2, watched=0)
    drawn = torch.cat(seen).long()
    assert sorted((drawn % n).tolist()) == list(range(n)) and (drawn >= n).any() and (drawn < n).any()


def test_frozen_norms_keep_their_statistics_and_others_drift():
    def drift(frozen):
        model = net()
        before = model[1].running_mean.clone()
        training.fit(model, blobs(128), epochs=1, batch=64, freeze_norms=frozen)
        return (model[1].running_mean - before).abs().max().item()

    assert drift(True) == 0 and drift(False) > 0.01


def test_rates_slow_and_freeze_what_they_name():
    def moved(rates):
        model = net()
        before = [p.detach().clone() for p in (model[0].weight, model[5].weight)]
        training.fit(model, blobs(128), epochs=1, batch=64, rates=rates, weight_decay=0, optimizer="adamw", lr=1e-3)
        after = (model[0].weight, model[5].weight)
        return [(a - b).abs().mean().item() for a, b in zip(after, before, strict=True)]

    slow, usual, frozen = moved({"0": 0.1}), moved({}), moved({"0": 0})
    assert slow[0] < 0.3 * usual[0] and frozen[0] == 0 and slow[1] == pytest.approx(usual[1], rel=0.5)
    with pytest.raises(ValueError, match="rates for 7, but no parameter's name begins so"):
        moved({"7": 0.1})
    with pytest.raises(ValueError, match="choose sgd or adamw"):
        training.fit(net(), blobs(128), epochs=1, batch=64, optimizer="lion")


def test_the_average_lies_behind_and_is_what_the_model_holds():
    plain, slow = net(), net()
    training.fit(plain, blobs(256), epochs=2, batch=64)
    history = training.fit(slow, blobs(256), blobs(64, 1), epochs=2, batch=64, average=0.99)
    start = net()[5].weight
    assert (slow[5].weight - start).norm() < 0.5 * (plain[5].weight - start).norm()
    assert training.error(slow, blobs(64, 1)) == history.test_error.iloc[-1]


class Hungry(nn.Module):
    """Has memory for a few images only."""

    def __init__(self, room: int, says: str = "DefaultCPUAllocator: can't allocate memory"):
        super().__init__()
        self.layer, self.room, self.says = nn.Linear(64, 2), room, says

    def forward(self, x):
        """(N, 1, 8, 8) -> (N, 2)."""
        if len(x) > self.room:
            raise RuntimeError(self.says)
        return self.layer(x.flatten(1))


def test_out_of_memory_says_the_batch_that_fits():
    with pytest.raises(training.OutOfMemory, match="batch 64 does not fit in memory, 16 does: say batch=16"):
        training.fit(Hungry(20), blobs(128), epochs=1, batch=64)
    with pytest.raises(training.OutOfMemory, match="nor does any smaller one"):
        training.fit(Hungry(0), blobs(128), epochs=1, batch=64)
    with pytest.raises(RuntimeError, match="shapes"):
        training.fit(Hungry(0, "shapes"), blobs(128), epochs=1, batch=64)
