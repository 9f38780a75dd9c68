"""Notebooks hold no statistics and no verdicts of their own, and no logic stands twice."""

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import notebook_files as files
import pytest
from project import ROOT, notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
PACKAGE = sorted(path for path in (ROOT / "whichbackbone").rglob("*.py") if "models" not in path.parts)
LINES = 8  # as many may be alike

# Calls that compute a statistic: they stand in whichbackbone/evidence/intervals.py and nowhere else.
STATISTICS = {
    "quantile", "nanquantile", "percentile", "nanpercentile", "corr", "corrcoef", "corrwith", "sem", "ppf", "gmean",
    "bootstrap", "binomtest", "proportion_ci", "ks_2samp", "kendalltau", "spearmanr", "pearsonr", "ttest_1samp",
    "ttest_rel", "ttest_ind", "wilcoxon", "mannwhitneyu", "linregress",
}  # fmt: skip
# Words of a verdict: they are computed by whichbackbone/evidence/claims.py and nowhere else.
VERDICT = re.compile(
    r"\b(does not hold|holds (here|only|in|for)|holds?$|cannot be told|can be told apart|(not )?told apart|"
    r"(within|beyond) the spread|cannot be seen|does not show|not decided|undecided|the opposite here|"
    r"the other way round|no verdict)\b")  # fmt: skip
VERDICT_MAKERS = re.compile(r"^(claim|holds|verdict\w*|ruling|judged\w*|decided|evident|fact|proof|note)$")


def script(path: Path) -> str:
    """The code of a notebook as one script: its own cells, magics left out."""
    lines = []
    for cell in files.code_cells(files.read(path)):
        if files.COLAB not in files.source(cell):
            lines += ["" if line.lstrip().startswith(("%", "!")) else line for line in files.source(cell).splitlines()]
    return "\n".join(lines) + "\n"


def own_verdicts(source: str) -> Iterator[str]:
    """Each statistic, verdict word and verdict maker in a script, in one line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", "") or ""
            if module.startswith("scipy.stats") or (module == "scipy" and "stats" in names) or "scipy.stats" in names:
                yield f"line {node.lineno}: imports scipy.stats"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in STATISTICS and not ast.unparse(node.func).startswith("intervals."):
                yield f"line {node.lineno}: calls the statistic {name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (found := VERDICT.search(node.value)):
            yield f"line {node.lineno}: says {found[0]!r}"
        elif isinstance(node, ast.FunctionDef) and VERDICT_MAKERS.match(node.name):
            yield f"line {node.lineno}: defines {node.name}"


def logic(source: str) -> list[str]:
    """Lines of a script that do something: no comments, docstrings, imports, blank lines and closing brackets."""
    tree = ast.parse(source)
    skip = set()
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            skip |= set(range(node.lineno, node.end_lineno + 1))
    lines = (line.split("  #")[0].strip() for n, line in enumerate(source.splitlines(), 1) if n not in skip)
    return [line for line in lines if re.search(r"\w", line) and not line.startswith("#")]


def twice(scripts: dict[str, str], among: set[str]) -> list[str]:
    """Runs of more than LINES equal lines that one of ``among`` shares with another script."""
    places = defaultdict(set)
    for name, source in scripts.items():
        lines = logic(source)
        for start in range(len(lines) - LINES):
            places[tuple(lines[start : start + LINES + 1])].add(name)
    shared = {(a, b, window[0]) for window, names in places.items() for a, b in itertools.combinations(sorted(names), 2)
              if {a, b} & among}  # fmt: skip
    return [f"{a} and {b} share more than {LINES} lines from {first!r}" for a, b, first in sorted(shared)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_computes_no_statistic_and_says_no_verdict_of_its_own(path):
    assert list(own_verdicts(script(path))) == []


def test_planted_statistics_and_verdicts_are_caught():
    source = '''
from scipy.stats import gmean
import numpy as np
low = np.quantile([1, 2], 0.025)
r = frame.corr(other)
fine = intervals.pearson(a, b)
text = "this holds here" if low > 0 else "within the spread of the seeds"
plain = "the dashed line holds what MACs promise"
def holds(yes):
    return yes
'''
    found = [line.partition(": ")[2] for line in own_verdicts(source)]
    assert found == ["imports scipy.stats", "defines holds", "calls the statistic quantile", "calls the statistic corr",
                     "says 'holds here'", "says 'within the spread'"] or sorted(found) == sorted([
                         "imports scipy.stats", "calls the statistic quantile", "calls the statistic corr",
                         "says 'holds here'", "says 'within the spread'", "defines holds"])  # fmt: skip


def test_no_logic_stands_twice_in_notebooks_or_in_a_notebook_and_the_package():
    notebooks = {path.stem: script(path) for path in NOTEBOOKS}
    package = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE}
    assert twice(notebooks | package, set(notebooks)) == []


def test_a_planted_copy_is_caught():
    body = "\n".join(f"    x{n} = {n} * y" for n in range(LINES + 1))
    copy = f"def other(y):\n    '''Another docstring.'''\n{body}\n"
    again = f"import torch\n\n\ndef one(y):\n{body}  # a comment\n    return x1\n"
    assert len(twice({"01_a": copy, "whichbackbone/b.py": again}, {"01_a"})) == 1
    assert twice({"01_a": copy, "whichbackbone/b.py": again}, set()) == []
    shorter = again.replace("    x8 = 8 * y", "    x8 = 9 * y")
    assert twice({"01_a": copy, "02_b": shorter}, {"01_a"}) == []


def test_a_notebook_reads_as_a_script(tmp_path):
    path = tmp_path / "01_a.ipynb"
    path.write_text(__import__("json").dumps(notebook("%matplotlib inline\nx = 1", "y = 2")))
    assert "x = 1\ny = 2" in script(path) and "%" not in script(path)
