"""What INT8 is calibrated on: photographs, a reader's folder, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from whichbackbone.measure import calibration


def test_photographs_are_always_the_same_and_normalised():
    images = calibration.photographs(64, 16)
    assert images.shape == (16, 3, 64, 64) and torch.equal(images, calibration.photographs(64, 16))
    assert images.isfinite().all() and 0.3 < float(images.std()) < 2 and abs(float(images.mean())) < 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in images}) == 16, "no crop stands twice"
    assert not set(calibration.PHOTOGRAPHS) & set(calibration.HELD_OUT)
    assert not torch.equal(images, calibration.photographs(64, 16, held_out=True))
    few = calibration.photographs(64, 4, mean=(0, 0, 0), std=(1, 1, 1))
    assert 0 <= float(few.min()) and float(few.max()) <= 1


def _draw(path, size, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 200, np.uint8)).convert(mode).save(path)


def test_a_folder_gives_its_images_whatever_their_size(tmp_path):
    for i in range(10):
        _draw(tmp_path / f"class {i % 2}" / f"ü{i}.png", (40 + i, 90 - i), mode=("RGB", "L", "RGBA")[i % 3])
    images = calibration.folder(tmp_path, 32)
    assert images.shape == (10, 3, 32, 32) and float(images.std(dim=(2, 3)).max()) < 1e-5
    assert calibration.folder(str(tmp_path), 32, count=8).shape[0] == 8


@pytest.mark.parametrize("count", [0, 1, calibration.LEAST - 1])
def test_too_small_a_folder_is_refused(tmp_path, count):
    for i in range(count):
        _draw(tmp_path / f"{i}.jpg", (20, 20))
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(ValueError, match=f"holds {count} images .*, calibrating needs at least 8"):
        calibration.folder(tmp_path, 32)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    for i in range(8):
        _draw(tmp_path / f"{i}.png", (20, 20))
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="calibration image 3.png cannot be read"):
        calibration.folder(tmp_path, 32)


def test_what_cannot_calibrate_a_net_is_refused():
    x, images = torch.zeros(1, 3, 16, 16), torch.zeros(8, 3, 16, 16)
    assert calibration.checked(images, x) is images
    with pytest.raises(ValueError, match="1 calibration images: give at least 8"):
        calibration.checked(images[:1], x)
    with pytest.raises(ValueError, match=r"calibration images of \(3, 16, 16\), but the net gets \(3, 32, 32\)"):
        calibration.checked(images, torch.zeros(1, 3, 32, 32))
    images[5, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="calibration image 5 holds values that are no numbers"):
        calibration.checked(images, x)
