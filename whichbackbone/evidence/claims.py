"""The ledger: every claim of ``data/claims.yaml`` with the verdict that measured and published figures give it.

A claim names *cases*, each a figure under some condition ("on a Pixel 1", "in ONNX Runtime"), and the bound that the
claim sets. A case passes, fails, or is undecided because its interval holds the bound. The verdict is read off that:

- holds: every case passes;
- holds only if ...: some pass; they are named;
- does not hold: none passes and some fail;
- cannot be told: every interval holds the bound;
- not measured yet: run NN; not measured here: there is nothing to judge by.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from whichbackbone import checks
from whichbackbone.evidence import published, store
from whichbackbone.measure import timing

CLAIMS = published.DATA / "claims.yaml"
FIELDS = ("id", "claim", "who", "where", "confirmed_if", "notebook", "section", "unit", "cases")
BOUNDS = ("at_least", "at_most")
HERE, PRINTED = "measured here", "published"


class ClaimsError(ValueError):
    """Something in the claims file is wrong; the message names the line."""


class NotMeasured(LookupError):
    """A notebook has not run on this machine (or on any)."""


@dataclass(frozen=True)
class Case:
    """One figure with its 95 % interval, where it applies, and whether it was measured here or published.

    ``section``: heading of the notebook that measured it, where the measurement says so.
    """

    where: str
    value: float
    low: float
    high: float
    evidence: str
    section: str = ""

    def passes(self, at_least: float | None, at_most: float | None) -> bool | None:
        """Whether the figure meets the bound; None when its interval holds the bound."""
        if at_most is not None:
            return Case(self.where, -self.value, -self.high, -self.low, self.evidence).passes(-at_most, None)
        return True if self.low >= at_least else False if self.high < at_least else None


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


# ---------------------------------------------------------------------------------------------------- kinds of cases


def evidence(place: Place, notebook: str, quantity: str, where: str = "here", less: str = "") -> list[Case]:
    """Rows of a notebook's ``evidence`` whose quantity is this one, or begins like it where it ends in ``*``.

    ``{}`` in ``where`` stands for what the ``*`` matched. ``less`` takes off another quantity; its interval adds up.
    """
    rows = place.table(notebook, "evidence")
    stem = quantity.removesuffix("*")
    chosen = rows[rows.quantity.str.startswith(stem) if stem != quantity else rows.quantity == quantity]
    cases = [
        _case(where.replace("{}", row.quantity.removeprefix(stem).replace("_", " ")), row.value, row.low, row.high,
              str(row.section))
        for row in chosen.itertuples()
    ]  # fmt: skip
    for other in evidence(place, notebook, less) if less else ():
        cases = [
            _case(case.where, case.value - other.value, case.low - other.high, case.high - other.low, case.section)
            for case in cases
        ]
    return cases


def measured(
    place: Place, notebook: str, table: str, value: str, where: str, rows: Mapping[str, Any] | None = None,
    low: str = "low", high: str = "high", inverse: bool = False,
) -> list[Case]:
    """Rows of a results table; ``where`` is a column, or the words themselves. ``inverse`` takes 1 / value."""
    cases = []
    for _, row in _chosen(place.table(notebook, table), rows or {}).iterrows():
        figures = [float(row[c]) for c in (value, low, high)]
        if inverse:
            figures = [1 / figures[0], 1 / figures[2], 1 / figures[1]]
        cases.append(_case(str(row[where]) if where in row else where, *figures))
    return cases


def paired(
    place: Place, notebook: str, table: str, value: str, a: Mapping[str, Any], b: Mapping[str, Any], by: str,
    where: str = "here", scale: float = 1.0,
) -> list[Case]:
    """Mean of (a - b) over pairs that share ``by`` (a seed), with the smallest and the largest pair as interval."""
    rows = place.table(notebook, table)
    first, second = (_chosen(rows, part).groupby(by)[value].last() for part in (a, b))
    gaps = ((first - second) * scale).dropna()
    return [_case(where, gaps.mean(), gaps.min(), gaps.max())] if len(gaps) else []


def compared(place: Place, notebook: str, table: str, a: str, b: str, where: str) -> list[Case]:
    """How many times longer ``a`` took than ``b``, two names of one table of the timer, by their paired samples."""
    rows = place.table(notebook, table)
    if (rows["profile"] == "smoke").all() and not {a, b} <= set(rows["name"]):
        raise NotMeasured(notebook[:2])  # that profile leaves names out; elsewhere a name that is not there is a fault
    return [_case(where, *timing.ratio(rows, a, b))]


def built(place: Place, model: str, block: str, where: str) -> list[Case]:
    """Share (%) of the parameters before the classifier that lie in blocks of this class, in our net of a timm name."""
    with torch.device("meta"):
        net = checks.build(model)
    inside = sum(p.numel() for m in net.modules() if type(m).__name__ == block for p in m.parameters())
    last = [m for m in net.modules() if isinstance(m, torch.nn.Linear)][-1]
    total = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in last.parameters())
    return [_case(where, *[100 * inside / total] * 3)]


def printed(place: Place, of: Any, where: str, over: Any = None, less: Any = None) -> list[Case]:
    """A published figure; or its ratio ``over`` another one, or the difference ``less`` another one.

    Each is one selector or a list of them, whose figures are multiplied.
    """
    value = _product(of)
    value = value / _product(over) if over else value - _product(less) if less else value
    return [Case(where, value, value, value, PRINTED)]


KINDS: dict[str, Callable[..., list[Case]]] = {
    "evidence": evidence, "measured": measured, "paired": paired, "compared": compared, "built": built,
    "printed": printed,
}  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- verdicts


def verdict(cases: list[Case], at_least: float | None = None, at_most: float | None = None) -> str:
    """What the cases say of the bound, in words; see the top of this module."""
    passes = {case.where: case.passes(at_least, at_most) for case in cases}
    if not passes:
        return "not measured here"
    if good := [where for where, passed in passes.items() if passed]:
        shown = good if len(good) <= 4 else [*good[:3], f"{len(good) - 3} more"]
        return "holds" if len(good) == len(passes) else f"holds only if: {'; '.join(shown)}"
    return "does not hold" if False in passes.values() else "cannot be told: inside the interval"


def judge(claim: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """One row of the ledger."""
    cases, missing = [], ""
    for spec in claim["cases"]:
        arguments = {k: v for k, v in spec.items() if k not in ("kind", "line")}
        try:
            cases += KINDS[spec["kind"]](place, **arguments)
        except NotMeasured as error:
            missing = str(error)
        except (KeyError, LookupError, TypeError) as error:
            raise ClaimsError(f"claims.yaml, line {spec['line']}: claim {claim['id']!r}: {error}") from None
    bounds = {name: claim.get(name) for name in BOUNDS}
    words = f"not measured yet: run {missing}" if missing else verdict(cases, **bounds)
    says = [f"{case.where}: {_figures(case, claim['unit'])}" for case in cases if case.evidence == HERE]
    print_says = [f"{case.where}: {_figures(case, claim['unit'])}" for case in cases if case.evidence == PRINTED]
    return dict(
        id=claim["id"], claim=claim["claim"], who=claim["who"], verdict=words,
        measured="; ".join(says) or ("-" if not missing else f"run {missing}"), published="; ".join(print_says) or "-",
        notebook=claim["notebook"], section=next((case.section for case in cases if case.section), claim["section"]),
        confirmed_if=claim["confirmed_if"], where=claim["where"],
        cases=cases,
    )  # fmt: skip


def verdicts(machine: str | None = None, output: str = "", path: Path = CLAIMS) -> pd.DataFrame:
    """The ledger, one row a claim in the order of the file.

    Args:
        machine: whose measurements count, a folder of ``data/results``; None takes this machine's, table by table,
            and another's where there is none.
        output: a folder whose results come first, as in :class:`store.Store`.
        path: the claims file.

    Returns:
        id, claim, who, verdict, measured, published (figures with intervals, in words), notebook, section (that
        measured it), confirmed_if, where (in the source), cases (a list of :class:`Case`).

    Raises:
        ClaimsError: for a claims file with a fault, naming its line.
        ValueError: for an unknown machine.
    """
    if machine is not None and machine not in store.machines(output):
        raise ValueError(f"no results of a machine {machine!r}: there are {', '.join(store.machines(output))}")
    place = Place(machine, output)
    return pd.DataFrame([judge(claim, place) for claim in load(path)])


def load(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The claims as they stand in the file. :class:`ClaimsError` for what is missing, unknown or there twice."""
    try:
        claims = yaml.load(path.read_text(encoding="utf-8"), _Lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ClaimsError(f"{path.name}, line {mark.line + 1 if mark else '?'}: not YAML: {error.problem}") from None
    seen: set[str] = set()
    for claim in claims:
        if fault := _fault(claim, seen):
            line, text = fault
            raise ClaimsError(f"{path.name}, line {line}: claim {claim.get('id', '?')!r}: {text}")
        seen.add(claim["id"])
    return claims


def _fault(claim: Mapping[str, Any], seen: set[str]) -> tuple[int, str] | None:
    """Line and text of the first thing that is wrong with a claim."""
    line = claim.get("line", "?")
    if missing := [name for name in FIELDS if not claim.get(name) and claim.get(name) != []]:
        return line, f"lacks {', '.join(missing)}: every claim needs {', '.join(FIELDS)}"
    if claim["id"] in seen:
        return line, "stands twice: give it another id"
    if sum(claim.get(name) is not None for name in BOUNDS) != 1:
        return line, f"needs one of {' and '.join(BOUNDS)}: what the figure must reach for the claim to hold"
    if unknown := set(claim) - {*FIELDS, *BOUNDS, "line"}:
        return line, f"has {', '.join(sorted(unknown))}, which nothing reads"
    for spec in claim["cases"]:
        if spec.get("kind") not in KINDS:
            return spec["line"], f"unknown check {spec.get('kind')!r}: choose one of {', '.join(KINDS)}"
    return None


class _Lines(yaml.SafeLoader):
    """YAML whose claims and cases know their line."""

    def construct_mapping(self, node, deep=False):
        mapping = super().construct_mapping(node, deep=True)
        if "id" in mapping or {"kind", "where"} <= set(mapping):  # a selector may have a column "kind", too
            mapping["line"] = node.start_mark.line + 1
        return mapping


_Lines.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: loader.construct_mapping(node)
)


