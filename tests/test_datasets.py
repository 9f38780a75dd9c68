"""Glyphs: balanced, repeatable, prefix-stable, harder with difficulty, and safe against a damaged cache."""

import time
import warnings

import numpy as np
import pytest
import torch

from whichbackbone import folders
from whichbackbone.experiments import datasets
from whichbackbone.experiments.datasets import CLASSES, FACES, glyphs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    return tmp_path


def test_shapes_types_and_balance():
    data = glyphs("train", 576, size=24)
    assert data.images.shape == (576, 1, 24, 24) and data.images.dtype == torch.uint8
    assert data.labels.shape == (576,) and data.labels.dtype == torch.int64
    assert torch.bincount(data.labels).tolist() == [16] * len(CLASSES)
    assert len(data[:10]) == 10


def test_same_arguments_same_bytes_and_others_other_bytes():
    first = datasets._draw("train", 40, 24, 0.5, seed=3)
    again = datasets._draw("train", 40, 24, 0.5, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (("valid", 40, 24, 0.5, 3), ("train", 40, 24, 0.6, 3), ("train", 40, 24, 0.5, 4)):
        assert not np.array_equal(first[0], datasets._draw(*other)[0])


def test_the_number_of_threads_does_not_matter():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = datasets._draw("test", 600, 32, 1.0, 0)[0]
        torch.set_num_threads(2)
        assert np.array_equal(one, datasets._draw("test", 600, 32, 1.0, 0)[0])
    finally:
        torch.set_num_threads(threads)


def test_fewer_images_are_the_first_ones():
    many, few = glyphs("train", 700, size=20), glyphs("train", 600, size=20)
    assert torch.equal(many.images[:600], few.images) and torch.equal(many.labels[:600], few.labels)


def test_test_faces_are_held_out():
    assert FACES["train"] == FACES["valid"]
    assert not set(FACES["test"]) & set(FACES["train"])


def test_every_face_draws_every_class_as_another_shape():
    """A face that lacks a character draws the same box for all: no two classes may be equal, none blank."""
    atlas = datasets._atlas(FACES["train"] + FACES["test"], 40)
    for face in atlas.flatten(2):
        assert face.sum(1).min() > 20
        distances = torch.cdist(face, face) + torch.eye(len(CLASSES)) * 99
        assert distances.min() > 0.5


def test_glyphs_are_centred_and_inside():
    clean = glyphs("train", 576, difficulty=0).images.float()
    border = torch.cat([clean[..., 0, :].flatten(), clean[..., -1, :].flatten(), clean[..., 0].flatten()])
    assert border.max() == 0
    rows = torch.arange(32.0)
    middle = (clean.sum(3) * rows).sum() / clean.sum()
    assert abs(middle - 15.5) < 1


def test_difficulty_makes_it_harder():
    """A template matcher (nearest mean of the training images) makes more errors at every step."""
    errors = []
    for difficulty in (0, 0.5, 1):
        train, test = glyphs("train", 2304, 20, difficulty), glyphs("test", 576, 20, difficulty)
        means = torch.stack([train.images[train.labels == c].float().mean(0).flatten() for c in range(len(CLASSES))])
        nearest = torch.cdist(test.images.flatten(1).float(), means).argmin(1)
        errors.append((nearest != test.labels).float().mean().item())
    assert errors == sorted(errors) and errors[0] < 0.3 and errors[2] - errors[0] > 0.3


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"n": 0}, {"size": 64}, {"difficulty": -1}, {"seed": -1}])
def test_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="expected"):
        glyphs(**{"split": "train", "n": 10, **wrong})


def test_missing_face(monkeypatch):
    monkeypatch.setitem(FACES, "train", ("NoSuchFace",))
    with pytest.raises(RuntimeError, match="NoSuchFace.*reinstall matplotlib"):
        glyphs("train", 10)


def test_second_call_reads_the_cache(monkeypatch):
    first = glyphs("train", 30)
    monkeypatch.setattr(datasets, "_draw", None)
    assert torch.equal(glyphs("train", 30).images, first.images)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other shape"])
def test_a_damaged_cache_file_is_drawn_again_and_said(own_cache, damage):
    good = glyphs("train", 30)
    [file] = own_cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "other shape":
        np.savez(file, images=np.zeros((3, 1, 32, 32), np.uint8), labels=np.zeros(3, np.int64))
    else:
        file.write_bytes({"cut": content[:900], "flipped": content, "empty": b""}[damage])
    with pytest.warns(UserWarning, match="damaged and is drawn again"):
        assert torch.equal(glyphs("train", 30).images, good.images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        glyphs("train", 30)
    assert [f.suffix for f in own_cache.iterdir()] == [".npz"]


def test_an_unwritable_cache_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="not cached"):
        assert len(glyphs("train", 10)) == 10


def test_cache_folder_of_an_installed_package(tmp_path, monkeypatch):
    monkeypatch.delenv("WHICHBACKBONE_CACHE")
    assert folders.cache_folder() == folders.DATA / "cache", "in a checkout of the repository"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(folders, "REPOSITORY", tmp_path / "site-packages")
    assert folders.cache_folder() == tmp_path / "which-backbone"


def test_rate_on_one_core():
    """3,000 images a second, counted in processor time so that a busy machine does not fail it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        datasets._draw("train", 576, 32, 1.0, 0)
        start = time.process_time()
        datasets._draw("train", 5760, 32, 1.0, 0)
        assert 5760 / (time.process_time() - start) >= 3000
    finally:
        torch.set_num_threads(threads)
