"""The ledger computes its verdicts: a changed figure changes them, and a fault in the claims is named by its line."""

import json
import re

import pandas as pd
import pytest
import yaml
from project import ROOT

from whichbackbone.evidence import claims, store
from whichbackbone.evidence.claims import HERE, Case


def case(value: float, low: float | None = None, high: float | None = None, where: str = "here") -> Case:
    return Case(where, value, value if low is None else low, value if high is None else high, HERE)


@pytest.mark.parametrize(
    ("cases", "words"),
    [
        ([case(2)], "holds"),
        ([case(1)], "holds"),
        ([case(0.5)], "does not hold"),
        ([case(1.2, 0.9, 1.5)], "cannot be told: inside the interval"),
        ([case(2, where="a"), case(0.5, where="b")], "holds only if: a"),
        ([case(2, where="a"), case(1.2, 0.9, 1.5, where="b")], "holds only if: a"),
        ([case(0.5, where="a"), case(1.2, 0.9, 1.5, where="b")], "does not hold"),
        ([*[case(2, where=w) for w in "abcde"], case(0, where="f")], "holds only if: a; b; c; 2 more"),
        ([], "not measured here"),
    ],
)
def test_the_verdict_follows_from_the_cases(cases, words):
    assert claims.verdict(cases, at_least=1) == words


def test_an_upper_bound_is_the_mirror_of_a_lower_one():
    assert claims.verdict([case(0.5, 0.4, 0.9)], at_most=1) == "holds"
    assert claims.verdict([case(1.5, 1.1, 1.9)], at_most=1) == "does not hold"
    assert claims.verdict([case(1.0, 0.9, 1.1)], at_most=1) == "cannot be told: inside the interval"


# ------------------------------------------------------------------------------------------ planted changes of the data

CLAIM = dict(id="c", claim="is faster", who="us", where="here", confirmed_if="so", notebook="02_resnet", section="S",
             unit="x", at_least=1)  # fmt: skip


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """The verdict on one claim, with a table of a notebook planted in a folder of results."""
    monkeypatch.setattr("whichbackbone.evidence.machine.slug", lambda: "a-machine")

    def judge(name: str, contents: list[dict], profile: str = "standard", **spec) -> str:
        store.Store("02_resnet", profile, str(tmp_path)).append(name, pd.DataFrame(contents))
        claim = CLAIM | {"cases": [{"notebook": "02_resnet", "where": "here", "line": 1} | spec]}
        return claims.judge(claim, claims.Place("a-machine", str(tmp_path)))["verdict"]

    return judge


def test_a_planted_change_flips_each_kind_of_measured_verdict(judged):
    def rows(value):
        return [dict(quantity="q_a", value=value, low=value - 0.1, high=value + 0.1, unit="x", n=3, section="Other")]

    spec = dict(kind="evidence", quantity="q_*")
    assert judged("evidence", rows(2.0), **spec) == "holds"
    assert judged("evidence", rows(0.5), **spec) == "does not hold"
    spec = dict(kind="measured", table="pairs", value="ratio", rows={"first": "b0"})
    assert judged("pairs", [dict(first="b0", ratio=2.0, low=1.8, high=2.2)], **spec) == "holds"
    assert judged("pairs", [dict(first="b0", ratio=0.5, low=0.4, high=0.6)], **spec) == "does not hold"
    assert judged("pairs", [dict(first="b0", ratio=0.5, low=0.4, high=0.6)], **spec, inverse=True) == "holds"
    spec = dict(kind="paired", table="nets", value="error", a={"net": "a"}, b={"net": "b"}, by="seed")
    nets = [dict(net=net, seed=seed, error=error + seed) for net, error in (("a", 9), ("b", 2)) for seed in (0, 1)]
    assert judged("nets", nets, **spec) == "holds"
    assert judged("nets", [row | {"error": -row["error"]} for row in nets], **spec) == "does not hold"
    spec = dict(kind="compared", table="times", a="slow", b="fast")
    times = [dict(name=n, status="ok", samples_ms=[t, t + 0.1, t]) for n, t in (("slow", 4.0), ("fast", 2.0))]
    assert judged("times", times, **spec) == "holds"
    assert judged("times", [row | {"name": "fast" if row["name"] == "slow" else "slow"} for row in times], **spec) == (
        "does not hold"
    )


