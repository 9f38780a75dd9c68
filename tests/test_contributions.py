"""Every folder of measurements in data/results is whole and ours; and what is not, is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import check_results
import pandas as pd
import pytest
from project import ROOT

from whichbackbone.evidence import machine
from whichbackbone.evidence.store import Store

MACHINES = sorted((ROOT / "data/results").glob("*"))
NOTEBOOK = "09_speed_critique"
KNOWN = {NOTEBOOK: ["latency", "memory"], "02_resnet": ["degradation"]}
RUN = "20261127T060000Z-0a1b"


@pytest.mark.parametrize("folder", MACHINES, ids=lambda folder: folder.name)
def test_committed_measurements_are_good(folder):
    assert list(check_results.folder_faults(folder, check_results.known_tables(ROOT / "notebooks"))) == []


@pytest.mark.parametrize("folder", MACHINES, ids=lambda folder: folder.name)
def test_committed_are_three_runs_of_the_speed_table_and_one_of_any_other(folder):
    tables = [path for path in folder.glob("*/*") if path.is_dir()]
    assert {path.name: len(list(path.glob("*.csv"))) for path in tables
            if len(list(path.glob("*.csv"))) > (3 if path.name == "visits" else 1)} == {}  # fmt: skip


def test_the_rules_are_those_of_what_writes_the_tables():
    assert check_results.MACHINE.fullmatch(machine.slug())
    known = check_results.known_tables(ROOT / "notebooks")
    assert "layers" in known[NOTEBOOK] and known["speed"] == ["visits"]
    assert "degradation" in known["02_resnet"] and known["00_start_here"] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A folder as ``./run_all.sh`` leaves it on another machine."""
    monkeypatch.setattr(machine, "slug", lambda here=None: "zen-64-cores")
    kept = Store(NOTEBOOK, "standard", str(tmp_path))
    kept.run = RUN
    kept.append("latency", pd.DataFrame({"name": ["resnet50"], "median_ms": [42.5], "samples_ms": [[42.0, 43.0]]}))
    kept.append("memory", pd.DataFrame({"name": ["a"], "forward_mb": [2.0]}))
    return kept.folder


def test_what_run_all_leaves_is_good(folder):
    assert list(check_results.folder_faults(folder, KNOWN)) == []


LATENCY, RECORD = f"{NOTEBOOK}/latency/{RUN}.csv", f"runs/{RUN}.json"


def edit(old: str, new: str, name: str = LATENCY):
    """A change of a file, which must hold ``old``."""

    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def put(name: str, content: bytes = b"a,b\n1,2\n"):
    """A file that did not come from ``./run_all.sh``."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def no_rows(folder: Path) -> None:
    for path in folder.rglob("*.csv"):
        path.unlink()


PLANTED = {
    "torn line": (lambda f: (f / LATENCY).write_text((f / LATENCY).read_text()[:-5]), f"{LATENCY}: damaged: not a"),
    "missing field": (edit(",42.5,", ","), f"{LATENCY}: damaged: line 2 has 3 fields, expected 4"),
    "no text": (put(LATENCY, b"\xff\xfe\x00"), f"{LATENCY}: damaged"),
    "empty": (put(LATENCY, b""), f"{LATENCY}: damaged: not a complete table"),
    "a quote never closed": (edit("resnet50", '"resnet50'), f"{LATENCY}: damaged"),
    "no run": (put(LATENCY), f"{LATENCY}: damaged: not a complete table"),
    "another run's rows": (edit("0a1b,", "ffff,"), f"{LATENCY}: damaged: line 2 is of run"),
    "two columns of one name": (edit("samples_ms", "median_ms"), f"{LATENCY}:1: expected each column once"),
    "negative time": (edit(",42.5,", ",-42.5,"), f"{LATENCY}:2: median_ms is '-42.5'"),
    "a sample that is no number": (edit("42 43", "42 fast"), f"{LATENCY}:2: samples_ms is '42 fast'"),
    "a path": (edit("resnet50", "/ho" + "me/me/resnet50"), f"{LATENCY}:2: name names /ho" + "me/me"),
    "too big": (put(LATENCY, b"x" * 900_001), f"{LATENCY}: 900,001 bytes"),
    "a foreign table": (put(f"{NOTEBOOK}/mine/{RUN}.csv"), f"{NOTEBOOK}/mine: {NOTEBOOK} writes no such table"),
    "another notebook's": (put(f"{NOTEBOOK}/degradation/{RUN}.csv"), f"degradation: {NOTEBOOK} writes no"),
    "the old layout": (put(f"{NOTEBOOK}/latency.csv"), "latency.csv: a table of the layout from before"),
    "a script": (put(f"{NOTEBOOK}/latency/run.py"), "latency/run.py: not a table of a run"),
    "a foreign folder": (put("my_notebook/latency.csv"), "my_notebook: not the folder of a notebook"),
    "a loose file": (put("notes.txt"), "notes.txt: not the folder of a notebook"),
    "a link": (lambda f: (f / NOTEBOOK / "latency/x.csv").symlink_to(f / LATENCY), "x.csv: not a table of a run"),
    "nothing": (lambda f: (no_rows(f), (f / RECORD).unlink()), ": holds no table"),
    "a record without rows": (put("runs/20261127T060000Z-ffff.json"), "20261127T060000Z-ffff.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), PLANTED.values(), ids=PLANTED)
def test_a_damaged_or_foreign_file_is_named(folder, change, says):
    change(folder)
    faults = list(check_results.folder_faults(folder, KNOWN))
    assert len(faults) == 1 and says in faults[0] and "\n" not in faults[0], faults
    assert faults[0].startswith("zen-64-cores")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (edit('"standard"', '"smoke"', RECORD), "measured in the profile smoke, which proves nothing"),
        (edit("zen-64-cores", "zen-32-cores", RECORD), "belongs to the machine zen-32-cores"),
        (edit("{", "", RECORD), "is damaged"),
        (edit('"format": 1', '"format": 7', RECORD), "written by a newer version"),
        (lambda f: (f / RECORD).unlink(), "no sound record of this run in runs/"),
    ],
)
def test_rows_need_a_sound_record(folder, change, says):
    change(folder)
    faults = list(check_results.folder_faults(folder, KNOWN))
    assert any(says in fault for fault in faults) and all("\n" not in fault for fault in faults), faults


def test_a_sound_record_without_rows_is_named(folder):
    record = json.loads((folder / RECORD).read_text()) | {"run": "20261127T060000Z-ffff"}
    (folder / "runs/20261127T060000Z-ffff.json").write_text(json.dumps(record))
    (fault,) = check_results.folder_faults(folder, KNOWN)
    assert "the record of a run without rows" in fault


def test_a_folder_of_another_name_and_none(folder):
    renamed = shutil.move(folder, folder.with_name("My Laptop"))
    assert any("My Laptop: not a name" in fault for fault in check_results.folder_faults(renamed, KNOWN))
    assert ["no such folder" in fault for fault in check_results.folder_faults(folder, KNOWN)] == [True]


def test_the_command():
    command = [sys.executable, ROOT / "tools/check_results.py"]
    done = subprocess.run([*command, MACHINES[0].name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"good: {MACHINES[0].name}\n"), done.stderr
    done = subprocess.run([*command, "nobodys-1-cores"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("nobodys-1-cores: no such folder")
