"""What the outputs of a notebook depend on besides code: data, claims, and what other notebooks measured."""

import ast
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import notebook_files as files

SHOW_ALL = ("00", "14")  # notebooks that show every claim and draw on all results
CLAIMS, PUBLISHED, QUESTIONS, ARTICLE = (f"whichbackbone.{name}" for name in (
    "evidence.claims", "evidence.published", "teach.questions", "evidence.article"))  # fmt: skip
OF_THE_ARTICLE = ("article.yaml", "answers.yaml")
ASKING = ("verdicts", "table", "sentence", "word", "figure")  # functions of the ledger that show claims
DECIDING = ("cases", "at_least", "at_most")  # fields of a claim that decide the interval of another one


def data(notebook: files.Notebook, stem: str, root: Path) -> list[str]:
    """Texts of the data that a notebook reads through the modules that it imports, each after its name.

    Published figures, questions, claims and what answers the article count where their module is reached; any other
    table or YAML file of ``data/`` counts always, since nobody says who reads it.
    """
    from whichbackbone.evidence import closure

    reached = closure.closure(*closure.notebook_imports(notebook, root), root=root)
    found = sorted(path for path in (root / "data").glob("[!.]*") if path.suffix in (".csv", ".yaml", ".json"))
    published = [path for path in found if re.fullmatch(r"(published.*|sources|devices)\.csv", path.name)]
    answers = [path for path in found if path.name in OF_THE_ARTICLE]
    read = [path for path in found if path not in published + answers and path.name != "claims.yaml"]
    read += answers if ARTICLE in reached else []
    read += published if PUBLISHED in reached else []
    read += sorted((root / "data" / "questions").glob(f"{stem[:2]}.yaml")) if QUESTIONS in reached else []
    texts = [f"{path.name}\n{path.read_text(encoding='utf-8', errors='replace')}" for path in read]
    return [*texts, json.dumps(claims(notebook, stem, root), sort_keys=True, default=str)]


def claims(notebook: files.Notebook, stem: str, root: Path) -> list[Any]:
    """Entries of ``data/claims.yaml`` that a notebook shows: its own, and those it names by id or by notebook.

    Of claims that are corrected together with these, what decides their figures.
    """
    from whichbackbone.evidence import closure

    path = root / "data" / "claims.yaml"
    if CLAIMS not in closure.closure(*closure.notebook_imports(notebook, root), root=root) or not path.is_file():
        return []
    every = _entries(path.read_text(encoding="utf-8", errors="replace"))
    if _takes_all(notebook, stem) or not all(isinstance(entry, Mapping) for entry in every):
        return every
    code = "\n".join(map(files.source, files.code_cells(notebook)))
    named = {id for entry in every if re.search(rf"\b{re.escape(id := str(entry.get('id')))}\b", code)}
    asked = {way: [_strings(call, named) for cell in files.code_cells(notebook)
                   for call in files.calls(cell, "claims", way)] for way in ASKING}  # fmt: skip
    if not all(asked["verdicts"]) or not named and not all(map(all, asked.values())):
        return every  # those of a name that is computed could be any
    numbers = tuple(text for calls in asked.values() for texts in calls for text in texts if text not in named)
    shown = [entry for entry in every
             if str(entry.get("notebook")).startswith((stem, *numbers)) or entry.get("id") in named]  # fmt: skip
    together = set().union(*map(_experiments, shown))
    others = [entry for entry in every if entry not in shown and together & _experiments(entry)]
    return shown + [{field: entry.get(field) for field in DECIDING} for entry in others]


def results(notebook: files.Notebook, stem: str, root: Path, there: Mapping[str, int]) -> dict[str, int]:
    """Those of the results files ``there`` that other notebooks or commands measured and this one reads.

    A notebook reads the results whose notebook it names, itself or in a claim that it shows, and those that a command
    measured for all; the chooser and the summary read what they like.
    """
    others = {name: time for name, time in there.items() if name.split("/")[1] != stem}
    if _takes_all(notebook, stem):
        return others
    if not files.reads_results(notebook):
        return {}
    code = "\n".join(map(files.source, files.code_cells(notebook)))
    text = code + json.dumps(claims(notebook, stem, root), default=str)
    return {name: time for name, time in others.items()
            if (owner := name.split("/")[1]) in text or not owner[:2].isdigit()}  # fmt: skip


def _entries(text: str) -> list[Any]:
    """Entries of the claims file; its text where it is damaged, which the notebooks will say better."""
    import yaml

    try:
        entries = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return [text]
    return entries if isinstance(entries, list) else [text]


def _takes_all(notebook: files.Notebook, stem: str) -> bool:
    """Whether a notebook may show any claim and any result: by its number, or since it asks who chooses among all."""
    code = "\n".join(map(files.source, files.code_cells(notebook)))
    return stem[:2] in SHOW_ALL or bool(re.search(r"\b(chooser|summary)\.", code))


def _strings(call: ast.Call, ids: set[str]) -> list[str]:
    """Numbers of notebooks and ids of claims that are written out in a call."""
    inside = [*call.args, *(keyword.value for keyword in call.keywords)]
    texts = [node.value for part in inside for node in ast.walk(part) if isinstance(node, ast.Constant)]
    return [text for text in texts if isinstance(text, str) and (text in ids or text[:1].isdigit())]


def _experiments(entry: Mapping[str, Any]) -> set[str]:
    """Experiments whose comparisons are corrected together, of one claim."""
    return {case["experiment"] for case in entry.get("cases") or () if "experiment" in case}
