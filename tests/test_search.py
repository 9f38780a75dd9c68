"""A search finds what is there, repeats itself, and goes on after an interruption without training anything twice."""

import pytest

from whichbackbone.evidence import intervals
from whichbackbone.experiments import search, sweep

SPACE = {"depth": (1, 2, 3, 4), "kernel": (3, 5), "gate": (False, True), "op": ("full", "separable")}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv("WHICHBACKBONE_CACHE", str(tmp_path))
    monkeypatch.setattr(sweep, "code_version", lambda function: "0" * 12)  # others may edit the package meanwhile


def error(depth, kernel, gate, op):
    """Deeper is better; a gate helps; what else there is does not."""
    return 1 / depth - 0.1 * gate + 0.01 * (kernel == 5)


def layers(architecture):
    return architecture["depth"] + 0.5 * architecture["gate"]


def kernels(architecture):
    return architecture["kernel"] ** 2 + architecture["depth"]


class Trainings:
    """Errors through a stored sweep; the machine goes off before training number `off_at`."""

    def __init__(self, off_at=None, folder="search"):
        self.folder, self.off_at, self.trained = folder, off_at, []

    def train(self, seed, **architecture):
        if len(self.trained) == self.off_at:
            raise KeyboardInterrupt
        self.trained.append(tuple(architecture.values()))
        return dict(error=error(**architecture))

    def __call__(self, architectures):
        return list(sweep.run(self.train, architectures, folder=self.folder, workers=0, progress=False).error)


def go(errors, **changes):
    settings = dict(seeds=[0, 1], generations=4, population=6) | changes
    return search.run(SPACE, errors, {"layers": layers, "kernels": kernels}, **settings)


def test_size():
    assert search.size(SPACE) == 32
    assert search.size({str(i): range(432) for i in range(15)}) == 432**15


def test_the_front_of_a_small_space_is_found():
    rows = go(Trainings(), generations=12)
    true = {(1 + 0.5 * g if d == 1 else d + 0.5 * g, round(1 / d - 0.1 * g, 9)) for d in (1, 2, 3, 4) for g in (0, 1)}
    found = rows[rows.cost_name == "layers"]
    found = found[intervals.on_front(found.cost, -found.error)].drop_duplicates(["cost", "error"])
    assert set(zip(found.cost, found.error.round(9), strict=True)) <= true and len(found) >= 6


def test_each_cost_and_seed_has_its_searches_and_a_seed_its_start():
    rows = go(Trainings())
    assert (rows.groupby(["cost_name", "seed", "generation"]).size() == 6).all() and len(rows) == 2 * 2 * 4 * 6
    first = rows[rows.generation == 0]
    by_layers, by_kernels = (rows[rows.cost_name == name] for name in ("layers", "kernels"))
    for seed in (0, 1):
        one, other = (r[(r.seed == seed) & (r.generation == 0)] for r in (by_layers, by_kernels))
        assert list(one.architecture) == list(other.architecture)
    assert list(first[first.seed == 0].architecture) != list(first[first.seed == 1].architecture)
    assert list(by_layers.cost) == [layers(a) for a in by_layers.architecture]


@pytest.mark.parametrize("off_at", [0, 3, 17])
def test_an_interrupted_search_goes_on_from_what_is_stored(off_at):
    whole = Trainings(folder="whole")
    expected = go(whole)
    before, after = Trainings(off_at), Trainings()
    with pytest.raises(KeyboardInterrupt):
        go(before)
    assert go(after).equals(expected)
    assert before.trained + after.trained == whole.trained and len(before.trained) == off_at, "something trained twice"
    again = Trainings()
    assert go(again).equals(expected) and not again.trained


def test_a_search_that_stores_nothing_trains_twice():
    """The fault that the test above is there for."""
    before, after = Trainings(5, folder=None), Trainings(folder=None)
    with pytest.raises(KeyboardInterrupt):
        go(before)
    expected = go(Trainings(folder=None))
    assert go(after).equals(expected) and set(before.trained) <= set(after.trained)


@pytest.mark.parametrize(
    "changes, message",
    [(dict(generations=0), "0 generations of 6"), (dict(population=1), "population of 2"), (dict(seeds=[]), "0 seeds")],
)
def test_nothing_to_search(changes, message):
    with pytest.raises(ValueError, match=message):
        go(Trainings(), **changes)


def test_a_decision_without_options_is_named():
    with pytest.raises(ValueError, match="nothing to choose for gate"):
        search.run({"depth": (1, 2), "gate": ()}, Trainings(), {"layers": layers}, seeds=[0], generations=1)


def test_an_error_that_is_no_number_stops_the_search():
    with pytest.raises(ValueError, match="1 of them not numbers"):
        go(lambda batch: [float("nan"), *[0.5] * (len(batch) - 1)])
    with pytest.raises(ValueError, match=r"gave 1 values for \d+ architectures"):
        go(lambda batch: [0.5])


def test_the_control_draws_as_many_different_nets_as_a_search_looks_at():
    space = dict(a=(1, 2, 3), b=("x", "y", "z"))
    seen = []

    def errors(architectures):
        seen.extend(architectures)
        return [architecture["a"] / 10 for architecture in architectures]

    rows = search.at_random(space, errors, lambda a: a["a"] * 2, seeds=[100, 101], evaluations=5)
    assert len(rows) == 10 and set(rows.cost_name) == {"random"} and len(seen) <= 9, "each net is trained once"
    for _, part in rows.groupby("seed"):
        assert part.architecture.map(str).is_unique
    assert (rows.error == rows.cost / 20).all()
    again = search.at_random(space, errors, lambda a: a["a"] * 2, seeds=[100, 101], evaluations=5)
    assert again.architecture.tolist() == rows.architecture.tolist()
    with pytest.raises(ValueError, match="10 evaluations: expected 1 to 9"):
        search.at_random(space, errors, lambda a: 1, seeds=[0], evaluations=10)
