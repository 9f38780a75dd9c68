"""The ledger's verdicts follow its figures and say what they rest on; a fault in the claims file has its line."""

import math
import re
import textwrap

import numpy as np
import pandas as pd
import pytest
from project import ROOT

from whichbackbone.evidence import cases, claims, machine, markdown, published, store
from whichbackbone.evidence.cases import COUNTED, PUBLISHED, REAL, SMALL, TIMED, Case, Place
from whichbackbone.evidence.claims import ClaimsError, verdict
from whichbackbone.evidence.intervals import Interval
from whichbackbone.evidence.store import Store


def case(where: str, value: float, low: float, high: float, rests: str = TIMED) -> Case:
    return Case(where, Interval(value, low, high, "t over visits", 5), rests, machine.slug())


# ------------------------------------------------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ([("a", 2, 1.5, 3)], "holds"),
        ([("a", 2, 1.5, 3), ("b", 3, 3, 3)], "holds"),
        ([("a", 2, 1.5, 3), ("b", 0.5, 0.4, 0.6)], "holds only if: a"),
        ([("a", 2, 1.5, 3), ("b", 1.1, 0.9, 1.3)], "holds only if: a"),
        ([(n, 2, 1.5, 3) for n in "abcdef"] + [("z", 0.5, 0.4, 0.6)], "holds only if: a; b; c; d; e; f"),
        ([("a", 0.5, 0.4, 0.6)], "does not hold"),
        ([("a", 0.5, 0.4, 0.6), ("b", 1.1, 0.9, 1.3)], "does not hold"),
        ([("a", 1.1, 0.9, 1.3)], "undecided"),
        ([], "not measured"),
    ],
)
def test_the_verdict_follows_the_figures(figures, words):
    assert str(verdict([case(*f) for f in figures], at_least=1)) == words


def test_a_bound_from_above():
    assert str(verdict([case("a", 0.5, 0.4, 0.9)], at_most=1)) == "holds"
    assert str(verdict([case("a", 1.5, 1.1, 1.9)], at_most=1)) == "does not hold"
    assert str(verdict([case("a", 1.0, 0.9, 1.1)], at_most=1)) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1, 3, "seen at small scale"), (-3, -1, "not seen at small scale"), (-1, 3, "undecided at small scale")],
)
def test_small_nets_alone_never_make_a_claim_hold(low, high, words):
    alone = case("glyphs", (low + high) / 2, low, high, SMALL)
    assert str(verdict([alone], at_least=0)) == words
    beside = case("ImageNet", 0.9, 0.4, 1.4, PUBLISHED)
    assert str(verdict([alone, beside], at_least=0)) == "holds", "the published case decides, the small one stands by"
    against = case("ImageNet", -0.9, -1.4, -0.4, PUBLISHED)
    assert str(verdict([alone, against], at_least=0)) == "does not hold"


def test_a_planted_contrary_case_changes_the_verdict_or_shows_as_failed():
    row = claims.judge(CLAIM | {"cases": []}, Place())
    assert row["verdict"] == "not measured" and row["figures"] == "-"
    shown = claims._figures([case("b", 2, 1.5, 3), case("a", 0.5, 0.4, 0.6)], CLAIM)
    assert shown == "✗ a: 0.50x (0.40 to 0.60); ✓ b: 2.00x (1.50 to 3.00)", "the failed ones first"
    both = claims._figures([case("g", 2, 1.5, 3, SMALL), case("i", 2, 2, 2, COUNTED)], CLAIM)
    assert both == "✓ g (small nets): 2.00x (1.50 to 3.00); ✓ i: 2.00x"


# --------------------------------------------------------------------------------------------------------------- kinds

CLAIM = dict(id="c", claim="It is fast", who="me", where="p. 1", confirmed_if="ratio above 1", at_least=1, unit="x",
             notebook="09_speed_critique", section="S", cases=[], line=1)  # fmt: skip
RNG = np.random.default_rng(0)


