"""Family notebooks' shared cells: each net at its own side, ratios from the same rounds, tables and sentences."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from whichbackbone import checks, figures
from whichbackbone.evidence import published
from whichbackbone.measure import cost, nets, timing
from whichbackbone.teach import costs


@pytest.fixture(scope="module")
def latency():
    """Times and counts of a small net and of one that takes larger images."""
    return nets.latency(["mobilenetv2_035", "efficientnet_lite1"], rounds=1, seconds=0.1)


def made_up(**samples: list[float]) -> pd.DataFrame:
    """Times as if measured; every net has twice the MACs of the one before."""
    rows = [dict(name=name, status="ok", median_ms=times[0], low_ms=times[0], high_ms=times[0], threads=1, pixels=224,
                 params=1e6, macs=2**n * 1e9, activations=1e6, samples_ms=times)
            for n, (name, times) in enumerate(samples.items())]  # fmt: skip
    return pd.DataFrame(rows)


TIMES = made_up(resnet50=[10, 10, 10, 10], resnet101=[15, 15, 15, 15], regnetx_032=[80, 80, 80, 80])


def test_each_net_is_timed_and_counted_at_its_own_side(latency):
    assert latency.name.tolist() == ["mobilenetv2_035", "efficientnet_lite1"]
    assert latency.pixels.tolist() == [224, 240] and (latency.status == "ok").all()
    counted = cost.total(checks.build("efficientnet_lite1"), 240)
    assert latency.iloc[1][["params", "macs", "activations"]].tolist() == list(vars(counted).values())
    assert all(len(samples) for samples in latency.samples_ms)


def test_time_and_time_per_mac_are_ratios_to_the_yardstick():
    assert {k: (v.value, v.low, v.high) for k, v in nets.time_ratios(TIMES).items()} == {
        "resnet101": (1.5, 1.5, 1.5), "regnetx_032": (8, 8, 8)}  # fmt: skip
    assert {k: v.value for k, v in nets.per_mac_ratios(TIMES).items()} == {"resnet101": 0.75, "regnetx_032": 2}
    assert {k: v.value for k, v in nets.time_ratios(TIMES, "resnet101").items()} == pytest.approx(
        {"resnet50": 2 / 3, "regnetx_032": 80 / 15})  # fmt: skip


def test_an_unknown_net_or_yardstick_is_named():
    with pytest.raises(ValueError, match="no model 'resnet51' built here"):
        nets.latency(["resnet51"], rounds=1, seconds=0.1)
    with pytest.raises(LookupError, match="'resnet18' stands 0 times"):
        nets.time_ratios(TIMES, "resnet18")


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


def test_the_table_has_the_fastest_first_and_says_what_times_are_compared_with():
    page = costs.table(TIMES.iloc[::-1].reset_index(drop=True)).to_html()
    assert page.index("resnet50") < page.index("resnet101") < page.index("regnetx_032")
    assert "x ResNet-50" in page and "1.50" in page and "4,000.0 M" in page


def test_the_figure_draws_every_net_and_the_yardsticks_line():
    figures.style()
    fig = costs.time_against_macs(TIMES)
    (ax,) = fig.axes
    line = ax.lines[0].get_xydata()
    assert (line[:, 1] / line[:, 0]).tolist() == pytest.approx([10, 10])  # ms for each GMAC of ResNet-50
    assert {text.get_text() for text in ax.texts} == set(TIMES.name)
    plt.close(fig)
    assert costs.caption(TIMES) == ("1 of 2 nets take longer for each MAC than ResNet-50 (dashed), by their whole 95 % "
                                    "intervals of this run.")  # fmt: skip


def test_counts_beside_printed_ones_are_a_table_and_a_sentence():
    printed = checks.compare_with_published(published.models(timm_name="resnet50", source_id="torchvision_0.29"))
    assert published.source(printed.source_id.iloc[0]) in costs.printed_table(printed).to_html()
    rows = pd.DataFrame(dict(agrees=["both", "both", "params", "neither"]))
    assert costs.agreement(rows) == ("To the digits printed, **2 of 4** rows agree in both counts, 1 in the parameters "
                                     "alone, 0 in the MACs alone, 1 in neither.")  # fmt: skip
