"""Measurements are only ever added, each with its provenance, and no accident loses one."""

import contextlib
import math
import os
import resource

import numpy as np
import pandas as pd
import pytest

from whichbackbone.evidence import machine
from whichbackbone.evidence import store as results
from whichbackbone.evidence.store import DamagedResults, Store

ROWS = pd.DataFrame({"model": ["resnet50", "efficientnet_b0"], "median_ms": [171.25, 51.5]})


def store(folder, run: str = "2026-01-01T00:00:00Z") -> Store:
    made = Store("09_speed_critique", "standard", str(folder))
    made.run = run
    return made


@pytest.fixture
def path(tmp_path):
    """Where the table ``latency`` of this machine stands."""
    return tmp_path / "data" / "results" / machine.slug() / "09_speed_critique" / "latency.csv"


def test_nothing_is_created_before_something_is_measured(tmp_path):
    with pytest.raises(FileNotFoundError, match="'latency' .* run notebook 09_speed_critique"):
        store(tmp_path).latest("latency")
    assert not any(tmp_path.iterdir())


def test_unknown_profile():
    with pytest.raises(ValueError, match="smoke, standard, full"):
        Store("02_resnet", "quick")


def test_smoke_never_writes_over_what_is_published(tmp_path):
    assert Store("02_resnet", "smoke").root == results.REPOSITORY / "build" / "smoke"
    assert Store("02_resnet", "standard").root == results.REPOSITORY
    assert Store("02_resnet", "smoke", str(tmp_path)).figures == tmp_path / "figures"


def test_appends_and_reads_back_the_newest_rows(tmp_path, path):
    store(tmp_path).append("latency", ROWS)
    before = path.read_text()
    second = store(tmp_path, "2026-01-02T00:00:00Z")
    for rows in (ROWS[:1], ROWS):  # a reader may run the measuring cell twice in one session
        second.append("latency", rows)
    assert path.read_text().startswith(before)
    pd.testing.assert_frame_equal(second.latest("latency")[["model", "median_ms"]], ROWS)
    assert len(path.read_text().splitlines()) == 1 + 5
    assert [p.name for p in path.parent.iterdir()] == ["latency.csv"]


def test_every_row_has_provenance(tmp_path):
    store(tmp_path).append("latency", ROWS)
    latest = store(tmp_path).latest("latency")
    assert list(latest)[:6] == list(results.PROVENANCE) and latest.notna().all(axis=None)
    assert set(latest.profile) == {"standard"} and set(latest.code) == {results.code_hash()}
    with pytest.raises(ValueError, match="nothing to append to 'latency'"):
        store(tmp_path).append("latency", ROWS[:0])


def test_a_hash_of_digits_stays_a_hash(tmp_path, monkeypatch):
    for code in ("0123456789", "123e456789"):  # as a number the first would lose its zero, the second be infinite
        monkeypatch.setattr(results, "code_hash", lambda code=code: code)
        store(tmp_path).append("latency", ROWS)
        assert store(tmp_path).latest("latency").code.unique().tolist() == [code]


def test_samples_and_counts_come_back(tmp_path):
    samples = [[1.25, 2.5], np.array([3.0625]), []]
    counts = [37_745_884_416, math.nan, 1]  # the missing one makes the column float: still every digit
    written = store(tmp_path).append("latency", pd.DataFrame({"samples_ms": samples, "macs": counts, "ms": 1 / 3}))
    for frame in (written, store(tmp_path).latest("latency")):
        assert [list(s) for s in frame.samples_ms] == [[1.25, 2.5], [3.0625], []]
        assert frame.macs[0] == counts[0] and math.isnan(frame.macs[1])
        assert frame.ms[0] == pytest.approx(1 / 3, rel=1e-5)


def test_tables_may_change_their_columns(tmp_path, path):
    store(tmp_path).append("latency", pd.DataFrame({"batch": ["own"], "params": [25_557_032]}))
    new = store(tmp_path, "2026-01-02T00:00:00Z")
    new.append("latency", pd.DataFrame({"batch": [64]}))
    assert new.latest("latency").batch.tolist() == [64], "a number, though an older run wrote a word"
    assert "own,25557032\n" in path.read_text()


