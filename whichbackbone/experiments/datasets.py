"""Data that needs no download: `glyphs`, drawn here, and `elpv`, photographs of solar cells that a wheel carries.

`glyphs` come from the TrueType faces that matplotlib ships: capital letters and digits in 21 faces, moved, turned,
scaled, cluttered, covered and lost in noise. Small enough to train a tiny network in seconds, hard enough (turn
`difficulty`) that architectures differ. Some faces appear only in the test split, so a test error asks for the shape of
a letter, not for the memory of a font. 0 and O are nearly one shape in many faces: no network reaches 0 % error, and
none should.
"""

import base64
import hashlib
import io
import json
import os
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Images:
    """A labelled set of images.

    Attributes:
        images: uint8, (N, C, H, W).
        labels: int64 (N,), the class; a set with soft labels has float (N, K), a probability for each class.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> "Images":
        """The images of a slice or of an index tensor, in that order."""
        return Images(self.images[index], self.labels[index])


def glyphs(split: str, n: int, size: int = 32, difficulty: float = 0.5, seed: int = 0) -> Images:
    """Draw `n` images of letters and digits; the same arguments give the same bytes.

    Image i does not depend on `n`: the first 1,000 of 8,000 are the 1,000. Classes are balanced in each 576 in a row.

    Args:
        split: "train", "valid" (other images of the training faces: choose with it) or "test" (faces held out).
        n: number of images.
        size: height and width in pixels, 20 to 32.
        difficulty: 0 is a clean upright glyph; 0.5 is read at a glance; at 1 a person needs to look; more is allowed.
        seed: of everything random.

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
ELPV_TYPES = ("mono", "poly")
ELPV_LICENCE = "ELPV data set (Buerhop-Lutz et al. 2018, Deitsch et al. 2019, 2021), CC BY-NC-SA 4.0"


class DataError(RuntimeError):
    """A data set is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class Cells:
    """Solar cells, photographed by the light that they give off under current (electroluminescence).

    Attributes:
        images: uint8 (N, 1, 300, 300), bright where the cell works.
        probability: float (N,), how sure the experts are of a defect: 0, 1/3, 2/3 or 1.
        kind: (N,) of str, "mono" or "poly": one crystal or many.
        names: (N,) of str, file names.
    """

    images: Tensor
    probability: Tensor
    kind: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.probability)

    def __getitem__(self, index: slice | Tensor | np.ndarray) -> "Cells":
        """The cells of a slice or of an index, in that order."""
        plain = index if isinstance(index, slice) else np.asarray(index)  # numpy takes a tensor of one for a number
        return Cells(self.images[index], self.probability[index], self.kind[plain], self.names[plain])

    @cached_property
    def defective(self) -> Tensor:
        """Classes: int64 (N,), 1 where a defect is more likely than not: 1/3 counts as whole, 2/3 as defective."""
        return (self.probability > 0.5).long()

    @cached_property
    def soft(self) -> Tensor:
        """Probabilities of whole and defective: float (N, 2)."""
        return torch.stack([1 - self.probability, self.probability], 1)

    @cached_property
    def strata(self) -> np.ndarray:
        """(N,) of str, class and type together, such as "1 mono": what a stratified split keeps in proportion."""
        return np.array([f"{c} {k}" for c, k in zip(self.defective.tolist(), self.kind, strict=True)])


def elpv(limit: int | None = None) -> Cells:
    """The 2,624 solar cells of the ELPV benchmark, from the installed wheel, which is found and never imported.

    Args:
        limit: take about this many cells, evenly spread over the list (for a trial run).

    Raises:
        DataError: if the wheel or an image is missing, an image is damaged (its bytes are not those the wheel's RECORD
            lists, or it is no grey image of 300 x 300), or labels and images do not match. It says what to do.
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
    return Cells(torch.from_numpy(images), torch.tensor(probability), np.array(kind), np.array(names))


def _elpv_labels(file: Path, repair: str) -> list[tuple[str, float, str]]:
    """Image, probability and type of each row of labels.csv, in its order."""
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
    """The pixels (300, 300) of an image; ValueError or OSError if it is not what it should be."""
    content = file.read_bytes()
    if sha256 and base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode() != sha256:
        raise ValueError("its SHA-256 is not the one in the wheel's RECORD")
    image = Image.open(io.BytesIO(content))
    if image.mode != "L" or image.size != (ELPV_PIXELS, ELPV_PIXELS):
        raise ValueError(f"expected grey, 300 x 300, found {image.mode}, {image.width} x {image.height}")
    return np.asarray(image)


def _draw(split: str, n: int, size: int, difficulty: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 1, size, size) uint8 and labels (n,) int64, a chunk at a time."""
    atlas = _atlas(FACES[split], 2 * size)
    chunks = []
    for start in range(0, n, _CHUNK):
        # Always a whole chunk, cut afterwards: image i must not depend on n.
        rng = np.random.default_rng([seed, list(FACES).index(split), start])
        chunks.append(_chunk(atlas, size, difficulty, rng))
    images, labels = (np.concatenate(part)[:n] for part in zip(*chunks, strict=True))
    return images[:, None], labels


def _chunk(atlas: Tensor, size: int, d: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One chunk of images (576, size, size) uint8 and its labels."""
    labels = rng.permutation(np.arange(_CHUNK) % len(CLASSES))

    def uniform(low, high, *shape):
        return rng.uniform(low, high, (_CHUNK, *shape)).astype(np.float32)

    def placed(classes, turn, grow, shift):
        """Glyphs (576, size, size) of these classes: random faces, turned (radians), scaled, shifted (half widths)."""
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
    """True inside a straight bar across the image, lengths in half widths of the image; (n, size, size)."""
    axis = (np.arange(size, dtype=np.float32) * 2 + 1) / size - 1
    across = np.cos(angle)[:, None, None] * axis + (np.sin(angle)[:, None, None] * axis[:, None])
    return np.abs(across - offset[:, None, None]) < half_width[:, None, None]


@lru_cache(maxsize=4)
def _atlas(faces: tuple[str, ...], tile: int) -> Tensor:
    """Every class in every face, centred, in [0, 1]: (faces, classes, tile, tile).

    Drawn at twice the size of the images, so that sampling it bilinearly averages instead of aliasing.
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
    """The images and labels of a cache file, None if there is none or if it is damaged (and say so)."""
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
    """Store for the next call, whole or not at all; a folder that cannot be written costs time only (and say so)."""
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
