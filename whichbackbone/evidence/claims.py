"""The only judge: every claim of ``data/claims.yaml`` with the verdict that measured and published figures give it.

A claim names *cases*, each a figure under some condition ("on a Pixel 1", "in ONNX Runtime"), and a bound. A case
passes, fails, or is undecided because its interval holds the bound. The verdict is read off that:

- holds: every case passes;
- holds only if ...: some pass; they are named;
- does not hold: none passes and some fail;
- undecided: every interval holds the bound;
- not measured: there is nothing to judge by, or a notebook has to run first.

Short trainings of small nets on drawn images ("small nets") never make a claim about ImageNet hold: where there is
nothing else, the words are *seen*, *not seen* or *undecided at small scale*; where there is, they stand beside it and
decide nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from whichbackbone import yaml_lines
from whichbackbone.evidence import intervals, machine, markdown, store
from whichbackbone.evidence.cases import (
    KINDS,
    RESTS,
    SMALL,
    TIMED,
    TRAINED,
    Case,
    NotMeasured,
    Place,
    differences,
    outcome,
)  # fmt: skip
from whichbackbone.evidence.intervals import Interval
from whichbackbone.folders import DATA

CLAIMS = DATA / "claims.yaml"
FIELDS = ("id", "claim", "who", "where", "confirmed_if", "notebook", "section", "unit", "cases")
BOUNDS = ("at_least", "at_most")

HOLDS, ONLY_IF, FAILS, UNDECIDED, NOT_MEASURED = VERDICTS = (
    "holds", "holds only if", "does not hold", "undecided", "not measured")  # fmt: skip
AT_SMALL_SCALE = {HOLDS: "seen at small scale", ONLY_IF: "seen at small scale only if",
                  FAILS: "not seen at small scale", UNDECIDED: "undecided at small scale"}  # fmt: skip
MARKS = {"fails": "✗", "undecided": "?", "passes": "✓"}  # in the order in which a page shows them
BETWEEN = " · "  # settings of one condition
LEGEND = "✗ fails, ? undecided (the interval holds the bound), ✓ passes"


class ClaimsError(ValueError):
    """Something in the claims file is wrong; the message names the line."""


@dataclass(frozen=True)
class Verdict:
    """One of VERDICTS; whether it rests on small nets alone; the conditions under which it holds, if only some."""

    kind: str
    small: bool = False
    conditions: tuple[str, ...] = ()

    def __str__(self) -> str:
        words = AT_SMALL_SCALE[self.kind] if self.small and self.kind in AT_SMALL_SCALE else self.kind
        return f"{words}: {'; '.join(self.conditions)}" if self.conditions else words


def verdict(cases: Sequence[Case], at_least: float | None = None, at_most: float | None = None) -> Verdict:
    """What the cases say of the bound; see the top of this module."""
    main = [case for case in cases if case.rests != SMALL]
    small = bool(cases) and not main
    outcomes = [case.outcome(at_least, at_most) for case in main or cases]
    passed = [case for case, found in zip(main or cases, outcomes, strict=True) if found == "passes"]
    if not outcomes:
        return Verdict(NOT_MEASURED)
    if len(passed) == len(outcomes):
        return Verdict(HOLDS, small)
    if passed:
        return Verdict(ONLY_IF, small, _conditions(passed, main or cases))
    return Verdict(FAILS if "fails" in outcomes else UNDECIDED, small)


def _conditions(passed: Sequence[Case], cases: Sequence[Case]) -> tuple[str, ...]:
    """What the cases that pass have in common: a group whose cases all pass by its name, else with its settings."""
    said = []
    for group in dict.fromkeys(case.group for case in passed):
        settings = BETWEEN.join(case.setting for case in passed if case.group == group and case.setting)
        whole = not settings or all(case in passed for case in cases if case.group == group)
        said.append(settings if not group else group if whole else f"{group} ({settings})")
    return tuple(said)


# ------------------------------------------------------------------------------------------------------------- judging


def verdicts(
    machine: str | None = None, output: str = "", path: Path = CLAIMS, notebook: str = "", ids: Sequence[str] = ()
) -> pd.DataFrame:
    """The ledger, one row a claim in the order of the file.

    Args:
        machine: whose measurements count, a folder of ``data/results``; None takes this machine's, table by table,
            and another's where there is none.
        output: a folder whose results come first, as in :class:`whichbackbone.evidence.store.Store`.
        path: the claims file.
        notebook: first letters of a notebook's name; only its claims.
        ids: only these claims.

    Returns:
        id, claim, who, verdict (in words), kind (one of VERDICTS), rests (what it rests on, in words), figures (every
        case with its outcome, the failed ones first), notebook, section (that shows it), confirmed_if, where (in the
        source), unit, at_least, at_most, cases (a list of :class:`Case`).

    Raises:
        ClaimsError: for a claims file with a fault, naming its line.
        ValueError: for an unknown machine.
        LookupError: for an unknown id.
    """
    if machine is not None and machine not in store.machines(output):
        raise ValueError(f"no results of a machine {machine!r}: there are {', '.join(store.machines(output))}")
    every, place = load(path), Place(machine, output)
    if unknown := set(ids) - {claim["id"] for claim in every}:
        raise LookupError(f"no claim {', '.join(sorted(unknown))} in {path.name}")
    wanted = [c for c in every if c["notebook"].startswith(notebook) and (not ids or c["id"] in ids)]
    experiments = {spec["experiment"] for claim in wanted for spec in claim["cases"] if spec.get("experiment")}
    corrected = _corrected(every, experiments, place)
    return pd.DataFrame([judge(claim, place, corrected) for claim in wanted])


def judge(
    claim: Mapping[str, Any], place: Place, corrected: Mapping[tuple[str, str], Interval] | None = None
) -> dict[str, Any]:
    """One row of the ledger. ``corrected``: intervals of cases that stand with others of one experiment."""
    cases, missing = [], ""
    for spec in claim["cases"]:
        try:
            found = _cases(spec, place)
        except NotMeasured as error:
            missing = str(error)
            continue
        except (KeyError, LookupError, TypeError, ValueError) as error:
            told = error.args[0] if error.args else error
            raise ClaimsError(f"claims.yaml, line {spec['line']}: claim {claim['id']!r}: {told}") from None
        if (key := (claim["id"], spec["where"])) in (corrected or {}):
            found = [replace(case, figure=corrected[key]) for case in found]
        cases += found
    bounds = {name: claim.get(name) for name in BOUNDS}
    ruled = Verdict(NOT_MEASURED) if missing else verdict(cases, **bounds)
    hint = f"; run {missing}" if missing.isdigit() else ""
    return dict(
        id=claim["id"], claim=claim["claim"], who=claim["who"], verdict=f"{ruled}{hint}", kind=ruled.kind,
        rests=_rests(cases, place), figures=_figures(cases, claim), notebook=claim["notebook"],
        section=claim["section"], confirmed_if=claim["confirmed_if"], where=claim["where"], unit=claim["unit"],
        **bounds, cases=cases,
    )  # fmt: skip


def _cases(spec: Mapping[str, Any], place: Place) -> list[Case]:
    arguments = {k: v for k, v in spec.items() if k not in ("kind", "line", "experiment")}
    return KINDS[spec["kind"]](place, **arguments)


def _corrected(
    claims: Sequence[Mapping[str, Any]], experiments: set[str], place: Place
) -> dict[tuple[str, str], Interval]:
    """Intervals of all paired cases of these experiments, by claim and condition, corrected together."""
    found = {}
    for experiment in experiments:
        members = {(claim["id"], spec["where"]): spec for claim in claims for spec in claim["cases"]
                   if spec.get("experiment") == experiment}  # fmt: skip
        try:
            gaps = {key: differences(place.decisive(spec["notebook"], spec["table"])[0], **spec)
                    for key, spec in members.items()}  # fmt: skip
        except LookupError:  # not measured, or a fault that the claim itself will name with its line
            continue
        if all(len(gap) for gap in gaps.values()):
            found |= intervals.holm(gaps)
    return found


# ------------------------------------------------------------------------------------------------------------- showing


def table(notebook: str, output: str = "", machine: str | None = None) -> str:
    """A notebook's claims as a Markdown table, the same rows that 00, 14 and README show, and a legend."""
    rows = verdicts(machine, output, notebook=notebook)
    return f"{markdown.table(shown(rows).drop(columns='evidence'))}\n\n*{LEGEND}.*"


