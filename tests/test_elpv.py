"""The solar cells are read from the wheel without importing it, and every way to damage it is named."""

import base64
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whichbackbone.experiments import datasets

ROWS = [("cell0001.png", "0.0", "mono"), ("cell0002.png", "0.3333333333333333", "poly"),
        ("cell0003.png", "0.6666666666666666", "mono"), ("cell0004.png", "1.0", "poly")]  # fmt: skip


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel of four cells, installed in a folder that is searched first; the path of its data."""
    data, info = tmp_path / "elpv_dataset" / "data", tmp_path / "elpv_dataset-1.0.0.post1.dist-info"
    (data / "images").mkdir(parents=True)
    info.mkdir()
    (tmp_path / "elpv_dataset" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elpv-dataset\nVersion: 1.0.0.post1\n")
    for number, (name, *_) in enumerate(ROWS):
        Image.fromarray(np.full((300, 300), 10 * number + 5, np.uint8)).save(data / "images" / name)
    (data / "labels.csv").write_text("".join(f"images/{name}  {p}  {kind}\n" for name, p, kind in ROWS))
    lines = []
    for path in sorted((data / "images").iterdir()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{path.relative_to(tmp_path).as_posix()},sha256={digest},{path.stat().st_size}\n")
    (info / "RECORD").write_text("".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    return data


def test_reads_images_and_labels_without_importing_the_wheel(wheel):
    cells = datasets.elpv()
    assert cells.images.shape == (4, 1, 300, 300) and cells.images[:, 0, 0, 0].tolist() == [5, 15, 25, 35]
    assert cells.labels.tolist() == [0, 0, 1, 1] and cells.groups.tolist() == ["mono", "poly"] * 2
    assert torch.allclose(cells.targets[1], torch.tensor([2 / 3, 1 / 3])) and cells.strata[3] == "1 poly"
    assert cells.channels == 1 and cells.classes == ("whole", "defective") and len(cells.versions()) == 4
    assert "elpv_dataset" not in sys.modules
    assert len(datasets.elpv(limit=2)) == 2 and cells[torch.tensor([3])].names.tolist() == ["images/cell0004.png"]


def test_reads_once_in_a_process_if_told_so(wheel):
    datasets.elpv_once.cache_clear()
    cells = datasets.elpv_once(3)
    (wheel / "labels.csv").unlink()
    assert datasets.elpv_once(3) is cells and len(cells) == 3
    datasets.elpv_once.cache_clear()  # other tests find no cells of this wheel


def damage(data: Path, what: str) -> None:
    """Plant one fault."""
    image, labels = data / "images" / "cell0002.png", data / "labels.csv"
    text = labels.read_text()
    if what == "image missing":
        image.unlink()
    elif what == "image cut":
        image.write_bytes(image.read_bytes()[:50])
    elif what == "another image":
        Image.fromarray(np.zeros((300, 300), np.uint8)).save(image)
    elif what == "image without label":
        (data / "images" / "cell9999.png").write_bytes(image.read_bytes())
    elif what == "labels missing":
        labels.unlink()
    elif what == "labels empty":
        labels.write_text("\n")
    else:
        labels.write_text({"odd probability": text.replace("1.0", "0.5"), "odd type": text.replace("poly", "amorph"),
                           "label twice": text + text.splitlines()[0] + "\n"}[what])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("image missing", r"lists 1 images that are missing, the first is images/cell0002.png"),
        ("image cut", r"cell0002.png .*damaged .*SHA-256"),
        ("another image", r"cell0002.png .*damaged .*SHA-256"),
        ("image without label", r"1 images .* have no row in labels.csv, the first is images/cell9999.png"),
        ("labels missing", r"labels.csv .*cannot be read"),
        ("labels empty", r"labels.csv .*is empty"),
        ("odd probability", r"line 4 of labels.csv .*expected an image, a probability"),
        ("odd type", r"line 2 of labels.csv .*mono or poly"),
        ("label twice", r"lists images/cell0001.png in lines 1 and 5"),
    ],
)
def test_planted_damage_is_named_with_its_repair(wheel, what, says):
    damage(wheel, what)
    with pytest.raises(datasets.DataError, match=says + r".*pip install --force-reinstall"):
        datasets.elpv()


@pytest.mark.parametrize(("size", "mode"), [((64, 64), "L"), ((300, 300), "RGB")])
def test_an_image_of_another_kind_is_named_even_without_a_hash(wheel, size, mode):
    Image.new(mode, size).save(wheel / "images" / "cell0001.png")
    (wheel.parents[1] / "elpv_dataset-1.0.0.post1.dist-info" / "RECORD").write_text("")
    with pytest.raises(datasets.DataError, match="expected grey, 300 x 300, found"):
        datasets.elpv()


def test_a_missing_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(datasets, "ELPV_WHEEL", "elpv-dataset-that-is-not-there")
    with pytest.raises(datasets.DataError, match="pip install --no-deps"):
        datasets.elpv()
