"""A small repository to break: the real commands and tools, with notebooks of the test's making."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from whichbackbone.evidence import closure

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-weights.txt")
HIDDEN = {".venv", "tools", "__pycache__"}

# Stands in for whichbackbone.figures in a notebook, which must not wait for torch.
DRAW = """\
from pathlib import Path
from types import SimpleNamespace

def write(fig, name):
    folder = Path(output or "..") / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_text(profile)

figures = SimpleNamespace(save=write)"""


def call(command: Path, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, its output kept as text."""
    options = {"capture_output": True, "text": True, "timeout": 600, "stdin": subprocess.DEVNULL} | options
    return subprocess.run([str(command), *map(str, arguments)], **options)


def cell(kind: str, text: str, tags: list[str] | None = None) -> dict:
    """A cell as nbformat 4.5 has it, without an id."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {"tags": tags} if tags else {}, "source": text, **code}


def notebook(*cells: dict | str) -> dict:
    """A notebook with a cell of parameters and then these; strings are code."""
    parameters = cell("code", 'profile = "standard"\noutput = ""', ["parameters"])
    every = [parameters, *(c if isinstance(c, dict) else cell("code", c) for c in cells)]
    for number, one in enumerate(every):
        one["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": every, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def other_jupyter(folder: Path) -> dict[str, str]:
    """Variables of a user whose own Jupyter starts another kernel under the same name, which ends at once."""
    for name in ("path/kernels/python3", "config", "data"):
        (folder / name).mkdir(parents=True)
    spec = {"argv": ["false", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (folder / "path/kernels/python3/kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    dirs = f"c.KernelSpecManager.kernel_dirs = [{str(folder / 'path/kernels')!r}]\n"
    (folder / "config/jupyter_config.py").write_text(dirs, encoding="utf-8")
    names = {"JUPYTER_PATH": "path", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
    return {name: str(folder / part) for name, part in names.items()}


class Project:
    """A folder with this repository's commands and tools, what these call of the package, and no environment yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        needed = ("whichbackbone.evidence.closure", "whichbackbone.evidence.machine", "whichbackbone.folders")
        called = closure.closure(*needed).values()
        shutil.copytree(ROOT / "tools", folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("notebooks", "data", "whichbackbone/evidence"):
            (folder / name).mkdir(parents=True)
        for name in ("run_all.sh", "run_tests.sh", *LOCKS, *(path.relative_to(ROOT) for path in called)):
            shutil.copy2(ROOT / name, folder / name)

    def make_ready(self) -> "Project":
        """Lend it the environment that runs the tests, finished as a first call would have left it."""
        (self.folder / ".venv").mkdir()
        for part in Path(sys.prefix).iterdir():
            if part.name not in (".ready", "install.log"):
                (self.folder / ".venv" / part.name).symlink_to(part)
        version = ".".join(map(str, sys.version_info[:3]))
        locks = "".join((self.folder / name).read_text(encoding="utf-8") for name in LOCKS)
        (self.folder / ".venv" / ".ready").write_text(f"{version}\n{locks}", encoding="utf-8")
        return self

    def add(self, name: str, *cells: dict | str) -> Path:
        """Write a notebook with these cells after the cell of parameters."""
        path = self.folder / "notebooks" / f"{name}.ipynb"
        path.write_text(json.dumps(notebook(*cells)), encoding="utf-8")
        return path

    def run_all(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Call ``run_all.sh`` as a user does."""
        return call(self.folder / "run_all.sh", *arguments, **{"cwd": self.folder} | options)

    def files(self) -> set[str]:
        """Every file but those of the environment and the tools, and what Python compiles."""
        every = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {path.as_posix() for path in every if not {path.parts[0], path.parent.name} & HIDDEN}
