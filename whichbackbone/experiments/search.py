"""Architecture search by evolution (NSGA-II, Deb et al. 2002) for two objectives, several searches in step.

Searches that advance together hand their populations over as one batch, so that all cores have work. What a search
proposes follows from its seed and from the values it was told, and from nothing else: when these come from a store
(:mod:`whichbackbone.experiments.sweep`), a search that was interrupted and is started again repeats its stored trials
without computing them, and goes on with the first one that is missing, to the same end as if nothing had happened.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its progress bar asks for ipywidgets, which nothing here needs
    import optuna

Choices = Mapping[str, Sequence]  # name of a decision -> what there is to choose from
Architecture = dict[str, object]  # name of a decision -> the choice


def size(space: Choices) -> int:
    """Number of architectures in a space."""
    return int(np.prod([len(options) for options in space.values()], dtype=object))


def run(
    space: Choices,
    errors: Callable[[list[Architecture]], Sequence[float]],
    costs: Mapping[str, Callable[[Architecture], float]],
    *,
    seeds: Sequence[int],
    generations: int,
    population: int = 8,
) -> pd.DataFrame:
    """Search for small error and small cost: one search for each cost and seed, all in step.

    Args:
        space: see `Choices`; the options of one decision are numbers, strings, booleans or None, and distinct.
        errors: the errors of a batch of different architectures, in order; called once a generation.
        costs: name -> cost of one architecture. Searches of one seed start from the same population whatever the cost.
        seeds: of the searches.
        generations: including the first, which is random.
        population: architectures in each generation of each search.

    Returns:
        One row per proposed architecture: cost_name, seed, generation (from 0), architecture, error, cost. A search may
        propose an architecture again.

    Raises:
        ValueError: for a space or a number with nothing to search, or if `errors` gives too few or not a number.
    """
    if empty := [name for name, options in space.items() if not len(options)]:
        raise ValueError(f"nothing to choose for {', '.join(empty)}: expected at least one option")
    if not space or not costs or not len(seeds) or generations < 1 or population < 2:
        raise ValueError(
            f"nothing to search: {len(space)} decisions, {len(costs)} costs, {len(seeds)} seeds, {generations} "
            f"generations of {population}: expected at least one each, and a population of 2"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    studies = {(name, seed): _study(seed, population) for name in costs for seed in seeds}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        choices = {n: optuna.distributions.CategoricalDistribution(tuple(o)) for n, o in space.items()}
        rows = []
        for generation in range(generations):
            asked = [(key, study.ask(choices)) for key, study in studies.items() for _ in range(population)]
            known = _evaluate(errors, [trial.params for _, trial in asked])
            for (name, seed), trial in asked:
                architecture = {n: trial.params[n] for n in space}
                error, cost = known[_text(architecture)], float(costs[name](architecture))
                studies[name, seed].tell(trial, [error, cost])
                rows.append(dict(cost_name=name, seed=seed, generation=generation, architecture=architecture,
                                 error=error, cost=cost))  # fmt: skip
    return pd.DataFrame(rows)


def front(cost: Sequence[float], error: Sequence[float]) -> np.ndarray:
    """Mask of the points that no other one beats in one of the two without being worse in the other.

    Of equal points the first is kept.
    """
    cost, error = np.asarray(cost, float), np.asarray(error, float)
    keep, best = np.zeros(len(cost), bool), np.inf
    for i in np.lexsort((np.arange(len(cost)), error, cost)):
        keep[i], best = error[i] < best, min(best, error[i])
    return keep


def attained(cost: Sequence[float], value: Sequence[float], budgets: Sequence[float]) -> np.ndarray:
    """The highest value among the points that cost at most each budget; nan where none does."""
    cost, value = np.asarray(cost, float), np.asarray(value, float)
    within = cost[None] <= np.asarray(budgets, float)[:, None]
    best = np.where(within, value[None], -np.inf).max(axis=1)
    return np.where(np.isfinite(best), best, np.nan)


def _study(seed: int, population: int) -> optuna.Study:
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def _evaluate(errors: Callable, architectures: Sequence[Architecture]) -> dict[str, float]:
    """Errors by architecture, each asked for once."""
    distinct = {_text(architecture): dict(architecture) for architecture in architectures}
    found = [float(error) for error in errors(list(distinct.values()))]
    if len(found) != len(distinct) or not np.isfinite(found).all():
        raise ValueError(
            f"errors() gave {len(found)} values for {len(distinct)} architectures, "
            f"{int(np.sum(~np.isfinite(found)))} of them not numbers: expected one number for each"
        )
    return dict(zip(distinct, found, strict=True))


def _text(architecture: Architecture) -> str:
    return json.dumps(architecture, sort_keys=True)
