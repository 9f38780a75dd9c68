"""Data that needs no download: `glyphs`, drawn here, and `elpv`, photographs of solar cells that a wheel carries.

`glyphs` draws capital letters and digits from 21 TrueType faces that matplotlib ships, and moves, turns, scales,
clutters and covers them and adds noise. A tiny network trains on them in seconds, and `difficulty` can be set so high
that architectures differ. Five faces appear only in the test split, so the test error measures whether a network knows
the shape of a letter and not only the fonts it saw. 0 and O have nearly the same shape in many faces, so no network can
reach 0 % error.
"""

import base64
import hashlib
import io
import json
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from whichbackbone.folders import cache_folder

CLASSES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

# All faces of matplotlib that draw every class as itself: cmsy10, cmex10 and LastResort put other signs at these code
# points, and the old-style 0 of cmmi10 is a small O.
TRAIN_FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta", "cmb10", "cmr10", "cmti10"),
)
TEST_FACES = ("DejaVuSansMono-Bold", "DejaVuSerif", "STIXGeneralItalic", "cmss10", "cmtt10")
FACES = {"train": TRAIN_FACES, "valid": TRAIN_FACES, "test": TEST_FACES}

_VERSION = 1  # of the drawing: raise it when the same arguments give other images, so that old cache files are not used
_CHUNK = 16 * len(CLASSES)  # images drawn at a time, with a random stream of their own


# Versions of an image by reflection -> the dimensions of (N, C, H, W) to reverse.
FLIPS = {"as it is": (), "left-right": (3,), "up-down": (2,), "half turn": (2, 3)}


@dataclass(frozen=True)
class Images:
    """Images and labels to train on or to test on.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64 (N,), the class; or float (N, K), a probability for each class.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        """Return the images of a slice or of an index tensor, in that order."""
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class LabelledSet:
    """A set of images to classify, with everything that `transfer` needs to know of it.

    Attributes:
        name: a short name without spaces; the files of activations begin with it.
        images: uint8 (N, C, H, W), C = 1 for grey or 3 for RGB.
        targets: float (N, K), the probability of each class: 0 and 1 where the label is sure. Training uses it.
        classes: names of the K classes.
        groups: (N,) of str, another property of each image (a type, a camera) whose share a stratified split keeps;
            None where there is none.
        names: (N,) of str, such as file names, or None.
        flips: the versions of an image that show the same class, keys of `FLIPS`, "as it is" first. A letter has one,
            a photograph of a street two (left-right), a photograph from above all four.
    """

    name: str
    images: Tensor
    targets: Tensor
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    names: np.ndarray | None = None
    flips: tuple[str, ...] = ("as it is",)

    def __post_init__(self) -> None:
        """Raise ``ValueError`` if the parts do not fit together."""
        shape, n, k = tuple(self.images.shape), len(self.targets), len(self.classes)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise ValueError(f"images of {self.name} are {self.images.dtype} {shape}: expected uint8 (N, 1 or 3, H, W)")
        if k < 2 or tuple(self.targets.shape) != (len(self.images), k):
            raise ValueError(f"targets of {self.name} are {tuple(self.targets.shape)}: expected a probability for each "
                             f"of {len(self.images)} images and {k} classes, and at least 2 classes")
        for what, values in (("groups", self.groups), ("names", self.names)):
            if values is not None and len(values) != n:
                raise ValueError(f"{self.name} has {len(values)} {what} for {n} images: expected one for each")
        if self.flips[:1] != ("as it is",) or len(set(self.flips)) < len(self.flips) or not set(self.flips) <= {*FLIPS}:
            raise ValueError(f"flips of {self.name} are {self.flips}: expected \"as it is\", then any of "
                             f"{', '.join(list(FLIPS)[1:])}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: slice | Tensor | np.ndarray) -> "LabelledSet":
        """Return the set of the images of a slice or of an index, in that order."""
        plain = index if isinstance(index, slice) else np.asarray(index)  # numpy takes a tensor of one for a number
        groups, names = (None if part is None else part[plain] for part in (self.groups, self.names))
        return replace(self, images=self.images[index], targets=self.targets[index], groups=groups, names=names)

    @property
    def channels(self) -> int:
        """Number of channels of the images: 1 or 3."""
        return self.images.shape[1]

    @cached_property
    def labels(self) -> Tensor:
        """Class of each image, int64 (N,): the most probable one. Tests use it."""
        return self.targets.argmax(1)

    @cached_property
    def certainty(self) -> np.ndarray:
        """Weight of each image for a method that knows only classes, float (N,) from 0 to 1.

        It is the probability of the most probable class less that of the second: 1 where the label is sure, 1/3 where
        two of three experts chose one of two classes.
        """
        first, second = self.targets.topk(2, dim=1).values.T
        return (first - second).numpy()

    @cached_property
    def strata(self) -> np.ndarray:
        """Class and group of each image, (N,) of str such as "1 mono": a stratified split keeps their shares."""
        if self.groups is None:
            return np.array([str(label) for label in self.labels.tolist()])
        return np.array([f"{label} {group}" for label, group in zip(self.labels.tolist(), self.groups, strict=True)])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the images, 12 hex digits: a set with other images, or in another order, has another one."""
        digest = hashlib.blake2b(str(tuple(self.images.shape)).encode(), digest_size=6)
        digest.update(np.ascontiguousarray(self.images))
        return digest.hexdigest()

    def versions(self, count: int | None = None) -> tuple[tuple[int, ...], ...]:
        """Return the dimensions that each of the first ``count`` permitted flips reverses; None means all of them.

        Raises ``ValueError`` if the set does not permit so many.
        """
        count = len(self.flips) if count is None else count
        if not 1 <= count <= len(self.flips):
            raise ValueError(f"{count} versions of each image: {self.name} permits 1 to {len(self.flips)} "
                             f"({', '.join(self.flips)})")
        return tuple(FLIPS[flip] for flip in self.flips[:count])


