"""The kinds of figures that a claim may rest on. Each is computed from stored or published rows when it is read.

A case of ``data/claims.yaml`` names one of KINDS and its arguments. A *selector* is a mapping of columns to the value
that a row must have, or to a list of such values.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from whichbackbone.evidence import catalogue, intervals, published, speed, store
from whichbackbone.evidence.intervals import Interval
from whichbackbone.evidence.speed import Point

# What a figure rests on.
COUNTED, PUBLISHED, TIMED, REAL, SMALL = "counted", "published", "timed here", "real task", "small nets"
RESTS = (COUNTED, PUBLISHED, TIMED, REAL, SMALL)

Selector = Mapping[str, Any]


class NotMeasured(LookupError):
    """A notebook has not run on this machine (or on any); the message is its number."""


@dataclass(frozen=True)
class Case:
    """One figure under one condition.

    Attributes:
        where: the condition, in words.
        figure: the figure with its interval.
        rests: one of RESTS.
        machine: whose measurement it is; "" where it was counted or published.
    """

    where: str
    figure: Interval
    rests: str
    machine: str = ""

    def outcome(self, at_least: float | None, at_most: float | None) -> str:
        """``passes``, ``fails``, or ``undecided`` where the interval holds the bound."""
        reached = self.figure.above(at_least) if at_least is not None else (-self.figure).above(-at_most)
        return {True: "passes", False: "fails", None: "undecided"}[reached]


@dataclass(frozen=True)
class Place:
    """Which measurements count: of which machine (None: this one's, else those committed), below which folder."""

    machine: str | None = None
    output: str = ""

    def table(self, notebook: str, table: str) -> pd.DataFrame:
        """Newest rows of a notebook's table. :class:`NotMeasured` names the notebook to run."""
        try:
            return store.latest(notebook, table, self.output, self.machine)
        except FileNotFoundError:
            raise NotMeasured(notebook[:2]) from None


# -------------------------------------------------------------------------------------------------- counted, published


def of_published(
    place: Place, where: str, of: Any, over: Any = None, less: Any = None, rests: str = PUBLISHED
) -> list[Case]:
    """A published figure; or its ratio ``over`` another one, or the difference ``less`` another one.

    Each is one selector with ``table`` and ``column``, or a list of them, whose figures are multiplied. A difference of
    accuracies carries half a point either way, by which a retraining moves.
    """
    first = [of] if isinstance(of, Mapping) else of
    value = _product(first, _published_figure)
    if over:
        value = value / _product(over, _published_figure)
    if less:
        value = value - _product(less, _published_figure)
    trained = less and first[0]["column"] in ("imagenet_top1", "map", "accuracy")
    return [Case(where, intervals.published_points(value) if trained else intervals.exact(value), rests)]


def of_counts(place: Place, where: str, notebook: str, of: Any, over: Any = None, rests: str = COUNTED) -> list[Case]:
    """A count that a notebook stored, or its ratio ``over`` another one; selectors have ``table`` and ``column``."""

    def figure(selector: Selector) -> float:
        wanted = {k: v for k, v in selector.items() if k not in ("table", "column")}
        rows = selected(place.table(notebook, selector["table"]), wanted)
        return published.one(rows, selector["column"])

    value = _product(of, figure) / (_product(over, figure) if over else 1)
    return [Case(where, intervals.exact(value), rests)]


# ------------------------------------------------------------------------------------------------------------ measured


def of_pairs(place: Place, **spec: Any) -> list[Case]:
    """Mean of a - b over units that both have; arguments as :func:`differences`, and ``where``, ``rests``, ``over``."""
    figure = intervals.mean(differences(place, **spec), spec.get("over", "seeds"))
    owner = place.table(spec["notebook"], spec["table"]).attrs["machine"]
    return [Case(spec["where"], replace(figure, kind=f"paired {figure.kind}"), spec.get("rests", SMALL), owner)]


def differences(
    place: Place, notebook: str, table: str, value: str, a: Selector, b: Selector, by: str = "seed", scale: float = 1.0,
    **_: Any,
) -> np.ndarray:  # fmt: skip
    """``value`` of the rows ``a`` less that of the rows ``b``, times ``scale``, one for each unit ``by`` of both."""
    rows = place.table(notebook, table)
    first, second = (selected(rows, part).groupby(by)[value].mean() for part in (a, b))
    return ((first - second) * scale).dropna().to_numpy()


def of_ratios(
    place: Place, where: str, notebook: str, table: str, a: Selector, b: Selector, each: str = "",
    mean_over: Sequence[str] = (), per: str = "", rests: str = TIMED,
) -> list[Case]:  # fmt: skip
    """How many times longer the rows ``a`` took than the rows ``b``, by samples of the same rounds.

    ``each``: a column; one case for each of its values, which ``{}`` in ``where`` stands for, but none for a value in
    which not both could be timed, such as a runtime that refused a net. ``mean_over``: columns of several layers, whose
    ratios are averaged (geometric mean). ``per``: a column of counts, such as macs; the times compared are then those
    of one of them.
    """
    rows = place.table(notebook, table)
    groups = rows.groupby(each, sort=False) if each else [("", rows)]
    found = []
    for name, part in groups:
        try:
            ratio = _ratio(part, a, b, mean_over, per)
        except NotMeasured:
            if not each:
                raise
            continue
        label = catalogue.RUNTIMES.get(name, str(name))
        found.append(Case(where.replace("{}", label), ratio, rests, rows.attrs["machine"]))
    if not found:
        raise NotMeasured(f"{a} and {b} were nowhere both timed")
    return found


def _ratio(rows: pd.DataFrame, a: Selector, b: Selector, mean_over: Sequence[str], per: str) -> Interval:
    parts = [part for _, part in rows.groupby(list(mean_over), sort=False)] if mean_over else [rows]
    found = []
    for part in parts:
        part.attrs = rows.attrs
        first, second = (selected(part, wanted).iloc[0] for wanted in (a, b))
        if not (first.samples_ms and second.samples_ms):
            raise NotMeasured(f"{a} and {b} were not both timed")
        ratio = intervals.ratio_of_rounds(first.samples_ms, second.samples_ms)
        found.append(ratio.times(float(second[per] / first[per])) if per else ratio)
    return intervals.product(found) if mean_over else found[0]


def of_speeds(
    place: Place, where: str, a: Selector, b: Selector, each: Sequence[str] = (), per: str = "", rests: str = TIMED
) -> list[Case]:
    """How many times longer point ``a`` of the speed table takes than point ``b``.

    Selectors are arguments of :class:`whichbackbone.evidence.speed.Point`. ``each``: runtimes; one case for each in
    which both were timed, which ``{}`` in ``where`` stands for. ``per``: a count such as macs; the times compared are
    then those of one of them.
    """
    table, found, reasons = speed_table(place), [], []
    for runtime in each or [""]:
        first, second = (Point(**(dict(s) | ({"runtime": runtime} if runtime else {}))) for s in (a, b))
        try:
            ratio = table.ratio(first, second)
        except speed.NotMeasured as error:
            reasons.append(str(error))
            continue
        if per:
            ratio = ratio.times(table.count(second, per) / table.count(first, per))
        label = where.replace("{}", catalogue.RUNTIMES.get(runtime, runtime))
        found.append(Case(label, ratio, rests, table.machine))
    if not found:
        raise NotMeasured(reasons[0])
    return found


def of_medians(
    place: Place, where: str, notebook: str, table: str, value: str, a: Selector, b: Selector, scale: float = 1.0,
    over: str = "nets", rests: str = SMALL,
) -> list[Case]:  # fmt: skip
    """Median of one population less that of another; ``over`` says of what, if not of nets."""
    rows = place.table(notebook, table)
    first, second = (selected(rows, part)[value].dropna() * scale for part in (a, b))
    return [Case(where, intervals.difference_of_medians(first, second, over), rests, rows.attrs["machine"])]


def of_best(
    place: Place, where: str, notebook: str, table: str, parameter: str, value: str, rows: Selector | None = None,
    rests: str = SMALL,
) -> list[Case]:  # fmt: skip
    """The value of a parameter that the best nets of a population have."""
    population = place.table(notebook, table)
    chosen = selected(population, rows or {}).dropna(subset=[parameter])
    figure = intervals.best_value(chosen[parameter], chosen[value])
    return [Case(where, figure, rests, population.attrs["machine"])]


def of_correlations(
    place: Place, where: str, notebook: str, table: str, x: str, rival: str, y: str, rows: Selector | None = None,
    rank: bool = False, rests: str = TIMED,
) -> list[Case]:  # fmt: skip
    """Correlation of ``x`` with ``y`` less that of ``rival`` with ``y``, on log scales, or of ranks."""
    nets = place.table(notebook, table)
    figure = _lead(selected(nets, rows or {}), x, rival, y, rank)
    return [Case(where, figure, rests, nets.attrs["machine"])]


FEWEST = 8  # nets of which a correlation says anything


def of_speed_correlations(
    place: Place, where: str, x: str, rival: str, each: Sequence[str] = ("eager",), rank: bool = False,
    rests: str = TIMED,
) -> list[Case]:  # fmt: skip
    """As :func:`of_correlations`, of the times of all nets in the speed table, hot, batch 1, all cores, fp32.

    ``x`` and ``rival`` are counts such as macs. ``each``: runtimes; ``{}`` in ``where`` stands for one.
    """
    table = speed_table(place)
    found = []
    for runtime in each:
        rows = table.points(runtime=runtime, batch=1, threads=0, precision="fp32", regime="hot", mode="inference")
        if len(rows) < FEWEST:
            raise NotMeasured(f"{len(rows)} nets timed in {runtime}, and a correlation needs {FEWEST}")
        figure = _lead(rows, x, rival, "ms", rank)
        found.append(Case(where.replace("{}", catalogue.RUNTIMES[runtime]), figure, rests, table.machine))
    return found


def speed_table(place: Place) -> speed.Table:
    """The speed table that counts. :class:`NotMeasured` says what measures it."""
    try:
        return speed.table(place.output, place.machine)
    except speed.NotMeasured as error:
        raise NotMeasured(str(error)) from None


def of_published_correlations(
    place: Place, where: str, times: Selector, nets: Selector, x: str, rival: str, rank: bool = False,
    rests: str = PUBLISHED,
) -> list[Case]:  # fmt: skip
    """As :func:`of_correlations`, of published times with columns of the published models.

    ``times`` selects rows of the table of speeds, all in one unit of time; ``nets`` those of the same models in the
    table of models, of which ``x`` and ``rival`` are columns.
    """
    counts = selected(published.models(), nets).dropna(subset=[x, rival]).drop_duplicates("model")
    rows = selected(published.speed(), times).merge(counts, on="model", suffixes=("", "_of_model"))
    unit = published.one(rows, "unit")
    if not unit.startswith("ms"):
        raise ValueError(f"correlates times, and these are {unit}")
    return [Case(where, _lead(rows, x, rival, "images_per_s_or_ms", rank), rests)]


def _lead(rows: pd.DataFrame, x: str, rival: str, y: str, rank: bool) -> Interval:
    rows = rows.dropna(subset=[x, rival, y])
    columns = (np.log(rows[c].astype(float)) for c in (x, rival, y))
    return intervals.lead_in_correlation(*columns, kind="spearman" if rank else "pearson")


def of_answers(
    place: Place, where: str, notebook: str, table: str, a: Selector | str, b: Selector | str, rests: str = REAL
) -> list[Case]:
    """Accuracy of method ``a`` less that of ``b``, in points, on the same images of the same splits.

    Rows have seed, cell and correct. Or they have seed, cell and truth, and each method is a column of probabilities
    of class 1, named by ``a`` and ``b``. An image that several splits test counts once, with the mean of its
    differences.
    """
    rows = place.table(notebook, table)
    first, second = (_answered(rows, part)[["seed", "cell", "correct"]] for part in (a, b))
    both = first.merge(second, on=["seed", "cell"], suffixes=("_a", "_b"), validate="one_to_one")
    gaps = (both.correct_a.astype(float) - both.correct_b.astype(float)).groupby(both.cell)
    figure = intervals.by_unit(gaps.mean() * 100, gaps.size(), "images")
    return [Case(where, figure, rests, rows.attrs["machine"])]


def _answered(rows: pd.DataFrame, method: Selector | str) -> pd.DataFrame:
    if isinstance(method, Mapping):
        return selected(rows, method)
    if method not in rows:
        says = f"no column {method!r} among {', '.join(rows.columns)}"
        raise NotMeasured(says) if rows.attrs.get("profile") == "smoke" else LookupError(says)
    told = rows.dropna(subset=[method])
    return told.assign(correct=(told[method] > 0.5) == (told.truth == 1))


def of_fronts(
    place: Place, where: str, notebook: str, table: str, price: str, gain: str, a: Selector, b: Selector,
    by: str = "seed", rests: str = SMALL,
) -> list[Case]:  # fmt: skip
    """What front ``a`` offers more than front ``b`` at equal price, one mean for each search ``by``.

    Gains are averaged over budgets, evenly on a log scale, from the point where all searches have a net to the dearest
    net of all.
    """
    rows = place.table(notebook, table)
    first, second = (dict(list(selected(rows, part).groupby(by))) for part in (a, b))
    both = [part for side in (first, second) for part in side.values()]
    budgets = np.geomspace(max(part[price].min() for part in both), max(part[price].max() for part in both), 60)
    gaps = [
        np.mean(np.subtract(*(intervals.attained(side[s][price], side[s][gain], budgets) for side in (first, second))))
        for s in first if s in second
    ]  # fmt: skip
    return [Case(where, intervals.mean(gaps, "searches"), rests, rows.attrs["machine"])]


KINDS: dict[str, Callable[..., list[Case]]] = {
    "published": of_published,
    "counted": of_counts,
    "paired": of_pairs,
    "ratio": of_ratios,
    "speed": of_speeds,
    "medians": of_medians,
    "best": of_best,
    "correlation": of_correlations,
    "speed_correlation": of_speed_correlations,
    "published_correlation": of_published_correlations,
    "answers": of_answers,
    "front": of_fronts,
}


def selected(rows: pd.DataFrame, wanted: Selector) -> pd.DataFrame:
    """Rows whose columns have the wanted value or one of a list.

    Raises:
        KeyError: for a column that is not there.
        LookupError: where no row is left; in rows of the smoke profile, which leaves nets out, :class:`NotMeasured`.
    """
    chosen = rows
    for column, value in wanted.items():
        if column not in rows:
            raise KeyError(f"no column {column!r} among {', '.join(rows.columns)}")
        chosen = chosen[chosen[column].isin(value if isinstance(value, list) else [value])]
    if chosen.empty:
        says = f"no row has {', '.join(f'{k}={v!r}' for k, v in wanted.items())}"
        raise NotMeasured(says) if rows.attrs.get("profile") == "smoke" else LookupError(says)
    return chosen


def _product(selectors: Selector | Sequence[Selector], figure: Callable[[Selector], float]) -> float:
    return math.prod(figure(s) for s in ([selectors] if isinstance(selectors, Mapping) else selectors))


def _published_figure(selector: Selector) -> float:
    """The one published figure that a selector means: a table, a column, and the values that choose the row."""
    wanted = {k: v for k, v in selector.items() if k not in ("table", "column")}
    try:
        return published.one(selected(getattr(published, selector["table"])(), wanted), selector["column"])
    except LookupError as error:
        raise LookupError(f"{error.args[0]}, for {wanted}") from None
