"""The speed table: every time of a net on a page is read, pooled and compared here.

``python -m whichbackbone measure`` writes it (:mod:`whichbackbone.measure.visits`). A row is one visit of one
:class:`Point`. Each block of a visit is one process and holds ResNet-50 too, so that any two nets can be compared
through it. Nothing here needs torch.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
import pandas as pd

from whichbackbone.evidence import catalogue, intervals, machine, store
from whichbackbone.evidence.intervals import Components, Interval

NOTEBOOK, TABLE = "speed", "visits"  # where the store keeps the rows
YARD = "resnet50"  # the common reference of all blocks
NEWEST = 10  # runs that are pooled
SLOW = 0.7  # a block whose peak lies below this share of the best one of its machine is left out
# Libraries whose version decides a time; runs are pooled only where these agree.
DECIDING = ("torch", "onnxruntime", "openvino")

REGIMES = {
    "hot": "hot: calls back to back",
    "cold_cache": "cold: one call after the caches were displaced",
    "cold_idle": "cold: one call after an idle pause",
}
MODES = ("inference", "training")
DEVICES = ("cpu", "cuda", "mps")


class NotMeasured(LookupError):
    """No visit measured this point; the message says why, and what measures it."""


@dataclass(frozen=True)
class Point:
    """What one time is the time of.

    Attributes:
        net: timm's name.
        pixels: side of the square input; 0 is the side that the net was trained at.
        batch: images a call.
        runtime: one of :data:`whichbackbone.evidence.catalogue.RUNTIMES`.
        precision: one of :data:`whichbackbone.evidence.catalogue.PRECISIONS`.
        threads: of the runtime; 0 is all cores that the process may use, and is kept as that number.
        regime: one of REGIMES.
        mode: inference, or training (forward, loss, backward and one step of SGD).
        device: one of DEVICES.
    """

    net: str
    pixels: int = 0
    batch: int = 1
    runtime: str = "eager"
    precision: str = "fp32"
    threads: int = 0
    regime: str = "hot"
    mode: str = "inference"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Fill in the side of the input, and refuse what is unknown, naming what there is."""
        object.__setattr__(self, "pixels", self.pixels or catalogue.net(self.net).size)
        known = {"runtime": catalogue.RUNTIMES, "precision": catalogue.PRECISIONS, "regime": REGIMES, "mode": MODES,
                 "device": DEVICES}  # fmt: skip
        for what, names in known.items():
            if getattr(self, what) not in names:
                raise ValueError(f"unknown {what} {getattr(self, what)!r}: choose one of {', '.join(names)}")
        for what, least in (("pixels", 1), ("batch", 1), ("threads", 0)):
            if getattr(self, what) < least:
                raise ValueError(f"{what} {getattr(self, what)}: give a whole number from {least} on")

    @property
    def label(self) -> str:
        """The net as a figure names it: with its side where that is not the one it was trained at."""
        return self.net if self.pixels == catalogue.net(self.net).size else f"{self.net}@{self.pixels}"

    def yard(self) -> "Point":
        """ResNet-50 at its own side, all else alike: what this point is compared with."""
        return replace(self, net=YARD, pixels=catalogue.net(YARD).size)


KEY = [f.name for f in fields(Point)]
MEASURED = ("status", "ms", "flagged", "peak_gflops", "prepare_s", "export_s", "snr_db")
COUNTS = ("params", "macs", "activations")  # of one image
SETTING = [name for name in KEY if name not in ("net", "pixels")]
# Points whose figures scatter alike: of the other settings there are too few visits to tell, and what was seen of them
# (one thread, batch 8, cold, training) was as wide.
SAME = ("runtime", "precision", "device")


