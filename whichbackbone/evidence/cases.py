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
        setting: what differs between cases of one kind, such as the device; "" for a case of its own.
        run: the run that it rests on, where that is a ``full`` one and another stands beside it.
        beside: the same figure from this machine's own run, smaller, which decides nothing.
    """

    where: str
    figure: Interval
    rests: str
    machine: str = ""
    setting: str = ""
    run: str = ""
    beside: Interval | None = None

    @property
    def group(self) -> str:
        """The condition without its setting, which a page writes once for all its settings; "" if there is no more."""
        return self.where.replace(self.setting, "").strip(" ,:") if self.setting else self.where

    def outcome(self, at_least: float | None, at_most: float | None) -> str:
        """``passes``, ``fails``, or ``undecided`` where the interval holds the bound."""
        return outcome(self.figure, at_least, at_most)


def outcome(figure: Interval, at_least: float | None, at_most: float | None) -> str:
    """What a figure says of a bound; see :class:`Case`."""
    reached = figure.above(at_least) if at_least is not None else (-figure).above(-at_most)
    return {True: "passes", False: "fails", None: "undecided"}[reached]


def _one_of(where: str, setting: str, figure: Interval, rests: str, machine: str = "") -> Case:
    """A case of several that differ in what ``{}`` in ``where`` stands for."""
    return Case(where.replace("{}", setting), figure, rests, machine, setting if "{}" in where else "")


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

    def decisive(self, notebook: str, table: str) -> list[pd.DataFrame]:
        """Rows that a verdict about small nets rests on, and those that stand beside it, if others do.

        The newest ``full`` run, of whichever machine, decides; the newest run of any other profile stands beside it.
        Without a full run the newest one decides.
        """
        try:
            full = store.latest(notebook, table, self.output, self.machine, profile="full")
        except FileNotFoundError:
            return [self.table(notebook, table)]
        newest = self.table(notebook, table)
        return [full] if newest.attrs["run"] == full.attrs["run"] else [full, newest]


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


def of_published_speeds(
    place: Place, where: str, a: Selector, b: Selector, modes: Sequence[str] = ("infer", "train"),
    rests: str = PUBLISHED,
) -> list[Case]:  # fmt: skip
    """How many times longer model ``a`` takes than ``b`` in *every* published setting that timed both, a case each.

    Selectors are columns of the table of speeds. ``{}`` in ``where`` stands for the setting, and ``modes`` says whether
    inference, training or both count; see :func:`whichbackbone.evidence.published.time_ratios`.
    """
    found, reasons = [], []
    for mode in modes:
        try:
            rows = published.time_ratios(a, b, mode)
        except LookupError as error:
            if "in one setting" in str(error):
                raise
            reasons.append(error)  # often only one of the modes was timed
            continue
        found += [_one_of(where, row.label, intervals.exact(row.ratio), rests) for row in rows.itertuples()]
    if not found:
        raise reasons[0]
    return found


def of_published_gains(place: Place, where: str, a: Selector, b: Selector, rests: str = PUBLISHED) -> list[Case]:
    """Published accuracy of model ``a`` less that of ``b`` from *every* source that trained both alike, a case each.

    Selectors are columns of the table of models; ``{}`` in ``where`` stands for the source.
    """
    rows = published.gains(a, b)
    return [_one_of(where, row.label, intervals.published_points(row.gain), rests) for row in rows.itertuples()]


def of_published_rivals(
    place: Place, where: str, nets: Selector, rivals: Selector, price: str, times: Selector | None = None,
    rests: str = PUBLISHED,
) -> list[Case]:  # fmt: skip
    """What the cheapest rival that is at least as accurate needs, over what the net needs; a case for each net.

    ``nets`` and ``rivals`` select rows of the table of models, and ``price`` is a column of it, or "time": that of one
    image in the rows of the table of speeds that ``times`` selects, by the source that prints the accuracy. A net whose
    accuracy no rival reaches has an infinite ratio. ``{}`` in ``where`` stands for the two nets.
    """
    rows = published.models().dropna(subset=["imagenet_top1"])
    rows = rows[rows.extra_data.eq("no")]
    if times:
        rows = rows.merge(_time_of_an_image(times), on=["source_id", "model", "input_size"])
    rows = rows.dropna(subset=[price]).drop_duplicates(["source_id", "model", "input_size", "imagenet_top1"])
    others, found = selected(rows, rivals), []
    for net in selected(rows, nets).itertuples():
        as_good = others[others.imagenet_top1 >= net.imagenet_top1]
        best = as_good.loc[as_good[price].idxmin()] if len(as_good) else None
        against = f"{net.model} against {best.model}" if best is not None else f"{net.model}, which no rival reaches"
        ratio = math.inf if best is None else best[price] / getattr(net, price)
        found.append(_one_of(where, against, intervals.exact(ratio), rests))
    return found


def _time_of_an_image(times: Selector) -> pd.DataFrame:
    """source_id, model, input_size and time (in units of its own) of published speeds."""
    rows = selected(published.speed(), times)
    unit = published.one(rows, "unit")
    figures = rows.images_per_s_or_ms ** (-1.0 if unit.startswith("images/s") else 1.0)
    return pd.DataFrame(dict(source_id=rows.source_id, model=rows.model, input_size=rows.img_size, time=figures))


def of_published_numbers(place: Place, where: str, of: Selector, rests: str = PUBLISHED) -> list[Case]:
    """How many published rows a selector finds, none included; it has ``table``."""
    wanted = {k: v for k, v in of.items() if k != "table"}
    rows = getattr(published, of["table"])()
    if unknown := set(wanted) - set(rows.columns):
        raise KeyError(f"no column {sorted(unknown)[0]!r} among {', '.join(rows.columns)}")
    try:
        number = len(published.chosen_rows(rows, wanted))
    except LookupError:
        number = 0
    return [Case(where, intervals.exact(number), rests)]


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

    def figure(rows: pd.DataFrame) -> Interval:
        found = intervals.mean(differences(rows, **spec), spec.get("over", "seeds"))
        return replace(found, kind=f"paired {found.kind}")

    return [_trained(place, spec["where"], spec["notebook"], spec["table"], figure, spec.get("rests", SMALL))]


def differences(
    rows: pd.DataFrame, value: str, a: Selector, b: Selector, by: str = "seed", scale: float = 1.0, **_: Any
) -> np.ndarray:
    """``value`` of the rows ``a`` less that of the rows ``b``, times ``scale``, one for each unit ``by`` of both."""
    first, second = (selected(rows, part).groupby(by)[value].mean() for part in (a, b))
    return ((first - second) * scale).dropna().to_numpy()


def _trained(
    place: Place, where: str, notebook: str, table: str, figure: Callable[[pd.DataFrame], Interval], rests: str
) -> Case:
    """The case of an experiment with small nets: its figure in the run that decides, and beside it this machine's."""
    rows, *others = place.decisive(notebook, table)
    owner, run = rows.attrs["machine"], rows.attrs["run"] if others else ""
    return Case(where, figure(rows), rests, owner, run=run, beside=figure(others[0]) if others else None)


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
        found.append(_one_of(where, catalogue.RUNTIMES.get(name, str(name)), ratio, rests, rows.attrs["machine"]))
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
        found.append(_one_of(where, catalogue.RUNTIMES.get(runtime, runtime), ratio, rests, table.machine))
    if not found:
        raise NotMeasured(reasons[0])
    return found


