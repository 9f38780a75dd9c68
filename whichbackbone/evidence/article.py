"""What the study answers the article of 2020: in eight sentences, statement by statement, and claim by claim.

No sentence is trusted for good: each names the claims it rests on and the verdicts under which it may be said.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from whichbackbone import yaml_lines
from whichbackbone.evidence import catalogue, claims, markdown
from whichbackbone.evidence.cases import SMALL
from whichbackbone.evidence.claims import ClaimsError
from whichbackbone.folders import DATA

ARTICLE, ANSWERS = DATA / "article.yaml", DATA / "answers.yaml"
# First letters of a notebook -> what its claims are about where they name no family.
TOPICS = {"01": "Convolutions", "02": "ResNet", "03": "MobileNet", "04": "MnasNet", "05": "EfficientNet",
          "06": "RegNet", "07": "ResNeSt", "08": "Transfer learning", "09": "Speed", "14": "All"}  # fmt: skip
# Failures first: a reader should meet what does not hold before what does.
ORDER = (claims.FAILS, claims.ONLY_IF, claims.UNDECIDED, claims.HOLDS, claims.NOT_MEASURED)


def answers(rows: pd.DataFrame, folder: str = "", path: Path = ANSWERS) -> pd.DataFrame:
    """The sentences that answer the article, each with its strength.

    Args:
        rows: of :func:`whichbackbone.evidence.claims.verdicts`.
        folder: where the notebooks stand as seen from the page; see :func:`whichbackbone.evidence.markdown.link`.
        path: the sentences.

    Returns:
        "in one sentence" (which says so where a verdict of these rows speaks against it), "strength" (how many figures
        of which kind stand under it), "evidence" (links).

    Raises:
        ClaimsError: for a sentence that lacks something, or names an unknown claim or verdict; with its line.
    """
    by_id, found = rows.set_index("id"), []
    for part in _load(path, ("says", "while")):
        for id, kinds in part["while"].items():
            _known(id, by_id.index, path, part.line)
            if wrong := set(kinds) - set(claims.VERDICTS):
                raise ClaimsError(f"{path.name}, line {part.line}: {id}: {sorted(wrong)[0]!r} is no verdict: choose of "
                                  f"{', '.join(claims.VERDICTS)}")  # fmt: skip
        mine = by_id.loc[list(part["while"])]
        against = [row for row in mine.itertuples() if row.kind not in part["while"][row.Index]]
        text = part["says"] + "".join(f" *(These measurements say otherwise of \"{row.claim}\": {row.kind}.)*"
                                      for row in against)  # fmt: skip
        links = dict.fromkeys(markdown.link(row.notebook, row.section, folder) for row in mine.itertuples())
        found.append({"in one sentence": text, "strength": _strength(mine), "evidence": ", ".join(links)})
    return pd.DataFrame(found)


def statements(rows: pd.DataFrame, folder: str = "", path: Path = ARTICLE) -> pd.DataFrame:
    """Every statement of the article with the claims that test it.

    Arguments and errors as of :func:`answers`.

    Returns:
        "section", "the article says" (in our words), "verdict" (of each claim, with a link).
    """
    by_id, found = rows.set_index("id"), []
    for part in _load(path, ("section", "says", "claims")):
        for id in part["claims"]:
            _known(id, by_id.index, path, part.line)
        verdicts = []
        for row in by_id.loc[part["claims"]].itertuples():
            link = markdown.link(row.notebook, row.section, folder)
            verdicts.append(f"{row.claim}: **{row.verdict.partition(':')[0]}** {link}")
        found.append({"section": part["section"], "the article says": part["says"], "verdict": "<br>".join(verdicts)})
    return pd.DataFrame(found)


def ledger(rows: pd.DataFrame, folder: str = "") -> str:
    """Every claim in Markdown, folded by family, what does not hold first; arguments as of :func:`answers`."""
    topics = rows.assign(topic=topic(rows), order=rows.kind.map(ORDER.index))
    parts = []
    for name in dict.fromkeys([*TOPICS.values(), *catalogue.FAMILIES]):
        part = topics[topics.topic == name].sort_values("order", kind="stable")
        if len(part):
            counts = part.kind.value_counts()
            told = ", ".join(f"{counts[kind]} {kind}" for kind in ORDER if kind in counts)
            table = markdown.table(claims.shown(part, folder))
            parts.append(f"<details>\n<summary><b>{name}</b>: {told}</summary>\n\n{table}\n\n</details>")
    return "\n\n".join(parts)


def topic(rows: pd.DataFrame) -> pd.Series:
    """The family that each claim names first, else what its notebook is about."""
    named = rows.claim.str.extract(f"({'|'.join(catalogue.FAMILIES)}|B0)")[0].replace("B0", "EfficientNet")
    return named.fillna(rows.notebook.str[:2].map(TOPICS))


def _strength(rows: pd.DataFrame) -> str:
    """How many figures of which kind stand under some claims, and from how many of them a small net is the source."""
    kinds = pd.Series([case.rests for cases in rows.cases for case in cases])
    counts = kinds[kinds != SMALL].value_counts()
    return ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none yet"


def _load(path: Path, fields: Sequence[str]) -> list[yaml_lines.Located]:
    parts = yaml_lines.load(path, ClaimsError)
    for part in parts:
        if missing := [name for name in fields if not part.get(name)]:
            raise ClaimsError(f"{path.name}, line {part.line}: lacks {', '.join(missing)}: a part needs "
                              f"{', '.join(fields)}")  # fmt: skip
    return parts


def _known(id: str, ids: pd.Index, path: Path, line: int) -> None:
    if id not in ids:
        raise ClaimsError(f"{path.name}, line {line}: no claim {id!r} in claims.yaml: add it there, or name another")