def _case(where: str, value: float, low: float, high: float, section: str = "") -> Case:
    low, high = (value if math.isnan(bound) else bound for bound in (low, high))
    return Case(where, float(value), float(low), float(high), HERE, section)


def _chosen(rows: pd.DataFrame, wanted: Mapping[str, Any]) -> pd.DataFrame:
    """Rows whose columns have the wanted value or one of a list; a text that begins with ``~`` need only be in it."""
    for column, value in wanted.items():
        if column not in rows:
            raise KeyError(f"no column {column!r} among {', '.join(rows.columns)}")
        if isinstance(value, str) and value.startswith("~"):
            rows = rows[rows[column].astype(str).str.contains(value[1:], regex=False)]
        else:
            rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    return rows


def _product(selectors: Mapping[str, Any] | list[Mapping[str, Any]]) -> float:
    return math.prod(_figure(s) for s in (selectors if isinstance(selectors, list) else [selectors]))


def _figure(selector: Mapping[str, Any]) -> float:
    """The one published figure that a selector means: a table, a column, and the values that choose the row."""
    wanted = {k: v for k, v in selector.items() if k not in ("table", "column")}
    rows = _chosen(getattr(published, selector["table"])(), wanted)
    try:
        return published.one(rows, selector["column"])
    except LookupError as error:
        raise LookupError(f"{error}, for {wanted}") from None


def _figures(case: Case, unit: str) -> str:
    """The figure with its unit, and its interval where it has one."""
    digits = 0 if abs(case.value) >= 100 else 1 if abs(case.value) >= 10 or unit == "points" else 2
    tail = unit if unit == "x" else f" {unit}"
    text = f"{case.value:.{digits}f}{tail}"
    return text if np.isclose(case.low, case.high) else f"{text} ({case.low:.{digits}f} to {case.high:.{digits}f})"