def glyphs(split: str, n: int, size: int = 32, difficulty: float = 0.5, seed: int = 0) -> Images:
    """Draw `n` images of letters and digits; the same arguments give the same bytes.

    Image i does not depend on `n`: 1,000 images are the first 1,000 of 8,000. Each 576 images in a row hold every class
    equally often.

    Args:
        split: "train", "valid" (other images of the training faces, to choose settings with) or "test" (other faces).
        n: number of images.
        size: height and width in pixels, 20 to 32.
        difficulty: from 0 to below 10. 0 draws clean upright glyphs; a person reads 0.5 at a glance, and 1 with effort.
        seed: of everything random.

    Returns:
        The images, uint8 (n, 1, size, size), with their classes, numbered as in `CLASSES`.

    Raises:
        ValueError: for an argument outside these ranges.
        RuntimeError: if matplotlib lacks one of the faces.
    """
    if split not in FACES:
        raise ValueError(f"unknown split {split!r} of glyphs: expected one of {', '.join(FACES)}")
    if n < 1 or not 20 <= size <= 32 or not 0 <= difficulty < 10 or seed < 0:
        raise ValueError(
            f"glyphs(n={n}, size={size}, difficulty={difficulty}, seed={seed}): "
            "expected n >= 1, size in 20..32, difficulty in [0, 10), seed >= 0"
        )
    recipe = dict(version=_VERSION, split=split, n=n, size=size, difficulty=float(difficulty), seed=seed)
    name = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    file = cache_folder() / f"glyphs-{split}-{n}-{size}px-{name}.npz"
    found = _read(file, (n, 1, size, size))
    if found is None:
        found = _draw(split, n, size, float(difficulty), seed)
        _write(file, *found)
    return Images(*map(torch.from_numpy, found))


