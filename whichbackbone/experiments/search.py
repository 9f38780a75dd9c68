"""Architecture search by evolution (NSGA-II, Deb et al. 2002) for two objectives, several searches in step.

Searches that advance together hand their populations over as one batch, so that all cores have work. The proposals of a
search depend only on its seed and on the errors it was given. If the errors come from a store
(:mod:`whichbackbone.experiments.sweep`), an interrupted search that is started again reads its stored trials, computes
the missing ones, and ends as if it had not been interrupted.
"""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from whichbackbone.optional import needs

Choices = Mapping[str, Sequence]  # name of a decision -> what there is to choose from
Architecture = dict[str, object]  # name of a decision -> the choice


def size(space: Choices) -> int:
    """Return the number of architectures in a space."""
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
    """Search for small error and small cost, with one search for each cost and seed, all in step.

    Args:
        space: see `Choices`; the options of one decision are numbers, strings, booleans or None, and distinct.
        errors: gives the errors of a batch of different architectures, in order; it is called once a generation.
        costs: name -> function that gives the cost of one architecture. Searches of one seed start from the same
            population whatever the cost.
        seeds: of the searches.
        generations: including the first, which is random.
        population: architectures in each generation of each search.

    Returns:
        One row per proposed architecture: cost_name, seed, generation (from 0), architecture, error, cost. A search may
        propose an architecture again.

    Raises:
        ValueError: if there is nothing to search, or if `errors` gives too few values or not a number.
        ModuleNotFoundError: if Optuna is not installed.
    """
    if empty := [name for name, options in space.items() if not len(options)]:
        raise ValueError(f"nothing to choose for {', '.join(empty)}: expected at least one option")
    if not space or not costs or not len(seeds) or generations < 1 or population < 2:
        raise ValueError(
            f"nothing to search: {len(space)} decisions, {len(costs)} costs, {len(seeds)} seeds, {generations} "
            f"generations of {population}: expected at least one each, and a population of 2"
        )
    optuna = _optuna()
    studies = {(name, seed): _study(optuna, seed, population) for name in costs for seed in seeds}
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


def at_random(
    space: Choices,
    errors: Callable[[list[Architecture]], Sequence[float]],
    cost: Callable[[Architecture], float],
    *,
    seeds: Sequence[int],
    evaluations: int,
    name: str = "random",
) -> pd.DataFrame:
    """Draw architectures instead of searching: the control of :func:`run`, which may look at as many.

    Args:
        space, errors, seeds: of :func:`run`.
        cost: gives the cost of one architecture, by which a front is picked afterwards.
        evaluations: architectures of each seed, all different.
        name: stands as cost_name.

    Returns:
        As :func:`run` does, with generation 0.

    Raises:
        ValueError: for more evaluations than there are architectures, or if `errors` gives too few values or no number.
    """
    if not 1 <= evaluations <= size(space):
        raise ValueError(f"{evaluations} evaluations: expected 1 to {size(space)}, which the space has")
    drawn = [(seed, architecture) for seed in seeds for architecture in _different(space, evaluations, seed)]
    known = _evaluate(errors, [architecture for _, architecture in drawn])
    return pd.DataFrame([
        dict(cost_name=name, seed=seed, generation=0, architecture=a, error=known[_text(a)], cost=float(cost(a)))
        for seed, a in drawn])  # fmt: skip


def _different(space: Choices, number: int, seed: int) -> list[Architecture]:
    """Architectures drawn evenly, none twice."""
    random, found = np.random.default_rng(seed), {}
    while len(found) < number:
        architecture = {name: options[random.integers(len(options))] for name, options in space.items()}
        found.setdefault(_text(architecture), architecture)
    return list(found.values())


def _optuna() -> ModuleType:
    """Import Optuna without its warnings: its progress bar asks for ipywidgets, which nothing here needs."""
    with warnings.catch_warnings(), needs("optuna"):
        warnings.simplefilter("ignore")
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: ModuleType, seed: int, population: int) -> Any:
    """Start one search for two objectives; returns an ``optuna.Study``."""
    sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)


def _evaluate(errors: Callable, architectures: Sequence[Architecture]) -> dict[str, float]:
    """Return the errors by architecture (as text), each asked for once.

    Raises ``ValueError`` if ``errors`` gives too few values or not a number.
    """
    distinct = {_text(architecture): dict(architecture) for architecture in architectures}
    found = [float(error) for error in errors(list(distinct.values()))]
    if len(found) != len(distinct) or not np.isfinite(found).all():
        raise ValueError(
            f"errors() gave {len(found)} values for {len(distinct)} architectures, "
            f"{int(np.sum(~np.isfinite(found)))} of them not numbers: expected one number for each"
        )
    return dict(zip(distinct, found, strict=True))


def _text(architecture: Architecture) -> str:
    """Return an architecture as text that does not depend on the order of its decisions."""
    return json.dumps(architecture, sort_keys=True)