def shown(rows: pd.DataFrame, folder: str = "") -> pd.DataFrame:
    """Rows of :func:`verdicts` as a page has them: claim, verdict, rests on, figures, evidence (a link).

    ``folder``: see :func:`whichbackbone.evidence.markdown.link`.
    """
    return pd.DataFrame({
        "claim": rows.claim + " (" + rows.who + ")",
        "verdict": [f"**{row.verdict.partition(':')[0]}**{''.join(row.verdict.partition(':')[1:])}"
                    for row in rows.itertuples()],
        "rests on": rows.rests,
        "figures": rows.figures.str.replace("; ", "<br>"),
        "evidence": [markdown.link(row.notebook, row.section, folder) for row in rows.itertuples()],
    })  # fmt: skip


def sentence(id: str, output: str = "", machine: str | None = None) -> str:
    """A claim, its verdict and its figures in one sentence."""
    row = verdicts(machine, output, ids=[id]).iloc[0]
    return f"{row.claim} ({row.who}): **{row.verdict}**. {row.figures}."


def word(id: str, output: str = "", machine: str | None = None) -> str:
    """The verdict on a claim, in words."""
    return verdicts(machine, output, ids=[id]).verdict.iloc[0]


def figure(id: str, where: str = "", output: str = "", machine: str | None = None) -> Interval:
    """The figure of a claim under one condition, by default its first.

    Raises:
        LookupError: for an unknown id or condition, or one that was not measured.
    """
    cases = {case.where: case.figure for case in verdicts(machine, output, ids=[id]).cases.iloc[0]}
    if where not in cases and (where or not cases):
        raise LookupError(f"claim {id!r} has no figure {where!r}: it has {', '.join(cases) or 'none'}")
    return cases[where] if where else next(iter(cases.values()))


