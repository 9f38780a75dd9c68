"""Where measurements are kept: one file a run, and one record a run with everything that its numbers depend on.

``data/results/<machine>/<notebook>/<table>/<run>.csv`` holds rows; ``data/results/<machine>/runs/<run>.json`` says who
measured them, with what, when. A run writes its own files and touches no earlier one. Nothing derived is kept:
differences, pools and fronts are computed when read. Lists (the raw samples of a timing) are written as numbers
separated by spaces.
"""

import csv
import io
import json
import math
import os
import re
import secrets
import subprocess
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pandas as pd

from whichbackbone import profiles
from whichbackbone.evidence import closure, machine
from whichbackbone.folders import REPOSITORY

FORMAT = 1  # of the record: raise it when what is written changes its meaning
RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
SLOW = 0.7  # a run whose peak is below this share of the best one of its machine is marked
# What only reads or shows: a change there measures nothing again.
READING = ("whichbackbone.evidence", "whichbackbone.teach", "whichbackbone.figures")
# What is measured by a command -> the modules that decide its numbers.
COMMANDS = {"speed": ("whichbackbone.measure.block",)}
FRESH = "WHICHBACKBONE_FRESH"  # set by ./run_all.sh --force: measure again what was measured before


class DamagedResults(RuntimeError):
    """A results file or a run's record that cannot be read; nothing was deleted."""


class OldLayout(RuntimeError):
    """Results as the study kept them before it kept one file a run."""


@dataclass(frozen=True)
class Record:
    """What the numbers of one run depend on.

    Attributes:
        run: its name, time of its start and four random digits.
        notebook: stem of the notebook, or name of the command, that measured.
        machine: folder name of the machine.
        profile: smoke, standard or full.
        started: time, UTC, ISO 8601.
        commit: of the repository, with "+" where files had changed since; "unknown" without git.
        code: hash of the notebook's cells and of the modules that measure for it.
        facts: of the machine (:class:`whichbackbone.evidence.machine.Machine`).
        versions: of Python and of every library that decides a time or a number.
        peaks: measured at the start: gflops and gbps; empty for a run that timed nothing.
        format: of this record.
    """

    run: str
    notebook: str
    machine: str
    profile: str
    started: str
    commit: str
    code: str
    facts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    peaks: Mapping[str, float] = field(default_factory=dict)
    format: int = FORMAT


