"""The speed table as it is read: what is pooled, what is left out, and what an interval knows."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from whichbackbone.evidence import intervals, machine, speed, store
from whichbackbone.evidence.speed import NotMeasured, Point
from whichbackbone.evidence.store import Store

TRUE = {"resnet50": 30.0, "efficientnet_b0": 10.0, "resnet18": 12.0, "mobilenetv2_100": 6.0}  # ms in eager mode
FASTER = {"eager": 1.0, "openvino": 2.0}


def visits(random, runs=1, each=4, process=0.03, hour=0.0, nets=TRUE, peak=100.0) -> list[pd.DataFrame]:
    """Runs of a plan over the nets; logs scatter by ``process`` between visits and by ``hour`` between runs."""
    found = []
    for _ in range(runs):
        of_run = {key: random.normal(0, hour) for key in ((n, r) for n in nets for r in FASTER)}
        rows = []
        for visit in range(each):
            for (net, runtime), shift in of_run.items():
                ms = nets[net] / FASTER[runtime] * math.exp(shift + random.normal(0, process))
                rows.append(row(Point(net, runtime=runtime, threads=2), ms, visit, peak_gflops=peak))
        found.append(pd.DataFrame(rows))
    return found


def row(point: Point, ms: float, visit: int = 0, block: int = 0, **other) -> dict:
    usual = dict(status="ok", flagged=False, peak_gflops=100.0, visit=visit, block=block or visit, ms=ms,
                 prepare_s=0.5, export_s=2.0 * (visit == 0), params=1e6, macs=2e6, activations=3e6)  # fmt: skip
    if visit:
        usual |= dict.fromkeys(speed.COUNTS, math.nan)  # counted in the first visit
    return asdict(point) | usual | other


def keep(folder, *frames: pd.DataFrame, peaks=None) -> list[str]:
    """Store each frame as a run of its own; returns their names."""
    names = []
    for number, frame in enumerate(frames):
        kept = Store(speed.NOTEBOOK, "standard", str(folder), peaks=peaks or dict(gflops=100.0),
                     run=f"202601{number + 1:02d}T000000Z-00{number:02x}")  # fmt: skip
        kept.append(speed.TABLE, frame)
        names.append(kept.run)
    return names


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """What this machine measured for the study does not count here."""
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "nothing")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_a_point_fills_in_its_side_and_refuses_what_is_unknown():
    assert Point("efficientnet_b3").pixels == 300 and Point("efficientnet_b3", 224).label == "efficientnet_b3@224"
    assert Point("efficientnet_b3").label == "efficientnet_b3"
    with pytest.raises(ValueError, match="unknown runtime 'tensorrt': choose one of eager, channels_last"):
        Point("resnet50", runtime="tensorrt")
    with pytest.raises(ValueError, match="unknown regime 'warm': choose one of hot, cold_cache, cold_idle"):
        Point("resnet50", regime="warm")
    with pytest.raises(ValueError, match="batch 0"):
        Point("resnet50", batch=0)
    with pytest.raises(ValueError, match="no family of this study"):
        Point("vgg16")


def test_times_and_ratios_are_those_measured(tmp_path, random):
    keep(tmp_path, *visits(random))
    table = speed.table(str(tmp_path))
    b0, resnet = Point("efficientnet_b0"), Point("resnet50")
    assert table.machine == machine.slug() and table.threads == 2
    assert table.time(b0).value == pytest.approx(10, rel=0.05)
    assert table.ratio(resnet, b0).value == pytest.approx(3, rel=0.05)
    assert table.ratio(b0, resnet).value == pytest.approx(1 / table.ratio(resnet, b0).value)
    assert table.ratio(b0, Point("mobilenetv2_100")).value == pytest.approx(10 / 6, rel=0.07)
    assert table.ratio(resnet, resnet).text() == "1.00"
    written_out = Point("efficientnet_b0", threads=table.threads)  # all cores, by their number
    assert table.ratio(resnet, written_out) == table.ratio(resnet, b0), "one point, one interval"


def test_runtimes_of_one_net_are_compared_within_their_processes(tmp_path, random):
    frame = visits(random, process=0.0)[0]
    frame["ms"] *= np.exp(random.normal(0, 0.3, frame.visit.max() + 1))[frame.visit]  # a slow process slows all in it
    keep(tmp_path, frame)
    found = speed.table(str(tmp_path)).ratio(Point("efficientnet_b0"), Point("efficientnet_b0", runtime="openvino"))
    assert (found.low, found.high) == pytest.approx((2, 2), rel=1e-4)


def test_every_point_is_a_row_and_can_be_chosen(tmp_path, random):
    keep(tmp_path, *visits(random))
    table = speed.table(str(tmp_path))
    assert len(table.points()) == 8 and len(table.points(runtime="eager", threads=0)) == 4
    one = table.points(net="resnet18", runtime=["eager"]).iloc[0]
    assert one.label == "resnet18" and one.visits == 4 and one.low < one.to_yard < one.high
    assert (one.macs, one.params, one.activations, one.prepare_s, one.export_s) == (2e6, 1e6, 3e6, 0.5, 2.0)
    with pytest.raises(KeyError, match="no part 'size' of a point"):
        table.points(size=224)


def test_what_was_not_measured_is_said_with_what_measures_it(tmp_path, random):
    frame = visits(random)[0]
    refused = row(Point("densenet121", runtime="openvino", threads=2), math.nan, status="RuntimeError: no such layer")
    keep(tmp_path, pd.concat([frame, pd.DataFrame([refused])]))
    table = speed.table(str(tmp_path))
    missing = table.missing([Point("resnet18"), Point("regnetx_004"), Point("densenet121", runtime="openvino")])
    assert len(missing) == 2
    says = list(missing.values())
    assert says[0].endswith("python -m whichbackbone measure --nets regnetx_004")
    assert says[1] == "densenet121 in OpenVINO: RuntimeError: no such layer"
    with pytest.raises(NotMeasured, match="regnetx_004 in eager, hot, batch 1, was not measured on"):
        table.time(Point("regnetx_004"))


def test_no_table_names_the_command(tmp_path):
    with pytest.raises(NotMeasured, match="no visits measured yet: python -m whichbackbone measure"):
        speed.table(str(tmp_path))


def test_runs_of_other_library_versions_are_not_pooled(tmp_path, random, monkeypatch):
    first, second = visits(random, runs=2)
    keep(tmp_path, first)
    versions = machine.describe().versions | {"torch": "9.9"}
    monkeypatch.setattr(Store, "record", _with(versions))
    Store(speed.NOTEBOOK, "standard", str(tmp_path), run="20260301T000000Z-0000").append(speed.TABLE, second)
    assert speed.table(str(tmp_path)).runs == ["20260301T000000Z-0000"], "those of the newest run's versions"


def _with(versions):
    from dataclasses import replace

    plain = Store.record
    return lambda self: replace(plain(self), versions=plain(self).versions | versions)


def test_a_slow_neighbour_marks_the_block_and_a_slow_run_the_run(tmp_path, random):
    frame = visits(random)[0]
    frame.loc[frame.visit == 3, ["ms", "peak_gflops"]] = [1e3, 50.0]
    keep(tmp_path, frame)
    table = speed.table(str(tmp_path))
    assert set(table.rows.visit) == {0, 1, 2} and table.time(Point("resnet18")).value == pytest.approx(12, rel=0.1)
    slow = Store(speed.NOTEBOOK, "standard", str(tmp_path), peaks=dict(gflops=60.0), run="20260401T000000Z-0000")
    slow.append(speed.TABLE, frame)
    assert "20260401T000000Z-0000" not in speed.table(str(tmp_path)).runs


def test_at_most_ten_runs_are_pooled(tmp_path, random):
    names = keep(tmp_path, *visits(random, runs=12, each=1))
    assert speed.table(str(tmp_path)).runs == names[2:]


@pytest.mark.parametrize(("runs", "hour"), [(1, 0.0), (3, 0.0), (3, 0.08)])
def test_an_interval_holds_the_truth_as_often_as_it_says(tmp_path, runs, hour):
    hits = trials = 0
    for seed in range(12):
        folder = tmp_path / str(seed)
        keep(folder, *visits(np.random.default_rng(seed), runs=runs, hour=hour))
        table = speed.table(str(folder))
        for net, ms in TRUE.items():
            if net != "resnet50":
                for runtime in FASTER:
                    found = table.ratio(Point(net, runtime=runtime), Point("resnet50", runtime=runtime))
                    hits += found.low <= ms / 30 <= found.high
                    trials += 1
    assert hits / trials > 0.85, "95 % of 72, which are not independent"


def test_one_run_says_that_it_knows_nothing_of_other_hours(tmp_path, random):
    keep(tmp_path, *visits(random))
    found = speed.table(str(tmp_path)).ratio(Point("efficientnet_b0"), Point("resnet50"))
    assert "other hours unknown" in found.kind
    keep(tmp_path / "more", *visits(random, runs=3))
    assert "in 3 runs" in speed.table(str(tmp_path / "more")).ratio(Point("efficientnet_b0"), Point("resnet50")).kind


def test_a_machine_with_one_run_takes_the_variance_between_runs_from_another(tmp_path, random, monkeypatch):
    keep(tmp_path, *visits(random))
    alone = speed.table(str(tmp_path)).ratio(Point("efficientnet_b0"), Point("resnet50"))
    own = machine.slug()
    monkeypatch.setattr(machine, "slug", lambda here=None: "another-8-cores")
    keep(tmp_path, *visits(random, runs=4, hour=0.3))
    monkeypatch.setattr(machine, "slug", lambda here=None: own)
    table = speed.table(str(tmp_path))
    wide = table.ratio(Point("efficientnet_b0"), Point("resnet50"))
    assert table.machine == own and wide.high / wide.low > 1.5 * alone.high / alone.low


# ------------------------------------------------------------------------------------------------------- components


def test_components_find_what_was_put_in(random):
    points = [[random.normal(random.normal(0, 0.2), 0.1, 4) for _ in range(3)] for _ in range(300)]
    found = intervals.components(points, each_process=5)
    assert math.sqrt(found.within) == pytest.approx(0.1, rel=0.1)
    assert math.sqrt(found.between) == pytest.approx(0.2, rel=0.1)
    assert found.freedom == 300 * 9 / 5


def test_components_of_single_runs_know_no_hours_and_of_single_visits_nothing():
    assert math.isnan(intervals.components([[[0.1, 0.2]]]).between)
    assert math.isnan(intervals.components([[[0.1]]]).within)


def test_pooled_of_a_single_visit_has_no_interval():
    found = intervals.pooled([[0.5]], intervals.components([[[0.5]]]))
    assert found.value == 0.5 and math.isinf(found.high)
    with pytest.raises(ValueError, match="no visits"):
        intervals.pooled([], intervals.components([[[0.5, 0.6]]]))


def test_a_quotient_adds_what_both_do_not_know():
    a = intervals.Interval(2.0, 1.8, 2.2, "t", 4)
    both = intervals.quotient(a, a)
    assert both.value == 1 and both.low < 1.8 / 2 and both.high == pytest.approx(1 / both.low, rel=0.02)
