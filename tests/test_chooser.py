"""The chooser ranks by evidence, says what it rests on, and refuses nonsense in one line."""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from project import ROOT
from test_speed import keep, row, visits

from whichbackbone.evidence import chooser, intervals, machine, speed
from whichbackbone.evidence.speed import Point


def test_limits_are_kept_and_what_breaks_them_says_why():
    ranked = chooser.choose(latency_ms=100, params_m=10)
    good, bad = ranked[ranked.fits], ranked[~ranked.fits]
    assert len(good) and good.high_ms.max() <= 100 and good.params_m.max() <= 10, "also at the end of the interval"
    assert (bad.reason != "").all() and bad["rank"].isna().all()
    assert good.top1.is_monotonic_decreasing and good["rank"].iloc[0] == 1
    slow = bad[bad.ms > 100]
    assert slow.reason.str.contains("over|missing|no ").all()


def test_every_number_says_what_it_rests_on():
    here, there = chooser.choose(), chooser.choose(hardware="gpu")
    assert here.evidence[here.ms.notna()].str.contains("ms measured (?:here|on )").all()
    assert there.evidence.str.contains("ms published").all()
    unknown = here[here.top1.isna()]
    assert not unknown.fits.any() and unknown.reason.str.contains("not ranked").all()


def test_a_faster_runtime_is_taken_unless_one_is_asked_for():
    free, eager = chooser.choose(), chooser.choose(runtime="eager")
    both = free.merge(eager, on=["name", "size"])
    assert (both.ms_x <= both.ms_y).all() and (both.ms_x < both.ms_y).any()
    assert eager.how.str.startswith("eager, batch").all()


def test_no_row_that_was_measured_beats_an_answer():
    """Whatever the study timed in this setting, in any runtime: nothing that keeps the limit is more accurate."""
    known = chooser.accuracy().set_index(["name", "size"]).top1
    for limit in (8, 15, 30, 60, 120):
        ranked = chooser.choose(latency_ms=limit)
        fits = ranked[ranked.fits]
        if fits.empty:
            continue
        best = fits.iloc[0]
        rows = speed.table().points(batch=1, threads=0, regime="hot", mode="inference", precision="fp32", device="cpu")
        for one in rows[rows.high_ms <= limit].itertuples():
            top1 = known.get((one.net, one.pixels), 0.0)
            assert top1 <= best.top1, f"{one.label} in {one.runtime}: {top1} % in {one.ms:.3g} ms, not {best['name']}"


def test_a_runtime_with_holes_is_not_ranked_beside_the_others(tmp_path, monkeypatch):
    frame = visits(np.random.default_rng(0))[0]
    ours = row(Point("efficientnet_b0", runtime="compile", threads=2), 1.0)
    keep(tmp_path, pd.concat([frame, pd.DataFrame([ours])]))
    monkeypatch.setattr("whichbackbone.evidence.store.REPOSITORY", tmp_path / "nothing")
    monkeypatch.setattr(chooser, "_memory", lambda *_: pd.DataFrame({"name": [""], "size": [0], "memory_mb": [0.0]}))
    free = chooser.choose(output=str(tmp_path))
    assert not free.how.str.contains("compile").any(), "one net alone was timed in it"
    asked = chooser.choose(runtime="compile", output=str(tmp_path))
    assert asked[asked.fits]["name"].tolist() == ["efficientnet_b0"]
    left = asked[~asked.fits].set_index("name").reason
    assert left["resnet18"].startswith("not timed in compile, batch 1, fp32, all cores: not ranked; python -m")


INT8 = {"resnet50": 20.0, "efficientnet_b0": 15.0, "mobilenetv2_100": 4.0, "resnet18": 8.0, "semnasnet_100": 5.0}


@pytest.fixture
def in_int8(tmp_path, monkeypatch):
    """A folder whose only times are in INT8, of nets some of which have a published accuracy in it."""
    keep(tmp_path, pd.DataFrame([row(Point(net, runtime="openvino", precision="int8", threads=2), ms * random, visit)
                                 for net, ms in INT8.items() for visit, random in enumerate((0.98, 1, 1.02, 1.01))]))
    monkeypatch.setattr("whichbackbone.evidence.store.REPOSITORY", tmp_path / "nothing")
    monkeypatch.setattr(chooser, "_memory", lambda *_: pd.DataFrame({"name": [""], "size": [0], "memory_mb": [0.0]}))
    return str(tmp_path)


def test_in_int8_only_nets_with_an_accuracy_in_int8_are_ranked(in_int8):
    ranked = chooser.choose(precision="int8", output=in_int8).set_index("name")
    assert set(ranked.index) == set(INT8)
    assert ranked.loc["semnasnet_100", "reason"] == "accuracy in INT8 unknown: not ranked"
    assert ranked.loc["resnet50", "fits"] and ranked.loc["resnet50", "rank"] == 1
    fp32 = chooser.accuracy().set_index(["name", "size"]).top1
    for name in ranked.index[ranked.fits]:
        assert ranked.loc[name, "top1"] != fp32[name, 224], "an accuracy in fp32 never stands beside a time in INT8"
        assert "PTQ" in ranked.loc[name, "evidence"] or "QAT" in ranked.loc[name, "evidence"]
    assert "Of 1 nets with a time in INT8 the accuracy in INT8 is unknown" in chooser.choose(
        precision="int8", output=in_int8).attrs["advice"]  # fmt: skip


def test_training_from_scratch_for_int8_has_no_accuracy_to_rank_by(in_int8):
    ranked = chooser.choose(precision="int8", pretrained=False, output=in_int8)
    assert not ranked.fits.any() and ranked.reason.eq("accuracy in INT8 unknown: not ranked").all()