ELPV_WHEEL = "elpv-dataset"
ELPV_VERSION = "1.0.0.post1"
ELPV_FOLDER = "elpv_dataset/data"
ELPV_PIXELS = 300
ELPV_PROBABILITIES = (0.0, 1 / 3, 2 / 3, 1.0)
ELPV_CLASSES = ("whole", "defective")
ELPV_TYPES = ("mono", "poly")
ELPV_LICENCE = "ELPV data set (Buerhop-Lutz et al. 2018, Deitsch et al. 2019, 2021), CC BY-NC-SA 4.0"


class DataError(RuntimeError):
    """A data set is missing, damaged, or not what it should be."""


def elpv(limit: int | None = None) -> LabelledSet:
    """Read the 2,624 solar cells of the ELPV benchmark from the installed wheel, without importing it.

    The photographs show the light that a cell gives off under current (electroluminescence): it is bright where the
    cell works.

    Args:
        limit: take about this many cells, evenly spread over the list (for a trial run).

    Returns:
        Images uint8 (N, 1, 300, 300). The second target is the experts' probability of a defect (0, 1/3, 2/3 or 1); a
        cell counts as defective where it is over 1/2. Groups are "mono" or "poly": one crystal or many. A cell shows
        the same in all four flips.

    Raises:
        DataError: if the wheel or an image is missing, an image is damaged (its bytes are not those the wheel's RECORD
            lists, or it is no grey image of 300 x 300), or labels and images do not match. It says what to do.
        ValueError: if ``limit`` is below 1.
    """
    try:
        wheel = metadata.distribution(ELPV_WHEEL)
    except metadata.PackageNotFoundError:
        raise DataError(f"no ELPV data here: pip install --no-deps {ELPV_WHEEL}=={ELPV_VERSION} (90 MB)") from None
    repair = f"pip install --force-reinstall --no-deps {ELPV_WHEEL}=={ELPV_VERSION}"
    folder = Path(wheel.locate_file(ELPV_FOLDER))
    rows = _elpv_labels(folder / "labels.csv", repair)
    listed, there = {name for name, *_ in rows}, {f"images/{path.name}" for path in (folder / "images").glob("*.png")}
    if missing := sorted(listed - there):
        raise DataError(f"labels.csv of {ELPV_WHEEL} lists {len(missing)} images that are missing, the first is "
                        f"{missing[0]}: {repair}")
    if extra := sorted(there - listed):
        raise DataError(f"{len(extra)} images of {ELPV_WHEEL} have no row in labels.csv, the first is {extra[0]}: "
                        f"{repair}")
    if limit is not None:
        if limit < 1:
            raise ValueError(f"elpv(limit={limit}): expected at least 1")
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
    hashes = {str(file): file.hash.value for file in wheel.files or () if file.hash and file.hash.mode == "sha256"}
    images = np.empty((len(rows), 1, ELPV_PIXELS, ELPV_PIXELS), np.uint8)
    for i, (name, *_) in enumerate(rows):
        try:
            images[i, 0] = _elpv_image(folder / name, hashes.get(f"{ELPV_FOLDER}/{name}"))
        except (OSError, ValueError) as error:
            raise DataError(f"image {name} of {ELPV_WHEEL} is damaged ({error}): {repair}") from None
    names, probability, kind = zip(*rows, strict=True)
    defect = torch.tensor(probability)
    return LabelledSet("elpv", torch.from_numpy(images), torch.stack([1 - defect, defect], 1), ELPV_CLASSES,
                       groups=np.array(kind), names=np.array(names), flips=tuple(FLIPS))


@lru_cache(maxsize=1)
def elpv_once(limit: int | None = None) -> LabelledSet:
    """Return what `elpv` does, but read it only once in a process."""
    return elpv(limit)