class Store:
    """The results of one run of a notebook or a command. Creates nothing until something is appended.

    Args:
        notebook: its stem, such as ``"02_resnet"``.
        profile: smoke, standard or full; kept with the run.
        output: folder for figures and results; ``""`` is this repository, or ``build/smoke`` in the smoke profile,
            whose numbers prove only that everything runs.
        peaks: measured at the start of the run, such as :func:`whichbackbone.measure.peaks.quick` returns; leave out
            where nothing is timed.
        run: an earlier run that this one goes on with; a new one if left out.
    """

    def __init__(self, notebook: str, profile: str, output: str = "", peaks: Mapping[str, float] | None = None,
                 run: str = ""):  # fmt: skip
        self.notebook = notebook
        self.profile = profiles.validate(profile)
        default = REPOSITORY / "build" / "smoke" if profile == "smoke" else REPOSITORY
        self.root = Path(output).resolve() if output else default
        self.peaks = dict(peaks or {})
        self.started = datetime.now(UTC)
        self.run = run or f"{self.started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"

    @property
    def figures(self) -> Path:
        """Folder of the figures."""
        return self.root / "figures"

    @property
    def folder(self) -> Path:
        """Folder of this machine's results."""
        return results_folder(self.root) / machine.slug()

    def append(self, table: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep ``frame``'s rows as this run's ``table`` and return them as they will be read back.

        The file appears whole or not at all; calling again replaces what this run wrote before, and no other run's
        rows. ``OSError`` names the file when it cannot be written; ``ValueError`` when there are no rows.
        """
        if frame.empty:
            raise ValueError(f"nothing to keep in {table!r}: the frame has no rows")
        record = self.folder / "runs" / f"{self.run}.json"
        if not record.exists():
            _write(record, json.dumps(asdict(self.record()), indent=1) + "\n")
        path = self.folder / self.notebook / table / f"{self.run}.csv"
        text = _as_csv(frame.drop(columns="run", errors="ignore").assign(run=self.run))
        _write(path, text)
        return _parsed(text)

    def measured(self, table: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Rows of ``table`` that this machine measured before with the same code and profile, else those of ``make()``.

        So a notebook that is executed again only because a sentence changed measures nothing again. Rows found are
        said to be so in a line; ``./run_all.sh --force`` measures afresh.
        """
        if not os.environ.get(FRESH):
            for run in sorted(self._mine(table), reverse=True):
                record = _record(self.folder / "runs" / f"{run}.json", self.folder.name)
                if record and (record.code, record.profile) == (self.code, self.profile):
                    print(f"{table}: as measured on {record.started[:16].replace('T', ' ')} UTC, run {run}")
                    return _parsed(text_of(self.folder / self.notebook / table / f"{run}.csv"))
        return self.append(table, make())

    def read(self, notebook: str, table: str) -> pd.DataFrame:
        """Newest rows of another notebook's table, as :func:`latest` finds them for this run's folder."""
        return latest(notebook, table, str(self.root))

    def record(self) -> Record:
        """What this run's numbers depend on."""
        here = machine.describe()
        return Record(
            run=self.run, notebook=self.notebook, machine=machine.slug(), profile=self.profile,
            started=self.started.isoformat(timespec="seconds"), commit=commit(), code=self.code,
            facts={k: v for k, v in here.rows().items() if k not in here.versions and k != "python"},
            versions={"python": here.python} | here.versions, peaks=self.peaks,
        )  # fmt: skip

    @property
    def code(self) -> str:
        """Hash of the code that decides the numbers, of a notebook or of a command; "unknown" for another name."""
        path = REPOSITORY / "notebooks" / f"{self.notebook}.ipynb"
        if self.notebook in COMMANDS:
            return closure.code_hash(*COMMANDS[self.notebook])
        return closure.notebook_hash(path, without=READING) if path.is_file() else "unknown"

    def _mine(self, table: str) -> list[str]:
        return [path.stem for path in (self.folder / self.notebook / table).glob("*.csv") if RUN.fullmatch(path.stem)]


# -------------------------------------------------------------------------------------------------------------- reading


def latest(
    notebook: str, table: str, output: str = "", of: str | None = None, profile: str | None = None
) -> pd.DataFrame:
    """Newest rows of ``notebook``'s ``table``: this machine's if there are any, else another machine's.

    Args:
        output: a folder whose results come first; then the repository's.
        of: a machine whose rows alone count.
        profile: of the runs that count; any if left out.

    Returns:
        The rows; ``frame.attrs`` says ``machine``, ``run`` and ``profile``.

    Raises:
        FileNotFoundError: where there are none, naming the notebook to run.
    """
    for folder in _folders(output, of):
        found = {path.stem: path for path in (folder / notebook / table).glob("*.csv")}
        for run in sorted(found, reverse=True):
            record = _record(folder / "runs" / f"{run}.json", folder.name)
            if record and profile in (None, record.profile):
                frame = _parsed(text_of(found[run]))
                frame.attrs |= {"machine": folder.name, "run": run, "profile": record.profile}
                return frame
    raise FileNotFoundError(f"no {table!r} measured yet: run notebook {notebook}")


def all_runs(notebook: str, table: str, of: str, output: str = "") -> Iterator[tuple[str, pd.DataFrame]]:
    """Each run of a machine that has rows of ``notebook``'s ``table``, the newest first, with its rows.

    A run whose record cannot be trusted is left out, with a warning.
    """
    folders = _folders(output, of)
    found = {path.stem: path for folder in reversed(folders) for path in (folder / notebook / table).glob("*.csv")}
    for run in sorted(found, reverse=True):
        if _record(found[run].parents[2] / "runs" / f"{run}.json", of):
            yield run, _parsed(text_of(found[run]))


def machines(output: str = "") -> list[str]:
    """Names of the machines that have results, in alphabetical order."""
    return sorted({folder.name for root in _roots(output) for folder in _machine_folders(root)})


def runs(of: str, output: str = "") -> pd.DataFrame:
    """One row for each run of a machine, oldest first: run, notebook, profile, started, commit, peak_gflops, fraction,
    slow.

    ``slow`` marks a run whose peak was under 70 % of the best one seen on that machine: the machine was busy or held
    back, and its absolute times mean little. ``fraction`` marks one whose container granted a part of a core: the
    scheduler takes it away in the middle of a call.
    """
    records = [record for folder in _folders(output, of) for path in sorted((folder / "runs").glob("*.json"))
               if (record := _record(path, folder.name))]  # fmt: skip
    columns = ["run", "notebook", "profile", "started", "commit"]
    frame = pd.DataFrame([{c: getattr(r, c) for c in columns} for r in records], columns=columns)
    frame["peak_gflops"] = [float(r.peaks.get("gflops", "nan")) for r in records]
    quotas = [float(r.facts.get("quota", "inf")) for r in records]
    frame["fraction"] = [math.isfinite(quota) and not quota.is_integer() for quota in quotas]
    return frame.assign(slow=frame.peak_gflops < SLOW * frame.peak_gflops.max())


def record_of(run: str, output: str = "") -> Record:
    """What one run's numbers depend on.

    Raises:
        LookupError: for an unknown run.
        DamagedResults: for a record that cannot be trusted.
    """
    for folder in _folders(output, None):
        if (path := folder / "runs" / f"{run}.json").is_file():
            return read_record(path, folder.name)
    raise LookupError(f"no run {run!r} in data/results")


def tidy(
    of: str, output: str = "", keep: Mapping[str, int] | None = None, decisive: Collection[tuple[str, str]] = ()
) -> list[Path]:
    """Remove older runs of a machine from the working folder; git's history has those that were committed.

    Args:
        of: the machine.
        keep: table -> number of its newest runs that stay; 1 for a table not named.
        decisive: (notebook, table) of which the newest ``full`` run stays as well, since verdicts rest on it.

    Returns:
        The files removed: rows, and the records of runs that have no rows left.
    """
    removed = []
    for folder in _folders(output, of):
        left = set()
        for table in (path for path in folder.glob("*/*") if path.is_dir()):
            found = sorted((path for path in table.glob("*.csv")), reverse=True)
            stay = found[: (keep or {}).get(table.name, 1)]
            if (table.parent.name, table.name) in decisive:
                records = ((path, _record(folder / "runs" / f"{path.stem}.json", folder.name)) for path in found)
                stay += [path for path, record in records if record and record.profile == "full"][:1]
            left |= {path.stem for path in stay}
            removed += [path for path in found if path not in stay]
        removed += [path for path in (folder / "runs").glob("*.json") if path.stem not in left]
    for path in removed:
        path.unlink()
    return removed


def results_folder(root: Path) -> Path:
    """Where results stand below the repository or an output folder."""
    return root / "data" / "results"


def _roots(output: str) -> list[Path]:
    return ([Path(output).resolve()] if output else []) + [REPOSITORY]


def _machine_folders(root: Path) -> list[Path]:
    return [path for path in sorted(results_folder(root).glob("*")) if path.is_dir()]


def _folders(output: str, of: str | None) -> list[Path]:
    """Folders of results in the order in which they count."""
    found = []
    for root in _roots(output):
        folders = [folder for folder in _machine_folders(root) if of in (None, folder.name)]
        if len(folders) > 1:
            folders.sort(key=lambda folder: folder.name != machine.slug())
        found += [folder for folder in folders if not _is_old(folder, asked_for=of is not None)]
    return found


def _is_old(folder: Path, asked_for: bool) -> bool:
    """Whether a folder holds tables directly, as before; raises :class:`OldLayout` if it was asked for by name."""
    if not (old := sorted(folder.glob("*/*.csv"))):
        return False
    says = (f"data/results/{folder.name} has the layout from before one file a run "
            f"({old[0].parent.name}/{old[0].name}): delete that folder, then ./run_all.sh measures again")  # fmt: skip
    if asked_for:
        raise OldLayout(says)
    warnings.warn(says, stacklevel=4)
    return True


def _record(path: Path, owner: str) -> Record | None:
    """The record of a run; None, with a warning that says what to do, where it does not vouch for its rows."""
    try:
        return read_record(path, owner)
    except DamagedResults as error:
        warnings.warn(f"{error}; its rows do not count", stacklevel=3)
        return None


def read_record(path: Path, owner: str) -> Record:
    """The record of a run of the machine ``owner``.

    Raises:
        DamagedResults: for a record that is missing, damaged, written by a newer version, or another machine's.
    """
    name = f"{owner}/runs/{path.name}"
    if not path.is_file():
        raise DamagedResults(f"no record {name}: restore it with git, or remove the rows of that run")
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if given["format"] > FORMAT:
            raise DamagedResults(f"{name} was written by a newer version of the study: update it with git pull")
        record = Record(**given)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedResults(f"{name} is damaged ({type(error).__name__}): restore it with git, or remove it with its "
                             "rows") from None  # fmt: skip
    if record.machine != owner:
        raise DamagedResults(f"{name} belongs to the machine {record.machine}: move it and its rows to that folder")
    return record


def text_of(path: Path) -> str:
    """Text of a table, checked.

    Raises:
        DamagedResults: for a torn line, a missing field, or rows of another run.
    """
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text), strict=True))
        if not text.endswith("\n") or len(lines) < 2 or lines[0][0] != "run":
            raise ValueError("not a complete table of results")
        for number, fields in enumerate(lines[1:], start=2):
            if len(fields) != len(lines[0]):
                raise ValueError(f"line {number} has {len(fields)} fields, expected {len(lines[0])}")
            if fields[0] != path.stem:
                raise ValueError(f"line {number} is of run {fields[0][:30]!r}")
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        place = "/".join(path.parts[-4:])
        raise DamagedResults(f"damaged results file {place}: {error}; restore it with git, or remove it and run its "
                             "notebook again") from None  # fmt: skip
    return text


