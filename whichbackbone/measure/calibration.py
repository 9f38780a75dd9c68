"""Images on which INT8 is calibrated: photographs that the requirements carry, or those of a reader's folder."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's training images, which most weights expect
# Photographs in colour of people, animals, things and landscapes: (package, file). Those held out are for testing.
PHOTOGRAPHS = (
    ("skimage", "data/astronaut.png"), ("skimage", "data/chelsea.png"), ("skimage", "data/coffee.png"),
    ("skimage", "data/motorcycle_left.png"),
)  # fmt: skip
HELD_OUT = (
    ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg"), ("skimage", "data/rocket.jpg"),
)  # fmt: skip
COUNT = 32
LEAST = 8  # images: the range of an activation that fewer show is chance
SMALLEST = 0.25  # share of a photograph's shorter side that a crop takes at least
KINDS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def photographs(
    side: int, count: int = COUNT, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD, held_out: bool = False
) -> Tensor:
    """Crops of the photographs, always the same: (count, 3, side, side), normalised.

    Args:
        side: pixels.
        count: crops. Each photograph gives about as many as any other, of sizes between a quarter and the whole.
        mean, std: of the three channels, that the weights expect.
        held_out: crops of the photographs that are kept for testing.
    """
    pictures = [_opened(Path(str(files(package) / name))) for package, name in (HELD_OUT if held_out else PHOTOGRAPHS)]
    random = np.random.default_rng(0)
    return _normalised([_crop(pictures[i % len(pictures)], side, random) for i in range(count)], mean, std)


def folder(
    path: str | Path, side: int, count: int = COUNT, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD
) -> Tensor:
    """The first images of a folder and the folders in it, in the order of their names: (n, 3, side, side), normalised.

    Images of any size: the middle square, resized.

    Raises:
        ValueError: if there are fewer than `LEAST` images.
        OSError: for an image that cannot be read; it names the file.
    """
    names = sorted(p for p in Path(path).expanduser().rglob("*") if p.suffix.lower() in KINDS)
    if len(names) < LEAST:
        raise ValueError(f"{path} holds {len(names)} images ({', '.join(KINDS)}), calibrating needs at least {LEAST}")
    return _normalised([_middle(_opened(name), side) for name in names[:count]], mean, std)


def checked(images: Tensor, x: Tensor) -> Tensor:
    """Images that fit a net's input.

    Args:
        images: (n, channels, height, width).
        x: the net's example.

    Raises:
        ValueError: for fewer than `LEAST`, another shape, or values that are no numbers.
    """
    if len(images) < LEAST:
        raise ValueError(f"{len(images)} calibration images: give at least {LEAST}")
    if images.shape[1:] != x.shape[1:]:
        raise ValueError(f"calibration images of {tuple(images.shape[1:])}, but the net gets {tuple(x.shape[1:])}")
    if bad := [i for i, image in enumerate(images) if not bool(image.isfinite().all())]:
        raise ValueError(f"calibration image {bad[0]} holds values that are no numbers")
    return images


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        raise OSError(f"calibration image {path.name} cannot be read: {error}") from None


def _crop(picture: Image.Image, side: int, random: np.random.Generator) -> Image.Image:
    short = min(picture.size)
    edge = int(random.uniform(SMALLEST, 1) * short)
    left, top = (int(random.integers(0, length - edge + 1)) for length in picture.size)
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def _middle(picture: Image.Image, side: int) -> Image.Image:
    (width, height), edge = picture.size, min(picture.size)
    left, top = (width - edge) // 2, (height - edge) // 2
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + edge, top + edge))


def _normalised(pictures: list[Image.Image], mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
    shape = (1, 3, 1, 1)
    return (pixels / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