def tally(rows: pd.DataFrame) -> str:
    """How many claims have which verdict, in one sentence; those that rest on small nets alone apart."""
    small = [str(v).partition(":")[0] for v in rows.verdict if "small scale" in v]
    rest = [kind for kind, v in zip(rows.kind, rows.verdict, strict=True) if "small scale" not in v]
    words = [*VERDICTS, *AT_SMALL_SCALE.values()]
    counts = pd.Series([*rest, *small], dtype=str).value_counts()
    return f"Of {len(rows)} claims: **{', '.join(f'{counts[w]} {w}' for w in words if w in counts)}**."


def _figures(cases: Sequence[Case], claim: Mapping[str, Any]) -> str:
    """Every case with its outcome, the failed ones first."""
    bounds = {name: claim.get(name) for name in BOUNDS}
    beside = {case.rests for case in cases} - {SMALL}
    lines = []
    for decided, mark in MARKS.items():
        groups: dict[str, list[str]] = {}
        for case in cases:
            if case.outcome(**bounds) == decided:
                small = " (small nets)" if case.rests == SMALL and beside else ""
                figure = says(case.figure, claim["unit"])
                text = f"{case.setting} {figure}{_beside(case, decided, claim)}".strip()
                groups.setdefault(case.group + small, []).append(text)
        lines += [f"{mark} {f'{group}: ' if group else ''}{BETWEEN.join(found)}" for group, found in groups.items()]
    return "; ".join(lines) or "-"


def _beside(case: Case, decided: str, claim: Mapping[str, Any]) -> str:
    """Which run a case rests on, and whether this machine's own smaller run agrees; "" where there is but one."""
    if case.beside is None:
        return ""
    own = outcome(case.beside, *(claim.get(name) for name in BOUNDS))
    word = "agrees" if own == decided else "disagrees" if {own, decided} == {"passes", "fails"} else own
    if word == "passes":
        word = "passes by itself"
    return f" [run {case.run}, full; standard beside it {says(case.beside, claim['unit'])}, {word}]"


def says(figure: Interval, unit: str) -> str:
    """A figure with its unit, and its interval where it has one."""
    if math.isinf(figure.value):
        return "no limit"
    counted = figure.kind == "exact" and unit not in ("x", "points") and float(figure.value).is_integer()
    digits = 0 if abs(figure.value) >= 100 or counted else 1 if abs(figure.value) >= 10 or unit == "points" else 2
    number, space, interval = figure.text(digits, sign=unit == "points").partition(" ")
    tail = unit if unit in ("x", "") else f" {unit}"
    return f"{number}{tail}{space}{interval}"


def _rests(cases: Sequence[Case], place: Place) -> str:
    """What a verdict rests on. "Here" is said of this machine alone."""
    found = {case.rests for case in cases}
    words = [rest for rest in RESTS if rest in found]
    owners = sorted({case.machine for case in cases if case.rests == TIMED})
    if place.machine is not None or any(owner != machine.slug() for owner in owners):
        words = ["timed on " + markdown.listed(owners) if rest == TIMED else rest for rest in words]
    return ", ".join(words) or "-"


# ------------------------------------------------------------------------------------------------------------- reading


def decisive(path: Path = CLAIMS) -> set[tuple[str, str]]:
    """(notebook, table) of the experiments with small nets, whose newest ``full`` run verdicts rest on."""
    return {(spec["notebook"], spec["table"]) for claim in load(path) for spec in claim["cases"]
            if spec["kind"] in TRAINED}  # fmt: skip


def load(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The claims as they stand in the file. :class:`ClaimsError` for what is missing, unknown or there twice."""
    claims = yaml_lines.load(path, ClaimsError)
    for part in [*claims, *(spec for claim in claims for spec in claim.get("cases") or [])]:
        part["line"] = part.line
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
            return spec["line"], f"unknown kind {spec.get('kind')!r}: choose one of {', '.join(KINDS)}"
        if spec.get("rests", SMALL) not in RESTS:
            return spec["line"], f"rests on {spec['rests']!r}: choose one of {', '.join(RESTS)}"
        if spec.get("notebook", "") > claim["notebook"]:
            later, own = spec["notebook"][:2], claim["notebook"][:2]
            return spec["line"], f"rests on notebook {later}, which runs after {own}: give the claim to the later one"
        if spec.get("experiment") and spec["kind"] != "paired":
            return spec["line"], f"is of kind {spec['kind']!r}: only paired comparisons are corrected together"
    return None
