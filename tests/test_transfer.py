"""Splits keep their proportions, activations are those of the net, scores are right by hand, runs repeat."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from whichbackbone import checks, weights
from whichbackbone.experiments import transfer
from whichbackbone.experiments.datasets import Cells
from whichbackbone.models import mobilenet


def some_cells(n: int = 96, size: int = 32) -> Cells:
    """Cells whose upper half is bright where they are defective."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (n, 1, size, size), generator=g)
    probability = torch.tensor([0.0, 0.0, 1 / 3, 1.0])[torch.arange(n) % 4]
    images[probability > 0.5, :, : size // 2] += 130
    kind = np.array(["mono", "poly"])[np.arange(n) // 4 % 2]
    return Cells(images.byte(), probability, kind, np.array([f"{i}.png" for i in range(n)]))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> str:
    """A small net that stands for a pretrained one, and a cache of its own."""
    net = checks.randomise(mobilenet.mobilenet_v2(mobilenet.V2Row(width=0.25)))
    found = SimpleNamespace(sha256="0" * 64, preprocessing=weights.Preprocessing())
    monkeypatch.setattr(transfer, "pretrained", lambda name: (copy.deepcopy(net), found))
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    return "tiny"


def test_folds_test_every_cell_once_and_are_stratified():
    cells = some_cells(96)
    cut = transfer.folds(cells, 0)
    assert sorted(np.concatenate([s.test for s in cut])) == list(range(96))
    for s in cut:
        assert len(s.test) == 24 and not set(s.train) & set(s.test)
        assert pd.Series(cells.strata[s.test]).value_counts().tolist() == [9, 9, 3, 3]
    assert any((a.test != b.test).any() for a, b in zip(cut, transfer.folds(cells, 1), strict=True))


def test_three_splits_test_every_cell_once_but_those_that_choose():
    cells = some_cells(400)
    cut = [transfer.split(cells, seed) for seed in range(3)]
    safe = transfer.choosing(cells)
    assert len(safe) == 100 and sorted(np.concatenate([safe, *(s.test for s in cut)])) == list(range(400))
    for s in cut:
        assert len(s.train) == 300 and not set(s.train) & set(s.test) and set(safe) <= set(s.train)
        shares = [[np.mean(cells.strata[part] == t) for t in sorted(set(cells.strata))] for part in (s.train, s.test)]
        assert np.allclose(*shares, atol=0.01)
    again, other = transfer.split(cells, 0), transfer.split(cells, 3)
    assert np.array_equal(cut[0].test, again.test) and not np.array_equal(cut[0].test, other.test)
    assert set(safe) <= set(other.train)


def test_too_few_cells_of_a_class_cannot_be_folded():
    cells = some_cells(28)  # three defective cells of one type for four folds
    with pytest.raises(ValueError, match="and 4 of each in all .* has 3"):
        transfer.folds(cells, 0)


def test_a_subset_is_stratified_or_refused():
    cells = some_cells(400)
    train = transfer.split(cells, 0).train
    part = transfer.subset(cells, train, 0.1, 0)
    assert len(part) == 30 and set(part) <= set(train) and set(cells.strata[part]) == set(cells.strata)
    assert transfer.subset(cells, train, 1, 0) is train
    with pytest.raises(ValueError, match="cannot be stratified: expected at least one cell for each of 4"):
        transfer.subset(cells, train, 0.01, 0)
    with pytest.raises(ValueError, match="at most 1"):
        transfer.subset(cells, train, 1.5, 0)


def test_activations_are_those_of_the_net_for_every_flip_and_are_kept(tiny, monkeypatch):
    cells = some_cells(20)
    net, found = transfer.pretrained(tiny)
    file = transfer.activations(tiny, 2, 32, cells, flips=4, threads=1)
    data = transfer.read(file)
    x = transfer.flipped(cells.images).float() / 127.5 - 1
    with torch.no_grad():
        body = transfer.trunk(net, 2, found.preprocessing)
        expected = body(x)
        whole = nn.Sequential(body, *net.stages[2:], *net.head[:-1])(x[:20])
    assert data.dtype == torch.float16 and data.shape == expected.shape
    assert (data.float() - expected).abs().max() < 2e-3 * expected.abs().max()
    pooled = transfer.read(transfer.activations(tiny, -1, 32, cells, threads=1))
    assert torch.allclose(pooled.float(), whole, atol=2e-3 * float(whole.abs().max()))
    monkeypatch.setattr(transfer, "run_once", None)
    assert transfer.activations(tiny, 2, 32, cells, flips=4) == file


def test_activations_go_on_from_those_of_an_earlier_stage(tiny):
    cells = some_cells(20)
    at_once = transfer.read(transfer.activations(tiny, 3, 32, cells, flips=2, threads=1)).float()
    transfer.activations(tiny, 3, 32, cells, flips=2, threads=1).unlink()
    in_steps = transfer.read(transfer.activations(tiny, 3, 32, cells, flips=2, threads=1, after=1)).float()
    assert (in_steps - at_once).abs().max() < 5e-3 * at_once.abs().max()


@pytest.mark.parametrize("after", [0, 2])
def test_glances_are_means_and_maxima_of_the_maps(tiny, after):
    cells = some_cells(20)
    net, found = transfer.pretrained(tiny)
    file, columns = transfer.glances(tiny, 32, cells, flips=2, threads=1, after=after)
    seen = transfer.read(file)
    x = transfer.flipped(cells.images)[:40].float() / 127.5 - 1
    with torch.no_grad():
        maps = transfer.trunk(net, 3, found.preprocessing)(x)
        feature = transfer.trunk(net, -1, found.preprocessing)(x)
    close = dict(rtol=1e-2, atol=5e-3 * float(maps.abs().max()))
    assert torch.allclose(seen[:, columns[3, "mean"]], maps.mean((2, 3)), **close)
    assert torch.allclose(seen[:, columns[3, "max"]], maps.amax((2, 3)), **close)
    with torch.no_grad():
        given = transfer.trunk(net, 2, found.preprocessing)(x)
    assert torch.allclose(seen[:, columns[2, "max"]], given.amax((2, 3)), **close)
    assert torch.allclose(seen[:, columns["head", "mean"]], feature, rtol=1e-2, atol=5e-3 * float(feature.max()))
    assert not torch.allclose(seen[:, columns[3, "mean"]], maps.amax((2, 3)), **close)
    assert list(columns)[0] == (max(after, 1), "mean") and max(s.stop for s in columns.values()) == seen.shape[1]


def test_an_unsure_cell_weighs_a_third_and_counts_in_the_fit():
    cells = some_cells(90)
    weight = transfer.certainty(cells)
    assert np.allclose(weight, np.where(np.isclose(cells.probability, 1 / 3), 1 / 3, 1))
    x, y = np.random.default_rng(0).normal(size=(90, 6)), np.arange(90) % 2
    split = transfer.Split(np.arange(60), np.arange(60, 90))
    sure = Cells(cells.images, torch.from_numpy(y).float(), cells.kind, cells.names)
    unsure = Cells(cells.images, torch.where(torch.arange(90) < 30, (1 + sure.probability) / 3, sure.probability),
                   cells.kind, cells.names)
    p = [transfer.fit_head("probe", 1e-2, x, part, split)["p"] for part in (sure, unsure)]
    assert torch.equal(sure.defective, unsure.defective) and not np.allclose(*p)


def test_what_does_not_fit_in_16_bits_is_refused():
    with pytest.raises(OverflowError, match="do not fit in float16"):
        transfer.run_once(Loud(), torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), batch=4)


class Loud(nn.Module):
    """Values beyond 16 bits."""

    def forward(self, x):
        """(N, C, H, W) -> the same."""
        return x * 1e6


def test_other_images_do_not_get_the_kept_activations(tiny):
    cells = some_cells(20)
    other = Cells(cells.images.flip(0).clamp(1), cells.probability, cells.kind, cells.names)
    assert transfer.activations(tiny, 1, 32, cells, threads=1) != transfer.activations(tiny, 1, 32, other, threads=1)


def test_grey_becomes_what_the_weights_expect():
    pre = weights.Preprocessing()
    y = transfer.Grey(pre.mean, pre.std)(torch.full((1, 1, 2, 2), 200 / 127.5 - 1))
    expected = [(200 / 255 - m) / s for m, s in zip(pre.mean, pre.std, strict=True)]
    assert y[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_hold_all_flips_of_the_chosen_cells():
    data = torch.arange(12.0).view(12, 1)  # 4 cells in 3 versions
    images = transfer.rows(data, torch.arange(4), np.array([1, 3]), flips=3)
    assert images.images.flatten().tolist() == [1, 3, 5, 7, 9, 11] and images.labels.tolist() == [1, 3] * 3


def test_a_run_repeats_learns_and_differs_with_the_seed(tiny):
    cells = some_cells()
    split = transfer.split(cells, 0)

    def run(seed, **how):
        how = dict(epochs=4, lr=3e-3, batch=16, optimizer="adamw", freeze_norms=True) | how
        return transfer.fit_rest(tiny, 6, 32, cells, split, seed=seed, watch=True, flips=2, **how)

    a, b, c = run(0), run(0), run(1)
    assert a["p"] == b["p"] != c["p"] and a["cell"] == split.test.tolist()
    auc = transfer.scores(np.array(a["p"]), cells.defective.numpy()[split.test])["roc_auc"]
    assert auc > 0.7 and len(a["test_accuracy"]) == 4 and a["step_bytes"] > 0
    head = run(0, only_head=True, epochs=1)
    assert head["trained"] == 1280 * 2 + 2 < a["trained"]


def test_scores_by_hand():
    truth, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9])
    s = transfer.scores(p, truth)
    assert s["accuracy"] == s["balanced_accuracy"] == 0.75 and s["roc_auc"] == 0.875
    assert s["brier"] == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    assert s["ece"] == pytest.approx(0.1 / 4 + abs(0.5 - 0.6) / 2 + 0.1 / 4)
    with pytest.raises(ValueError, match="both classes"):
        transfer.scores(p, np.zeros(4, int))
    with pytest.raises(ValueError, match="expected probabilities"):
        transfer.scores(p * 2, truth)


