"""Splits keep their proportions, activations are those of the net, scores are right by hand, runs repeat."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from whichbackbone import checks, weights
from whichbackbone.evidence import closure
from whichbackbone.experiments import datasets
from whichbackbone.experiments.datasets import FLIPS, LabelledSet
from whichbackbone.experiments.transfer import features, finetuning, heads, scores, splits
from whichbackbone.experiments.transfer.splits import Split
from whichbackbone.models import mobilenet


def cells_of(images: torch.Tensor, probability: torch.Tensor, kind: np.ndarray) -> LabelledSet:
    """Grey cells with the experts' probability of a defect, as `datasets.elpv` gives them."""
    return LabelledSet("cells", images, torch.stack([1 - probability, probability], 1), datasets.ELPV_CLASSES, kind,
                       flips=tuple(FLIPS))


def some_cells(n: int = 96, size: int = 32) -> LabelledSet:
    """Cells whose upper half is bright where they are defective."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (n, 1, size, size), generator=g)
    probability = torch.tensor([0.0, 0.0, 1 / 3, 1.0])[torch.arange(n) % 4]
    images[probability > 0.5, :, : size // 2] += 130
    kind = np.array(["mono", "poly"])[np.arange(n) // 4 % 2]
    return cells_of(images.byte(), probability, kind)


def some_signs(n: int = 90, size: int = 32) -> LabelledSet:
    """RGB images of three classes, each bright in a channel of its own at the top; upside down they would mislead."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (n, 3, size, size), generator=g)
    labels = torch.arange(n) % 3
    for i, label in enumerate(labels):
        images[i, label, : size // 2] += 130
    targets = torch.nn.functional.one_hot(labels, 3).float()
    targets[0] = torch.tensor([0.6, 0.3, 0.1])  # one label is unsure
    return LabelledSet("signs", images.byte(), targets, ("stop", "go", "wait"), flips=("as it is", "left-right"))


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> str:
    """A small net that stands for a pretrained one, and a cache of its own."""
    net = checks.randomise(mobilenet.mobilenet_v2(mobilenet.V2Row(width=0.25)))
    found = SimpleNamespace(sha256="0" * 64, preprocessing=weights.Preprocessing())
    monkeypatch.setattr(features, "pretrained", lambda name: (copy.deepcopy(net), found))
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    return "tiny"


def test_folds_test_every_cell_once_and_are_stratified():
    cells = some_cells(96)
    cut = splits.folds(cells, 0)
    assert sorted(np.concatenate([s.test for s in cut])) == list(range(96))
    for s in cut:
        assert len(s.test) == 24 and not set(s.train) & set(s.test)
        assert pd.Series(cells.strata[s.test]).value_counts().tolist() == [9, 9, 3, 3]
    assert any((a.test != b.test).any() for a, b in zip(cut, splits.folds(cells, 1), strict=True))


def test_three_splits_test_every_cell_once_but_those_that_choose():
    cells = some_cells(400)
    cut = [splits.split(cells, seed) for seed in range(3)]
    safe = splits.tuning_indices(cells)
    assert len(safe) == 100 and sorted(np.concatenate([safe, *(s.test for s in cut)])) == list(range(400))
    for s in cut:
        assert len(s.train) == 300 and not set(s.train) & set(s.test) and set(safe) <= set(s.train)
        shares = [[np.mean(cells.strata[part] == t) for t in sorted(set(cells.strata))] for part in (s.train, s.test)]
        assert np.allclose(*shares, atol=0.01)
    again, other = splits.split(cells, 0), splits.split(cells, 3)
    assert np.array_equal(cut[0].test, again.test) and not np.array_equal(cut[0].test, other.test)
    assert set(safe) <= set(other.train)


def test_too_few_cells_of_a_class_cannot_be_folded():
    cells = some_cells(28)  # three defective cells of one type for four folds
    with pytest.raises(ValueError, match="and 4 of each in all .* has 3"):
        splits.folds(cells, 0)


def test_a_subset_is_stratified_or_refused():
    cells = some_cells(400)
    train = splits.split(cells, 0).train
    part = splits.subset(cells, train, 0.1, 0)
    assert len(part) == 30 and set(part) <= set(train) and set(cells.strata[part]) == set(cells.strata)
    assert splits.subset(cells, train, 1, 0) is train
    with pytest.raises(ValueError, match="cannot be stratified: expected at least one image for each of 4"):
        splits.subset(cells, train, 0.01, 0)
    with pytest.raises(ValueError, match="at most 1"):
        splits.subset(cells, train, 1.5, 0)


def test_activations_are_those_of_the_net_for_every_flip_and_are_stored(tiny, monkeypatch):
    cells = some_cells(20)
    net, found = features.pretrained(tiny)
    file = features.activations(tiny, 2, 32, cells, flips=4, threads=1)
    data = features.read(file)
    x = features.flipped(cells.images, cells.versions()).float() / 127.5 - 1
    with torch.no_grad():
        body = features.trunk(net, 2, found.preprocessing, 1)
        expected = body(x)
        whole = nn.Sequential(body, *net.stages[2:], *net.head[:-1])(x[:20])
    assert data.dtype == torch.float16 and data.shape == expected.shape
    assert (data.float() - expected).abs().max() < 2e-3 * expected.abs().max()
    pooled = features.read(features.activations(tiny, -1, 32, cells, threads=1))
    assert torch.allclose(pooled.float(), whole, atol=2e-3 * float(whole.abs().max()))
    monkeypatch.setattr(features, "run_once", None)
    assert features.activations(tiny, 2, 32, cells, flips=4) == file


def test_activations_go_on_from_those_of_an_earlier_stage(tiny):
    cells = some_cells(20)
    at_once = features.read(features.activations(tiny, 3, 32, cells, flips=2, threads=1)).float()
    features.activations(tiny, 3, 32, cells, flips=2, threads=1).unlink()
    in_steps = features.read(features.activations(tiny, 3, 32, cells, flips=2, threads=1, after=1)).float()
    assert (in_steps - at_once).abs().max() < 5e-3 * at_once.abs().max()


@pytest.mark.parametrize("after", [0, 2])
def test_pooled_stages_are_means_and_maxima_of_the_maps(tiny, after):
    cells = some_cells(20)
    net, found = features.pretrained(tiny)
    file, columns = features.pooled_stages(tiny, 32, cells, flips=2, threads=1, after=after)
    seen = features.read(file)
    x = features.flipped(cells.images, cells.versions())[:40].float() / 127.5 - 1
    with torch.no_grad():
        maps = features.trunk(net, 3, found.preprocessing, 1)(x)
        feature = features.trunk(net, -1, found.preprocessing, 1)(x)
    close = dict(rtol=1e-2, atol=5e-3 * float(maps.abs().max()))
    assert torch.allclose(seen[:, columns[3, "mean"]], maps.mean((2, 3)), **close)
    assert torch.allclose(seen[:, columns[3, "max"]], maps.amax((2, 3)), **close)
    with torch.no_grad():
        given = features.trunk(net, 2, found.preprocessing, 1)(x)
    assert torch.allclose(seen[:, columns[2, "max"]], given.amax((2, 3)), **close)
    assert torch.allclose(seen[:, columns["head", "mean"]], feature, rtol=1e-2, atol=5e-3 * float(feature.max()))
    assert not torch.allclose(seen[:, columns[3, "mean"]], maps.amax((2, 3)), **close)
    assert list(columns)[0] == (max(after, 1), "mean") and max(s.stop for s in columns.values()) == seen.shape[1]


def test_an_unsure_cell_weighs_a_third_and_counts_in_the_fit():
    cells = some_cells(90)
    weight = cells.certainty
    assert np.allclose(weight, np.where(np.isclose(cells.targets[:, 1], 1 / 3), 1 / 3, 1))
    x, y = np.random.default_rng(0).normal(size=(90, 6)), np.arange(90) % 2
    split = Split(np.arange(60), np.arange(60, 90))
    p = torch.from_numpy(y).float()
    sure = cells_of(cells.images, p, cells.groups)
    unsure = cells_of(cells.images, torch.where(torch.arange(90) < 30, (1 + p) / 3, p), cells.groups)
    p = [heads.fit_head("probe", 1e-2, x, part, split)["p"] for part in (sure, unsure)]
    assert torch.equal(sure.labels, unsure.labels) and not np.allclose(*p)


def test_what_does_not_fit_in_16_bits_is_refused():
    with pytest.raises(OverflowError, match="do not fit in float16"):
        features.run_once(Loud(), torch.full((4, 1, 8, 8), 255, dtype=torch.uint8), batch=4)


class Loud(nn.Module):
    """Values beyond 16 bits."""

    def forward(self, x):
        """(N, C, H, W) -> the same."""
        return x * 1e6


def test_other_images_do_not_get_the_stored_activations(tiny):
    cells = some_cells(20)
    other = cells_of(cells.images.flip(0), cells.targets[:, 1], cells.groups)  # the same ones in another order
    files = [features.activations(tiny, 1, 32, data, threads=1) for data in (cells, other)]
    files.append(features.activations(tiny, 1, 32, cells, flips=2, threads=1))
    assert len(set(files)) == 3


def test_grey_and_colour_become_what_the_weights_expect():
    pre = weights.Preprocessing()
    y = features.Standardise(pre.mean, pre.std, 1)(torch.full((1, 1, 2, 2), 200 / 127.5 - 1))
    expected = [(200 / 255 - m) / s for m, s in zip(pre.mean, pre.std, strict=True)]
    assert y[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    colour = torch.tensor([200, 100, 0]).view(1, 3, 1, 1) / 127.5 - 1
    y = features.Standardise(pre.mean, pre.std, 3)(colour)
    expected = [(v / 255 - m) / s for v, m, s in zip((200, 100, 0), pre.mean, pre.std, strict=True)]
    assert y.flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_rows_hold_all_flips_of_the_chosen_cells():
    data = torch.arange(12.0).view(12, 1)  # 4 cells in 3 versions
    images = finetuning.rows(data, torch.arange(4), np.array([1, 3]), flips=3)
    assert images.images.flatten().tolist() == [1, 3, 5, 7, 9, 11] and images.labels.tolist() == [1, 3] * 3


def test_a_run_repeats_learns_and_differs_with_the_seed(tiny):
    cells = some_cells()
    split = splits.split(cells, 0)

    def run(seed, **how):
        how = dict(epochs=4, lr=3e-3, batch=16, optimizer="adamw", freeze_norms=True) | how
        return finetuning.fit_rest(tiny, 6, 32, cells, split, seed=seed, watch=True, flips=2, **how)

    a, b, c = run(0), run(0), run(1)
    assert a["p"] == b["p"] != c["p"] and a["image"] == split.test.tolist()
    auc = scores.score(np.array(a["p"]), cells.labels.numpy()[split.test])["roc_auc"]
    assert auc > 0.7 and len(a["test_accuracy"]) == 4 and a["step_bytes"] > 0
    head = run(0, only_head=True, epochs=1)
    assert head["trained"] == 1280 * 2 + 2 < a["trained"]


def test_scores_by_hand():
    truth, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9])
    s = scores.score(p, truth)
    assert s["accuracy"] == s["balanced_accuracy"] == 0.75 and s["roc_auc"] == 0.875
    assert s["brier"] == pytest.approx((0.01 + 0.36 + 0.16 + 0.01) / 4)
    assert s["ece"] == pytest.approx(0.1 / 4 + abs(0.5 - 0.6) / 2 + 0.1 / 4)
    with pytest.raises(ValueError, match="each class from 0 to 1"):
        scores.score(p, np.zeros(4, int))
    with pytest.raises(ValueError, match="expected probabilities"):
        scores.score(p * 2, truth)


