"""The learning rate of each net of a comparison, found by the same small search on seeds that no result uses.

One rate for all would favour the net that it happens to suit. Results use seeds from FRESH on, a search those below.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from whichbackbone.evidence import store
from whichbackbone.experiments import sweep

RATES = (0.05, 0.1, 0.2, 0.4)
USUAL = 0.1  # where nothing was searched yet
FRESH, CONFIRMING = 100, 200  # the first seed of a standard run; of the full run that verdicts rest on


def search(
    train: Callable[..., Mapping[str, Any]], nets: Mapping[str, Mapping[str, Any]], *, by: str,
    rates: Sequence[float] = RATES, seeds: int = 1, folder: str | Path | None = None, workers: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Train every net at every rate and say which rate leaves the least error.

    Args:
        train: called as ``train(**net, lr=rate, seed=seed)``; gives a mapping that has ``by``. Test data must not be in
            it.
        nets: name -> arguments of ``train``.
        by: the error that decides; lower is better.
        rates: to choose from.
        seeds: of each net at each rate, from 0 on.
        folder, workers: of :func:`whichbackbone.experiments.sweep.run`.

    Returns:
        One row per net and rate: net, lr, error (mean over the seeds; infinite where a training diverged), chosen.

    Raises:
        ValueError: for more seeds than there are below those of results.
        RuntimeError: where every rate of a net diverged.
    """
    if not 1 <= seeds <= FRESH:
        raise ValueError(f"{seeds} seeds: a search has 1 to {FRESH}, those below the seeds of results")
    tried = [(name, lr) for name in nets for lr in rates]
    configs = [dict(nets[name]) | dict(lr=lr, seed=seed) for name, lr in tried for seed in range(seeds)]
    rows = sweep.run(train, configs, folder=folder, workers=workers)
    rows["net"] = [name for name, _ in tried for _ in range(seeds)]
    rows["error"] = (rows[by] if by in rows else pd.Series(float("nan"), rows.index)).fillna(float("inf"))
    table = rows.groupby(["net", "lr"], sort=False).error.mean().reset_index()
    least = table.loc[table.groupby("net", sort=False).error.idxmin()].set_index("net")
    if (lost := least[least.error == float("inf")]).size:
        raise RuntimeError(f"{lost.index[0]} diverged at every rate of {', '.join(map(str, rates))}: add lower ones")
    return table.assign(chosen=table.lr == table.net.map(least.lr))


def frozen(notebook: str, nets: Iterable[str], output: str = "") -> pd.DataFrame:
    """What the search of a notebook's newest ``full`` run found for these nets, so that smaller runs repeat its design.

    Args:
        notebook: whose full run stored its search as "rates".
        nets: names that must have a rate; one that the search did not have gets USUAL.
        output: a folder whose results come first.

    Returns:
        As :func:`search` does; error is nan for a net that was not searched.
    """
    try:
        table = store.latest(notebook, "rates", output, profile="full")
    except FileNotFoundError:
        table = pd.DataFrame(columns=["net", "lr", "error", "chosen"])
    missing = [dict(net=name, lr=USUAL, error=float("nan"), chosen=True) for name in nets if name not in set(table.net)]
    rows = [table[table.net.isin(list(nets))], pd.DataFrame(missing, columns=table.columns.intersection(
        ["net", "lr", "error", "chosen"]))]  # fmt: skip
    return pd.concat([part for part in rows if len(part)], ignore_index=True)[["net", "lr", "error", "chosen"]]


def chosen(table: pd.DataFrame) -> dict[str, float]:
    """Net -> rate, from what :func:`search` gives."""
    return table[table.chosen].set_index("net").lr.to_dict()