def test_recipe_changes_the_ranking():
    best, same = chooser.choose(hardware="gpu"), chooser.choose(hardware="gpu", pretrained=False)
    top = {f.fits.sum(): f.set_index(["name", "size"]).top1 for f in (best, same)}
    assert len(top) == 2
    assert best.set_index(["name", "size"]).top1[("efficientnet_b0", 224)] > same.set_index(["name", "size"]).top1[
        ("efficientnet_b0", 224)]  # fmt: skip


def test_nets_that_cannot_be_told_apart_share_a_rank():
    def ranks(top1, low, high):
        frame = pd.DataFrame({"top1": top1, "ms": [10.0, 10.2, 20.0], "low_ms": low, "high_ms": high, "fits": True})
        return chooser._ranks(frame)

    assert ranks([80.0, 79.9, 79.0], [9.0, 9.5, 19.0], [11.0, 11.0, 21.0]) == [1, 1, 3]
    assert ranks([80.0, 79.0, 78.0], [9.0, 9.5, 19.0], [11.0, 11.0, 21.0]) == [1, 2, 3]  # accuracy tells
    assert ranks([80.0, 79.9, 79.0], [9.9, 10.1, 19.0], [10.0, 10.3, 21.0]) == [1, 2, 3]  # time tells
    assert 0.4 < intervals.test_set_noise(80, chooser.VALIDATION_IMAGES) < 0.6


def test_here_is_said_of_this_machine_alone(monkeypatch):
    owner = chooser.choose().attrs["machine"]
    monkeypatch.setattr(machine, "slug", lambda here=None: owner)
    mine = chooser.choose()
    assert mine.evidence[mine.ms.notna()].str.contains("measured here").all()
    assert "not on this machine" not in mine.attrs["advice"]
    monkeypatch.setattr(machine, "slug", lambda here=None: "a-laptop-4-cores")
    other = chooser.choose()
    assert other.evidence[other.ms.notna()].str.contains(f"measured on {owner}").all()
    assert owner in other.attrs["advice"]
    assert "which has measured nothing: python -m whichbackbone measure takes about" in other.attrs["advice"]
    assert chooser.choose(hardware="gpu").attrs["machine"] == ""


def test_the_command_needs_no_torch_and_no_second():
    code = ("import sys, runpy; sys.argv = ['whichbackbone', 'choose', '--latency-ms', '60']\n"
            "try: runpy.run_module('whichbackbone', run_name='__main__')\n"
            "except SystemExit as end: assert end.code in (0, 1), end.code\n"
            "loaded = {'torch', 'timm', 'openvino', 'onnxruntime', 'matplotlib'} & set(sys.modules)\n"
            "assert not loaded, loaded")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        (dict(task="poetry"), "unknown task 'poetry': choose one of classification, transfer"),
        (dict(hardware="abacus"), "unknown hardware 'abacus': choose one of cpu, gpu, phone"),
        (dict(latency_ms=-1), "latency_ms -1"),
        (dict(latency_ms=0), "latency_ms 0"),
        (dict(memory_mb=float("nan")), "memory_mb nan"),
        (dict(params_m=-5), "params_m -5"),
        (dict(batch=0), "batch 0"),
        (dict(runtime="steam"), "no time of runtime 'steam' on cpu: choose one of eager"),
        (dict(runtime="openvino", hardware="gpu"), "no time of runtime 'openvino' on gpu"),
        (dict(runtime="onnxruntime", batch=3), "nothing was timed in onnxruntime, batch 3, fp32, all cores on"),
        (dict(precision="int4"), "unknown precision 'int4': choose one of fp32, amp, bf16, fp16, int8"),
        (dict(threads=-1), "threads -1"),
        (dict(hardware="gpu", threads=1), "asked of the CPU"),
        (dict(task="transfer", pretrained=False), "training from scratch"),
        (dict(hardware="phone", batch=2), "on a phone"),
        (dict(task="detection", hardware="gpu"), "ask for hardware 'cpu'"),
        (dict(machine="abacus"), "no results of a machine 'abacus'"),
    ],
)
def test_nonsense_is_refused_in_one_line(wish, says):
    with pytest.raises(ValueError) as refused:
        chooser.choose(**wish)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_what_was_not_measured_names_the_notebook(tmp_path, monkeypatch):
    monkeypatch.setattr("whichbackbone.evidence.store.REPOSITORY", tmp_path)
    with pytest.raises(speed.NotMeasured, match="no visits measured yet: python -m whichbackbone measure"):
        chooser.choose()


def test_nothing_fits_is_an_answer():
    assert "Nothing fits" in chooser.choose(latency_ms=1e-6).attrs["advice"]


def test_it_answers_at_once():
    chooser.choose()  # the first call opens the tables
    started = time.process_time()
    chooser.choose(latency_ms=15)
    chooser.choose(hardware="gpu")
    assert time.process_time() - started < 2  # two answers; 0.1 s each on a quiet machine, never minutes


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "whichbackbone", "choose", *arguments]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_command():
    done = command("--hardware", "cpu", "--latency-ms", "100")
    assert done.returncode == 0 and "Take " in done.stdout and done.stderr == ""
    done = command("--hardware", "cpu", "--latency-ms", "0.001")
    assert done.returncode == 1 and "Nothing fits" in done.stdout
    for wrong in (("--hardware", "abacus"), ("--latency-ms", "fast"), ("--colour", "red")):
        done = command(*wrong)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
