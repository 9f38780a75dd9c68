"""What the README quotes is what the files and the ledger say."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import notebook_files as files
import pages
import pandas as pd
import pytest
from project import ROOT, cell, notebook

from whichbackbone.evidence import claims, store, summary

README = (ROOT / "README.md").read_text(encoding="utf-8")
QUOTED = re.compile(r"<!-- begin (\S+\.md) -->\n(.*?)<!-- end \1 -->", re.DOTALL)


def first_table(markdown: str) -> str:
    """The first table of a Markdown file."""
    return next(re.finditer(r"(?:^\|.*\n)+", markdown, re.MULTILINE)).group()


def stale_quotes(readme: str, root: Path) -> list[str]:
    """Files whose first table is not the one that the README quotes from them."""
    return [name for name, text in QUOTED.findall(readme)
            if text.strip() != first_table((root / name).read_text(encoding="utf-8")).strip()]  # fmt: skip


def test_quoted_tables_are_up_to_date():
    assert "benchmarks/timer_against_peers.md" in dict(QUOTED.findall(README))
    assert stale_quotes(README, ROOT) == []


def test_a_stale_quote_is_caught(tmp_path):
    (tmp_path / "b.md").write_text("# b\n\n| a |\n| --- |\n| 1 |\n")
    quote = "<!-- begin b.md -->\n| a |\n| --- |\n| {} |\n<!-- end b.md -->\n"
    assert stale_quotes(quote.format(1), tmp_path) == []
    assert stale_quotes(quote.format(2), tmp_path) == ["b.md"]


# ------------------------------------------------------------------------------------------- written from the ledger

PAGE = "measured on `zen-64-cores`\n<!-- begin verdicts -->\nold\n<!-- end verdicts -->\nrest\n"


def test_the_verdicts_are_those_of_the_ledger():
    parts = pages.blocks(pages.shown_machine(README))
    assert pages.filled(README, parts) == README, "out of date: python tools/pages.py"
    assert parts["verdicts"].count("](notebooks/") == len(claims.load()) > 20, "every claim has a row and a link"


def test_a_changed_verdict_makes_the_page_stale():
    page = pages.filled(PAGE, {"verdicts": "| B0 | **holds** |"})
    assert pages.filled(page, {"verdicts": "| B0 | **holds** |"}) == page
    assert pages.filled(page, {"verdicts": "| B0 | **does not hold** |"}) != page


def test_the_cost_on_a_cluster_is_what_notebook_06_measured(monkeypatch):
    rows = pd.DataFrame({"what": ["ours", "400 MMACs"], "core_seconds": [4.25, 1e6]})
    rows.attrs["machine"] = "zen-64-cores"
    monkeypatch.setattr(store, "latest", lambda *_, **__: rows)
    said = summary.cluster("zen-64-cores")
    assert "[06](notebooks/06_regnet.ipynb#The-paper's-size,-on-a-cluster)" in said
    assert "[06](06_regnet.ipynb#" in summary.cluster("zen-64-cores", folder="")
    for part in ("4.2 core-seconds", "3.5 core-hours in all, 3 minutes", "(400 MMACs) would take 833,333"):
        assert part in said

    def nothing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(store, "latest", nothing)
    assert summary.cluster("zen-64-cores").endswith("4. Cost: not measured yet: run 06.")


def test_a_page_without_its_markers_or_its_machine_is_refused():
    for page in (PAGE.replace("end", "fin"), PAGE + PAGE, PAGE.replace("begin", "start")):
        with pytest.raises(ValueError, match="README.md needs <!-- begin verdicts -->"):
            pages.filled(page, {"verdicts": "new"})
    assert pages.shown_machine(PAGE) == "zen-64-cores"
    with pytest.raises(ValueError, match="on which machine"):
        pages.shown_machine("no machine")


# -------------------------------------------------------------------------------------------- from the question bank


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("0[1-9]_*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_shows_the_questions_of_the_bank(path):
    content = files.read(path)
    assert [tag for cell in content["cells"] for tag in files.tags(cell) if tag in ("questions", "answers")] == [
        "questions", "answers"]  # fmt: skip
    assert pages.with_questions(content, path.name[:2]) == content, "out of date: python tools/pages.py"


def test_a_question_changed_in_a_notebook_is_caught():
    content = notebook(cell("markdown", "1. Mine?", ["questions"]), cell("markdown", "1. Mine.", ["answers"]))
    filled = pages.with_questions(content, "02")
    corner, answers = (files.source(one) for one in filled["cells"][1:])
    assert "[→](#answer-1)" in corner and '<a id="answer-1">' in answers
    assert filled != content and pages.with_questions(filled, "02") == filled


# --------------------------------------------------------------------------------------------------------- licences


def figures_of_cells(content: files.Notebook) -> set[str]:
    """Figures of a notebook whose caption carries the licence of the solar cells that they show."""
    calls = [call for cell in files.code_cells(content) for call in files.calls(cell, "figures", "save")]
    return {call.args[1].value for call in calls if "ELPV_LICENCE" in ast.unparse(call)}


def licence_faults(readme: str, notebooks: Iterable[files.Notebook]) -> set[str]:
    """Figures of cells that the README's licences do not name, and those that it names for no reason."""
    part = readme[readme.index("**Figures that show cells**") :]
    shown = set().union(*map(figures_of_cells, notebooks))
    return shown ^ set(re.findall(r"`(08_\w+)`", part))


def test_the_figures_that_stand_under_the_licence_of_the_cells_are_named():
    assert licence_faults(README, [files.read(path) for path in (ROOT / "notebooks").glob("*.ipynb")]) == set()


def test_a_figure_of_cells_without_its_licence_is_caught():
    content = notebook(
        'figures.save(fig, "08_cells", caption=f"a {datasets.ELPV_LICENCE}")',
        'figures.save(fig, "08_errors", caption="x" + datasets.ELPV_LICENCE)',
        'figures.save(fig, "08_cost", caption="b")',
    )  # fmt: skip
    page = "`08_cost` **Figures that show cells** are `08_cells` and `08_gradcam`."
    assert licence_faults(page, [content]) == {"08_errors", "08_gradcam"}
