"""The pages around the notebooks agree with them: citation, changelog, teacher's page."""

import re
import tomllib
from collections.abc import Iterator

import notebook_files as files
import numpy as np
import pandas as pd
import pytest
import yaml
from project import ROOT, notebook

from whichbackbone.evidence import chooser, claims, intervals, speed, store, summary
from whichbackbone.evidence.cases import COUNTED, PUBLISHED, TIMED, Case
from whichbackbone.evidence.intervals import Interval
from whichbackbone.evidence.speed import Point
from whichbackbone.teach.exercises import EXERCISES

# ------------------------------------------------------------------------------------------------------- citation

# The keys of a file of Citation File Format 1.2.0, and those that it must have.
KEYS = set(
    "abstract authors cff-version commit contact date-released doi identifiers keywords license license-url message "
    "preferred-citation references repository repository-artifact repository-code title type url version".split()
)
REQUIRED = ("cff-version", "message", "title", "authors")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def citation_faults(text: str, project: dict) -> Iterator[str]:
    """Where a CITATION.cff is not one, or says other things than pyproject.toml."""
    try:
        cff = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"no YAML: {error}".splitlines()[0]
        return
    yield from (f"{key} is missing" for key in REQUIRED if not cff.get(key))
    yield from (f"{key} is no key of the format" for key in sorted(cff.keys() - KEYS))
    if cff.get("cff-version") != "1.2.0":
        yield "cff-version is not 1.2.0"
    for author in cff.get("authors") or []:
        if not {"name", "family-names", "given-names", "alias"} & author.keys():
            yield f"an author without a name: {author}"
    for key, theirs in (
        ("version", project["version"]),
        ("license", project["license"]),
        ("repository-code", project["urls"]["Repository"]),
    ):
        if cff.get(key) != theirs:
            yield f"{key} is {cff.get(key)!r}, in pyproject.toml {theirs!r}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", str(cff.get("date-released"))):
        yield "date-released is no date"


def test_the_citation_is_whole_and_agrees_with_the_project():
    assert list(citation_faults((ROOT / "CITATION.cff").read_text(encoding="utf-8"), project())) == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("title:", "titel:", "title is missing"),
        ("authors:\n  - name: ", "authors:\n  - nom: ", "an author without a name"),
        ("cff-version: 1.2.0", "cff-version: 1.1.0", "cff-version"),
        ("version: 0", "version: 9", "version is '9"),
        ("github.com/which-backbone", "github.com/fork", "repository-code is"),
        ("license: Apache", "license: MIT-Apache", "license is"),
        ('date-released: "2026', 'date-released: "26', "date-released"),
        ("message: ", "message: [", "no YAML"),
    ],
)
def test_a_planted_fault_of_the_citation_is_caught(old, new, says):
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert old in text
    assert any(says in fault for fault in citation_faults(text.replace(old, new, 1), project()))


