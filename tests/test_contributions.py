"""Every folder of measurements in data/results is whole and ours; and what is not, is named."""

import shutil
import subprocess
import sys
from pathlib import Path

import check_results
import pandas as pd
import pytest
from project import ROOT

from whichbackbone.evidence import machine, store
from whichbackbone.evidence.store import Store

MACHINES = sorted((ROOT / "data/results").iterdir())
NOTEBOOK = "09_speed_critique"
KNOWN = {NOTEBOOK: ["latency", "pairs"], "02_resnet": ["degradation"]}


@pytest.mark.parametrize("folder", MACHINES, ids=lambda folder: folder.name)
def test_committed_measurements_are_good(folder):
    assert list(check_results.folder_faults(folder, check_results.known_tables(ROOT / "notebooks"))) == []


def test_the_rules_are_those_of_what_writes_the_tables():
    assert tuple(check_results.PROVENANCE) == store.PROVENANCE
    assert check_results.MACHINE.fullmatch(machine.slug())
    known = check_results.known_tables(ROOT / "notebooks")
    assert "pairs" in known[NOTEBOOK] and "degradation" in known["02_resnet"] and known["00_start_here"] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as ``./run_all.sh`` leaves it on another machine."""
    kept = Store(NOTEBOOK, "standard", str(tmp_path))
    kept.append("latency", pd.DataFrame({"name": ["resnet50"], "median_ms": [42.5], "samples_ms": [[42.0, 43.0]]}))
    kept.append("pairs", pd.DataFrame({"first": ["a"], "ratio": [2.0]}))
    return kept.folder.parent.rename(tmp_path / "data/results/zen-64-cores")


def test_what_run_all_leaves_is_good(folder):
    assert list(check_results.folder_faults(folder, KNOWN)) == []


def edit(old: str, new: str):
    """A change of the table ``latency``, which must hold ``old``."""

    def change(folder: Path) -> None:
        path = folder / NOTEBOOK / "latency.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def put(name: str, content: bytes = b"a,b\n1,2\n"):
    """A file that did not come from ``./run_all.sh``."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)

    return change


LATENCY = f"{NOTEBOOK}/latency.csv"
PLANTED = {
    "torn line": (lambda f: (f / LATENCY).write_text((f / LATENCY).read_text()[:-5]), f"{LATENCY}: damaged, it ends"),
    "missing field": (edit(",42.5,", ","), f"{LATENCY}:2: 8 fields, expected 9"),
    "no text": (put(LATENCY, b"\xff\xfe\x00"), f"{LATENCY}: damaged, no readable CSV"),
    "empty": (put(LATENCY, b""), f"{LATENCY}: damaged, no readable CSV"),
    "header only": (lambda f: (f / LATENCY).write_text((f / LATENCY).read_text().splitlines()[0] + "\n"),
                    f"{LATENCY}: damaged, it ends"),
    "a quote never closed": (edit("resnet50", '"resnet50'), f"{LATENCY}: damaged, no readable CSV"),
    "no provenance": (put(LATENCY), f"{LATENCY}:1: expected the columns run, written"),
    "two columns of one name": (edit("samples_ms", "median_ms"), f"{LATENCY}:1: expected the columns"),
    "smoke numbers": (edit(",standard,", ",smoke,"), f"{LATENCY}:2: profile is 'smoke'"),
    "no time": (edit("median_ms,samples_ms\n20", "median_ms,samples_ms\n2O"), f"{LATENCY}:2: run is '2O"),
    "negative time": (edit(",42.5,", ",-42.5,"), f"{LATENCY}:2: median_ms is '-42.5'"),
    "a sample that is no number": (edit("42 43", "42 fast"), f"{LATENCY}:2: samples_ms is '42 fast'"),
    "a path": (edit("resnet50", "/ho" + "me/me/resnet50"), f"{LATENCY}:2: name names /ho" + "me/me"),
    "too big": (put(LATENCY, b"x" * 1_000_001), f"{LATENCY}: 1,000,001 bytes"),
    "a foreign table": (put(f"{NOTEBOOK}/mine.csv"), f"{NOTEBOOK}/mine.csv: {NOTEBOOK} writes no such table"),
    "another notebook's table": (put(f"{NOTEBOOK}/degradation.csv"), f"degradation.csv: {NOTEBOOK} writes no"),
    "a script": (put(f"{NOTEBOOK}/latency.py"), f"{NOTEBOOK}/latency.py: {NOTEBOOK} writes no such table"),
    "a foreign folder": (put("my_notebook/latency.csv"), "my_notebook: not the folder of a notebook"),
    "a loose file": (put("notes.txt"), "notes.txt: not the folder of a notebook"),
    "a file set aside": (put(f"{LATENCY}.damaged-1"), f"{LATENCY}.damaged-1: a damaged file that was set aside"),
    "a link": (lambda f: (f / NOTEBOOK / "pairs2.csv").symlink_to(f / NOTEBOOK / "pairs.csv"),
               f"{NOTEBOOK}/pairs2.csv: not a file of its own"),
    "nothing": (lambda f: shutil.rmtree(f / NOTEBOOK), ": holds no table"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "says"), PLANTED.values(), ids=PLANTED)
def test_a_damaged_or_foreign_file_is_named(folder, change, says):
    change(folder)
    faults = list(check_results.folder_faults(folder, KNOWN))
    assert len(faults) == 1 and says in faults[0] and "\n" not in faults[0], faults
    assert faults[0].startswith("zen-64-cores")


def test_a_folder_of_another_name_and_none(folder):
    renamed = folder.rename(folder.with_name("My Laptop"))
    assert ["My Laptop: not a name" in fault for fault in check_results.folder_faults(renamed, KNOWN)] == [True]
    assert ["no such folder" in fault for fault in check_results.folder_faults(folder, KNOWN)] == [True]


def test_the_command(tmp_path):
    command = [sys.executable, ROOT / "tools/check_results.py"]
    done = subprocess.run([*command, MACHINES[0].name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"good: {MACHINES[0].name}\n"), done.stderr
    done = subprocess.run([*command, "nobodys-1-cores"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("nobodys-1-cores: no such folder")