@pytest.fixture
def judged(tmp_path):
    """The row of one claim, with tables of a notebook planted in a folder of results."""
    kept = Store("02_resnet", "standard", str(tmp_path))

    def judge(spec: dict, profile: str = "standard", at_least: float = 1, **tables) -> dict:
        store_ = kept if profile == "standard" else Store("02_resnet", profile, str(tmp_path))
        for name, columns in tables.items():
            store_.append(name, pd.DataFrame(columns))
        spec = dict(where="here", notebook="02_resnet", line=7) | spec
        place = Place(machine.slug(), str(tmp_path))
        return claims.judge(CLAIM | {"at_least": at_least, "cases": [spec]}, place)

    return judge


def seeds(gap: float, n: int = 8) -> dict:
    error = RNG.normal(0.3, 0.01, n)
    return dict(seed=[*range(n)] * 2, net=["plain"] * n + ["residual"] * n, error=[*(error + gap), *error])


def test_pairs_are_taken_by_seed_with_a_t_interval(judged):
    spec = dict(kind="paired", table="runs", value="error", a={"net": "plain"}, b={"net": "residual"}, scale=100)
    row = judged(spec, runs=seeds(0.02), at_least=0.5)
    assert row["verdict"] == "seen at small scale" and row["rests"] == SMALL
    assert row["cases"][0].figure.n == 8 and row["cases"][0].figure.kind == "paired t over seeds"
    assert row["figures"].startswith("✓ here: +2.0 points") or row["figures"].startswith("✓ here: 2.00x")
    assert judged(spec, runs=seeds(0.02, 1), at_least=0.5)["verdict"] == "undecided at small scale"


@pytest.mark.parametrize(
    ("own", "seeds_of_it", "says"), [(0.02, 4, "agrees"), (-0.02, 4, "disagrees"), (0.02, 1, "undecided")],
    ids=["agrees", "disagrees", "open"],
)
def test_a_full_run_decides_and_the_standard_one_stands_beside_it(tmp_path, monkeypatch, own, seeds_of_it, says):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    for run, profile, gap in (("20260101T000001Z-0000", "full", 0.02), ("20260101T000002Z-0000", "standard", own)):
        kept = Store("02_resnet", profile, str(tmp_path), run=run)
        kept.append("runs", pd.DataFrame(seeds(gap, 8 if profile == "full" else seeds_of_it)))
    spec = dict(kind="paired", table="runs", value="error", a={"net": "plain"}, b={"net": "residual"}, scale=100,
                where="here", notebook="02_resnet", line=7)  # fmt: skip
    row = claims.judge(CLAIM | {"at_least": 0, "cases": [spec], "unit": "points"}, Place(None, str(tmp_path)))
    assert row["verdict"] == "seen at small scale" and row["cases"][0].figure.n == 8
    assert "[run 20260101T000001Z-0000, full; standard beside it" in row["figures"] and f", {says}]" in row["figures"]


def samples(factor: float) -> list[list[float]]:
    base = RNG.normal(10, 0.1, 20)
    return [list(base * factor), list(base)]


def test_ratios_come_from_the_samples_of_the_same_rounds(judged):
    spec = dict(kind="ratio", table="latency", a={"name": "r50"}, b={"name": "b0"})
    row = judged(spec, latency=dict(name=["r50", "b0"], samples_ms=samples(3)))
    assert row["verdict"] == "holds" and row["rests"] == "timed on " + machine.slug()
    assert row["cases"][0].figure.value == pytest.approx(3, abs=0.01)
    with pytest.raises(ClaimsError, match="line 7: claim 'c': no row has name='r101'"):
        judged(spec | {"a": {"name": "r101"}})
    with pytest.raises(ClaimsError, match="no column 'label' among run, name"):
        judged(spec | {"a": {"label": "r50"}})


def test_a_smoke_run_that_leaves_a_net_out_is_not_measured(judged):
    spec = dict(kind="ratio", table="latency", a={"name": "r50"}, b={"name": "r101"})
    row = judged(spec, "smoke", latency=dict(name=["r50", "b0"], samples_ms=samples(3)))
    assert row["verdict"] == "not measured"


