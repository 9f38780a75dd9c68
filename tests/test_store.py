"""Results keep every earlier run, say who measured them with what, and tell what they cannot read."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from whichbackbone.evidence import closure, machine, store
from whichbackbone.evidence.store import FRESH, RUN, DamagedResults, OldLayout, Store

NOTEBOOK = "09_speed_critique"


def made(folder, profile: str = "standard", run: str = "", **options) -> Store:
    kept = Store(NOTEBOOK, profile, str(folder), **options)
    kept.run = run or kept.run
    return kept


def rows(**columns) -> pd.DataFrame:
    return pd.DataFrame({"name": ["resnet50", "efficientnet_b0"], "median_ms": [42.123456789, 13.5]} | columns)


def test_rows_come_back_as_they_were_measured(tmp_path):
    kept = made(tmp_path)
    samples = [[42.0, 43.25, 41.5], [13.5]]
    written = kept.append("latency", rows(samples_ms=samples, macs=[4_089_184_256, 385_875_680], failed=[None, "x"]))
    back = kept.read(NOTEBOOK, "latency")
    pd.testing.assert_frame_equal(back, written)
    assert back.samples_ms.tolist() == samples and back.macs.tolist() == [4_089_184_256, 385_875_680]
    assert back.median_ms[0] == pytest.approx(42.1235, abs=1e-4) and set(back.run) == {kept.run}
    assert back.attrs == {"machine": machine.slug(), "run": kept.run, "profile": "standard"}


def test_a_run_writes_one_file_and_one_record_and_touches_no_other(tmp_path):
    first = made(tmp_path, run="20260101T000000Z-0000", peaks={"gflops": 200.0})
    first.append("latency", rows())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    second = made(tmp_path)
    second.append("latency", rows(median_ms=[1.0, 2.0]))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    folder = second.folder / NOTEBOOK / "latency"
    assert sorted(path.stem for path in folder.iterdir()) == [first.run, second.run]
    record = json.loads((first.folder / "runs" / f"{first.run}.json").read_text())
    assert record["machine"] == machine.slug() and record["peaks"] == {"gflops": 200.0}
    assert {"torch", "timm", "onnxruntime", "openvino", "python"} <= set(record["versions"])
    assert record["commit"] != "" and record["facts"]["threads"] == str(machine.usable_cores())
    assert store.latest(NOTEBOOK, "latency", str(tmp_path)).median_ms.tolist() == [1.0, 2.0], "the newest run counts"


def test_calling_again_in_one_run_replaces_its_own_rows(tmp_path):
    kept = made(tmp_path)
    kept.append("latency", rows())
    kept.append("latency", rows(median_ms=[5.0, 6.0]))
    assert len(list((kept.folder / NOTEBOOK / "latency").iterdir())) == 1
    assert kept.read(NOTEBOOK, "latency").median_ms.tolist() == [5.0, 6.0]


def test_two_runs_of_one_second_have_two_names():
    names = {Store(NOTEBOOK, "standard").run for _ in range(20)}
    assert len(names) > 15 and all(RUN.fullmatch(name) for name in names)


def test_nothing_to_keep_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing to keep in 'latency'"):
        made(tmp_path).append("latency", rows()[:0])
    assert not any(tmp_path.iterdir())


def test_what_was_measured_with_the_same_code_is_not_measured_again(tmp_path, monkeypatch, capsys):
    calls = []

    def measure() -> pd.DataFrame:
        calls.append(1)
        return rows()

    monkeypatch.setattr(closure, "notebook_hash", lambda path, **_: "aaaa")
    first = made(tmp_path).measured("latency", measure)
    again = made(tmp_path).measured("latency", measure)
    assert len(calls) == 1 and again.run.equals(first.run) and "as measured on 20" in capsys.readouterr().out
    made(tmp_path, "smoke").measured("latency", measure)
    assert len(calls) == 2, "another profile is another measurement"
    monkeypatch.setattr(closure, "notebook_hash", lambda path, **_: "bbbb")
    made(tmp_path).measured("latency", measure)
    assert len(calls) == 3, "other code measures again"
    monkeypatch.setenv(FRESH, "1")
    made(tmp_path).measured("latency", measure)
    assert len(calls) == 4, "--force measures again"


def test_a_full_disk_leaves_what_stood_there(tmp_path, monkeypatch):
    kept = made(tmp_path)
    kept.append("latency", rows())
    before = (kept.folder / NOTEBOOK / "latency" / f"{kept.run}.csv").read_text()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="cannot write results .No space left on device., what stood there is kept"):
        kept.append("latency", rows(median_ms=[0.0, 0.0]))
    left = list((kept.folder / NOTEBOOK / "latency").iterdir())
    assert [path.read_text() for path in left] == [before]


@pytest.mark.parametrize(
    ("tear", "says"),
    [
        (lambda text: text[:-5], "not a complete table"),
        (lambda text: text.replace(",13.5", ""), "line 3 has 2 fields, expected 3"),
        (lambda text: "name,median_ms\nresnet50,4\n", "not a complete table"),
        (lambda text: text.replace("Z-", "Z-f"), "line 2 is of run"),
        (lambda text: "", "not a complete table"),
    ],
)
def test_a_torn_table_is_damage_and_not_data(tmp_path, tear, says):
    kept = made(tmp_path)
    kept.append("latency", rows())
    path = kept.folder / NOTEBOOK / "latency" / f"{kept.run}.csv"
    torn = tear(path.read_text())
    path.write_text(torn)
    with pytest.raises(DamagedResults, match=f"latency/{kept.run}.csv: .*{says}.*restore it with git"):
        kept.read(NOTEBOOK, "latency")
    assert path.read_text() == torn, "nothing is deleted"


def test_rows_count_only_with_a_sound_record(tmp_path):
    old = made(tmp_path, run="20260101T000000Z-0000")
    old.append("latency", rows())
    new = made(tmp_path)
    new.append("latency", rows(median_ms=[1.0, 2.0]))
    record = new.folder / "runs" / f"{new.run}.json"
    sound = record.read_text()
    for fault, says in (
        (None, "no record .*restore it with git"),
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (sound.replace('"format": 1', '"format": 9'), "newer version of the study: update it"),
        (sound.replace(machine.slug(), "an-abacus-1-cores"), "belongs to the machine an-abacus-1-cores"),
    ):
        record.write_text(fault) if fault else record.unlink()
        with pytest.warns(UserWarning, match=says):
            assert new.read(NOTEBOOK, "latency").median_ms[1] == 13.5, "the older, sound run counts"
    record.write_text(sound)
    (new.folder / NOTEBOOK / "latency" / f"{new.run}.csv").unlink()
    assert new.read(NOTEBOOK, "latency").run[0] == old.run, "a record without rows harms nothing"


def test_the_old_layout_is_named_with_what_to_do(tmp_path):
    folder = tmp_path / "data/results/amd-epyc-2-cores/09_speed_critique"
    folder.mkdir(parents=True)
    (folder / "latency.csv").write_text("run,written\n1,2\n")
    with pytest.raises(OldLayout, match="data/results/amd-epyc-2-cores .*delete that folder"):
        store.latest(NOTEBOOK, "latency", str(tmp_path), of="amd-epyc-2-cores")
    kept = made(tmp_path)
    kept.append("latency", rows())
    with pytest.warns(UserWarning, match="delete that folder"):
        assert len(kept.read(NOTEBOOK, "latency")) == 2, "other machines are read all the same"


def test_this_machine_comes_first_then_whatever_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    other = made(tmp_path)
    monkeypatch.setattr(machine, "slug", lambda here=None: "aaa-abacus-1-cores")
    other.append("latency", rows(median_ms=[7.0, 8.0]))
    monkeypatch.undo()
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    assert store.latest(NOTEBOOK, "latency", str(tmp_path)).attrs["machine"] == "aaa-abacus-1-cores"
    made(tmp_path).append("latency", rows())
    assert store.latest(NOTEBOOK, "latency", str(tmp_path)).attrs["machine"] == machine.slug()
    assert store.latest(NOTEBOOK, "latency", str(tmp_path), of="aaa-abacus-1-cores").median_ms[0] == 7
    assert store.machines(str(tmp_path)) == ["aaa-abacus-1-cores", machine.slug()]
    with pytest.raises(FileNotFoundError, match="no 'none' measured yet: run notebook 99_none"):
        store.latest("99_none", "none", str(tmp_path))


def test_a_slow_run_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    for number, peak in enumerate((200.0, 66.0, 190.0)):
        made(tmp_path, run=f"20260101T00000{number}Z-0000", peaks={"gflops": peak}).append("latency", rows())
    made(tmp_path, run="20260101T000009Z-0000").append("latency", rows())
    found = store.runs(machine.slug(), str(tmp_path))
    assert found.slow.tolist() == [False, True, False, False] and np.isnan(found.peak_gflops.iloc[-1])
    assert store.record_of(found.run[0], str(tmp_path)).peaks == {"gflops": 200.0}
    with pytest.raises(LookupError, match="no run 'x'"):
        store.record_of("x", str(tmp_path))


def test_a_run_on_a_fraction_of_a_core_is_marked(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    for number, quota in enumerate((math.inf, 2.0, 1.5)):
        here = replace(machine.describe(), quota=quota)
        monkeypatch.setattr(machine, "describe", lambda here=here: here)
        made(tmp_path, run=f"20260101T00000{number}Z-0000").append("latency", rows())
    assert store.runs(machine.slug(), str(tmp_path)).fraction.tolist() == [False, False, True]


def test_tidying_keeps_the_newest_and_their_records(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    for number in range(4):
        kept = made(tmp_path, run=f"20260101T00000{number}Z-0000")
        kept.append("latency", rows())
        kept.append("speed", rows())
    store.tidy(machine.slug(), str(tmp_path), keep={"speed": 3})
    left = {path.relative_to(kept.folder).as_posix() for path in kept.folder.rglob("*.*")}
    runs = [f"20260101T00000{n}Z-0000" for n in range(4)]
    assert left == {f"{NOTEBOOK}/latency/{runs[3]}.csv", *(f"{NOTEBOOK}/speed/{run}.csv" for run in runs[1:]),
                    *(f"runs/{run}.json" for run in runs[1:])}  # fmt: skip
    assert store.tidy(machine.slug(), str(tmp_path), keep={"speed": 3}) == []


def test_tidying_keeps_the_full_run_that_verdicts_rest_on(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    for number, profile in enumerate(("full", "full", "standard", "standard")):
        made(tmp_path, run=f"20260101T00000{number}Z-0000", profile=profile).append("runs", rows())
    assert store.latest(NOTEBOOK, "runs", str(tmp_path), profile="full").attrs["run"].startswith("20260101T000001Z")
    removed = store.tidy(machine.slug(), str(tmp_path), decisive={(NOTEBOOK, "runs")})
    assert sorted({path.stem[:16] for path in removed}) == ["20260101T000000Z", "20260101T000002Z"]
    assert store.latest(NOTEBOOK, "runs", str(tmp_path)).attrs["profile"] == "standard"
    store.tidy(machine.slug(), str(tmp_path))  # where nothing rests on it
    with pytest.raises(FileNotFoundError):
        store.latest(NOTEBOOK, "runs", str(tmp_path), profile="full")


def test_where_things_go(tmp_path):
    assert Store("02_resnet", "smoke").root == store.REPOSITORY / "build" / "smoke"
    assert Store("02_resnet", "standard").root == store.REPOSITORY
    assert Store("02_resnet", "smoke", str(tmp_path)).figures == tmp_path / "figures"
    with pytest.raises(ValueError, match="unknown profile 'quick'"):
        Store("02_resnet", "quick")


def test_a_machine_without_git_or_name_still_keeps_records(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    store.commit.cache_clear()
    here = replace(machine.describe(), processor="unknown aarch64", family="", model="")
    monkeypatch.setattr(machine, "describe", lambda: here)
    kept = made(tmp_path)
    kept.append("latency", rows())
    store.commit.cache_clear()
    assert kept.folder.name == f"unknown-aarch64-{here.threads}-cores"
    assert store.record_of(kept.run, str(tmp_path)).commit == "unknown"