class Table:
    """The visits of one machine, pooled.

    Args:
        rows: of :func:`rows`; runs that do not count are left out already.
        machine: whose they are.
        between: setting -> variance between runs of another machine's log ratios, for a machine with a single run.
    """

    def __init__(self, rows: pd.DataFrame, machine: str, between: Mapping[str, float] | None = None):
        self.machine = machine
        self.all = rows
        self.rows = rows[rows.status.eq("ok") & ~rows.slowed]
        self._between = dict(between or {})

    @property
    def runs(self) -> list[str]:
        """Runs that count, oldest first."""
        return sorted(self.rows.run.unique())

    @cached_property
    def threads(self) -> int:
        """Cores that the runs used where all were used."""
        return int(self.rows.threads.max())

    def time(self, point: Point) -> Interval:
        """Milliseconds of a call. Raises :class:`NotMeasured`."""
        return self._pooled(point, "log_ms")

    def ratio(self, a: Point, b: Point) -> Interval:
        """How many times longer ``a`` takes than ``b``.

        From the blocks that hold both where there are enough of them (all runtimes of one net share a block), else
        through ResNet-50, which stands in each block. Raises :class:`NotMeasured`.
        """
        a, b = self._full(a), self._full(b)  # "all cores" and their number are one point
        if replace(a, net="", pixels=1) == replace(b, net="", pixels=1):
            first, second = (self._to_yard(p) for p in (a, b))
            return intervals.quotient(first, second) if a != a.yard() and b != b.yard() else (
                first if b == b.yard() else second.inverse())  # fmt: skip
        return self._shared(a, b)

    def points(self, **where: object) -> pd.DataFrame:
        """One row for each point that was timed: the columns of :class:`Point`, label, family, ms, low_ms, high_ms.

        Also to_yard, low and high (how many times ResNet-50's time), half (half-width of that in logs), visits,
        flagged (whether the timer's check of itself failed in some visit), prepare_s and export_s (medians, the export
        of those visits that made one), and params, macs and activations of one image.

        Args:
            where: columns of :class:`Point` and the value, or list of values, that they must have. Ablations are left
                out unless ``net`` names them.
        """
        wanted = {_part(name): _values(value) for name, value in self._where(where).items()}
        named = _part("net") in wanted
        found = [self._row(Point(*key)) for key in self._places if all(key[i] in v for i, v in wanted.items())
                 and (named or not catalogue.is_ablation(key[0]))]  # fmt: skip
        return pd.DataFrame(found) if found else pd.DataFrame(columns=[*KEY, "label", "family", "ms", "to_yard"])

    def nets(self) -> list[Point]:
        """Every net at every side that was timed in some setting, as points of the plainest setting; no ablations."""
        pairs = dict.fromkeys(key[:2] for key in self._places if not catalogue.is_ablation(key[0]))
        return [Point(*pair) for pair in pairs]

    def count(self, point: Point, what: str) -> float:
        """params, macs or activations of one image of a net. Raises :class:`NotMeasured`."""
        found = self._counts.get((point.net, point.pixels))
        if found is None:
            raise NotMeasured(self._why_not(self._full(point)))
        return found[what]

    def missing(self, points: Iterable[Point]) -> dict[Point, str]:
        """Those points that no visit timed, with the reason: a refusal, or that nobody asked."""
        return {p: self._why_not(self._full(p)) for p in points if not len(self._of(p))}

    def tried(self, point: Point) -> bool:
        """Whether some visit has a row of this point, be it a refusal."""
        return not _selected(self.all, asdict(self._full(point))).empty

    def scatter(self, setting: Point, column: str = "log_ratio") -> Components:
        """How much the figures of all points with the same runtime, precision and device scatter."""
        key = _key(setting, column)
        if key not in self._components:
            self._components[key] = self._scatter(setting, column, key)
        return self._components[key]

    @cached_property
    def _components(self) -> dict[str, Components]:
        return {}

    def _scatter(self, setting: Point, column: str, key: str) -> Components:
        same = [(KEY.index(name), getattr(setting, name)) for name in SAME]
        places = [places for point, places in self._places.items() if all(point[i] == value for i, value in same)
                  and (column != "log_ratio" or point[0] != YARD)]  # fmt: skip
        points = [self._by_run(column, one) for one in places]
        where = [self._columns[name] for name in ("run", "visit", "block")]
        blocks = {tuple(array[i] for array in where) for one in places for i in one}
        found = intervals.components(points, sum(map(len, places)) / max(1, len(blocks)))
        if math.isnan(found.between) and key in self._between:
            return replace(found, between=self._between[key])
        return found

    def between_runs(self) -> dict[str, float]:
        """Variance between runs of each setting, for a table of one run (``between`` of :class:`Table`)."""
        if len(self.runs) < 2:
            return {}
        found = {}
        for point in (Point(**row) for row in self.rows[KEY].drop_duplicates(SETTING).to_dict("records")):
            for column in ("log_ratio", "log_ms"):
                between = self.scatter(point, column).between
                if math.isfinite(between):
                    found[_key(point, column)] = between
        return found

    def _row(self, point: Point) -> dict[str, object]:
        part = {name: self._columns[name][self._of(point)] for name in ("flagged", "prepare_s", "export_s")}
        time = self.time(point)
        try:
            ratio = self._to_yard(point)
        except NotMeasured:  # ResNet-50 failed in each of its blocks
            ratio = replace(time, value=math.nan, low=math.nan, high=math.nan)
        exports = part["export_s"][part["export_s"] > 0]
        counts = self._counts.get((point.net, point.pixels), dict.fromkeys(COUNTS, math.nan))
        return asdict(point) | dict(
            label=point.label, family=catalogue.family(point.net), ms=time.value, low_ms=time.low, high_ms=time.high,
            to_yard=ratio.value, low=ratio.low, high=ratio.high, half=math.log(ratio.high / ratio.value),
            visits=len(part["flagged"]), flagged=bool(part["flagged"].any()),
            prepare_s=float(np.median(part["prepare_s"])),
            export_s=float(np.median(exports)) if len(exports) else math.nan, **counts,
        )  # fmt: skip

    def _to_yard(self, point: Point) -> Interval:
        """How many times ResNet-50's time of the same block a point takes."""
        if self._full(point) == self._full(point).yard():
            return intervals.exact(1)
        return self._pooled(point, "log_ratio")

    def _pooled(self, point: Point, column: str) -> Interval:
        runs = self._by_run(column, self._of(point))
        if not runs:
            raise NotMeasured(self._why_not(self._full(point)))
        return intervals.exponential(intervals.pooled(runs, self.scatter(point, column)))

    def _shared(self, a: Point, b: Point) -> Interval:
        """Ratio of two points of different settings, from the visits in which one process measured both."""
        where = ["run", "visit", "block"]
        sides = [self.rows.iloc[self._of(p)].set_index(where).log_ms for p in (a, b)]
        gaps = sides[0].sub(sides[1]).dropna() if all(map(len, sides)) else pd.Series(dtype=float)
        if gaps.empty:
            for p in (a, b):
                self.time(p)  # says which is missing
            return intervals.quotient(self.time(a), self.time(b))
        runs = [part.to_numpy() for _, part in gaps.groupby(level="run")]
        both = [self.scatter(self._full(p)) for p in (a, b)]
        # The two settings' processes are one here, so the scatter of the gap itself counts where it is known.
        own = intervals.components([runs])
        within = own.within if len(gaps) > 3 else sum(s.within for s in both)
        scatter = Components(within, max(s.between for s in both), max(3.0, own.freedom))
        return intervals.exponential(intervals.pooled(runs, scatter))

    def _full(self, point: Point) -> Point:
        return point if point.threads else replace(point, threads=self.threads)

    def _where(self, where: Mapping[str, object]) -> dict[str, object]:
        return {k: self.threads if k == "threads" and v == 0 else v for k, v in where.items()}

    def _of(self, point: Point) -> np.ndarray:
        """Places of the rows of a point."""
        return self._places.get(tuple(vars(self._full(point)).values()), np.array([], int))

    def _by_run(self, column: str, places: np.ndarray) -> list[np.ndarray]:
        """Known values at some places, run by run."""
        values, run = self._columns[column][places], self._columns["run"][places]
        known = ~np.isnan(values)
        return [values[known & (run == one)] for one in sorted(set(run[known]))]

    @cached_property
    def _counts(self) -> dict[tuple[str, int], dict[str, float]]:
        """params, macs and activations of each net at each side: the same in all visits, counted in the first."""
        counted = self.all.dropna(subset=list(COUNTS)).drop_duplicates(["net", "pixels"])
        return counted.set_index(["net", "pixels"])[list(COUNTS)].to_dict("index")

    @cached_property
    def _places(self) -> dict[tuple, np.ndarray]:
        """Point, as the tuple of its parts -> places of its rows."""
        found: dict[tuple, list[int]] = {}
        for place, key in enumerate(zip(*(self.rows[name].tolist() for name in KEY), strict=True)):
            found.setdefault(key, []).append(place)
        return {key: np.array(places) for key, places in sorted(found.items())}

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        numbers = ("log_ms", "log_ratio", "prepare_s", "export_s")
        return {name: self.rows[name].to_numpy(float if name in numbers else None)
                for name in (*numbers, "run", "visit", "block", "flagged")}  # fmt: skip

    def _why_not(self, point: Point) -> str:
        key = asdict(point)
        tried = _selected(self.all, key)
        if reasons := [s for s in tried.status.unique() if s != "ok"]:
            return f"{point.label} in {catalogue.RUNTIMES[point.runtime]}: {reasons[0]}"
        return (f"{point.label} in {catalogue.RUNTIMES[point.runtime]}, {point.regime}, batch {point.batch}, was not "
                f"measured on {self.machine}: python -m whichbackbone measure --nets {point.net}")  # fmt: skip