def answers(correct: np.ndarray, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame(dict(seed=seed, image=np.arange(len(correct)), correct=correct))


def test_the_paired_test_sees_a_difference_and_none_where_there_is_none():
    rng = np.random.default_rng(0)
    base = rng.random(600) < 0.85
    better = base | (rng.random(600) < 0.3)
    found = scores.paired(answers(better), answers(base))
    assert found.value == pytest.approx((better.mean() - base.mean()) * 100)
    assert found.low > 0 and found.n == 600
    shuffled = scores.paired(answers(base), answers(rng.permutation(base)))
    assert shuffled.low <= 0 <= shuffled.high
    # The same cells tested by three seeds are no new evidence.
    thrice = [pd.concat([answers(x, s) for s in range(3)]) for x in (better, base)]
    again = scores.paired(*thrice)
    assert again.high - again.low == pytest.approx(found.high - found.low, rel=0.1)
    one, three = (scores.accuracy(rows) for rows in (answers(base), thrice[1]))
    assert one.value == pytest.approx(base.mean() * 100) and (one.low, one.high) == (three.low, three.high)
    with pytest.raises(ValueError, match="the same images"):
        scores.paired(answers(better), answers(base[:-1]))


@pytest.mark.parametrize("kind", heads.GRID)
def test_heads_learn_and_choose(kind):
    rng = np.random.default_rng(0)
    y = np.arange(90) % 2
    x = rng.normal(size=(90, 6)) + 4 * y[:, None] - 2
    setting = heads.choose(kind, x, y, np.ones(90))
    assert setting in heads.GRID[kind]
    cells = some_cells(90)
    cells = cells_of(cells.images, torch.from_numpy(y).float(), cells.groups)
    split = Split(np.arange(60), np.arange(60, 90))
    run = heads.fit_head(kind, setting, x, cells, split)
    assert np.mean((np.array(run["p"]) > 0.5) == y[60:]) > 0.9


def test_the_svm_has_the_rbf_kernel_of_sklearn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(120, 40)), np.arange(120) % 2

    def answers(**svc) -> np.ndarray:
        changed = {f"calibratedclassifiercv__estimator__{k}": v for k, v in svc.items()}
        head = heads.head("svm", 3.0).set_params(**changed)
        return head.fit(x[:90], y[:90]).predict_proba(x[90:])[:, 1]

    assert answers() == pytest.approx(answers(kernel="rbf", gamma=0.5 / 40), abs=1e-6)
    assert answers() != pytest.approx(answers(kernel="rbf", gamma="auto"), abs=1e-3)