def _elpv_labels(file: Path, repair: str) -> list[tuple[str, float, str]]:
    """Read image, probability and type of each row of labels.csv, in its order.

    Raises ``DataError`` with ``repair``, the command to run, where a line is not what it should be.
    """
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels.csv of {ELPV_WHEEL} cannot be read ({type(error).__name__}): {repair}") from None
    rows, known = [], {}
    for number, fields in enumerate(lines, start=1):
        try:
            name, text, kind = fields
            probability = min(ELPV_PROBABILITIES, key=lambda p: abs(p - float(text)))
            if abs(probability - float(text)) > 0.01 or kind not in ELPV_TYPES:
                raise ValueError
        except ValueError:
            raise DataError(f"line {number} of labels.csv of {ELPV_WHEEL} is {' '.join(fields)!r}, expected an image, "
                            f"a probability (0, 1/3, 2/3 or 1) and mono or poly: {repair}") from None
        if name in known:
            raise DataError(f"labels.csv of {ELPV_WHEEL} lists {name} in lines {known[name]} and {number}: {repair}")
        known[name] = number
        rows.append((name, probability, kind))
    if not rows:
        raise DataError(f"labels.csv of {ELPV_WHEEL} is empty: {repair}")
    return rows


def _elpv_image(file: Path, sha256: str | None) -> np.ndarray:
    """Read the pixels, uint8 (300, 300), of an image whose SHA-256 is given (base64, None if unknown).

    Raises ``ValueError`` or ``OSError`` if the file cannot be read, has another hash, or is no grey image of that size.
    """
    content = file.read_bytes()
    if sha256 and base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode() != sha256:
        raise ValueError("its SHA-256 is not the one in the wheel's RECORD")
    image = Image.open(io.BytesIO(content))
    if image.mode != "L" or image.size != (ELPV_PIXELS, ELPV_PIXELS):
        raise ValueError(f"expected grey, 300 x 300, found {image.mode}, {image.width} x {image.height}")
    return np.asarray(image)


def _draw(split: str, n: int, size: int, difficulty: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw images uint8 (n, 1, size, size) and labels int64 (n,), a chunk at a time."""
    atlas = _atlas(FACES[split], 2 * size)
    chunks = []
    for start in range(0, n, _CHUNK):
        # Always a whole chunk, cut afterwards: image i must not depend on n.
        rng = np.random.default_rng([seed, list(FACES).index(split), start])
        chunks.append(_chunk(atlas, size, difficulty, rng))
    images, labels = (np.concatenate(part)[:n] for part in zip(*chunks, strict=True))
    return images[:, None], labels


def _chunk(atlas: Tensor, size: int, d: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one chunk: images uint8 (576, size, size) at difficulty ``d``, and their labels."""
    labels = rng.permutation(np.arange(_CHUNK) % len(CLASSES))

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (_CHUNK, *shape)).astype(np.float32)

    def placed(classes, turn, grow, shift):
        """Draw these classes in random faces, turned (radians), scaled and shifted (half widths): (576, size, size)."""
        tiles = atlas[rng.integers(len(atlas), size=_CHUNK), classes]
        cos, sin = np.cos(turn) / grow, np.sin(turn) / grow
        back = np.stack([cos, sin, -sin, cos], -1).reshape(-1, 2, 2)  # from the image to the glyph
        theta = np.concatenate([back, -back @ shift[..., None]], -1).astype(np.float32)
        grid = F.affine_grid(torch.from_numpy(theta), [_CHUNK, 1, size, size], align_corners=False)
        return F.grid_sample(tiles[:, None], grid, align_corners=False)[:, 0].numpy()

    # The glyph: what it is, where, and how.
    ink = placed(labels, uniform(-0.4, 0.4) * d, np.exp(uniform(-0.35, 0.2) * d), uniform(-0.25, 0.25, 2) * d)

    # Clutter: parts of two other glyphs, reaching in from the border.
    for _ in range(2):
        angle, there = uniform(0, 2 * np.pi), uniform(0, 1) < 0.7 * d
        away = np.stack([np.cos(angle), np.sin(angle)], -1) * uniform(0.9, 1.3, 1)
        other = placed(rng.integers(len(CLASSES), size=_CHUNK), uniform(-np.pi, np.pi), uniform(0.5, 0.9), away)
        ink = np.maximum(ink, other * there[:, None, None])

    # Occlusion: a bar across the glyph, of the paper's grey or a grey of its own.
    paper, contrast = uniform(0, 0.3 * min(d, 1) + 1e-3), 1 - uniform(0, 0.5) * min(d, 1)
    grey = paper[:, None, None] + (ink * contrast[:, None, None]) * (1 - paper[:, None, None])
    bar = _bar(size, uniform(0, np.pi), uniform(-0.5, 0.5), uniform(0, 0.22) * d)
    grey = np.where(bar, (uniform(0, 1) * (uniform(0, 1) < 0.5) * contrast)[:, None, None], grey)

    grey += rng.standard_normal(grey.shape, dtype=np.float32) * (uniform(0.5, 1.5) * 0.12 * d)[:, None, None]
    return (np.clip(grey, 0, 1) * 255).round().astype(np.uint8), labels