def test_the_changelog_begins_with_this_version_and_its_date():
    newest = re.search(r"^## (\S+) · (\S+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert newest.groups() == (project()["version"], str(cff["date-released"]))


# -------------------------------------------------------------------------------------------------- teacher's page


def teaching_faults(text: str) -> Iterator[str]:
    """Sittings whose minutes are not those announced, and exercises that do not exist."""
    announced = int(re.search(r"sittings of (\d+) minutes", text)[1])
    sittings = re.split(r"^## (?=Sitting)", text, flags=re.MULTILINE)[1:]
    if len(sittings) != 4:
        yield f"{len(sittings)} sittings, expected 4"
    for sitting in sittings:
        title, minutes = sitting.splitlines()[0], sum(map(int, re.findall(r"^\| (\d+) \|", sitting, re.MULTILINE)))
        if minutes != announced:
            yield f"{title}: {minutes} minutes, expected {announced}"
    for name in re.findall(r"`(\d\d_\w+)`", text):
        if name not in EXERCISES:
            yield f"no exercise {name}"


def test_the_teachers_page_keeps_its_time_and_names_real_exercises():
    assert list(teaching_faults((ROOT / "docs/teaching.md").read_text(encoding="utf-8"))) == []


def test_faults_of_the_teachers_page_are_caught():
    text = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    late = text.replace("| 25 | *Degradation", "| 35 | *Degradation").replace("`01_intensity`", "`01_intensive`")
    new = set(teaching_faults(late)) - set(teaching_faults(text))
    assert new == {"Sitting 2: Why can nets be deep?: 100 minutes, expected 90", "no exercise 01_intensive"}


# ------------------------------------------------------------------------------------------------------ what to use

COMMITTED = next(iter(store.machines()), "")


def test_every_situation_is_answered_from_the_committed_measurements():
    table = summary.situations(machine=COMMITTED)
    assert list(table["you have"]) == list(summary.SITUATIONS) and (table["take"].str.count("`") >= 2).all()
    here = table["you have"].str.startswith("this CPU")
    assert table["how sure"].str.contains("time measured").equals(here), "what is said of GPUs and phones is published"
    assert table["time"].str.contains(r"\(.* to .*\)").equals(here)


def test_a_situation_without_measurements_or_without_a_net_says_so(monkeypatch):
    def nothing(*_, **__):
        raise speed.NotMeasured("no visits measured yet: python -m whichbackbone measure")

    with monkeypatch.context() as patch:
        patch.setattr(chooser, "choose", nothing)
        assert summary.situations()["take"].str.contains("whichbackbone measure").all()
    monkeypatch.setattr(summary, "SITUATIONS", {"an impossible limit": dict(hardware="cpu", latency_ms=1e-6)})
    assert summary.situations(machine=COMMITTED)["take"].tolist() == ["nothing of the study fits"]


def test_the_first_question_is_answered_in_words_that_follow_the_figures(monkeypatch):
    def rows(**ratios: float) -> dict[str, list[Case]]:
        timed = [Case(where, Interval(x, x - 0.1, x + 0.1, "t", 5), TIMED, "zen-64-cores")
                 for where, x in ratios.items()]  # fmt: skip
        published = [Case("V100", intervals.exact(1.4), PUBLISHED), Case("RTX", intervals.exact(2.2), PUBLISHED)]
        return {"b0_ten_times_fewer_macs": [Case("counted", intervals.exact(10.6), COUNTED)],
                "b0_ten_times_faster": published + timed}  # fmt: skip

    def answer(cases: dict[str, list[Case]]) -> str:
        monkeypatch.setattr(claims, "verdicts", lambda *_, ids: pd.DataFrame([{"cases": cases[ids[0]]}]))
        return summary.first_question()

    assert answer(dict.fromkeys(rows(), [])).endswith("not measured yet: python -m whichbackbone measure.")
    said = answer(rows(eager=3.0, compiled=9.5))
    assert "10.6 times fewer" in said and "3.0 (2.9 to 3.1) times** (eager) to **9.5" in said
    assert "On `zen-64-cores`" in said and "published machines 1.4 to 2.2 times" in said and "Nowhere does all" in said
    assert "Nowhere" not in answer(rows(eager=3.0, compiled=11.0)), "one runtime keeps the whole promise"


def test_the_pair_is_compared_wherever_both_were_timed(monkeypatch):
    table = speed.table(of=COMMITTED)
    ratios = summary.corners(table)
    assert {runtime for runtime, _ in ratios} >= {"eager", "channels_last", "onnxruntime", "openvino"}
    slow, fast = (table.time(Point(net, runtime="openvino", threads=1)).value for net in summary.PAIR)
    assert ratios["openvino", "hot, one thread"].value == pytest.approx(slow / fast, rel=0.3)
    shown = summary.by_runtime_and_corner(COMMITTED).set_index("ResNet-50's time over B0's")
    assert shown.loc["OpenVINO", "hot, all cores"] == ratios["openvino", "hot, all cores"].text(1)
    assert list(shown.columns) == list(summary.CORNERS)

    def nothing(*_):
        raise speed.NotMeasured("no visits")

    monkeypatch.setattr(speed, "table", nothing)
    assert summary.by_runtime_and_corner().empty


def test_what_the_intervals_know_is_said(monkeypatch):
    def rows(*runs: str) -> pd.DataFrame:
        return pd.DataFrame([
            dict(vars(Point(net, runtime="onnxruntime", threads=2)), run=run, visit=visit, block=visit, status="ok",
                 log_ms=np.log(ms), log_ratio=np.log(ms / 20) + 0.01 * visit, slowed=False, flagged=False,
                 prepare_s=1.0, export_s=0.0, params=1.0, macs=1.0, activations=1.0)
            for net, ms in (("resnet50", 20.0), ("resnet18", 10.0)) for run in runs for visit in (1, 2, 3)
        ])  # fmt: skip

    def said(*runs: str) -> str:
        monkeypatch.setattr(speed, "table", lambda *_: speed.Table(rows(*runs), "zen-64-cores"))
        return summary.how_far_to_trust()

    assert "3 to 3 visits, every visit a process of its own, in 1 run on `zen-64-cores`, and what another" in said("a")
    assert "6 to 6 visits" in said("a", "b") and "in 2 runs on" in said("a", "b") and "other hours" in said("a", "b")

    def nothing(*_):
        raise speed.NotMeasured("no visits")

    monkeypatch.setattr(speed, "table", nothing)
    assert summary.how_far_to_trust() == ""


# ------------------------------------------------------------------------------------------------------- the runner


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ('store.read("09_speed_critique", "memory")', True),
        ('visits.table(["resnet50"], profile, output)', True),
        ("claims.verdicts()", True),
        ('claims.sentence("regnet_5x")', True),
        ('chooser.choose("classification", "cpu")', True),
        ("Store('01_a', profile, output)", False),
        ("ledger = verdicts()", False),
    ],
)
def test_a_notebook_that_asks_for_what_others_measured_is_known(code, reads):
    assert files.reads_results(notebook(code)) is reads


def test_the_tables_that_a_notebook_writes_are_known():
    first = 'x = store.append("pairs", rows)\nrows.append("no")'
    second = 'store.append(name, b)\nstore.measured("a", b)'
    content = notebook(first, second)
    assert files.declared_tables(content) == ["a", "pairs"]