def test_an_unknown_head_names_those_there_are():
    with pytest.raises(ValueError, match="choose one of probe, svm, knn"):
        heads.head("forest", 1)


def test_a_set_of_three_classes_in_colour_has_its_own_flips(tiny):
    signs = some_signs()
    assert signs.strata.tolist()[:4] == ["0", "1", "2", "0"] and signs.channels == 3 and len(signs.versions()) == 2
    assert signs.certainty[:2] == pytest.approx([0.3, 1])
    net, found = features.pretrained(tiny)
    seen = features.read(features.activations(tiny, 2, 32, signs, flips=2, threads=1)).float()
    x = torch.cat([signs.images, signs.images.flip(3)]).float() / 127.5 - 1
    with torch.no_grad():
        expected = features.trunk(net, 2, found.preprocessing, 3)(x)
    assert seen.shape == expected.shape and (seen - expected).abs().max() < 2e-3 * expected.abs().max()
    file, columns = features.pooled_stages(tiny, 32, signs, flips=2, threads=1)
    pooled = features.read(file)[:, columns[2, "mean"]]
    assert torch.allclose(pooled, expected.mean((2, 3)), rtol=1e-2, atol=5e-3 * float(expected.abs().max()))
    assert features.hogs(signs.images[:2]).shape[0] == 2
    for refused in (features.activations, features.pooled_stages):
        with pytest.raises(ValueError, match=r"signs permits 1 to 2 \(as it is, left-right\)"):
            refused(tiny, *([2] if refused is features.activations else []), 32, signs, flips=3)


