"""Figures printed in papers and public benchmarks; each row says where it stands.

The tables are ``published_models.csv``, ``published_speed.csv``, ``published_detection.csv`` and
``published_transfer.csv`` in ``data/``.
Notebooks take a published figure from here, never from memory.
"""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from whichbackbone.folders import DATA


def models(**where: object) -> pd.DataFrame:
    """Size, cost and accuracy as published, one row per (model, source).

    Columns: family, model, timm_name, params_m (millions), macs_g (billions of multiply-accumulates), input_size
    (pixels), imagenet_top1 (%), top1_weights_note, source, source_locator.

    ``where`` keeps the rows whose columns equal the given value, or one of a list of values. Raises ``KeyError`` for
    an unknown column.
    """
    return _select("published_models.csv", where)


def speed(**where: object) -> pd.DataFrame:
    """Speed as published, one row per measurement.

    Columns: model, timm_name, hardware, precision, batch_size, img_size (pixels), images_per_s_or_ms (the figure, in
    ``unit``), unit, kind (infer or train), source, source_locator. ``where`` as in :func:`models`.
    """
    return _select("published_speed.csv", where)


def detection(**where: object) -> pd.DataFrame:
    """Detectors on COCO as published, one row per (detector, backbone).

    Columns: detector, backbone, map, map_small, map_medium, map_large (average precision, %), params_m, macs_g,
    latency_ms, device, source, source_locator. ``where`` as in :func:`models`.
    """
    return _select("published_detection.csv", where)


def transfer(**where: object) -> pd.DataFrame:
    """Accuracy on the ELPV solar cells as published, one row per (method, source).

    Columns: method, accuracy (%), classes, trained_on (cells; empty if not read), protocol, comparable (yes, partly or
    no: with a stratified 75/25 split into two classes at a probability of 1/2), why, source, source_locator. ``where``
    as in :func:`models`.
    """
    return _select("published_transfer.csv", where)


def _select(file: str, where: dict[str, object]) -> pd.DataFrame:
    path = DATA / file
    if not path.exists():
        raise FileNotFoundError(f"no {file} in {DATA.name}/: the package needs the repository's data folder beside it")
    rows = _read(path, path.stat().st_mtime_ns)
    for column, wanted in where.items():
        if column not in rows:
            raise KeyError(f"{file} has no column {column!r}: it has {', '.join(rows.columns)}")
        values = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        rows = rows[rows[column].isin(list(values))]
    return rows.reset_index(drop=True)


@lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> pd.DataFrame:
    """The table, read once as long as the file stays as it is. What callers get are copies of its rows."""
    return pd.read_csv(path)


def one(rows: pd.DataFrame, column: str) -> float:
    """The single value of ``column`` in ``rows``; raises ``LookupError`` when there is none or several differ.

    A sentence that quotes a figure must rest on exactly one.
    """
    values = rows[column].dropna().unique()
    if len(values) != 1:
        raise LookupError(f"expected one published {column}, found {len(values)}: {list(values)[:5]}")
    return values[0].item() if hasattr(values[0], "item") else values[0]
