"""What the README quotes is what the files and the ledger say."""

import re
from pathlib import Path

import pandas as pd
import pytest
import readme_tables
from project import ROOT

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
