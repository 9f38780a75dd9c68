"""Where measurements are kept: append-only tidy CSV, one folder per machine and notebook, every row with provenance.

``data/results/<machine>/<notebook>/<table>.csv``. A run only ever adds rows; :meth:`Store.latest` reads back those of
the newest run. Lists (the raw samples of a timing) are written as numbers separated by spaces.
"""

import csv
import hashlib
import io
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from whichbackbone import profiles
from whichbackbone.evidence import machine
from whichbackbone.folders import REPOSITORY

PROVENANCE = ("run", "written", "profile", "code", "torch", "python")


class DamagedResults(RuntimeError):
    """A results file that cannot be read; it was set aside under another name, nothing was deleted."""


class Store:
    """The results of one notebook run. Creates nothing until something is appended.

    Args:
        notebook: its stem, such as ``"02_resnet"``.
        profile: smoke, standard or full; kept with every row.
        output: folder for figures and results; ``""`` is this repository, or ``build/smoke`` in the smoke profile,
            whose numbers prove only that everything runs.
    """

    def __init__(self, notebook: str, profile: str, output: str = ""):
        self.notebook = notebook
        self.profile = profiles.validate(profile)
        default = REPOSITORY / "build" / "smoke" if profile == "smoke" else REPOSITORY
        self.root = Path(output).resolve() if output else default
        self.run = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.root / "figures"

    @property
    def folder(self) -> Path:
        """Folder of this machine's tables of this notebook."""
        return self.root / "data" / "results" / machine.slug() / self.notebook

    def append(self, table: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Add ``frame``'s rows to a table, each with its provenance; return them as written.

        The file is replaced atomically: after an interrupt it holds all old rows, as they were, with the new ones or
        without. If the old file is damaged it is set aside, the new rows are kept, and then :class:`DamagedResults` is
        raised. ``OSError`` names the file when it cannot be written; ``ValueError`` when there are no rows.
        """
        if frame.empty:
            raise ValueError(f"nothing to append to {table!r}: the frame has no rows")
        rows = frame.assign(
            run=self.run,
            written=datetime.now(UTC).isoformat(timespec="microseconds"),
            profile=self.profile,
            code=code_hash(),
            torch=version("torch"),
            python=platform.python_version(),
        )
        rows = rows[[*PROVENANCE, *(c for c in rows.columns if c not in PROVENANCE)]]
        path = self.folder / f"{table}.csv"
        damage, old = None, None
        try:
            old = _read(path) if path.exists() else None
        except DamagedResults as error:
            damage = error
        new = _as_text(rows)
        _write(path, new if old is None else pd.concat([old, new], ignore_index=True))
        if damage is not None:
            raise damage
        return rows

    def latest(self, table: str) -> pd.DataFrame:
        """Rows of the newest run of ``table`` on this machine. Raises ``FileNotFoundError`` when there is none."""
        path = self.folder / f"{table}.csv"
        if not path.exists():
            raise FileNotFoundError(f"no {table!r} measured on this machine yet: run notebook {self.notebook}")
        return _newest(_read(path))


def latest(notebook: str, table: str, output: str = "", of: str | None = None) -> pd.DataFrame:
    """Newest measured rows of ``notebook``'s ``table``: this machine's if there are any, else another machine's.

    ``frame.attrs["machine"]`` says whose they are; ``of`` asks for one machine's alone. Looks in ``output`` first when
    given, then in the repository. Raises ``FileNotFoundError`` that names the notebook to run.
    """
    for root in _roots(output):
        folders = [f for f in sorted((root / "data" / "results").glob("*/")) if of in (None, f.name)]
        if len(folders) > 1:  # who this machine is takes a second to find out
            folders.sort(key=lambda f: f.name != machine.slug())
        for folder in folders:
            path = folder / notebook / f"{table}.csv"
            if path.exists():
                frame = _newest(_read(path))
                frame.attrs["machine"] = folder.name
                return frame
    raise FileNotFoundError(f"no {table!r} measured yet: run notebook {notebook}")


def machines(output: str = "") -> list[str]:
    """Names of the machines that have results, in alphabetical order."""
    return sorted({f.name for root in _roots(output) for f in (root / "data" / "results").glob("*/")})


def _roots(output: str) -> list[Path]:
    return ([Path(output).resolve()] if output else []) + [REPOSITORY]


def code_hash() -> str:
    """Short hash of the package's source: equal hashes mean that the same code measured."""
    digest = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:10]


def _newest(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the newest append, parsed: what others wrote in a column does not decide what it means in this one."""
    rows = rows[rows["written"] == rows["written"].iloc[-1]]
    # A hash such as 123e456789 is no number.
    frame = pd.read_csv(io.StringIO(rows.to_csv(index=False)), dtype=dict.fromkeys(PROVENANCE, str))
    return frame.assign(**{c: frame[c].map(_numbers) for c in frame.columns if c.startswith("samples_")})


def _as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows as text, as they will stand in the file: 6 digits of a measurement, every digit of a whole number."""
    flat = frame.assign(**{c: frame[c].map(_text) for c in frame.columns if c.startswith("samples_")})
    text = flat.to_csv(index=False, float_format=lambda v: f"{v:.0f}" if v.is_integer() else f"{v:.6g}")
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _read(path: Path) -> pd.DataFrame:
    """Rows of a results file as text. A torn line, a missing field or a file without provenance is damage, not data."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text), strict=True))
        if not text.endswith("\n") or len(lines) < 2 or not set(PROVENANCE) <= set(lines[0]):
            raise ValueError("not a complete table of results")
        for number, fields in enumerate(lines[1:], start=2):
            if len(fields) != len(lines[0]):
                raise ValueError(f"line {number} has {len(fields)} fields, expected {len(lines[0])}")
        return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        aside = _set_aside(path)
        raise DamagedResults(
            f"damaged results file {path.name}: {error}; set aside as {aside.name}, nothing deleted: run again"
        ) from None


def _write(path: Path, rows: pd.DataFrame) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            rows.to_csv(temporary, index=False, lineterminator="\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot write results ({error.strerror}), what stood there is kept: make room or set output"
        raise OSError(error.errno, reason, str(path)) from error


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    return path.rename(aside)


def _text(samples: object) -> str:
    return " ".join(f"{s:.5g}" for s in samples) if isinstance(samples, Iterable) else ""


def _numbers(text: object) -> list[float]:
    return [float(s) for s in re.split(r"\s+", str(text).strip())] if isinstance(text, str) and text.strip() else []