@pytest.mark.parametrize("kind", heads.GRID)
def test_heads_answer_for_three_classes(kind):
    signs = some_signs()
    x, y = signs.images[:, :, :16].float().mean(3).flatten(1).numpy(), signs.labels.numpy()
    among = splits.tuning_indices(signs)
    setting = heads.choose(kind, x[among], y[among], signs.certainty[among])
    validated = heads.validated(kind, setting, x, y, signs.certainty)
    assert validated.shape == (90, 3) and np.allclose(validated.sum(1), 1) and validated.min() > 5e-4
    split = splits.split(signs, 0)
    run = heads.fit_head(kind, setting, x, signs, split)
    found = scores.score(run["p"], y[split.test])
    assert np.shape(run["p"]) == (len(split.test), 3) and found["accuracy"] == (
        scores.answered(run["p"]) == y[split.test]).mean() > 0.9


def test_tuning_learns_three_classes_from_the_flips_that_are_permitted(tiny, monkeypatch):
    signs, copies = some_signs(), []
    fit = finetuning.training.fit
    monkeypatch.setattr(finetuning.training, "fit", lambda *a, **k: copies.append(k["copies"]) or fit(*a, **k))
    split = splits.split(signs, 0)
    how = dict(seed=0, epochs=4, lr=3e-3, batch=16, optimizer="adamw", freeze_norms=True)
    late = finetuning.fit_rest(tiny, 6, 32, signs, split, watch=True, **how)
    whole = finetuning.fit_whole(finetuning.whole(tiny, signs), 32, signs, split, **how | dict(epochs=1))
    truth = signs.labels.numpy()[split.test]
    assert copies == [2, 2] and np.shape(late["p"]) == np.shape(whole["p"]) == (len(split.test), 3)
    assert scores.score(late["p"], truth)["roc_auc"] > 0.7 and late["trained"] > 1280 * 3 + 3
    with pytest.raises(ValueError, match="signs permits 1 to 2"):
        finetuning.fit_rest(tiny, 6, 32, signs, split, flips=4, **how)


