"""The committed notebooks are what a reader should see; and each check is shown to catch what it is there for."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import notebook_files as files
import pytest
from project import ROOT, cell, notebook

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

MAX_LINES = 25
MAX_IMAGE = 150_000  # bytes
MAX_FILE = 1_000_000  # bytes; GitHub fails to show notebooks not much larger

# Measured numbers are printed by cells. What a person typed is stale on the next machine.
NUMBER = r"(?<![\w.])\d[\d,]*(?:\.\d+)?\s*"
RATE = r"(?:[nµμum]s|milliseconds?|fps|(?:imgs?|images?|samples)\s*/\s*s(?:ec)?|[KMGT]?FLOPS|[MGT]?FLOPs?/s|[MGT]i?B/s)"
FACTOR = r"(?:x|×|times|-?fold)\s+(?:faster|slower|as fast|as slow|speed-?up|quicker)"
SHARE = r"%\s*(?:faster|slower|(?:top-1|training|test|validation)?\s*(?:error|accuracy))"
TYPED = re.compile(rf"{NUMBER}(?:{RATE}\b|{FACTOR}|{SHARE})", re.IGNORECASE)
ASIDE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$", re.DOTALL)  # code and formulas are no claims


def faults(content: files.Notebook, size: int = 0) -> Iterator[str]:
    """All that a reader would trip over, one line each."""
    yield from _faults_of_file(content, size)
    counts = [one.get("execution_count") for one in files.code_cells(content)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed in order: {counts[:10]} ..."
    for number, one in enumerate(files.code_cells(content), start=1):
        if (lines := len(files.source(one).splitlines())) > MAX_LINES:
            yield f"cell [{number}] has {lines} lines, over {MAX_LINES}"
        for output in one.get("outputs", []):
            yield from (f"cell [{number}]: {fault}" for fault in _faults_of_output(output))
    for one in content["cells"]:
        if one["cell_type"] == "markdown":
            text = files.source(one)
            if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")", text):
                yield f"a picture without alt text in {text[:60]!r}"
            if typed := TYPED.search(ASIDE.sub(" ", text)):
                yield f"a measurement typed in prose: {typed.group()!r}"


def _faults_of_file(content: files.Notebook, size: int) -> Iterator[str]:
    cells, metadata = content["cells"], content.get("metadata", {})
    if size > MAX_FILE:
        yield f"{size:,} bytes, over {MAX_FILE:,}"
    if not (cells[0]["cell_type"] == "markdown" and files.source(cells[0]).startswith("# ")):
        yield "the first cell is not a title"
    own = [one for one in files.code_cells(content) if "parameters" in files.tags(one)]
    if [re.findall(r"^(\w+) = (\S+)", files.source(one), re.MULTILINE) for one in own] != [
        [("profile", '"standard"'), ("output", '""')]
    ]:
        yield 'no cell tagged "parameters" with profile = "standard" and output = ""'
    if "widgets" in metadata or "papermill" in metadata:
        yield "metadata of widgets or papermill"
    if any("papermill" in one.get("metadata", {}) or "injected-parameters" in files.tags(one) for one in cells):
        yield "a cell of papermill's, or with its metadata"
    made = metadata.get("whichbackbone", {})
    if made.get("profile") != "standard":
        yield f"outputs of profile {made.get('profile')}, expected standard: run ./run_all.sh --update"
    if made.get("code") != files.code_hash(content):
        yield "outputs were not made from the code beside them: run ./run_all.sh --update"


def _faults_of_output(output: dict) -> Iterator[str]:
    text, data = files.output_text(output), output.get("data", {})
    if output["output_type"] == "error":
        yield f"error {output['ename']}"
    if output.get("name") == "stderr":
        yield f"stderr: {text[:60]!r}"
    if warning := re.search(r"\w*Warning: .*", text):
        yield f"warning: {warning.group()[:60]!r}"
    if path := files.machine_path(text):
        yield f"path of a machine: {path}"
    if address := re.search(r"\bat 0x[0-9a-f]{6,}", text):
        yield f"an address in memory: {address.group()}"
    if any("widget" in kind for kind in data):
        yield "widget"
    if "<script" in text.lower():
        yield "script"
    for kind in (kind for kind in data if kind.startswith("image/")):
        if not output.get("metadata", {}).get(kind, {}).get("alt", "").strip():
            yield "picture without alt text"
        if (size := len("".join(data[kind])) * 3 // 4) > MAX_IMAGE:
            yield f"picture of {size:,} bytes, over {MAX_IMAGE:,}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_has_no_fault(path):
    assert list(faults(files.read(path), path.stat().st_size)) == []


def test_there_are_notebooks():
    assert NOTEBOOKS and all(re.fullmatch(r"\d\d_[a-z_]+", path.stem) for path in NOTEBOOKS)


def test_figures_carry_their_notebooks_number():
    for path in NOTEBOOKS:
        names = files.declared_figures(files.read(path))
        assert all(name.startswith(f"{path.name[:3]}") for name in names), (path.name, names)
        assert len(names) == len(set(names)), (path.name, names)


# ------------------------------------------------------------------------------------------------- planted faults


@pytest.fixture
def good() -> files.Notebook:
    """A small notebook as it should be committed."""
    content = notebook(cell("markdown", "Prose."), "picture", "print('text')")
    content["cells"].insert(0, cell("markdown", "# Title"))
    png = {"data": {"image/png": "iVBORw0KGgo="}, "metadata": {"image/png": {"alt": "a line"}}}
    text = {"output_type": "stream", "name": "stdout", "text": "text\n"}
    for number, one in enumerate(files.code_cells(content), start=1):
        one["execution_count"] = number
    content["cells"][3]["outputs"] = [{"output_type": "display_data"} | png]
    content["cells"][4]["outputs"] = [text]
    content["metadata"]["whichbackbone"] = {"code": files.code_hash(content), "profile": "standard"}
    return content


def test_a_good_notebook_has_no_fault(good):
    assert list(faults(good)) == []


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def shown(**data: str) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {k.replace("_", "/", 1): v for k, v in data.items()}}


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}, "error ValueError"),
        (stream("Downloading\n", "stderr"), "stderr"),
        (stream("a.py:3: UserWarning: look out\n"), "warning"),
        (stream("cache at /ho" + "me/me/cache\n"), "path of a machine"),
        (shown(text_plain="<function f at 0x7f0123456789>"), "address in memory"),
        ({"output_type": "display_data", "data": {files.WIDGET: {"model_id": "1"}}}, "widget"),
        (shown(text_html="<script>1</script>"), "script"),
        (shown(image_png="iVBORw0KGgo="), "without alt text"),
        (shown(image_png="A" * 300_000), "over 150,000"),
    ],
)
def test_a_planted_output_is_caught(good, output, says):
    good["cells"][4]["outputs"].append(output)
    assert any(says in fault for fault in faults(good))


@pytest.mark.parametrize(
    "prose",
    [
        "It takes 12 ms here.",
        "ResNet-50 reaches 1,234.5 images/s.",
        "It is 2.9x faster than ResNet-50.",
        "about 4 times slower",
        "a training error of 44 % or 44 % training error",
        "30% faster",
        "The peak is 120 GFLOP/s.",
        "memory at 20 GB/s",
        "![](../figures/x.png)",
        '<img src="../figures/x.png">',
    ],
)
def test_planted_prose_is_caught(good, prose):
    good["cells"].append(cell("markdown", prose))
    assert len(list(faults(good))) == 1


@pytest.mark.parametrize(
    "prose",
    [
        "Time to run: 5 min.",
        "The images have 3x32x32 values, 36 classes.",
        "ResNet-50 has 25.6 M parameters and 4.1 GMACs.",
        "a 95 % interval",
        "`time.sleep(5 ms)` and $t = 3 ms$",
        "3 times as many channels",
        "![what it shows](../figures/x.png)",
    ],
)
def test_other_prose_is_not(good, prose):
    good["cells"].append(cell("markdown", prose))
    assert list(faults(good)) == []


def test_planted_changes_of_cells_and_metadata_are_caught(good):
    def one_fault(change, says):
        content = copy.deepcopy(good)
        change(content)
        assert any(says in fault for fault in faults(content)), says

    one_fault(lambda n: n["cells"][4].update(execution_count=7), "not executed in order")
    one_fault(lambda n: n["cells"][4].update(execution_count=None), "not executed in order")
    one_fault(lambda n: n["cells"][4].update(source="x = 1\n" * 26), "26 lines")
    one_fault(lambda n: n["cells"][4].update(source="print('new')"), "not made from the code beside them")
    one_fault(lambda n: n["cells"].pop(3), "not made from the code beside them")
    one_fault(lambda n: n["cells"].pop(0), "not a title")
    one_fault(lambda n: n["cells"][1]["metadata"].clear(), 'tagged "parameters"')
    one_fault(lambda n: n["cells"][1].update(source='profile = "smoke"\noutput = ""'), 'tagged "parameters"')
    one_fault(lambda n: n["metadata"].pop("whichbackbone"), "expected standard")
    one_fault(lambda n: n["metadata"]["whichbackbone"].update(profile="smoke"), "expected standard")
    one_fault(lambda n: n["metadata"].update(widgets={}), "widgets or papermill")
    one_fault(lambda n: n["metadata"].update(papermill={}), "widgets or papermill")
    one_fault(lambda n: n["cells"][4]["metadata"].update(papermill={}), "papermill's")
    assert any("over 1,000,000" in fault for fault in faults(good, 1_000_001))


def test_the_cell_for_colab_has_no_part_in_outputs_made_elsewhere(good):
    before = files.code_hash(good)
    good["cells"].insert(2, cell("code", 'import sys\n\nif "google.colab" in sys.modules:\n    pass'))
    assert files.code_hash(good) == before
    good["cells"].insert(2, cell("code", "import sys"))
    assert files.code_hash(good) != before


def test_what_update_writes_has_no_fault(good, tmp_path: Path):
    executed = copy.deepcopy(good)
    executed["cells"].insert(2, cell("code", "profile = 'standard'", ["injected-parameters"]))
    executed["cells"][2]["outputs"] = []
    executed["cells"][-1]["outputs"] += [stream("noise", "stderr")]
    own = copy.deepcopy(good)
    for one in files.code_cells(own):
        one.update(outputs=[], execution_count=None)
    path = tmp_path / "01_a.ipynb"
    assert files.write(path, files.with_outputs(own, executed, "standard"))
    assert list(faults(json.loads(path.read_text()))) == []


def test_half_drawn_figures_stay_out_and_finished_ones_in():
    own, executed = (notebook("1 + 1") for _ in range(2))
    half = shown(text_plain="<Figure size 800x420 with 1 Axes>", image_png="iVBORw0KGgo=")
    line = shown(text_plain="[<matplotlib.lines.Line2D at 0x7f0123456789>]")
    done = shown(text_plain="<IPython.core.display.Image object>", image_png="iVBORw0KGgo=")
    done["metadata"] = {"image/png": {"alt": "a line"}}
    files.code_cells(executed)[1]["outputs"] = [half, line, done]
    assert files.code_cells(files.with_outputs(own, executed, "standard"))[1]["outputs"] == [done]


def test_the_address_of_a_styled_table_is_scrubbed():
    own = notebook("1 + 1")
    executed = notebook("1 + 1")
    table = shown(text_html="<table></table>", text_plain="<pandas.io.formats.style.Styler at 0x7f0123456789>")
    files.code_cells(executed)[0]["outputs"] = [table]
    kept = files.code_cells(files.with_outputs(own, executed, "standard"))[0]["outputs"][0]["data"]
    assert kept == {"text/html": "<table></table>", "text/plain": "<pandas.io.formats.style.Styler>"}
