"""Figures printed in papers and public benchmarks; each row says where it stands.

The tables are ``published_models.csv``, ``published_speed.csv``, ``published_detection.csv`` and
``published_transfer.csv`` in ``data/``. A row names its source by a key into ``sources.csv`` and its device by a key
into ``devices.csv``; :func:`source` and :func:`device` turn a key into words for a page. Code selects rows by keys and
never by a part of a text. Notebooks take a published figure from here, never from memory.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from whichbackbone.folders import DATA

SOURCES, DEVICES = "sources.csv", "devices.csv"
KEYS = {"source_id": SOURCES, "device_id": DEVICES}  # column of a table -> the file whose ids it may hold


def models(**where: object) -> pd.DataFrame:
    """Size, cost and accuracy as published, one row per (model, source, way it was trained or evaluated).

    Args:
        where: columns that must equal the given value, or one of a list of values.

    Returns:
        A frame with the columns: family, model, timm_name, params_m (millions), macs_g (billions of
        multiply-accumulates), activations_m (millions of elements), input_size (pixels), imagenet_top1 (%), recipe_id,
        variant (of the architecture, as the source calls it; empty where the model's name says it), crops (of a test
        image: one, ten or many), quantised (yes or no), extra_data (yes: weights that saw more than ImageNet-1k; or
        no), top1_weights_note (words for a reader), source_id, source_locator.

        recipe_id says how the weights were trained: ``tv_v1`` and ``tv_v2`` (first and second weights of torchvision;
        trained alike only within a family), ``timm:`` and timm's name of the weights, ``100ep`` (RegNet's authors,
        for all families), ``quoted`` (taken over from another text, so never the same recipe as another row's), or
        the paper that describes it.

    Raises:
        KeyError: for an unknown column.
        ValueError: for a source or device that its file does not have, naming file, line and key.
    """
    return _select("published_models.csv", where)


def speed(**where: object) -> pd.DataFrame:
    """Speed as published, one row per measurement. ``where`` and what is raised as in :func:`models`.

    Returns:
        A frame with the columns: model, timm_name, device_id, precision, batch_size, img_size (pixels),
        images_per_s_or_ms (the figure, in ``unit``), unit, kind (infer or train), source_id, source_locator.
    """
    return _select("published_speed.csv", where)


def detection(**where: object) -> pd.DataFrame:
    """Detectors on COCO as published, one row per (detector, backbone). ``where`` and errors as in :func:`models`.

    Returns:
        A frame with the columns: detector, backbone, map, map_small, map_medium, map_large (average precision, %),
        params_m, macs_g, latency_ms, device_id (empty where no latency was printed), source_id, source_locator.
    """
    return _select("published_detection.csv", where)


def transfer(**where: object) -> pd.DataFrame:
    """Accuracy on the ELPV solar cells as published, one row per (method, source). Errors as in :func:`models`.

    Returns:
        A frame with the columns: method, accuracy (%), classes, trained_on (cells; empty if not read), protocol,
        comparable (yes, partly or no: with a stratified 75/25 split into two classes at a probability of 1/2), why,
        source_id, source_locator.
    """
    return _select("published_transfer.csv", where)


def sources(**where: object) -> pd.DataFrame:
    """Where the figures were read, one row per source. ``where`` as in :func:`models`.

    Returns:
        A frame with the columns: id, title, kind (paper, readme, results_file, library, notebook or model_card), year
        (empty for a page that changes), url, note.
    """
    return _select(SOURCES, where)


def devices(**where: object) -> pd.DataFrame:
    """What the figures were measured on, one row per device with its software. ``where`` as in :func:`models`.

    Returns:
        A frame with the columns: id, name, kind (cpu, gpu or phone), software (empty if not stated), note.
    """
    return _select(DEVICES, where)


def source(key: str) -> str:
    """Give the title of a source for a page. Raises ``LookupError``, naming the known ids, for an unknown one."""
    return _words(SOURCES, "title", key)


def device(key: str) -> str:
    """Give the name of a device for a page. Raises ``LookupError``, naming the known ids, for an unknown one."""
    return _words(DEVICES, "name", key)


def one(rows: pd.DataFrame, column: str) -> float:
    """The single value of ``column`` in ``rows``; raises ``LookupError`` when there is none or several differ.

    A sentence that quotes a figure must rest on exactly one.
    """
    values = rows[column].dropna().unique()
    if len(values) != 1:
        raise LookupError(f"expected one published {column}, found {len(values)}: {list(values)[:5]}")
    return values[0].item() if hasattr(values[0], "item") else values[0]


def _select(file: str, where: dict[str, object]) -> pd.DataFrame:
    rows = _table(file)
    for column, wanted in where.items():
        if column not in rows:
            raise KeyError(f"{file} has no column {column!r}: it has {', '.join(rows.columns)}")
        values = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        rows = rows[rows[column].isin(list(values))]
    return rows.reset_index(drop=True)


def _words(file: str, column: str, key: str) -> str:
    rows = _table(file)
    known = dict(zip(rows.id, rows[column], strict=True))
    if key not in known:
        raise LookupError(f"{file} has no id {key!r}: it has {', '.join(known)}")
    return known[key]


def _table(file: str) -> pd.DataFrame:
    paths = [DATA / name for name in dict.fromkeys((file, SOURCES, DEVICES))]
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(
                f"no {path.name} in {DATA.name}/: the package needs the repository's data folder beside it"
            )
    return _read(paths[0], tuple(path.stat().st_mtime_ns for path in paths))


@lru_cache(maxsize=16)
def _read(path: Path, changed: tuple[int, ...]) -> pd.DataFrame:
    """The table, read and checked once as long as the files stay as they are. Callers get copies of its rows."""
    rows = pd.read_csv(path, dtype={"year": "Int64"}, skip_blank_lines=False)
    for column, file in KEYS.items():
        if column in rows:
            _check_keys(path.name, rows, column, set(pd.read_csv(path.parent / file).id))
    if "id" in rows and rows.id.duplicated().any():
        row = rows.index[rows.id.duplicated()][0]
        raise ValueError(f"{path.name}, line {row + 2}: id {rows.id[row]!r} stands twice: give it another")
    return rows


def _check_keys(name: str, rows: pd.DataFrame, column: str, known: set[str]) -> None:
    """Raise ``ValueError`` for the first key that is unknown or missing; where no time stands, no device need stand."""
    wrong = ~rows[column].isin(known)
    if column == "device_id" and "latency_ms" in rows:
        wrong &= rows[column].notna() | rows.latency_ms.notna()
    if wrong.any():
        row = rows.index[wrong][0]
        key = "" if pd.isna(rows[column][row]) else rows[column][row]
        raise ValueError(f"{name}, line {row + 2}: {column} {key!r} does not stand in {KEYS[column]}: add it there")