def test_one_case_a_runtime_averaged_over_layers(judged):
    spec = dict(kind="ratio", table="separable", a={"how": "full"}, b={"how": "separable"}, each="runtime",
                mean_over=["N"], where="time, {}")  # fmt: skip
    table = dict(runtime=["eager"] * 4 + ["openvino"] * 4, N=[64, 64, 128, 128] * 2, how=["full", "separable"] * 4,
                 samples_ms=samples(2) + samples(8) + samples(9) + samples(9))  # fmt: skip
    row = judged(spec, separable=table, at_least=8)
    assert [c.where for c in row["cases"]] == ["time, eager", "time, OpenVINO"]
    assert [c.figure.value for c in row["cases"]] == pytest.approx([4, 9], rel=1e-3)
    assert row["verdict"] == "holds only if: time (OpenVINO)"


def test_a_runtime_that_refused_a_net_has_no_case(judged):
    spec = dict(kind="ratio", table="runtimes", a={"model": "r50"}, b={"model": "b0"}, each="runs_in", where="{}")
    table = dict(runs_in=["eager"] * 2 + ["OpenVINO"] * 2, model=["r50", "b0"] * 2, samples_ms=samples(3) + ["", ""])
    row = judged(spec, runtimes=table)
    assert [case.where for case in row["cases"]] == ["eager"] and row["verdict"] == "holds"
    table["samples_ms"] = ["", *samples(3)[1:], "", ""]
    assert judged(spec, runtimes=table)["verdict"] == "not measured"


def test_times_are_compared_per_operation(judged):
    spec = dict(kind="ratio", table="latency", a={"name": "r50"}, b={"name": "v2"}, per="macs")
    table = dict(name=["r50", "v2"], macs=[4000, 400], samples_ms=samples(5))
    figure = judged(spec, latency=table)["cases"][0].figure
    assert figure.value == pytest.approx(0.5, rel=0.01), "ten times the operations in five times the time"


def test_populations_counts_and_correlations(judged):
    errors = RNG.normal(0.3, 0.02, 60)
    spec = dict(kind="medians", table="nets", value="error", a={"space": "A"}, b={"space": "X"}, scale=100)
    nets = dict(space=["A"] * 60 + ["X"] * 60, error=[*(errors + 0.05), *errors], b=[1.0] * 60 + [4.0] * 60)
    assert judged(spec, nets=nets, at_least=0)["verdict"] == "seen at small scale"
    figure = judged(spec | {"over": "matrices"}, at_least=0)["cases"][0].figure
    assert figure.kind == "bootstrap over matrices", "what was drawn is said, if it was no net"
    macs = RNG.lognormal(size=40)
    speeds = dict(macs=macs, activations=macs * RNG.lognormal(0, 0.1, 40), ms=macs * RNG.lognormal(0, 1.5, 40))
    lead = dict(kind="correlation", table="speeds", x="activations", rival="macs", y="ms")
    assert judged(lead, speeds=speeds, at_least=0)["verdict"] in ("undecided", "holds", "does not hold")
    counted = dict(kind="counted", of={"table": "sizes", "column": "macs", "name": "r50"},
                   over={"table": "sizes", "column": "macs", "name": "b0"})  # fmt: skip
    row = judged(counted, sizes=dict(name=["r50", "b0"], macs=[4000, 400]), at_least=10)
    assert row["verdict"] == "holds" and row["rests"] == COUNTED and row["figures"] == "✓ here: 10.0x"


def test_published_counts_are_correlated_with_published_times():
    spec = dict(kind="published_correlation", where="V100", times=dict(device_id="v100", kind="infer"), line=7,
                nets=dict(source_id="radosavovic2020", recipe_id="100ep"),
                x="activations_m", rival="macs_g")  # fmt: skip
    row = claims.judge(CLAIM | {"at_least": 0, "cases": [spec]}, Place())
    assert row["rests"] == PUBLISHED and row["verdict"] == "holds" and row["cases"][0].figure.n == 34
    same = claims.judge(CLAIM | {"at_least": 0, "cases": [spec | {"rival": "activations_m"}]}, Place())
    assert same["cases"][0].figure.text() == "0.00"
    with pytest.raises(ClaimsError, match="line 7: claim 'c': correlates times, and these are hours per 100"):
        claims.judge(CLAIM | {"cases": [spec | {"times": dict(device_id="v100_x8", kind="train")}]}, Place())


