"""What the README quotes is what the files and the ledger say."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import notebook_files as files
import pandas as pd
import pytest
import readme_tables
from project import ROOT, notebook

from whichbackbone.evidence import claims, store

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

VERDICTS = pd.DataFrame([
    dict(id="b0_macs", claim="B0 needs 11x fewer | MACs", who="Tan & Le 2019", verdict="holds", measured="10.6x",
         published="11x", notebook="09_speed_critique", section="5. Matched pairs"),
    dict(id="b0_time", claim="and is 11x faster", who="a blog", verdict="does not hold", measured=None, published=None,
         notebook="09_speed_critique", section="6. Four runtimes, four verdicts"),
])  # fmt: skip
PAGE = "measured on `zen-64-cores`\n<!-- begin verdicts -->\nold\n<!-- end verdicts -->\nrest\n"


def test_the_verdicts_are_those_of_the_ledger():
    parts = readme_tables.blocks(readme_tables.shown_machine(README))
    assert readme_tables.filled(README, parts) == README, "out of date: python tools/readme_tables.py"
    assert parts["verdicts"].count("](notebooks/") == len(claims.load()) > 20, "every claim has a row and a link"


def test_a_changed_verdict_makes_the_page_stale():
    page = readme_tables.filled(PAGE, {"verdicts": readme_tables.verdict_table(VERDICTS)})
    assert readme_tables.filled(page, {"verdicts": readme_tables.verdict_table(VERDICTS)}) == page
    changed = VERDICTS.assign(verdict="holds")
    assert readme_tables.filled(page, {"verdicts": readme_tables.verdict_table(changed)}) != page


def test_a_row_of_the_verdicts():
    first, second = readme_tables.verdict_table(VERDICTS).splitlines()[2:]
    assert r"B0 needs 11x fewer \| MACs (Tan & Le 2019)" in first and "**holds**" in first
    assert "[09](notebooks/09_speed_critique.ipynb#5.-Matched-pairs)" in first
    only_if = VERDICTS.assign(verdict="holds only if: eager; OpenVINO")
    assert "| **holds only if:** eager; OpenVINO |" in readme_tables.verdict_table(only_if)
    assert "nan" not in second.lower() and "none" not in second.lower()


def test_long_lists_of_figures_are_cut_and_the_claims_are_counted():
    assert readme_tables.short("a: 1x; b: 2x; c: 3x; d: 4x") == "a: 1x; b: 2x; and 2 more"
    assert readme_tables.short("a: 1x; b: 2x; a, c: 3x", "holds only if: a, c") == "a, c: 3x; a: 1x; and 1 more"
    assert readme_tables.short("a: 1x; b: 2x") == "a: 1x; b: 2x"
    assert readme_tables.tally(VERDICTS) == "Of 2 claims: **1 holds, 1 does not hold**."


def test_the_cost_on_a_cluster_is_what_notebook_06_measured(monkeypatch):
    rows = pd.DataFrame({"what": ["ours", "the paper's: 400 MMACs"], "seconds a net": [4.25, 1e6],
                         "core-hours": [3.5, 8e5], "hours on 64 cores": [0.055, 13e3]})  # fmt: skip
    monkeypatch.setattr(store, "latest", lambda *_, **__: rows)
    said = readme_tables.cluster("zen-64-cores")
    for part in ("4.2 core-seconds", "3.5 core-hours in all, 3 minutes", "(400 MMACs) would take 800,000"):
        assert part in said

    def nothing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(store, "latest", nothing)
    assert readme_tables.cluster("zen-64-cores").endswith("4. Cost: not measured yet: run 06.")


def test_a_page_without_its_markers_or_its_machine_is_refused():
    for page in (PAGE.replace("end", "fin"), PAGE + PAGE, PAGE.replace("begin", "start")):
        with pytest.raises(ValueError, match="README.md needs <!-- begin verdicts -->"):
            readme_tables.filled(page, {"verdicts": "new"})
    assert readme_tables.shown_machine(PAGE) == "zen-64-cores"
    with pytest.raises(ValueError, match="on which machine"):
        readme_tables.shown_machine("no machine")


# --------------------------------------------------------------------------------------------------------- licences


def figures_of_cells(content: files.Notebook) -> set[str]:
    """Figures of a notebook whose caption carries the licence of the solar cells that they show."""
    calls = [call for cell in files.code_cells(content) for call in files._calls(cell, "figures", "save")]
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
