"""The article is answered by verdicts: every statement has its claims, and a sentence that no longer fits says so."""

import re
import textwrap

import pandas as pd
import pytest

from whichbackbone import yaml_lines
from whichbackbone.evidence import article, claims
from whichbackbone.evidence.claims import ClaimsError


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return claims.verdicts()


def test_every_claim_of_the_article_has_a_statement_and_every_statement_a_verdict(rows):
    told = {id for part in yaml_lines.load(article.ARTICLE) for id in part["claims"]}
    assert set(rows.id[rows.who.str.contains("the article")]) <= told
    table = article.statements(rows)
    assert len(table) >= 35 and table.verdict.str.contains(r"\*\*.+\*\* \[\d\d\]\(").all()


def test_the_sentences_say_what_the_committed_verdicts_say(rows):
    table = article.answers(rows, "notebooks/")
    assert len(table) == 8 and not table["in one sentence"].str.contains("say otherwise").any()
    assert table.strength.str.contains(r"\d+ (published|counted|timed here)").all()
    assert table.evidence.str.contains(r"\]\(notebooks/").all()


def test_a_sentence_that_a_verdict_speaks_against_says_so(rows):
    turned = rows.assign(kind=rows.kind.where(rows.id != "resnest_fewer_parameters", claims.HOLDS))
    told = article.answers(turned)["in one sentence"]
    says = 'otherwise of "ResNeSt has fewer parameters than EfficientNet": holds'
    assert told.str.contains(says, regex=False).sum() == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- {says: S, while: {nonsense: [holds]}}", "line 1: no claim 'nonsense' in claims.yaml: add it there"),
        ("\n- {says: S, while: {regnet_5x: [perhaps]}}", "line 2: regnet_5x: 'perhaps' is no verdict: choose of holds"),
        ("- {while: {regnet_5x: [holds]}}", "line 1: lacks says: a part needs says, while"),
    ],
)
def test_a_fault_in_the_sentences_is_named_with_its_line(rows, tmp_path, text, fault):
    path = tmp_path / "answers.yaml"
    path.write_text(text)
    with pytest.raises(ClaimsError, match=re.escape(f"answers.yaml, {fault}")):
        article.answers(rows, path=path)


def test_a_statement_of_an_unknown_claim_is_named(rows, tmp_path):
    path = tmp_path / "article.yaml"
    path.write_text(textwrap.dedent("""
        - {section: RegNet, says: S, claims: [regnet_5x]}
        - {section: RegNet, says: S, claims: [nonsense]}"""))
    with pytest.raises(ClaimsError, match=r"article.yaml, line 3: no claim 'nonsense'"):
        article.statements(rows, path=path)


def test_the_ledger_has_every_claim_once_and_what_does_not_hold_first(rows):
    page = article.ledger(rows)
    for claim in rows.claim:
        assert page.count(f"| {claim} (") == 1, claim
    order = dict(zip(rows.claim, rows.kind.map(article.ORDER.index), strict=True))
    for part in page.split("</details>")[:-1]:
        rows_of = {claim: part.index(f"| {claim} (") for claim in order if f"| {claim} (" in part}
        there = sorted(rows_of, key=rows_of.get)
        places = [order[claim] for claim in there]
        assert places and places == sorted(places), there