def _parsed(text: str) -> pd.DataFrame:
    frame = pd.read_csv(io.StringIO(text), dtype={"run": str})
    return frame.assign(**{c: frame[c].map(_numbers) for c in frame.columns if c.startswith("samples_")})


# -------------------------------------------------------------------------------------------------------------- writing


def _as_csv(frame: pd.DataFrame) -> str:
    """The rows as text: 6 digits of a measurement, every digit of a whole number."""
    flat = frame.assign(**{c: frame[c].map(_text) for c in frame.columns if c.startswith("samples_")})
    flat = flat[["run", *(c for c in flat.columns if c != "run")]]
    return flat.to_csv(index=False, float_format=lambda v: f"{v:.0f}" if v.is_integer() else f"{v:.6g}",
                       lineterminator="\n")  # fmt: skip


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot write results ({error.strerror}), what stood there is kept: make room or set output"
        raise OSError(error.errno, reason, str(path)) from error


def _text(samples: object) -> str:
    return " ".join(f"{s:.5g}" for s in samples) if isinstance(samples, Iterable) else ""


def _numbers(text: object) -> list[float]:
    return [float(s) for s in re.split(r"\s+", str(text).strip())] if isinstance(text, str) and text.strip() else []


@cache
def commit() -> str:
    """Short hash of the repository's commit, "+" after it where tracked files have changed; "unknown" without git."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        told = [subprocess.run([*git, *words], capture_output=True, text=True, timeout=20, check=True).stdout.strip()
                for words in (("rev-parse", "--short=10", "HEAD"),
                              ("status", "--porcelain", "-uno", "whichbackbone", "data/claims.yaml"))]  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return told[0] + ("+" if told[1] else "")
