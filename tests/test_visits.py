"""Visits: plan, blocks in processes of their own, what dies and what goes on. A small script stands in for a block."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from project import ROOT

from whichbackbone import __main__ as whichbackbone
from whichbackbone.evidence import speed, store
from whichbackbone.evidence.speed import YARD, Point
from whichbackbone.measure import plan, visits
from whichbackbone.measure.plan import NETS_A_BLOCK, Block, Group

HOT = ((1, "eager", "fp32", 1, "hot", "inference", "cpu"),)
SMALL = [Group((("mobilenetv2_035", 224), ("mnasnet_small", 224)), HOT, visits=2)]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """What this machine measured for the study does not count here."""
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "nothing")


def stand_in(monkeypatch, die=(), flag=(), slow_alone=(), everything=False):
    """Let each process answer at once: nets of ``die`` kill it, those of ``flag`` exceed their warm-up among others."""
    asked = []

    def process(points, seed, limit, counted=False):
        asked.append(points)
        for point in points:
            if point.net in die:
                return [], (point, "its process died (signal 11)")
        alone = len({p.net for p in points}) == 1
        slow = slow_alone if alone else flag
        return [dict(vars(p), status="ok", ms=5.0, rounds=3, calls=1, peak_gflops=100.0,
                     flagged=everything or p.net in slow) for p in points], None  # fmt: skip

    monkeypatch.setattr(visits, "_process", process)
    monkeypatch.setattr(visits, "_make_files", lambda points, say: (0, 0.0))
    monkeypatch.setattr(visits, "_peaks", lambda: dict(gflops=100.0, gbps=20.0))
    return asked


# --------------------------------------------------------------------------------------------------------------- plan


def test_the_core_plan_holds_each_net_and_no_process_too_many():
    blocks = plan.blocks(plan.core(), seed=0)
    hot = [p for b in blocks for p in b.points if (p.batch, p.threads, p.regime, p.mode) == (1, 0, "hot", "inference")]
    often = pd.Series([(p.net, p.pixels) for p in hot if p.runtime == "openvino" and p.precision == "fp32"
                       and p.net not in (YARD, *plan.FACTORIAL)]).value_counts()  # fmt: skip
    assert set(plan.CORE) - {YARD} == {net for net, _ in often.index} and often.min() >= plan.VISITS
    assert ("efficientnet_b4", 224) in often.index and ("efficientnet_b4", 380) in often.index
    for block in blocks:
        assert len({(p.net, p.pixels) for p in block.points}) <= NETS_A_BLOCK
        for point in block.points:
            assert point.yard() in block.points, "ResNet-50 stands in each block, in each setting"


def test_the_dozen_is_timed_in_every_way():
    points = {p for b in plan.blocks(plan.core(), seed=0) for p in b.points if p.net == "efficientnet_b0"}
    ways = {(p.batch, p.runtime, p.threads, p.regime, p.mode) for p in points}
    for runtime in plan.RUNTIMES:
        cold = {(1, runtime, 0, f"cold_{how}", "inference") for how in ("cache", "idle")}
        assert cold | {(8, runtime, 0, "hot", "inference"), (1, runtime, 1, "hot", "inference")} <= ways
    assert (1, "compile", 0, "hot", "inference") in ways and (4, "eager", 0, "hot", "training") in ways


def test_each_net_is_timed_in_fewer_bits_beside_fp32_in_the_same_process():
    blocks = [b for b in plan.blocks(plan.core(), seed=0) if any(p.precision == "int8" for p in b.points)]
    nets = pd.Series([name for b in blocks for name in {p.net for p in b.points}]).value_counts()
    assert set(nets.index) == {*plan.CORE, *plan.FACTORIAL}
    assert nets[list(plan.FACTORIAL)].eq(plan.NAMED_VISITS).all() and nets[plan.CORE].min() == plan.VISITS
    for block in blocks:
        for net in {(p.net, p.pixels) for p in block.points}:
            mine = [(p.runtime, p.precision) for p in block.points if (p.net, p.pixels) == net]
            assert tuple(mine) == plan.FEWER_BITS


def test_visits_come_one_after_another_and_each_draws_other_blocks():
    blocks = plan.blocks(plan.core(), seed=0)
    assert [b.visit for b in blocks] == sorted(b.visit for b in blocks)
    first, second = ([b.points for b in blocks if b.visit == v] for v in (0, 1))
    assert set(first) != set(second)
    assert plan.blocks(plan.core(), seed=0) == blocks, "the same plan each time, so that a run can go on"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (dict(nets=["vgg16"]), "unknown net 'vgg16': choose one of"),
        (dict(runtimes=["tensorrt"]), "unknown runtime 'tensorrt': choose one of eager"),
        (dict(precisions=["int4"]), "unknown precision 'int4': choose one of fp32, amp"),
        (dict(device="tpu"), "unknown device 'tpu': choose one of cpu, cuda, mps"),
        (dict(threads=[4096]), "4096 threads: this process may use"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(given, says):
    usual = dict(nets=["resnet18"], runtimes=["eager"], precisions=["fp32"], batches=[1], threads=[0], device="cpu")
    with pytest.raises(ValueError, match=says):
        visits.plan_of(**usual | given)


# ------------------------------------------------------------------------------------------------------------- blocks


def points(*nets: str) -> tuple[Point, ...]:
    return tuple(Point(net, threads=1) for net in (YARD, *nets))


def test_a_net_that_takes_its_process_with_it_costs_only_itself(monkeypatch):
    asked = stand_in(monkeypatch, die=["resnet18"])
    rows = visits.measured(Block(0, points("efficientnet_b0", "resnet18", "mobilenetv2_100")))
    status = {row["net"]: row["status"] for row in rows}
    assert status == {YARD: "ok", "efficientnet_b0": "ok", "mobilenetv2_100": "ok",
                      "resnet18": "its process died (signal 11)"}  # fmt: skip
    assert len(asked) == 2 and Point(YARD, threads=1) in asked[1], "ResNet-50 is measured beside those that are left"


def test_where_all_die_each_is_a_row_and_it_ends(monkeypatch):
    stand_in(monkeypatch, die=[YARD, "resnet18"])
    rows = visits.measured(Block(0, points("resnet18")))
    assert sorted((row["net"], row["status"]) for row in rows) == [
        ("resnet18", "its process died (signal 11)"), (YARD, "its process died (signal 11)")]  # fmt: skip


def test_a_crowded_candidate_is_measured_alone_and_flagged_if_it_stays_slow(monkeypatch):
    asked = stand_in(monkeypatch, flag=["resnet18", "mnasnet_100"], slow_alone=["mnasnet_100"])
    rows = visits.measured(Block(0, points("efficientnet_b0", "resnet18", "mnasnet_100", "mobilenetv2_100")))
    assert [row["net"] for row in rows if row["flagged"]] == ["mnasnet_100"]
    assert [len(a) for a in asked] == [5, 1, 1], "the block, then each of the two in a process of its own"


def test_a_slow_neighbour_flags_no_candidate(monkeypatch):
    asked = stand_in(monkeypatch, everything=True)
    rows = visits.measured(Block(0, points("efficientnet_b0", "resnet18")))
    assert not any(row["flagged"] for row in rows) and len(asked) == 1


def test_a_real_block_times_counts_and_refuses(tmp_path):
    block = Block(0, (*points("mobilenetv2_035"), Point("mobilenetv2_035", threads=1, runtime="openvino"),
                      Point("mobilenetv2_035", threads=1, regime="cold_idle"),
                      Point("mobilenetv2_035", threads=1, batch=2, mode="training"),
                      Point("mobilenetv2_035", threads=1, runtime="openvino", precision="amp")))  # fmt: skip
    rows = visits.measured(block)
    by = {(r["net"], r["runtime"], r["regime"], r["mode"], r["precision"]): r for r in rows}
    assert len(by) == 6
    refused = by["mobilenetv2_035", "openvino", "hot", "inference", "amp"]
    assert refused["status"] == "openvino runs on the CPU in fp32, bf16, fp16, int8 here, not on cpu in amp"
    timed = [r for r in rows if r is not refused]
    assert all(r["status"] == "ok" and r["ms"] > 0 and r["peak_gflops"] > 0 for r in timed), rows
    hot = by["mobilenetv2_035", "eager", "hot", "inference", "fp32"]
    assert hot["macs"] == pytest.approx(59.2e6, rel=0.01) and hot["params"] == pytest.approx(1.68e6, rel=0.01)
    assert by[YARD, "eager", "hot", "inference", "fp32"]["ms"] > hot["ms"]


def test_files_are_made_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    asked = [Point("mobilenetv2_035", threads=1, runtime=runtime, precision=precision)
             for runtime, precision in (*plan.FEWER_BITS, ("eager", "fp32"))]  # fmt: skip
    said = []
    made, seconds = visits._make_files(asked, said.append)
    assert made == 3 and seconds > 0, "one ONNX file, and one of each tool"
    assert said[-1].startswith("files of 1 of 1 nets: 3 exported or quantised")
    assert visits._make_files(asked, said.append) == (0, 0.0), "what is there costs a look"
    rows = visits.measured(Block(0, (asked[1], asked[4])))
    assert [row["export_s"] for row in rows if row["status"] == "ok"] == [0, 0] and all(r["snr_db"] > 0 for r in rows)
    assert visits._make_files(asked[5:], said.append) == (0, 0.0) and len(said) == 2, "eager mode reads no file"


# -------------------------------------------------------------------------------------------------------------- runs


def test_a_run_keeps_each_block_and_ends_complete(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    said = []
    done = visits.run(SMALL, output=str(tmp_path), say=said.append)
    assert done.complete and done.timed == 3 and not done.refused
    assert len(said) == 2 and said[-1].startswith("100%")
    rows = speed.read(store.machines(str(tmp_path))[0], str(tmp_path))
    assert set(rows.visit) == {0, 1} and set(rows.run) == {done.run}


def test_minutes_end_a_run_and_the_same_command_goes_on(tmp_path, monkeypatch):
    asked = stand_in(monkeypatch)
    first = visits.run(SMALL, output=str(tmp_path), minutes=0, say=lambda line: None)
    assert not first.complete and len(asked) == 1
    said = []
    second = visits.run(SMALL, output=str(tmp_path), say=said.append)
    assert second.run == first.run and second.complete and len(asked) == 2
    assert said[0] == f"going on with run {first.run}: 1 of 2 blocks are there"
    third = visits.run(SMALL, output=str(tmp_path), say=said.append)
    assert third.run != first.run, "a complete run is followed by a new one"


def test_a_run_of_another_plan_or_of_yesterday_is_not_gone_on_with(tmp_path, monkeypatch):
    stand_in(monkeypatch)
    first = visits.run(SMALL, output=str(tmp_path), minutes=0, say=lambda line: None)
    other = [Group((("resnet18", 224),), HOT, visits=2)]
    assert visits.run(other, output=str(tmp_path), minutes=0, say=lambda line: None).run != first.run
    monkeypatch.setattr(visits, "RESUME", visits.timedelta(0))
    assert visits.run(other, output=str(tmp_path), say=lambda line: None).run != first.run


def test_a_visit_killed_in_mid_block_keeps_the_blocks_before(tmp_path):
    """-9 while the second block runs: the first one's rows are whole, and the next call goes on with the second."""
    script = tmp_path / "visit.py"
    script.write_text(f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from whichbackbone.measure import visits
from test_visits import SMALL

calls = []
def process(points, seed, limit, counted=False):
    calls.append(1)
    if len(calls) == 2:
        print("second", flush=True)
        time.sleep(60)
    return [dict(vars(p), status="ok", ms=5.0, rounds=3, calls=1, peak_gflops=100.0, flagged=False)
            for p in points], None

visits._process, visits._peaks = process, lambda: dict(gflops=100.0)
visits.run(SMALL, output={str(tmp_path)!r}, say=lambda line: None)
""")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "second\n"
        os.kill(running.pid, signal.SIGKILL)
    owner = store.machines(str(tmp_path))[0]
    rows = speed.read(owner, str(tmp_path))
    assert set(rows.block) == {0} and len(rows) == 3


def test_a_process_that_dies_or_hangs_says_where(tmp_path, monkeypatch):
    def child(text):
        script = tmp_path / "child.py"
        script.write_text(text)
        monkeypatch.setattr(visits, "BLOCK", [sys.executable, str(script)])

    asked = points("resnet18")
    doing = "print('{\"doing\": %d}', flush=True)\n"
    child(f"import os\n{doing % 0}print('noise')\n{doing % 1}os.abort()")
    rows, died = visits._process(asked, 0, 60)
    assert rows == [] and died == (asked[1], "its process died (signal 6)")
    child("import sys\nsys.exit('no such library')")
    assert visits._process(asked, 0, 60)[1] == (asked[0], "its process died (exit 1): no such library")
    child(f"import time\n{doing % 1}time.sleep(60)")
    start = time.monotonic()
    point, reason = visits._process(asked, 0, 1)[1]
    assert point == asked[1] and "took over its 1 s" in reason and time.monotonic() - start < 20
    child("import json\nprint(json.dumps(dict(row=dict(ms=1))))")
    assert visits._process(asked, 0, 60) == ([dict(ms=1)], None)


MEASURE = ["measure", "--nets", "mobilenetv2_035", "--runtimes", "eager", "--threads", "1", "--minutes", "0"]


def test_the_command_measures_and_says_what_changed(tmp_path, monkeypatch, capsys):
    stand_in(monkeypatch)
    assert whichbackbone.main([*MEASURE, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "2 points timed in run" in said and "not complete yet: the same command goes on with it" in said
    assert said.endswith("no verdict of the ledger changed\n")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nets", "vgg16"], "unknown net 'vgg16'"),
        (["--output", "{file}"], "cannot write"),
        (["--batch", "many"], "argument --batch: invalid"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tmp_path, monkeypatch, capsys, options, says):
    asked = stand_in(monkeypatch)
    (tmp_path / "file").write_text("")
    options = [option.format(file=tmp_path / "file") for option in options]
    try:
        code = whichbackbone.main([*MEASURE, *options])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr().err
    assert code == 2 and says in said and len(said.splitlines()) == 1 and not asked, "nothing was measured for nothing"