def test_answers_for_the_same_images_and_fronts_of_searches(judged):
    right = RNG.random(400) < 0.8
    worse = right & (RNG.random(400) < 0.85)
    answers = dict(method=["a"] * 400 + ["b"] * 400, seed=[0] * 800, cell=[*range(400)] * 2, correct=[*right, *worse])
    spec = dict(kind="answers", table="answers", a={"method": "a"}, b={"method": "b"})
    row = judged(spec, answers=answers, at_least=0)
    assert row["verdict"] == "holds" and row["rests"] == REAL
    wide = dict(seed=[0] * 400, cell=[*range(400)], truth=[1] * 400, a=np.where(right, 0.9, 0.5),
                b=np.where(worse, 0.6, 0.1))  # fmt: skip
    same = judged(dict(kind="answers", table="answers", a="a", b="b"), answers=wide, at_least=0)
    assert same["cases"][0].figure == row["cases"][0].figure
    with pytest.raises(ClaimsError, match="no column 'c' among"):
        judged(dict(kind="answers", table="answers", a="a", b="c"), answers=wide, at_least=0)
    fronts = pd.DataFrame([dict(cost_name=who, seed=s, ms=ms, accuracy=50 + 10 * ms + gain + 0.1 * s) for s in range(8)
                           for who, gain in (("latency", 2), ("MACs", 0)) for ms in (1, 2, 3)])  # fmt: skip
    spec = dict(kind="front", table="fronts", price="ms", gain="accuracy", a={"cost_name": "latency"},
                b={"cost_name": "MACs"})  # fmt: skip
    row = judged(spec, fronts=fronts, at_least=0)
    assert row["cases"][0].figure.value == pytest.approx(2) and row["cases"][0].figure.n == 8


def test_comparisons_of_one_experiment_are_corrected_together(tmp_path):
    kept = Store("02_resnet", "standard", str(tmp_path))
    base = np.array([0.1, -0.1, 0.2, -0.2, 0.15, -0.15, 0.05, -0.05])
    error = {"ours": np.zeros(8), "x": base + 0.14, "y": base + 0.13, "z": base}
    rows = [dict(net=n, seed=s, error=e) for n, es in error.items() for s, e in enumerate(es)]
    kept.append("runs", pd.DataFrame(rows))
    path = tmp_path / "claims.yaml"
    written = ""
    for net in "xyz":
        written += f"""
- {{id: {net}, claim: C, who: w, where: p, confirmed_if: c, at_least: 0, unit: points, notebook: 02_resnet, section: S,
   cases: [{{kind: paired, where: here, notebook: 02_resnet, table: runs, value: error, a: {{net: {net}}},
            b: {{net: ours}}, experiment: twins}}]}}"""
    path.write_text(written)
    together = claims.verdicts(machine.slug(), str(tmp_path), path).set_index("id")
    alone = claims.verdicts(machine.slug(), str(tmp_path), path, ids=["x"]).set_index("id")
    assert together.verdict["x"] == alone.verdict["x"], "the same verdict wherever it is shown"
    assert "3 comparisons corrected" in together.cases["x"][0].figure.kind
    path.write_text(written.replace(", experiment: twins", ""))
    plain = claims.verdicts(machine.slug(), str(tmp_path), path).set_index("id")
    assert plain.verdict["x"] == "seen at small scale" and together.verdict["x"] == "undecided at small scale"


# ----------------------------------------------------------------------------------------------------- the claims file


def test_the_committed_claims_are_judged_and_shown_alike_everywhere():
    rows = claims.verdicts()
    assert len(rows) == len(claims.load()) >= 36 and rows.id.is_unique
    assert set(rows.kind) <= set(claims.VERDICTS)
    for number in sorted(set(rows.notebook.str[:2])):
        page = claims.table(number)
        for row in rows[rows.notebook.str.startswith(number)].itertuples():
            assert f"**{row.verdict.partition(':')[0]}**" in page and row.figures.replace("; ", "<br>") in page
    one = rows.iloc[0]
    assert claims.word(one.id) == one.verdict and one.figures in claims.sentence(one.id)
    assert claims.tally(rows).startswith(f"Of {len(rows)} claims: **")
    with pytest.raises(LookupError, match="no claim nonsense"):
        claims.word("nonsense")
    with pytest.raises(ValueError, match="no results of a machine 'abacus'"):
        claims.verdicts("abacus")


