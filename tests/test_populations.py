"""Spaces draw what they promise, and every net drawn counts, also one that did not train."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pandas as pd
import pytest

from benchmarks import sweep_engine
from whichbackbone.experiments import populations
from whichbackbone.measure import cost
from whichbackbone.models import regnet

SIZE, LOW, HIGH = 20, 0.5e6, 0.65e6


def nets(space: str, n: int = 30, seed: int = 0):
    return regnet.sample(space, n, SIZE, LOW, HIGH, seed)


# Drawing


@pytest.mark.parametrize("space", regnet.STEPS)
def test_a_space_keeps_the_constraints_of_all_steps_up_to_its_own(space):
    step = list(regnet.STEPS).index(space)
    for row, line in nets(space):
        b, g, w, d = ([getattr(stage, field) for stage in row.stages] for field in "bgwd")
        assert len(row.stages) == 4 and LOW <= regnet.macs(row, SIZE) <= HIGH
        assert step < 1 or len(set(b)) == 1
        # A stage narrower than the group width has its own width as group width, as in the paper.
        assert step < 2 or all(g_i in (max(g), stage.w_b) for g_i, stage in zip(g, row.stages, strict=True))
        assert step < 3 or all(x <= y + max(stage.g * stage.b for stage in row.stages) for x, y in pairwise(w))
        assert step not in (4,) or d == sorted(d)
        assert (line is not None) == (space == "RegNetX")


def test_the_free_space_is_free():
    drawn = [row.stages for row, _ in nets("AnyNetX_A")]
    assert any(len({s.b for s in stages}) > 1 for stages in drawn)
    assert any(len({s.g for s in stages}) > 1 for stages in drawn)
    assert any(stages[0].w > stages[-1].w for stages in drawn) and any(stages[0].d > stages[-1].d for stages in drawn)


def test_a_seed_gives_the_same_nets_and_another_others():
    first, again, other = nets("RegNetX"), nets("RegNetX"), nets("RegNetX", seed=1)
    assert first == again and len(set(dict(first))) == 30
    assert len(set(dict(first)) & set(dict(other))) < 15


def test_a_window_without_nets_is_refused(monkeypatch):
    monkeypatch.setattr(regnet, "range", lambda n: range(100), raising=False)
    with pytest.raises(ValueError, match=r"AnyNetX_A: only 0 of 2 nets have 1 to 2 MACs at 20 pixels"):
        regnet.sample("AnyNetX_A", 2, SIZE, 1, 2, seed=0)


@pytest.mark.parametrize("se", [False, True])
@pytest.mark.parametrize("size", [20, 27])
def test_macs_by_arithmetic_are_those_counted(se, size):
    random = Random(0)
    for space in ("AnyNetX_A", "RegNetX"):
        row = replace(regnet.draw(space, random)[0], se=se)
        assert regnet.macs(row, size) == cost.total(regnet.anynet(row, 36, 1), (1, size, size)).macs


def test_log_uniform_reaches_both_ends_and_no_further():
    random = Random(0)
    values = [regnet.log_uniform(random, 1, 16) for _ in range(2000)]
    assert (min(values), max(values)) == (1, 16)
    assert values.count(1) > 3 * values.count(8)


def test_a_stage_is_moved_to_the_nearest_that_can_be_built():
    assert regnet.nearest(2, 40, b=1, g=16) == regnet.Stage(d=2, w=32, b=1, g=16)
    assert regnet.nearest(1, 8, b=2, g=16) == regnet.Stage(d=1, w=8, b=2, g=4)
    with pytest.raises(regnet.InvalidDesign, match=r"a stage has width 3, too narrow for b = 4: expected w >= b"):
        regnet.nearest(1, 3, b=4, g=1)


# Training


def test_the_experiment_repeats_and_knows_what_it_drew():
    setting = dict(nets=2, size=SIZE, low=LOW, high=HIGH, images=64, epochs=1, difficulty=0.5, workers=0)
    rows, again, other = (populations.experiment(s, **setting, spaces=["AnyNetX_A", "RegNetX"]) for s in (0, 0, 1))
    assert rows.space.tolist() == ["AnyNetX_A"] * 2 + ["RegNetX"] * 2 and (rows.status == "ok").all()
    assert rows.error.tolist() == again.error.tolist() and rows.stages.tolist() != other.stages.tolist()
    assert rows.w_m.notna().tolist() == [False] * 2 + [True] * 2
    assert rows.macs.between(LOW, HIGH).all() and rows.error.between(0, 1).all()


def test_a_net_that_did_not_train_counts_with_the_error_of_guessing(monkeypatch):
    def run(train, configs, **_):
        return pd.DataFrame([dict(c, status="ok", error=0.25) for c in configs[:-1]]
                            + [dict(configs[-1], status="KilledWorker: out of memory?")])  # fmt: skip

    monkeypatch.setattr(populations.sweep, "run", run)
    setting = dict(nets=3, size=SIZE, low=LOW, high=HIGH, images=64, epochs=1, difficulty=0.5)
    rows = populations.experiment(0, **setting, spaces=["RegNetX"])
    assert rows.error.tolist() == [0.25, 0.25, populations.GUESSING] and populations.GUESSING == 35 / 36


# The benchmark of the sweep's engine


def planted(gain: float, overhead: float) -> pd.DataFrame:
    """Measurements of an engine with this gain and this share of overhead."""
    one = dict(wall=10.0, start=1.0, runs=9.0 - 10.0 * overhead)
    ways = {"this process": one | dict(start=0.0), "1 worker": one, "2 workers": one | dict(wall=10.0 / gain)}
    return pd.DataFrame([dict(way=way, repetition=r, **row) for way, row in ways.items() for r in range(3)])


def test_the_engines_gain_and_overhead_are_what_was_planted():
    table, gain, engine = sweep_engine.summary(planted(gain=1.6, overhead=0.08))
    assert gain == pytest.approx(1.6) and engine == pytest.approx(0.08)
    assert gain < sweep_engine.GAIN and engine > sweep_engine.OVERHEAD  # such an engine misses both bounds
    assert table["x one worker"].tolist() == pytest.approx([1, 1, 1.6])
