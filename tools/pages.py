"""Write the computed parts of README.md anew from the ledger: ``python tools/pages.py``, or ``--check`` only.

Each stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. The README names the machine whose verdicts it
shows, so that the page stays the same on a machine with measurements of its own.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from whichbackbone.evidence import claims, markdown, summary

ROOT = Path(__file__).resolve().parent.parent
MACHINE = re.compile(r"measured on `([a-z0-9-]+)`")


def blocks(machine: str) -> dict[str, str]:
    """Name -> what belongs between its markers, for one machine's measurements."""
    rows = claims.verdicts(machine=machine)
    ledger = markdown.table(claims.shown(rows, "notebooks/"))
    situations = markdown.table(summary.situations(machine=machine))
    return {
        "answer": f"{summary.first_question(machine=machine)}\n\n{situations}",
        "verdicts": f"{claims.tally(rows)} {claims.LEGEND}.\n\n{ledger}",
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


def main(arguments: list[str]) -> int:
    """Bring README.md up to date, or with ``--check`` tell whether it is."""
    path = ROOT / "README.md"
    readme = path.read_text(encoding="utf-8")
    new = filled(readme, blocks(shown_machine(readme)))
    if new == readme:
        return 0
    if arguments == ["--check"]:
        print("README.md is out of date: python tools/pages.py", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8")
    print("README.md brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
