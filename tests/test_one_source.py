"""One number, one source: wherever a page shows the time of a net, or a ratio of two, it is that of the speed table."""

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser

import notebook_files as files
import pages
from project import ROOT, cell, notebook

from whichbackbone.evidence import claims, speed
from whichbackbone.evidence.speed import Point

README = (ROOT / "README.md").read_text(encoding="utf-8")
MACHINE = pages.shown_machine(README)
NUMBER = r"\d+(?:\.\d+)?"
RATIO = re.compile(rf"\*\*(?P<runtime>[^*]+)\*\* (?P<ratio>{NUMBER} \({NUMBER} to {NUMBER}\))")
NET = re.compile(r"[a-z]+[a-z0-9_]*\d[a-z0-9_]*(@\d+)?|mnasnet_small")
TENFOLD = "b0_ten_times_faster"  # the claim about the same pair


class Tables(HTMLParser):
    """Rows of the tables of a page: lists of the texts of their cells."""

    def __init__(self, page: str):
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr" and self.tables:
            self.tables[-1].append([])
        elif tag in ("td", "th") and self.tables:
            self.tables[-1][-1].append("")
            self.open = True

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, text: str) -> None:
        if self.open:
            self.tables[-1][-1][-1] += text.strip()


def shown_tables(content: files.Notebook) -> Iterator[list[dict[str, str]]]:
    """The tables of a notebook's outputs, as rows of column -> text."""
    for one in content["cells"]:
        for output in one.get("outputs", []):
            for head, *rows in Tables("".join(output.get("data", {}).get("text/html", ""))).tables:
                yield [dict(zip(head, row, strict=False)) for row in rows]


def times(content: files.Notebook) -> Iterator[tuple[str, str]]:
    """(net, ms) wherever a table shows a net's hot time in eager mode at batch 1, as the table writes it."""
    for rows in shown_tables(content):
        for row in rows:
            if {"net", "pixels", "ms", "visits"} <= row.keys():  # teach.costs.table
                yield row["net"], row["ms"]
            elif "ms, eager" in row and NET.fullmatch(row[""]):  # 09's table of all nets, whose labels are its index
                yield row[""], row["ms, eager"]


def text_of(content: files.Notebook) -> str:
    """All that a notebook's outputs say."""
    return "\n".join(files.output_text(output) for one in content["cells"] for output in one.get("outputs", []))


def faults(notebooks: Mapping[str, files.Notebook], table: speed.Table) -> Iterator[str]:
    """Times that are not those of the table, wherever they stand."""
    for name, content in notebooks.items():
        for label, shown in times(content):
            net, _, pixels = label.partition("@")
            expected = f"{table.time(Point(net, int(pixels or 0))).value:.1f}"
            if f"{float(shown):.1f}" != expected:
                yield f"{name}: {label} takes {shown} ms, and {expected} in the speed table"


def committed() -> dict[str, files.Notebook]:
    return {path.name[:2]: files.read(path) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}


def test_every_time_of_a_net_is_that_of_the_speed_table():
    notebooks, table = committed(), speed.table(of=MACHINE)
    assert list(faults(notebooks, table)) == []
    with_times = {name for name, content in notebooks.items() if list(times(content))}
    assert with_times >= {"02", "03", "04", "05", "06", "07", "09"}, "all pages that show times are looked at"


def test_a_time_from_elsewhere_is_caught():
    right = f"{speed.table(of=MACHINE).time(Point('resnet50')).value:.1f}"
    page = ("<table><tr><th>net</th><th>pixels</th><th>ms</th><th>visits</th></tr>"
            "<tr><td>resnet50</td><td>224</td><td>{}</td><td>4</td></tr></table>")  # fmt: skip

    def found(ms: str) -> list[str]:
        shown = cell("code", "") | dict(outputs=[dict(output_type="display_data", data={"text/html": page.format(ms)})])
        return list(faults({"02": notebook(shown)}, speed.table(of=MACHINE)))

    assert found(right) == [] and found("1.5") == [f"02: resnet50 takes 1.5 ms, and {right} in the speed table"]


def ratios() -> dict[str, str]:
    """Runtime -> time of ResNet-50 over that of B0, as the ledger has it."""
    cases = claims.verdicts(MACHINE, ids=[TENFOLD]).cases.iloc[0]
    return {case.where.removeprefix("this CPU, "): case.figure.text(2) for case in cases if case.machine == MACHINE}


def test_the_ratio_of_the_first_question_is_the_same_on_every_page():
    told = {m["runtime"]: m["ratio"] for m in RATIO.finditer(text_of(committed()["09"]))}
    ledger = ratios()
    ledger = {runtime: figure for runtime, figure in ledger.items() if runtime in told}
    assert len(ledger) >= 4 and told == ledger
    for name, text in {"README": README, "00": text_of(committed()["00"]), "14": text_of(committed()["14"])}.items():
        row = next(line for line in text.splitlines() if line.startswith("| B0's tenth of ResNet-50's operations is a"))
        for runtime, figure in ledger.items():
            assert f"{runtime} {figure.replace(' (', 'x (')}" in row, f"{name}: {runtime}"
