"""Figures printed in papers and public benchmarks; each row says where it stands.

The tables are ``published_models.csv``, ``published_int8.csv``, ``published_speed.csv``, ``published_detection.csv``
and ``published_transfer.csv`` in ``data/``. A row names its source by a key into ``sources.csv``, its device by a key
into ``devices.csv``; :func:`source` and :func:`device` turn a key into words for a page. Code selects rows by keys and
never by a part of a text. Notebooks take a published figure from here, never from memory.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from whichbackbone.folders import DATA

SOURCES, DEVICES = "sources.csv", "devices.csv"
KEYS = {"source_id": SOURCES, "device_id": DEVICES}  # column of a table -> the file whose ids it may hold
# Units of a published speed -> the power of the figure that the time of one image goes with. Other units hold more than
# the net: memory, or a loop with its loader.
TIME = {"images/s": -1, "ms": 1, "ms per image (average)": 1, "ms per 64 images": 1, "ms per batch": 1,
        "hours per 100 ImageNet epochs": 1}  # fmt: skip
# Recipes that name a set of weights and not one way to train them all.
UNLIKE = ("quoted", "tv_v1", "tv_v2", "timm_0.1.6", "efficientnet_lite")
UNNAMED = ("timm_benchmarks", "qualcomm_0.47", "qualcomm_0.25")  # sources that a list of settings does not name
HARDWARE = ("cpu", "gpu", "phone")
# How precision and layout of a row are called in a list of settings; what is usual for its device is left out.
PRECISION = {"not stated": "", "float": "", "fp32": "", "quantised": "INT8", "amp, NCHW": "NCHW",
             "amp, channels_last (NHWC)": "channels-last", "amp, NCHW, torch.compile (dynamo)": "compiled",
             "fp32, NCHW, torch.compile (dynamo)": "compiled"}  # fmt: skip
SETTING = ["source_id", "device_id", "precision", "unit", "kind", "batch_size"]


def models(**where: object) -> pd.DataFrame:
    """Size, cost and accuracy as published, one row per (model, source, way it was trained or evaluated).

    Args:
        where: columns that must equal the given value, or one of a list of values.

    Returns:
        A frame with the columns: family, model, timm_name, params_m (millions), macs_g (billions of
        multiply-accumulates), activations_m (millions of elements), input_size (pixels), imagenet_top1 (%), recipe_id,
        variant (of the architecture, as the source calls it; empty where the model's name says it), crops (of a test
        image: one, ten or many), extra_data (yes: weights that saw more than ImageNet-1k; or no), top1_weights_note
        (words for a reader), source_id, source_locator. Figures of nets in INT8 stand in :func:`int8`.

        recipe_id says how the weights were trained: ``tv_v1`` and ``tv_v2`` (first and second weights of torchvision;
        trained alike only within a family), ``timm:`` and timm's name of the weights, ``100ep`` (RegNet's authors,
        for all families), ``quoted`` (taken over from another text, so never the same recipe as another row's), or
        the paper that describes it.

    Raises:
        KeyError: for an unknown column.
        ValueError: for a source or device that its file does not have, naming file, line and key.
    """
    return _select("published_models.csv", where)


def int8(**where: object) -> pd.DataFrame:
    """Accuracy of nets in INT8, weights and activations, as published. ``where`` and errors as in :func:`models`.

    Weights differ between sources, so that two levels compare weights, and a row's two figures compare precisions.

    Returns:
        A frame with the columns: model, timm_name (of the architecture), input_size (pixels; empty if not stated),
        top1_int8, top1_fp32 (%, of the same weights; empty for a file that was tried on several machines), method (PTQ,
        QAT or not stated), tool, granularity (as the source says it), machine (empty but where one file was tried on
        several), deployed (yes: INT8 arithmetic computed it; no: fp32 simulated it), source_id, source_locator.
    """
    return _select("published_int8.csv", where)


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
        A frame with the columns: id, title, short (for a table), kind (paper, readme, results_file, library, notebook
        or model_card), year (empty for a page that changes), url, note, superseded_by (the id of a later text that
        prints other figures).
    """
    return _select(SOURCES, where)


def devices(**where: object) -> pd.DataFrame:
    """What the figures were measured on, one row per device with its software. ``where`` as in :func:`models`.

    Returns:
        A frame with the columns: id, name, short (for a list), kind (cpu, gpu, phone or board), software (empty if not
        stated), note, newer (the id of the same device with newer software).
    """
    return _select(DEVICES, where)


def time_ratios(a: Mapping[str, object], b: Mapping[str, object], kind: str = "infer") -> pd.DataFrame:
    """How many times longer model ``a`` takes than model ``b``, in every published setting that timed both.

    A setting is what one source measured on one device in one precision. Left out are boards (unless a model's columns
    say device_id or hardware, which is the device's kind), sources that a later text
    supersedes, and older software where the same source timed both on that device with newer. The batch may differ
    where a rate is given (each net at what fits), and is the same where a time is.

    Args:
        a: columns of :func:`speed` that choose the model, such as timm_name and img_size.
        b: the same of the other model.
        kind: infer or train.

    Returns:
        A frame with the columns: source_id, device_id, precision, ratio; label, the setting in words.

    Raises:
        LookupError: where no setting timed both, or one of them twice in a setting, such as at several input sizes.
    """
    old = set(sources().dropna(subset=["superseded_by"]).id)
    rows = speed(kind=kind, unit=list(TIME)).merge(_hardware(), on="device_id")
    rows = rows[~rows.source_id.isin(old)]
    if not {"hardware", "device_id"} & (set(a) | set(b)):
        rows = rows[rows.hardware.isin(HARDWARE)]
    rows = rows.assign(batch_size=rows.batch_size.where(~rows.unit.isin(["images/s", "hours per 100 ImageNet epochs"])))
    both = [_per_setting(rows, model).set_index(SETTING).images_per_s_or_ms for model in (a, b)]
    found = (both[0] / both[1]).dropna().rename("ratio").reset_index()
    if found.empty:
        raise LookupError(f"no published setting timed both {a} and {b}")
    found["ratio"] **= found.unit.map(TIME)
    newer = dict(devices().dropna(subset=["newer"])[["id", "newer"]].itertuples(index=False))
    there = set(found[["source_id", "device_id", "precision"]].itertuples(index=False, name=None))
    outdated = [(r.source_id, newer.get(r.device_id), r.precision) in there for r in found.itertuples()]
    found = found[[not out for out in outdated]].reset_index(drop=True)
    return found.assign(label=[_setting_in_words(row) for row in found.itertuples()])


def _hardware() -> pd.DataFrame:
    """device_id and hardware of every device."""
    return devices()[["id", "kind"]].rename(columns={"id": "device_id", "kind": "hardware"})


def _per_setting(rows: pd.DataFrame, model: Mapping[str, object]) -> pd.DataFrame:
    """The rows of a model, one a setting."""
    chosen = chosen_rows(rows, model)
    if twice := [len(part) for _, part in chosen.groupby(SETTING, dropna=False) if len(part) > 1]:
        sizes = ", ".join(f"{size:g}" for size in sorted(chosen.img_size.dropna().unique()))
        raise LookupError(f"{dict(model)} has {twice[0]} rows in one setting: say more, such as img_size (of {sizes})")
    return chosen


def _setting_in_words(row: Any) -> str:
    who = "" if row.source_id in UNNAMED else source(row.source_id, "short")
    batch = f"{row.batch_size:g} images" if row.unit == "ms per batch" else ""
    parts = (device(row.device_id, "short"), PRECISION.get(row.precision, row.precision), batch,
             "training" if row.kind == "train" else "", f"({who})" if who else "")  # fmt: skip
    return " ".join(part for part in parts if part)


def gains(a: Mapping[str, object], b: Mapping[str, object]) -> pd.DataFrame:
    """Published top-1 accuracy of model ``a`` less that of ``b``, in points, wherever one recipe trained both.

    Args:
        a: columns of :func:`models` that choose the model, such as timm_name and input_size.
        b: the same of the other model.

    Returns:
        A frame with the columns: source_id, recipe_id, gain; label, the source in words.

    Raises:
        LookupError: where no source trained both with one recipe, or has one of them twice.
    """
    recipe = ["source_id", "recipe_id", "crops"]
    rows = models().dropna(subset=["imagenet_top1"])
    rows = rows[~rows.recipe_id.isin(UNLIKE) & ~rows.source_id.isin(set(sources().dropna(subset=["superseded_by"]).id))]
    both = chosen_rows(rows, a).merge(chosen_rows(rows, b), on=recipe, suffixes=("_a", "_b"))
    if both.empty:
        raise LookupError(f"no source trained both {dict(a)} and {dict(b)} with one recipe")
    if both.duplicated(recipe).any():
        raise LookupError(f"{dict(a)} or {dict(b)} has several rows of one recipe: say more, such as input_size")
    found = both[recipe].assign(gain=(both.imagenet_top1_a - both.imagenet_top1_b).round(4))
    return found.assign(label=[source(key, "short") for key in found.source_id])


def chosen_rows(rows: pd.DataFrame, wanted: Mapping[str, object]) -> pd.DataFrame:
    """Rows whose columns have the wanted value, or one of a list.

    Raises:
        KeyError: for a column that is not there.
        LookupError: where no row is left.
    """
    for column, value in wanted.items():
        if column not in rows:
            raise KeyError(f"no column {column!r} among {', '.join(rows.columns)}")
        rows = rows[rows[column].isin(list(value) if isinstance(value, list | tuple | set) else [value])]
    if rows.empty:
        raise LookupError(f"no row has {', '.join(f'{k}={v!r}' for k, v in wanted.items())}")
    return rows


def source(key: str, column: str = "title") -> str:
    """Give the title of a source, or its ``short`` name. ``LookupError`` names the known ids for an unknown one."""
    return _words(SOURCES, column, key)


def device(key: str, column: str = "name") -> str:
    """Give the name of a device, or its ``short`` one. ``LookupError`` names the known ids for an unknown one."""
    return _words(DEVICES, column, key)


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
