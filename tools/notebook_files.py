"""What can be said of a notebook from its file alone. For the runner, and for the tests of the committed notebooks."""

import ast
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

Cell = dict
Notebook = dict

# Folders that exist on one machine only, so no reader can use them.
FOLDERS = "root|home|work|tmp|var|private|Users|mnt|opt"
MACHINE_PATH = re.compile(rf"(?<![\w.:/])(?:/(?:{FOLDERS})/[\w.~-]+|[A-Z]:\\\w+)")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
WIDGET = "application/vnd.jupyter.widget-view+json"
COLAB = 'if "google.colab" in sys.modules:'  # what the cell that only Colab needs begins with


def read(path: Path) -> Notebook:
    """Parse a notebook file. Raises ``ValueError`` that names the file when it is not one."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(notebook["cells"], list):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path.name} is not a notebook (nbformat 4 JSON): restore it") from None
    return notebook


def write(path: Path, notebook: Notebook) -> bool:
    """Write a notebook atomically, as Jupyter formats it. Returns whether the file changed."""
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    return True


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is there complete or as it was before, whatever interrupts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def source(cell: Cell) -> str:
    """Text of a cell, which nbformat allows as one string or a list of lines."""
    return "".join(cell["source"])


def tags(cell: Cell) -> list[str]:
    """Tags of a cell."""
    return cell.get("metadata", {}).get("tags", [])


def code_cells(notebook: Notebook) -> list[Cell]:
    """The code cells that the author wrote: not empty ones, and not the one that papermill adds."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and source(cell).strip() and "injected-parameters" not in tags(cell)
    ]


def code_hash(notebook: Notebook) -> str:
    """Hash of the code cells: stored beside the outputs, it tells whether they were made from the code beside them.

    The cell that works on Colab alone has no part in outputs made elsewhere, and none in the hash; nor have comments,
    docstrings and layout.
    """
    from whichbackbone.evidence import closure  # the package beside these tools, found in the environment

    return digest(*(closure.canonical(text, cell=True) for text in closure.cell_sources(notebook)))


def digest(*parts: str | bytes) -> str:
    """Hash of a sequence of texts; where one ends and the next begins matters."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "big") + data)
    return total.hexdigest()[:16]


def declared_figures(notebook: Notebook) -> list[str]:
    """Names in the notebook's calls ``figures.save(fig, "NAME", ...)``.

    Raises ``ValueError`` for a name that is not written out, since then nobody can say beforehand what a run must draw.
    """
    names = []
    for cell in code_cells(notebook):
        for call in calls(cell, "figures", "save"):
            name = next((k.value for k in call.keywords if k.arg == "name"), None) or (call.args[1:2] or [None])[0]
            if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
                raise ValueError(f"write the figure's name out in the call: {ast.unparse(call)[:80]}")
            names.append(name.value)
    return names


def declared_tables(notebook: Notebook) -> list[str]:
    """Names in its calls ``store.append("NAME", ...)`` and ``store.measured(...)``: the tables that it may write."""
    ways = ("append", "measured")
    found = (call for cell in code_cells(notebook) for way in ways for call in calls(cell, "store", way))
    first = (call.args[0] for call in found if call.args)
    return sorted({name.value for name in first if isinstance(name, ast.Constant) and isinstance(name.value, str)})


def reads_results(notebook: Notebook) -> bool:
    """Whether the notebook draws on what other notebooks measured, itself or through the ledger and the chooser."""
    readers = [("store", "read"), ("store", "latest"), ("chooser", "choose"), ("visits", "table")]
    readers += [("summary", way) for way in ("situations", "first_question")]
    readers += [("claims", way) for way in ("verdicts", "table", "sentence", "word", "figure")]
    return any(True for cell in code_cells(notebook) for reader in readers for _ in calls(cell, *reader))


def calls(cell: Cell, module: str, function: str) -> Iterator[ast.Call]:
    """Find the calls ``module.function(...)`` in a code cell."""
    return (call for name, call in _named_calls(source(cell)) if name == f"{module}.{function}")


@functools.cache
def _named_calls(source: str) -> list[tuple[str, ast.Call]]:
    # IPython's magics are not Python.
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:
        return []  # the run itself will show it, with its place
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def output_text(output: dict) -> str:
    """All text of one output, pictures left out."""
    parts = [output.get("text", ""), *output.get("traceback", [])]
    parts += [value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join("".join(part) if isinstance(part, list) else str(part) for part in parts)


def machine_path(text: str) -> str | None:
    """The first path in a text that exists on one machine only, or None."""
    found = MACHINE_PATH.search(text)
    return found.group() if found else None


def with_outputs(own: Notebook, executed: Notebook, profile: str) -> Notebook:
    """The notebook ``own`` with the outputs of ``executed`` and nothing else that papermill added.

    Starting from the author's file, no metadata, tag, timing or cell of papermill's can get through. Left out of the
    outputs: what went to stderr, widgets, which show only where a kernel runs, and what matplotlib leaves behind while
    a figure takes several cells (half drawn, or as the name of a line): ``figures.save`` shows each when it is done.

    Raises ``ValueError`` when the code was edited since, and when an output names a folder of this machine.
    """
    if code_hash(own) != code_hash(executed) or len(code_cells(own)) != len(code_cells(executed)):
        raise ValueError("it was edited while it ran: run it again")
    result = json.loads(json.dumps(own))
    for number, (cell, ran) in enumerate(zip(code_cells(result), code_cells(executed), strict=True), start=1):
        cell["execution_count"] = number
        cell["outputs"] = [_scrubbed(output, number) for output in ran["outputs"] if not _is_noise(output)]
        for output in cell["outputs"]:
            if path := machine_path(output_text(output)):
                raise ValueError(f"the output of cell [{number}] names a folder of this machine, {path}")
    for cell in result["cells"]:
        cell["metadata"] = {key: cell["metadata"][key] for key in ("tags",) if key in cell.get("metadata", {})}
        if cell["cell_type"] == "code" and not source(cell).strip():
            cell.update(execution_count=None, outputs=[])
    result["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "whichbackbone": {"code": code_hash(result), "profile": profile},
    }
    return result


def _is_noise(output: dict) -> bool:
    data = output.get("data", {})
    text = "".join(data.get("text/plain", ""))
    drawing = (
        re.match(r"\[?<matplotlib\.", text)
        or text.startswith("<Figure size ")
        and not any(about.get("alt") for about in output.get("metadata", {}).values())
    )
    return output.get("name") == "stderr" or WIDGET in data or bool(drawing)


def _scrubbed(output: dict, number: int) -> dict:
    kept = {key: value for key, value in output.items() if key != "transient"}
    data = kept.get("data", {})
    if {"text/html", "text/plain"} <= data.keys():
        # As plain text a styled table is but its address in memory, which is another in every run.
        kept["data"] = data | {"text/plain": ADDRESS.sub("", "".join(data["text/plain"]))}
    return kept | {"execution_count": number} if "execution_count" in kept else kept
