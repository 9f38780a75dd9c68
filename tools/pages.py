"""Write the computed parts of the pages anew: ``python tools/pages.py``, or ``--check`` only.

In README.md each stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. The README names the machine whose
verdicts it shows, so that the page stays the same on a machine with measurements of its own. In a notebook the Markdown
cells tagged ``questions`` and ``answers`` hold what ``data/questions/`` has for it: as Markdown and not as an output,
since Colab shows no formula in an output and no link from one output leads into another.
"""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import notebook_files as files

from whichbackbone.evidence import article, claims, markdown, summary
from whichbackbone.teach import questions

ROOT = Path(__file__).resolve().parent.parent
MACHINE = re.compile(r"measured on `([a-z0-9-]+)`")


def blocks(machine: str) -> dict[str, str]:
    """Name -> what belongs between its markers, for one machine's measurements."""
    rows = claims.verdicts(machine=machine)
    answer = [summary.first_question(machine=machine), markdown.table(summary.by_runtime_and_corner(machine=machine)),
              markdown.table(summary.situations(machine=machine)), summary.how_far_to_trust(machine)]  # fmt: skip
    return {
        "sentences": markdown.table(article.answers(rows, "notebooks/")),
        "answer": "\n\n".join(answer),
        "verdicts": f"{claims.tally(rows)} {claims.LEGEND}.\n\n{article.ledger(rows, 'notebooks/')}",
        "cluster": summary.cluster(machine=machine),
    }


def filled(readme: str, parts: Mapping[str, str]) -> str:
    """The page with every part between its markers. ``ValueError`` names markers that are not there once."""
    for name, text in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
            raise ValueError(f"README.md needs {begin} and {end}, once each: put them where the part belongs")
        before, rest = readme.split(begin)
        readme = f"{before}{begin}\n{text.strip()}\n{end}{rest.split(end)[1]}"
    return readme


def shown_machine(readme: str) -> str:
    """The machine whose verdicts the page shows. ``ValueError`` where it names none."""
    if not (found := MACHINE.search(readme)):
        raise ValueError("README.md does not say on which machine it was measured on `...`: name it before the table")
    return found[1]


def with_questions(notebook: files.Notebook, number: str) -> files.Notebook:
    """The notebook with its tagged cells filled from the question bank."""
    makers = {"questions": questions.corner, "answers": questions.answers}
    result = json.loads(json.dumps(notebook))
    for cell in result["cells"]:
        for tag in set(files.tags(cell)) & set(makers):
            cell["source"] = makers[tag](number).strip().splitlines(keepends=True)
    return result


def stale(root: Path = ROOT) -> dict[Path, str | files.Notebook]:
    """Pages that are not what they should be -> what they should be."""
    found = {}
    readme = (root / "README.md").read_text(encoding="utf-8")
    if (new := filled(readme, blocks(shown_machine(readme)))) != readme:
        found[root / "README.md"] = new
    for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        notebook = files.read(path)
        new = with_questions(notebook, path.name[:2])
        if [files.source(cell) for cell in new["cells"]] != [files.source(cell) for cell in notebook["cells"]]:
            found[path] = new
    return found


def main(arguments: list[str]) -> int:
    """Bring the pages up to date, or with ``--check`` tell which are not."""
    found = stale()
    if arguments == ["--check"]:
        for path in found:
            print(f"{path.name} is out of date: python tools/pages.py", file=sys.stderr)
        return int(bool(found))
    for path, new in found.items():
        path.write_text(new, encoding="utf-8") if isinstance(new, str) else files.write(path, new)
        print(f"{path.name} brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
