"""Look through folders of measurements before they join the study: ``python tools/check_results.py [MACHINE ...]``.

A folder ``data/results/<machine>/`` is good when it holds nothing but tables that our notebooks write, each whole and
with a sound record of its run, and nothing that belongs to one person's machine. Nothing is changed here.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import notebook_files as files

from whichbackbone.evidence import store

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE = 900_000  # bytes; nothing committed is larger
MACHINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-\d+-cores")  # what whichbackbone.evidence.machine.slug() makes
PROFILES = ("standard", "full")  # the smoke profile proves only that everything runs
# Tables that a command writes, and no notebook: python -m whichbackbone measure.
BY_COMMAND = {"speed": ["visits"]}


def known_tables(notebooks: Path) -> dict[str, list[str]]:
    """Notebook -> the tables it writes, by its own code, and those that a command of ours adds."""
    paths = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    written = {path.stem: files.declared_tables(files.read(path)) for path in paths}
    return {name: written.get(name, []) + BY_COMMAND.get(name, []) for name in written | BY_COMMAND}


def folder_faults(folder: Path, known: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with one machine's folder, each fault in one line that begins with the file's name."""
    if not folder.is_dir():
        yield f"{folder.name}: no such folder: ./run_all.sh makes it, named after this machine"
        return
    if not MACHINE.fullmatch(folder.name):
        yield f"{folder.name}: not a name that ./run_all.sh gives, such as amd-epyc-19h-01h-2-cores: keep that name"
    records = {}
    for path in sorted((folder / "runs").glob("*")):
        try:
            records[path.stem] = store.read_record(path, folder.name)
        except store.DamagedResults as error:
            yield str(error)
    seen = set()
    for place in sorted(folder.iterdir()):
        if place.name == "runs" and place.is_dir() and not place.is_symlink():
            continue
        if place.is_symlink() or not place.is_dir() or place.name not in known:
            yield f"{folder.name}/{place.name}: not the folder of a notebook: remove it"
            continue
        for table in sorted(place.iterdir()):
            if problem := _foreign(table, known[place.name]):
                yield f"{folder.name}/{place.name}/{table.name}: {problem}"
                continue
            for path in sorted(table.iterdir()):
                seen.add(path.stem)
                yield from (f"{folder.name}/{place.name}/{table.name}/{path.name}{fault}"
                            for fault in table_faults(path, records))  # fmt: skip
    if not seen:
        yield f"{folder.name}: holds no table: run ./run_all.sh first"
    for run in sorted(set(records) - seen):
        yield f"{folder.name}/runs/{run}.json: the record of a run without rows: remove it"


def _foreign(table: Path, tables: list[str]) -> str:
    """Why this is no table of its notebook, or ""."""
    if table.is_file() and table.suffix == ".csv":
        return "a table of the layout from before one file a run: delete the machine's folder, run ./run_all.sh again"
    if table.is_symlink() or not table.is_dir() or table.name not in tables:
        return f"{table.parent.name} writes no such table, only {', '.join(tables) or 'none'}: remove it"
    return ""


def table_faults(path: Path, records: dict[str, store.Record]) -> Iterator[str]:
    """What is wrong with one run's table; each fault begins with ``:`` and, where there is one, the line."""
    if path.is_symlink() or path.suffix != ".csv" or not store.RUN.fullmatch(path.stem):
        yield ": not a table of a run: remove it"
        return
    if (size := path.stat().st_size) > MAX_FILE:
        yield f": {size:,} bytes, over {MAX_FILE:,}: keep raw rows, nothing that can be computed from them"
        return
    try:
        text = store.text_of(path)
    except store.DamagedResults as error:
        yield f": damaged: {str(error).partition(': ')[2]}"
        return
    if path.stem not in records:
        yield ": no sound record of this run in runs/: restore it with git, or remove this file"
        return
    if (profile := records[path.stem].profile) not in PROFILES:
        yield f": measured in the profile {profile}, which proves nothing: remove it"
        return
    header, *rows = csv.reader(io.StringIO(text))
    if len(set(header)) < len(header) or "" in header:
        yield ":1: expected each column once, with a name: leave tables as ./run_all.sh wrote them"
        return
    for number, row in enumerate(rows, start=2):
        if fault := _row_fault(dict(zip(header, row, strict=True))):
            yield f":{number}: {fault}"
            return  # one fault of a table is enough to send it back


def _row_fault(fields: dict[str, str]) -> str:
    """What is wrong with one row, or ""."""
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