def answers(correct: np.ndarray, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(dict(seed=seed, cell=np.arange(len(correct)), correct=correct))


def test_the_paired_test_sees_a_difference_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    base = rng.random(600) < 0.85
    better = base | (rng.random(600) < 0.3)
    found = transfer.paired(answers(better), answers(base))
    assert found["difference"] == pytest.approx((better.mean() - base.mean()) * 100)
    assert found["low"] > 0 and found["p"] < 0.01
    shuffled = transfer.paired(answers(base), answers(rng.permutation(base)))
    assert shuffled["low"] <= 0 <= shuffled["high"] and shuffled["p"] > 0.05
    # The same cells tested by three seeds are no new evidence.
    thrice = [pd.concat([answers(x, s) for s in range(3)]) for x in (better, base)]
    again = transfer.paired(*thrice)
    assert again["high"] - again["low"] == pytest.approx(found["high"] - found["low"], rel=0.1)
    with pytest.raises(ValueError, match="the same cells"):
        transfer.paired(answers(better), answers(base[:-1]))


@pytest.mark.parametrize("kind", transfer.GRID)
def test_heads_learn_and_choose(kind):
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    x = rng.normal(size=(90, 6)) + 4 * y[:, None] - 2
    setting = transfer.choose(kind, x, y, np.ones(90))
    assert setting in transfer.GRID[kind]
    cells = some_cells(90)
    cells = Cells(cells.images, torch.from_numpy(y).float(), cells.kind, cells.names)
    split = transfer.Split(np.arange(60), np.arange(60, 90))
    run = transfer.fit_head(kind, setting, x, cells, split)
    assert np.mean((np.array(run["p"]) > 0.5) == y[60:]) > 0.9


def test_the_svm_has_the_rbf_kernel_of_sklearn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 40)), np.arange(120) % 2

    def answers(**svc) -> np.ndarray:
        changed = {f"calibratedclassifiercv__estimator__{k}": v for k, v in svc.items()}
        head = transfer.head("svm", 3.0).set_params(**changed)
        return head.fit(x[:90], y[:90]).predict_proba(x[90:])[:, 1]

    assert answers() == pytest.approx(answers(kernel="rbf", gamma=0.5 / 40), abs=1e-6)
    assert answers() != pytest.approx(answers(kernel="rbf", gamma="auto"), abs=1e-3)


def test_an_unknown_head_names_those_there_are():
    with pytest.raises(ValueError, match="choose one of probe, svm, knn"):
        transfer.head("forest", 1)
