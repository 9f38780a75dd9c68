"""Small pieces of the pages: tables, links to a section of a notebook, lists in words."""

import re
from collections.abc import Sequence
from urllib.parse import quote

import pandas as pd


def table(frame: pd.DataFrame) -> str:
    """A Markdown table without padding: a changed cell changes its own line only. Cells are shown as they are."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).values.tolist()]
    cells = ([str(cell).replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def anchor(section: str) -> str:
    """The name that Jupyter and GitHub's notebook page give a heading, ready to stand in a link."""
    return quote(re.sub(r"[`*]", "", section).strip().replace(" ", "-"), safe="-_.,!?:;'")


def link(notebook: str, section: str = "", folder: str = "") -> str:
    """A link that shows a notebook's number and leads to a section of it.

    ``folder`` is where the notebooks stand as seen from the page: ``""`` from another notebook, ``"notebooks/"`` from
    the README.
    """
    place = f"#{anchor(section)}" if section else ""
    return f"[{notebook[:2]}]({folder}{notebook}.ipynb{place})"


def listed(items: Sequence[str], last: str = "and") -> str:
    """``a, b and c``; ``none`` for nothing."""
    items = list(items)
    if len(items) < 2:
        return items[0] if items else "none"
    return f"{', '.join(items[:-1])} {last} {items[-1]}"