@pytest.mark.parametrize("accident", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_write_keeps_the_old_rows(tmp_path, path, monkeypatch, accident):
    store(tmp_path).append("latency", ROWS)
    before = path.read_bytes()

    def fail(*_):
        raise accident

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, OSError)):
        patch.setattr(os, "replace", fail)
        store(tmp_path).append("latency", ROWS)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["latency.csv"]
    store(tmp_path).append("latency", ROWS)
    assert len(path.read_text().splitlines()) == 1 + 4


@contextlib.contextmanager
def disk_of(size: int):
    """No file may grow beyond ``size`` bytes, as on a disk that fills up in mid-write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk(tmp_path, path):
    store(tmp_path).append("latency", ROWS)
    before = path.read_bytes()
    with disk_of(len(before) + 10), pytest.raises(OSError, match="cannot write results .*latency.csv") as error:
        store(tmp_path).append("latency", ROWS)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["latency.csv"]


def test_unwritable_folder(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be: not even root can write below it")
    with pytest.raises(OSError, match="cannot write results .*latency.csv"):
        store(tmp_path).append("latency", ROWS)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot write results .*latency.csv"):
        store(tmp_path).append("latency", ROWS)


DAMAGE = {
    "torn line": lambda good: good[:-9],
    "torn between fields": lambda good: good[: good.rindex(b",")] + b"\n",
    "field too many": lambda good: good + good.splitlines()[-1] + b",1\n",
    "quote never closed": lambda good: good + b'"x\n',
    "no provenance": lambda good: good.replace(b"run,", b"walk,", 1),
    "header only": lambda good: good.splitlines()[0] + b"\n",
    "binary rubbish": lambda good: bytes(range(256)),
    "zeros, as after a power cut": lambda good: bytes(4096),
    "empty": lambda good: b"",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_set_aside_and_nothing_is_lost(tmp_path, path, damage):
    first, second = store(tmp_path), store(tmp_path, "2026-01-02T00:00:00Z")
    first.append("latency", ROWS)
    path.write_bytes(damaged := damage(path.read_bytes()))
    with pytest.raises(DamagedResults, match="latency.csv.*set aside as latency.csv.damaged-1") as error:
        second.append("latency", ROWS[:1])
    assert "\n" not in str(error.value)
    assert path.with_name("latency.csv.damaged-1").read_bytes() == damaged
    assert second.latest("latency").model.tolist() == ["resnet50"], "the new row was kept"
    second.append("latency", ROWS[1:])
    assert len(path.read_text().splitlines()) == 1 + 2


def test_damage_met_when_reading(tmp_path, path):
    store(tmp_path).append("latency", ROWS)
    for number in (1, 2):  # the second time must not overwrite what was set aside the first time
        path.write_bytes(b"rubbish")
        with pytest.raises(DamagedResults, match=f"damaged-{number}"):
            store(tmp_path).latest("latency")
    with pytest.raises(FileNotFoundError):
        store(tmp_path).latest("latency")


def test_results_of_another_machine_stand_in_until_there_are_own_ones(tmp_path, monkeypatch):
    for name, ms in (("old-mac-8-cores", 1.0), ("zen-64-cores", 2.0)):
        with monkeypatch.context() as patch:
            patch.setattr(machine, "slug", lambda name=name: name)
            store(tmp_path).append("latency", ROWS.assign(median_ms=ms))
    borrowed = results.latest("09_speed_critique", "latency", str(tmp_path))
    assert borrowed.attrs["machine"] == "old-mac-8-cores" and set(borrowed.median_ms) == {1.0}
    store(tmp_path).append("latency", ROWS)
    own = results.latest("09_speed_critique", "latency", str(tmp_path))
    assert own.attrs["machine"] == machine.slug() and own.median_ms.tolist() == [171.25, 51.5]
    with pytest.raises(FileNotFoundError, match="run notebook 99_none"):
        results.latest("99_none", "latency", str(tmp_path))


def test_the_code_hash_follows_the_code(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("1")
    monkeypatch.setattr(results, "__file__", str(tmp_path / "results.py"))
    before = results.code_hash()
    assert results.code_hash() == before and len(before) == 10
    (tmp_path / "a.py").write_text("2")
    assert results.code_hash() != before