def test_scores_of_three_classes_by_hand():
    truth, p = np.array([0, 1, 2, 2]), np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.5, 0.3, 0.2]])
    s = scores.score(p, truth)
    assert s["accuracy"] == 0.75 and s["balanced_accuracy"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert s["brier"] == pytest.approx((0.06 + 0.14 + 0.26 + 0.98) / 4 / 2)
    assert s["roc_auc"] == 1
    with pytest.raises(ValueError, match="each class from 0 to 2"):
        scores.score(p, np.array([0, 1, 1, 0]))
    with pytest.raises(ValueError, match="expected probabilities"):
        scores.score(p / 2, truth)


def test_probabilities_of_two_classes_are_written_by_the_second():
    both = np.array([[0.9, 0.1], [0.3, 0.7]])
    assert scores.compact(both).tolist() == [0.1, 0.7] and np.allclose(scores.columns([0.1, 0.7]), both)
    three = np.eye(3)
    assert scores.compact(three) is three and scores.answered(three).tolist() == [0, 1, 2]
    assert scores.answered([0.5, 0.51]).tolist() == [0, 1]
    assert scores.score([0.1, 0.6, 0.6, 0.9], [0, 0, 1, 1]) == scores.score(
        scores.columns([0.1, 0.6, 0.6, 0.9]), np.array([0, 0, 1, 1]))


def test_splits_do_not_load_the_trunk():
    reached = {name.rpartition(".")[2] for name in closure.closure(splits.__name__)}
    assert "datasets" in reached
    assert not reached & {"features", "finetuning", "training", "weights", "runtimes", "models"}


BAD = dict(
    images=dict(images=torch.zeros(4, 2, 8, 8, dtype=torch.uint8)), bytes=dict(images=torch.zeros(4, 1, 8, 8)),
    targets=dict(targets=torch.zeros(4, 3)), groups=dict(groups=np.array(["a"])), names=dict(names=np.array(["a"])),
    flips=dict(flips=("left-right",)), unknown=dict(flips=("as it is", "diagonal")),
    twice=dict(flips=("as it is", "up-down", "up-down")), classes=dict(classes=("one",), targets=torch.ones(4, 1)),
)  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_set_whose_parts_do_not_fit_is_refused(fault):
    good = dict(name="some", images=torch.zeros(4, 1, 8, 8, dtype=torch.uint8), targets=torch.ones(4, 2) / 2,
                classes=("a", "b"))  # fmt: skip
    assert len(LabelledSet(**good)) == 4
    with pytest.raises(ValueError, match="some .*expected"):
        LabelledSet(**good | BAD[fault])