def of_medians(
    place: Place, where: str, notebook: str, table: str, value: str, a: Selector, b: Selector, scale: float = 1.0,
    over: str = "nets", rests: str = SMALL,
) -> list[Case]:  # fmt: skip
    """Median of one population less that of another; ``over`` says of what, if not of nets."""

    def figure(rows: pd.DataFrame) -> Interval:
        first, second = (selected(rows, part)[value].dropna() * scale for part in (a, b))
        return intervals.difference_of_medians(first, second, over)

    return [_trained(place, where, notebook, table, figure, rests)]


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
        found.append(_one_of(where, catalogue.RUNTIMES[runtime], figure, rests, table.machine))
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

    def figure(rows: pd.DataFrame) -> Interval:
        first, second = (dict(list(selected(rows, part).groupby(by))) for part in (a, b))
        both = [part for side in (first, second) for part in side.values()]
        budgets = np.geomspace(max(part[price].min() for part in both), max(part[price].max() for part in both), 60)
        gaps = [
            np.mean(np.subtract(*(intervals.attained(side[s][price], side[s][gain], budgets)
                                  for side in (first, second))))
            for s in first if s in second
        ]  # fmt: skip
        return intervals.mean(gaps, "searches")

    return [_trained(place, where, notebook, table, figure, rests)]


KINDS: dict[str, Callable[..., list[Case]]] = {
    "published": of_published,
    "published_speeds": of_published_speeds,
    "published_gains": of_published_gains,
    "published_rivals": of_published_rivals,
    "published_numbers": of_published_numbers,
    "counted": of_counts,
    "paired": of_pairs,
    "ratio": of_ratios,
    "speed": of_speeds,
    "medians": of_medians,
    "correlation": of_correlations,
    "speed_correlation": of_speed_correlations,
    "published_correlation": of_published_correlations,
    "answers": of_answers,
    "front": of_fronts,
}


TRAINED = ("paired", "medians", "front")  # kinds that read what small nets were trained for


def selected(rows: pd.DataFrame, wanted: Selector) -> pd.DataFrame:
    """Rows whose columns have the wanted value or one of a list.

    Raises:
        KeyError: for a column that is not there.
        LookupError: where no row is left; in rows of the smoke profile, which leaves nets out, :class:`NotMeasured`.
    """
    try:
        return published.chosen_rows(rows, wanted)
    except KeyError:
        raise
    except LookupError as error:
        if rows.attrs.get("profile") == "smoke":
            raise NotMeasured(error.args[0]) from None
        raise


def _product(selectors: Selector | Sequence[Selector], figure: Callable[[Selector], float]) -> float:
    return math.prod(figure(s) for s in ([selectors] if isinstance(selectors, Mapping) else selectors))


def _published_figure(selector: Selector) -> float:
    """The one published figure that a selector means: a table, a column, and the values that choose the row."""
    wanted = {k: v for k, v in selector.items() if k not in ("table", "column")}
    try:
        return published.one(selected(getattr(published, selector["table"])(), wanted), selector["column"])
    except LookupError as error:
        raise LookupError(f"{error.args[0]}, for {wanted}") from None
