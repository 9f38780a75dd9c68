"""Each net gets the rate that leaves the least error on seeds of its own, and diverging is no end."""

import pandas as pd
import pytest

from whichbackbone.evidence import store
from whichbackbone.evidence.store import Store
from whichbackbone.experiments import rates


def train(best: float, lr: float, seed: int) -> dict:
    assert seed < rates.FRESH
    if lr > 4 * best:
        raise RuntimeError("diverged")
    return dict(error=abs(lr - best), seed_seen=seed)


def test_each_net_gets_its_own_rate():
    nets = {"slow": dict(best=0.05), "fast": dict(best=0.4)}
    table = rates.search(train, nets, by="error", seeds=2, workers=0)
    assert rates.chosen(table) == {"slow": 0.05, "fast": 0.4}
    assert len(table) == 8 and table.chosen.sum() == 2
    assert table[(table.net == "slow") & (table.lr == 0.4)].error.item() == float("inf")


def test_a_net_that_diverges_everywhere_is_named():
    with pytest.raises(RuntimeError, match="wild diverged at every rate of 0.05, 0.1, 0.2, 0.4: add lower ones"):
        rates.search(train, {"wild": dict(best=0.001)}, by="error", workers=0)


def test_a_search_stays_below_the_seeds_of_results():
    with pytest.raises(ValueError, match="101 seeds: a search has 1 to 100"):
        rates.search(train, {"one": dict(best=0.1)}, by="error", seeds=101)


def test_smaller_runs_take_what_the_full_run_found(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    assert rates.chosen(rates.frozen("02_resnet", ["a"], str(tmp_path))) == {"a": rates.USUAL}, "nothing was searched"
    searched = pd.DataFrame(dict(net=["a", "a"], lr=[0.1, 0.4], error=[0.5, 0.2], chosen=[False, True]))
    Store("02_resnet", "full", str(tmp_path)).append("rates", searched)
    found = rates.frozen("02_resnet", ["a", "b"], str(tmp_path))
    assert rates.chosen(found) == {"a": 0.4, "b": rates.USUAL}
