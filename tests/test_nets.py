"""Family notebooks' shared cells: their rows of the speed table, figures and sentences; ours beside timm's."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_speed import keep, row

from whichbackbone import checks, figures
from whichbackbone.evidence import published, speed, store
from whichbackbone.evidence.speed import Point
from whichbackbone.measure import nets, timing
from whichbackbone.teach import costs

MS = {"resnet50": 10.0, "resnet101": 15.0, "regnetx_032": 80.0}


@pytest.fixture
def latency(tmp_path, monkeypatch) -> pd.DataFrame:
    """Times as if measured; every net has twice the MACs of the one before."""
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "nothing")
    rows = [row(Point(net, threads=1), ms, visit, macs=2**n * 1e9 if visit == 0 else None)
            for n, (net, ms) in enumerate(MS.items()) for visit in range(3)]  # fmt: skip
    keep(tmp_path, pd.DataFrame(rows))
    return costs.latency(speed.table(str(tmp_path)), ["regnetx_032", "resnet50", "densenet121", "resnet101"])


def test_rows_stand_in_the_order_asked_for_without_those_not_measured(latency):
    assert latency.index.tolist() == ["regnetx_032", "resnet50", "resnet101"]
    assert latency.to_yard.to_dict() == pytest.approx({"regnetx_032": 8, "resnet50": 1, "resnet101": 1.5})
    assert latency.per_mac.to_dict() == pytest.approx({"regnetx_032": 2, "resnet50": 1, "resnet101": 0.75})
    assert (latency.per_mac_low <= latency.per_mac).all() and (latency.per_mac <= latency.per_mac_high).all()


def test_ours_is_timed_beside_timms_with_the_same_weights(monkeypatch):
    seen = []

    def measure(candidates, **_):
        seen.append({name: call() for name, call in candidates.items()})
        return pd.DataFrame([dict(name=name, status="ok", samples_ms=[2.0, 2.0]) for name in candidates])

    monkeypatch.setattr(timing, "measure", measure)
    names = ["mobilenetv2_035", "resnet18"]
    rows = nets.against_timm(names, rounds=2, seconds=1)
    assert rows.net.tolist() == [names[0], names[0], names[1], names[1]] and rows.built.tolist() == ["ours", "timm"] * 2
    for pair in seen:
        ours, theirs = pair.values()
        assert (ours - theirs).abs().max() < 1e-4
    assert {net: ratio.value for net, ratio in nets.ours_over_timm(rows).items()} == dict.fromkeys(names, 1)
    assert costs.beside_timm(rows) == "Time of ours over timm's: `mobilenetv2_035` 1.000; `resnet18` 1.000."


def test_the_table_has_the_fastest_first_and_says_what_times_are_compared_with(latency):
    page = costs.table(latency).to_html()
    assert page.index("resnet50") < page.index("resnet101") < page.index("regnetx_032")
    assert "x ResNet-50" in page and "1.50 (1.50 to 1.50)" in page and "4,000.0 M" in page
    assert not re.search(r"\d\.\d{3,}<", page), "no digits that were not measured"


def test_the_figure_draws_every_net_and_the_yardsticks_line(latency):
    figures.style()
    fig = costs.time_against_macs(latency)
    (ax,) = fig.axes
    line = ax.lines[0].get_xydata()
    assert (line[:, 1] / line[:, 0]).tolist() == pytest.approx([10, 10])  # ms for each GMAC of ResNet-50
    assert {text.get_text() for text in ax.texts} == set(MS)
    plt.close(fig)
    assert costs.caption(latency) == ("1 of 2 nets take longer for each MAC than ResNet-50 (dashed), by their whole "
                                      "95 % intervals.")  # fmt: skip


def test_a_table_says_which_runs_its_times_come_from(latency, tmp_path):
    assert costs.where_from(speed.table(str(tmp_path))).endswith(
        ": 1 run, the newest of 2026-01-01, hot, batch 1, eager, 1 threads."
    )


def test_counts_beside_printed_ones_are_a_table_and_a_sentence():
    printed = checks.compare_with_published(published.models(timm_name="resnet50", source_id="torchvision_0.29"))
    assert published.source(printed.source_id.iloc[0]) in costs.printed_table(printed).to_html()
    rows = pd.DataFrame(dict(agrees=["both", "both", "params", "neither"]))
    assert costs.agreement(rows) == ("To the digits printed, **2 of 4** rows agree in both counts, 1 in the parameters "
                                     "alone, 0 in the MACs alone, 1 in neither.")  # fmt: skip