def test_a_net_that_the_smoke_profile_leaves_out_is_not_measured_elsewhere_it_is_a_fault(judged):
    spec = dict(kind="compared", table="times", a="slow", b="fast")
    times = [dict(name="slow", status="ok", samples_ms=[4.0, 4.1])]
    assert judged("times", times, profile="smoke", **spec) == "not measured yet: run 02"
    with pytest.raises(claims.ClaimsError, match="'fast' stands 0 times among the measured"):
        judged("times", times, **spec)


def test_a_planted_change_flips_a_published_verdict(judged, monkeypatch):
    selector = {"table": "models", "column": "imagenet_top1", "model": "m"}
    spec = dict(kind="printed", of=selector, less=selector | {"model": "n"})
    spec.pop("notebook", None)

    def verdict(m: float, n: float) -> str:
        table = pd.DataFrame({"model": ["m", "n"], "imagenet_top1": [m, n]})
        monkeypatch.setattr("whichbackbone.evidence.published.models", lambda: table)
        claim = CLAIM | {"cases": [{"where": "there", "line": 1} | spec]}
        return claims.judge(claim, claims.Place())["verdict"]

    assert verdict(80, 70) == "holds" and verdict(70, 80) == "does not hold"


def test_the_share_of_a_block_is_counted():
    mine = claims.built(claims.Place(), "semnasnet_100", "InvertedResidual", "x")[0].value
    assert 50 < mine < 100
    assert claims.built(claims.Place(), "resnet18", "InvertedResidual", "x")[0].value == 0


def test_what_was_not_run_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path)
    rows = claims.verdicts(output=str(tmp_path)).set_index("id")
    assert rows.verdict["linear_bottleneck"] == "not measured yet: run 03"
    assert rows.verdict["resnest_fewer_parameters"] == "does not hold"  # published figures need no run


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="no results of a machine 'abacus': there are "):
        claims.verdicts("abacus")


# ---------------------------------------------------------------------------------------------------- the claims file


def test_every_claim_has_a_verdict_and_a_section_that_exists():
    rows = claims.verdicts()
    assert len(rows) >= 30 and rows.id.is_unique and rows.verdict.str.len().gt(0).all()
    for row in rows.itertuples():
        path = ROOT / "notebooks" / f"{row.notebook}.ipynb"
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        headings = re.findall(r"^#+ (.+)$", "\n".join("".join(c["source"]) for c in cells), re.MULTILINE)
        assert row.section in headings, (row.id, row.section)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("who"), "line 1: claim 'c': lacks who"),
        (lambda c: c.update(where=""), "line 1: claim 'c': lacks where"),
        (lambda c: c.update(cases=[{"kind": "guess", "where": "x"}]), r"line \d+: claim 'c': unknown check 'guess'"),
        (lambda c: c.update(at_most=3), "needs one of at_least and at_most"),
        (lambda c: c.update(colour="red"), "has colour, which nothing reads"),
    ],
)
def test_a_fault_in_the_claims_is_named_with_its_line(tmp_path, change, says):
    claim = CLAIM | {"cases": [{"kind": "printed", "where": "x"}]}
    change(claim)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([claim], sort_keys=False))
    with pytest.raises(claims.ClaimsError, match=says):
        claims.load(path)


def test_claims_that_are_no_yaml_or_stand_twice_are_named(tmp_path):
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump([CLAIM | {"cases": []}] * 2, sort_keys=False))
    with pytest.raises(claims.ClaimsError, match="stands twice"):
        claims.load(path)
    path.write_text("- id: [\n")
    with pytest.raises(claims.ClaimsError, match="line 2: not YAML"):
        claims.load(path)


def test_a_figure_that_nobody_printed_is_named(monkeypatch):
    nobody = {"table": "models", "column": "params_m", "model": "none"}
    spec = {"kind": "printed", "where": "x", "line": 7, "of": nobody}
    with pytest.raises(claims.ClaimsError, match="line 7: claim 'c': expected one published params_m, found 0"):
        claims.judge(CLAIM | {"cases": [spec]}, claims.Place())
