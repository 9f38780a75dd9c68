"""Look through folders of measurements before they join the study: ``python tools/check_results.py [MACHINE ...]``.

A folder ``data/results/<machine>/`` is good when it holds nothing but tables that our notebooks write, each whole, with
the provenance of every row, and with nothing in it that belongs to one person's machine. Nothing is changed here.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import notebook_files as files

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE = 1_000_000  # bytes, as for every file of the repository
MACHINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-\d+-cores")  # what whichbackbone.evidence.machine.slug() makes

# What stands in each row of every table (whichbackbone.evidence.store.PROVENANCE), and what it looks like.
PROVENANCE = {
    "run": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "written": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00",
    "profile": r"standard|full",  # the smoke profile proves only that everything runs
    "code": r"[0-9a-f]{10}",
    "torch": r"\d+\.\d+[\w.+]*",
    "python": r"\d+\.\d+\.\d+\S*",
}


# Tables that a command writes beside those of its notebook, which reads them: python -m benchmarks.regnet_calibration.
BY_COMMAND = {"06_regnet": ["calibration"]}


def known_tables(notebooks: Path) -> dict[str, list[str]]:
    """Notebook -> the tables it writes, by its own code, and those that a command of ours adds."""
    paths = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    return {path.stem: files.declared_tables(files.read(path)) + BY_COMMAND.get(path.stem, []) for path in paths}


def folder_faults(folder: Path, known: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with one machine's folder, each fault in one line that begins with the file's name."""
    if not folder.is_dir():
        yield f"{folder.name}: no such folder: ./run_all.sh makes it, named after this machine"
        return
    if not MACHINE.fullmatch(folder.name):
        yield f"{folder.name}: not a name that ./run_all.sh gives, such as amd-epyc-2-cores: keep the name it gave"
    tables = 0
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_dir() or path.name not in known:
            yield f"{folder.name}/{path.name}: not the folder of a notebook: remove it"
            continue
        for table in sorted(path.iterdir()):
            tables += 1
            problem = _foreign(table, known[path.name])
            found = [f": {problem}"] if problem else table_faults(table)
            yield from (f"{folder.name}/{path.name}/{table.name}{fault}" for fault in found)
    if not tables:
        yield f"{folder.name}: holds no table: run ./run_all.sh first"


def _foreign(path: Path, tables: list[str]) -> str:
    """Why this is no table of its notebook, or ""."""
    if path.is_symlink() or not path.is_file():
        return "not a file of its own: remove it"
    if ".damaged-" in path.name:
        return "a damaged file that was set aside: mend or remove it"
    if path.suffix != ".csv" or path.stem not in tables:
        return f"{path.parent.name} writes no such table, only {', '.join(tables) or 'none'}: remove it"
    return ""


def table_faults(path: Path) -> Iterator[str]:
    """What is wrong with one table; each fault begins with ``:`` and, where there is one, the line."""
    if (size := path.stat().st_size) > MAX_FILE:
        yield f": {size:,} bytes, over {MAX_FILE:,}: leave out old runs"
        return
    try:
        text = path.read_text(encoding="utf-8")
        header, *rows = csv.reader(io.StringIO(text), strict=True)
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError, and so is an empty file's
        yield f": damaged, no readable CSV ({error}): run its notebook again"
        return
    if not text.endswith("\n") or not rows:
        yield ": damaged, it ends too early: run its notebook again"
    if header[: len(PROVENANCE)] != list(PROVENANCE) or len(set(header)) < len(header) or "" in header:
        first = ", ".join(PROVENANCE)
        yield f":1: expected the columns {first} first, and each name once: leave tables as ./run_all.sh wrote them"
        return
    for number, row in enumerate(rows, start=2):
        if fault := _row_fault(header, row):
            yield f":{number}: {fault}"
            return  # one fault of a table is enough to send it back


def _row_fault(header: list[str], row: list[str]) -> str:
    """What is wrong with one row, or ""."""
    if len(row) != len(header):
        return f"{len(row)} fields, expected {len(header)}: damaged, run its notebook again"
    fields = dict(zip(header, row, strict=True))
    for column, form in PROVENANCE.items():
        if not re.fullmatch(form, fields[column]):
            return f"{column} is {fields[column][:40]!r}, expected {form}"
    try:
        datetime.fromisoformat(fields["written"])
    except ValueError:
        return f"written is {fields['written']!r}, which is no time"
    for column, value in fields.items():
        if path := files.machine_path(value):
            return f"{column} names {path}, a folder of one machine"
        if column.endswith("_ms") and not all(_is_time(part) for part in value.split()):
            return f"{column} is {value[:40]!r}, expected milliseconds above 0"
    return ""


def _is_time(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def main(names: list[str]) -> int:
    """Check the named machines, or all; tell each fault in one line."""
    place, known = ROOT / "data" / "results", known_tables(ROOT / "notebooks")
    folders = [place / Path(name).name for name in names] or sorted(place.iterdir())
    faults = [fault for folder in folders for fault in folder_faults(folder, known)]
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"good: {', '.join(folder.name for folder in folders)}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