def test_every_claim_links_to_a_section_that_exists():
    for row in claims.verdicts().itertuples():
        text = (ROOT / "notebooks" / f"{row.notebook}.ipynb").read_text(encoding="utf-8")
        heading = rf'"#+ {re.escape(row.section)}(\\n)?"'
        assert re.search(heading, text.replace('\\"', '"')), f"{row.id}: no section {row.section!r}"


def test_here_is_said_of_this_machine_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(store, "REPOSITORY", tmp_path / "empty")
    spec = dict(kind="ratio", where="x", notebook="02_resnet", table="latency", a={"name": "a"}, b={"name": "b"},
                line=1)  # fmt: skip
    kept = Store("02_resnet", "standard", str(tmp_path))
    kept.append("latency", pd.DataFrame(dict(name=["a", "b"], samples_ms=samples(2))))
    mine = claims.judge(CLAIM | {"cases": [spec]}, Place(None, str(tmp_path)))
    assert mine["rests"] == "timed here"
    monkeypatch.setattr(machine, "slug", lambda here=None: "a-laptop-4-cores")
    other = claims.judge(CLAIM | {"cases": [spec]}, Place(None, str(tmp_path)))
    assert other["rests"].startswith("timed on ") and "here" not in other["rests"]


FAULTS = {
    "": r"lacks id",
    "id: c": r"line 2: claim 'c': lacks claim, who",
    "at_most: 2": r"needs one of at_least and at_most",
    "colour: red": r"has colour, which nothing reads",
    "cases: [{kind: guessed, where: here}]": r"line \d+: claim 'c': unknown kind 'guessed': choose one of published",
    "cases: [{kind: paired, where: here, rests: hearsay}]": r"rests on 'hearsay': choose one of counted, published",
    "cases: [{kind: ratio, where: h, experiment: e}]": r"only paired comparisons are corrected together",
    "cases: [{kind: ratio, where: h, notebook: 09_speed}]": r"notebook 09, which runs after 02: give the claim",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_file_is_named_with_its_line(tmp_path, fault):
    whole = dict(id="c", claim="C", who="w", where="p", confirmed_if="x", at_least=1, unit="x", notebook="02_resnet",
                 section="S", cases="[]")  # fmt: skip
    if fault in ("", "id: c"):
        text = f"- {fault or 'claim: C'}\n"
    else:
        key, _, value = fault.partition(": ")
        text = "- " + "\n  ".join(f"{k}: {v}" for k, v in (whole | {key: value}).items()) + "\n"
    path = tmp_path / "claims.yaml"
    path.write_text("\n" + text)
    with pytest.raises(ClaimsError, match=FAULTS[fault]):
        claims.load(path)


def test_an_id_twice_and_what_is_not_yaml(tmp_path):
    entry = textwrap.dedent("""\
        - {id: c, claim: C, who: w, where: p, confirmed_if: x, at_least: 1, unit: x, notebook: 02_resnet, section: S,
           cases: []}
        """)
    path = tmp_path / "claims.yaml"
    path.write_text(entry * 2)
    with pytest.raises(ClaimsError, match="line 3: claim 'c': stands twice"):
        claims.load(path)
    path.write_text("- a: [\n- b\n")
    with pytest.raises(ClaimsError, match="line 2: not YAML"):
        claims.load(path)


def test_a_published_case_that_matches_nothing_or_several_rows_is_named(tmp_path):
    spec = dict(kind="published", where="x", of={"table": "models", "column": "params_m", "model": "none"}, line=7)
    with pytest.raises(ClaimsError, match="line 7: claim 'c': no row has model='none'"):
        claims.judge(CLAIM | {"cases": [spec]}, Place())
    spec["of"] = {"table": "models", "column": "params_m", "timm_name": ["resnet50", "resnet18"]}
    with pytest.raises(ClaimsError, match="expected one published params_m, found"):
        claims.judge(CLAIM | {"cases": [spec]}, Place())


def test_published_accuracies_move_by_a_retraining_and_counts_do_not():
    top1 = {"table": "models", "column": "imagenet_top1", "model": "EfficientNet-B0, compound scaling"}
    assert cases.of_published(Place(), "x", top1, less=top1)[0].figure.text(1) == "0.0 (-0.5 to 0.5)"
    params = top1 | {"column": "params_m", "model": "MnasNet-A3"}
    assert cases.of_published(Place(), "x", params, over=params)[0].figure.text(1) == "1.0"


def test_no_published_row_that_fits_is_left_out_by_hand():
    pair = dict(a=dict(timm_name="efficientnet_b3", img_size=288), b=dict(timm_name="resnest50d"))
    found = cases.of_published_speeds(Place(), "50 against B3, {}", **pair)
    rows = sum(len(published.time_ratios(**pair, kind=kind)) for kind in ("infer", "train"))
    assert len(found) == rows >= 8 and {c.group for c in found} == {"50 against B3"}
    assert min(c.figure.value for c in found) < 0.4, "training in channels-last, which is unkind to the claim"
    alone = cases.of_published_speeds(Place(), "{}", **pair, modes=["infer"])
    assert len(alone) < rows and {c.group for c in alone} == {""}


def test_rivals_are_the_cheapest_that_are_as_accurate():
    one_recipe = dict(source_id="radosavovic2020", recipe_id="100ep")
    found = cases.of_published_rivals(Place(), "{}", dict(one_recipe, family="EfficientNet"),
                                      dict(one_recipe, family=["RegNetX", "RegNetY"]), "params_m")  # fmt: skip
    by_net = {c.where: c.figure.value for c in found}
    assert by_net["EfficientNet-B1 against RegNetY-800MF"] == pytest.approx(6.3 / 7.8)
    none = cases.of_published_rivals(Place(), "{}", dict(one_recipe, model="RegNetX-32GF"),
                                     dict(one_recipe, model="RegNetX-200MF"), "params_m")  # fmt: skip
    assert math.isinf(none[0].figure.value) and claims.says(none[0].figure, "x") == "no limit"


def test_rows_can_be_counted_and_none_is_a_count():
    assert cases.of_published_numbers(Place(), "x", dict(table="models", model="MnasNet-A3"))[0].figure.value == 1
    none = cases.of_published_numbers(Place(), "x", dict(table="models", model="MnasNet-A3", source_id="timm_results"))
    assert none[0].figure.value == 0
    with pytest.raises(KeyError, match="no column 'net'"):
        cases.of_published_numbers(Place(), "x", dict(table="models", net="MnasNet-A3"))


def test_settings_of_one_condition_are_written_together():
    def at(setting: str, value: float) -> Case:
        return Case(f"50 against B3, {setting}", Interval(value, value, value, "exact", 1), PUBLISHED, "", setting)

    three = [at("V100", 2.0), at("T4", 3.0), at("i9", 0.5)]
    assert str(verdict(three, at_least=1)) == "holds only if: 50 against B3 (V100 · T4)"
    assert str(verdict([*three[:2], case("b", 0.5, 0.4, 0.6)], at_least=1)) == "holds only if: 50 against B3"
    shown = claims._figures(three, dict(unit="x", at_least=1))
    assert shown == "✗ 50 against B3: i9 0.50x; ✓ 50 against B3: V100 2.00x · T4 3.00x"


def test_what_was_counted_one_by_one_has_no_decimals():
    assert claims.says(Interval(2, 2, 2, "exact", 1), "layers") == "2 layers"
    assert claims.says(Interval(2.5, 2.5, 2.5, "exact", 1), "layers") == "2.50 layers"
    assert claims.says(Interval(2, 2, 2, "exact", 1), "x") == "2.00x"


# --------------------------------------------------------------------------------------------------------------- pages


def test_pieces_of_a_page():
    assert markdown.listed(["a", "b", "c"]) == "a, b and c" and markdown.listed([]) == "none"
    assert markdown.link("03_mobilenet", "Claim by claim") == "[03](03_mobilenet.ipynb#Claim-by-claim)"
    assert markdown.link("09_speed_critique", "4. `A` (b)", "notebooks/") == (
        "[09](notebooks/09_speed_critique.ipynb#4.-A-%28b%29)")  # fmt: skip
    table = markdown.table(pd.DataFrame({"a": ["x|y", "two\nlines"], "b": [1, 2]}))
    assert table.splitlines() == ["| a | b |", "| --- | --- |", r"| x\|y | 1 |", "| two lines | 2 |"]