def _bar(size: int, angle: np.ndarray, offset: np.ndarray, half_width: np.ndarray) -> np.ndarray:
    """Return a mask (n, size, size) of a straight bar across each image, with lengths in half widths of the image."""
    axis = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
    across = np.cos(angle)[:, None, None] * axis + (np.sin(angle)[:, None, None] * axis[:, None])
    return np.abs(across - offset[:, None, None]) < half_width[:, None, None]


@lru_cache(maxsize=4)
def _atlas(faces: tuple[str, ...], tile: int) -> Tensor:
    """Draw every class in every face, centred, in [0, 1]: (faces, classes, tile, tile).

    Tiles are drawn at twice the size of the images, so that sampling them bilinearly averages instead of aliasing.
    Raises ``RuntimeError`` if matplotlib lacks one of the faces.
    """
    import matplotlib
    from PIL import ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    basic = ImageFont.Layout.BASIC  # one glyph needs no shaping, and not all builds of Pillow have it
    atlas = np.zeros((len(faces), len(CLASSES), tile, tile), np.float32)
    for i, face in enumerate(faces):
        try:
            font = ImageFont.truetype(str(folder / f"{face}.ttf"), round(tile * 0.75), layout_engine=basic)
        except OSError as error:
            raise RuntimeError(f"face {face}.ttf is not in {folder}: reinstall matplotlib ({error})") from error
        for j, character in enumerate(CLASSES):
            image = Image.new("L", (tile, tile))
            left, top, right, bottom = font.getbbox(character)
            corner = ((tile - left - right) / 2, (tile - top - bottom) / 2)
            ImageDraw.Draw(image).text(corner, character, font=font, fill=255)
            atlas[i, j] = np.asarray(image, np.float32) / 255
    return torch.from_numpy(atlas)


def _read(file: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the images and labels of a cache file; return None if there is none, or warn and return None if damaged."""
    try:
        with np.load(file) as stored:  # the zip inside keeps a checksum of each array
            images, labels = stored["images"], stored["labels"]
        if images.shape != shape or images.dtype != np.uint8 or labels.shape != shape[:1] or labels.dtype != np.int64:
            raise ValueError(f"holds {images.dtype} {images.shape}, expected uint8 {shape}")
        return images, labels
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        warnings.warn(f"cache file {file.name} is damaged and is drawn again ({error})", stacklevel=3)
        return None


def _write(file: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Write a cache file whole or not at all; warn where the folder cannot be written, and go on without it."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as part:
            try:
                np.savez(part, images=images, labels=labels)
                part.close()
                os.replace(part.name, file)
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        warnings.warn(f"glyphs are not cached and will be drawn again next time ({error})", stacklevel=3)
