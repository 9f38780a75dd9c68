"""Write the computed parts of README.md anew from the ledger: ``python tools/readme_tables.py``, or ``--check`` only.

Each stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. The README names the machine whose verdicts it
shows, so that the page stays the same on a machine with measurements of its own.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from whichbackbone.evidence import claims, store, summary

ROOT = Path(__file__).resolve().parent.parent
MACHINE = re.compile(r"measured on `([a-z0-9-]+)`")


def verdict_table(verdicts: pd.DataFrame) -> str:
    """The ledger as a Markdown table, one row a claim, each linked to the section that measured it."""
    rows = [
        {
            "claim": f"{row.claim} ({row.who})",
            "verdict": re.sub(r"^([^:]*:?)", r"**\1**", row.verdict),
            "measured here": short(row.measured, row.verdict),
            "published": short(row.published, row.verdict),
            "evidence": f"[{row.notebook[:2]}](notebooks/{row.notebook}.ipynb#{anchor(row.section)})",
        }
        for row in verdicts.fillna("").itertuples()
    ]
    return pipes(pd.DataFrame(rows))


def pipes(frame: pd.DataFrame) -> str:
    """A Markdown table without padding: a changed cell changes its own line only."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).values.tolist()]
    cells = ([cell.replace("|", r"\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def short(figures: str, verdict: str = "", most: int = 2) -> str:
    """The first figures of a claim, those that its verdict names before the others; notebook 14 has them all."""
    named = verdict.partition(": ")[2].split("; ")
    parts = sorted(str(figures).split("; "), key=lambda part: part.rpartition(": ")[0] not in named)
    return "; ".join(parts[:most]) + (f"; and {len(parts) - most} more" if len(parts) > most else "")


def anchor(section: str) -> str:
    """The name that Jupyter gives a heading."""
    return re.sub(r"[`*]", "", section).strip().replace(" ", "-").replace("(", "%28").replace(")", "%29")


def tally(verdicts: pd.DataFrame) -> str:
    """How many claims have which verdict, in one sentence."""
    kinds = ("holds only if", "holds", "does not hold", "cannot be told", "not measured")
    first = [next((kind for kind in kinds if verdict.startswith(kind)), verdict) for verdict in verdicts.verdict]
    counts = pd.Series(first).value_counts()
    told = ", ".join(f"{counts[kind]} {kind}" for kind in kinds if kind in counts)
    return f"Of {len(verdicts)} claims: **{told}**."


def blocks(machine: str) -> dict[str, str]:
    """Name -> what belongs between its markers, for one machine's measurements."""
    verdicts = claims.verdicts(machine=machine)
    ledger_says = f"{tally(verdicts)}\n\n{verdict_table(verdicts)}"
    answer = f"{summary.first_question(machine=machine)}\n\n{pipes(summary.situations(machine=machine))}"
    return {"answer": answer, "verdicts": ledger_says, "cluster": cluster(machine)}


STEPS = """\
Notebook [06](notebooks/06_regnet.ipynb#The-paper's-size,-on-a-cluster) samples and trains populations of nets, small
ones so that two cores are enough. 500 models in each space, as in the paper, run on any Dask cluster:

1. `pip install dask-jobqueue` (Slurm) or `pip install dask-kubernetes`, and this repository where all nodes see it.
2. Slurm: `cluster = dask_jobqueue.SLURMCluster(cores=1, processes=1, memory="3GiB", walltime="02:00:00")`, then
   `cluster.scale(64)`. Kubernetes: `cluster = dask_kubernetes.operator.KubeCluster(image=YOUR_IMAGE, n_workers=64)`.
3. `export DASK_SCHEDULER_ADDRESS=...` with `cluster.scheduler_address`, then run notebook 06 with `nets=500`. What is
   trained is stored at once, so an interrupted sweep goes on where it stopped."""


def cluster(machine: str) -> str:
    """How to run notebook 06's populations at the paper's size, and what it costs by what 06 measured."""
    try:
        rows = store.latest("06_regnet", "cluster", of=machine)
    except FileNotFoundError:
        return f"{STEPS}\n4. Cost: not measured yet: run 06."
    ours, paper = (row for _, row in rows.iloc[:2].iterrows())
    return (
        f"{STEPS}\n4. Cost: {ours['seconds a net']:.1f} core-seconds a net, measured on `{machine}`: "
        f"{ours['core-hours']:.1f} core-hours in all, {ours['hours on 64 cores'] * 60:.0f} minutes on 64 such cores.\n"
        f"5. The paper's own nets ({paper['what'].split(': ')[-1]}) would take {paper['core-hours']:,.0f} such "
        "core-hours: bring GPUs."
    )


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
        print("README.md is out of date: python tools/readme_tables.py", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8")
    print("README.md brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