def table(output: str = "", of: str | None = None) -> Table:
    """The speed table of a machine: this one's, else the one with the newest run.

    Args:
        output: a folder whose results come first; then the repository's.
        of: a machine whose rows alone count.

    Raises:
        NotMeasured: where no machine has visits, or not the one asked for.
    """
    names = [name for name in store.machines(output) if of in (None, name)]
    found = {name: rows for name in names if len(rows := read(name, output))}
    if not found:
        whose = f" on {of}" if of else ""
        raise NotMeasured(f"no visits measured yet{whose}: python -m whichbackbone measure")
    own = machine.slug()
    name = own if own in found else max(found, key=lambda n: found[n].run.max())
    return Table(found[name], name, _of_others(found, name))


def read(of: str, output: str = "") -> pd.DataFrame:
    """All visits of a machine that may be pooled: its newest runs whose libraries agree with the newest one's.

    Returns:
        The stored rows with log_ms; log_ratio, to ResNet-50 of the same block and setting (nan where it failed there);
        slowed, whether the block's peak was far below the machine's best, or the whole run is marked.
    """
    parts, versions = [], None
    for run, rows in store.all_runs(NOTEBOOK, TABLE, of, output):
        record = store.record_of(run, output)
        mine = {name: record.versions.get(name) for name in DECIDING}
        versions = versions or mine
        if mine == versions and len(parts) < NEWEST:
            parts.append(rows)
    if not parts:
        return pd.DataFrame()
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.reindex(columns=rows.columns.union([*KEY, *MEASURED, *COUNTS], sort=False))  # all may have failed
    marked = store.runs(of, output).query("slow").run
    best = rows.peak_gflops.max()
    rows["slowed"] = rows.run.isin(marked) | (rows.peak_gflops < SLOW * best)
    rows["log_ms"] = np.log(rows.ms)
    block = ["run", "visit", "block", *SETTING]
    yard = rows[rows.net.eq(YARD) & rows.pixels.eq(catalogue.net(YARD).size) & rows.status.eq("ok")]
    reference = yard.drop_duplicates(block).set_index(block).log_ms
    rows["log_ratio"] = rows.log_ms - reference.reindex(pd.MultiIndex.from_frame(rows[block])).to_numpy()
    return rows


def _of_others(found: Mapping[str, pd.DataFrame], name: str) -> dict[str, float]:
    """Variances between runs, for a machine with one run, from machines that have several."""
    if found[name].run.nunique() > 1:
        return {}
    known: dict[str, list[float]] = {}
    for other, rows in found.items():
        for key, between in Table(rows, other).between_runs().items():
            known.setdefault(key, []).append(between)
    return {key: float(np.mean(values)) for key, values in known.items()}


def _key(point: Point, column: str) -> str:
    return " ".join([*(str(getattr(point, name)) for name in SAME), column])


def _selected(rows: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    for name, value in where.items():
        rows = rows[rows[KEY[_part(name)]].isin(_values(value))]
    return rows


def _part(name: str) -> int:
    if name not in KEY:
        raise KeyError(f"no part {name!r} of a point: there are {', '.join(KEY)}")
    return KEY.index(name)


def _values(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
