"""The rules of the house, read from the imports of the code; and each is shown to catch what it is there for."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import notebook_files as files
import pytest
from project import ROOT, notebook

from whichbackbone.evidence.closure import closure, imported, notebook_imports

PACKAGE = "whichbackbone"

# The rooms, from the lowest floor to the highest. A module imports from its own floor and those below it; tools/ and
# benchmarks/ stand above all. What has no room yet gets one here.
FLOORS = (
    ("__init__", "folders", "models", "optional", "profiles", "yaml_lines"),
    ("checks", "evidence", "figures", "measure", "weights"),
    ("experiments",),
    ("teach",),
    ("__main__",),
)
SMALL = ("__init__", "folders", "optional", "profiles", "yaml_lines")  # these load no library of weight
# Rooms that import from fewer than their floor allows.
NARROW = {
    **dict.fromkeys(SMALL, SMALL),
    "models": ("__init__", "models"),
    "evidence": (*SMALL, "evidence"),
    "figures": (*SMALL, "evidence", "figures"),
}

# What a page, a phone or a CI without these must not need to read the evidence.
HEAVY = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "nncf",
         "matplotlib", "seaborn", "schemdraw", "adjustText")  # fmt: skip
OPTIONAL = ("openvino", "onnxruntime", "nncf", "dask", "distributed", "optuna")


@dataclass(frozen=True)
class Import:
    """One name that a module imports: ``name`` is dotted and whole, ``inside`` a function or not."""

    where: str
    room: str
    name: str
    inside: bool

    @property
    def library(self) -> str:
        """The package that is imported from."""
        return self.name.partition(".")[0]

    @property
    def target(self) -> str:
        """The room that is imported from, or "" outside the package."""
        return ([*self.name.split("."), "__init__"][1]) if self.library == PACKAGE else ""


def modules(root: Path) -> dict[str, Path]:
    """Name and file of each module of the package."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(root: Path) -> Iterator[Import]:
    """Every import of the package, also those within functions and branches, and by a name written out."""
    for name, path in modules(root).items():
        room = [*name.split("."), "__init__"][1]
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        waiting = [(ast.parse(path.read_text(encoding="utf-8")), False)]
        while waiting:
            node, inside = waiting.pop()
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                names = [".".join(filter(None, [*above, node.module, alias.name])) for alias in node.names]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                names = [text.value for text in node.args[:1] if isinstance(text, ast.Constant)]
            for found in names:
                yield Import(f"{path.relative_to(root).as_posix()}:{node.lineno}", room, found, inside)
            inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


# ----------------------------------------------------------------------------------------------------------- floors


def floor_faults(root: Path) -> Iterator[str]:
    """Modules without a floor, and imports from a room that the importing one may not enter."""
    height = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    above = {path.stem for path in (root / "tools").glob("*.py")} | {"tools", "benchmarks", "tests"}
    for room in sorted({[*name.split("."), "__init__"][1] for name in modules(root)} - height.keys()):
        yield f"{PACKAGE}/{room} has no floor: give it one in FLOORS"
    for one in imports(root):
        if one.library in above:
            yield f"{one.where} imports {one.name}, which stands above the package"
        elif not one.target or not {one.room, one.target} <= height.keys():
            if one.target and f"{PACKAGE}.{one.target}" not in modules(root):
                yield f"{one.where} imports {one.name}, which does not exist"
        elif height[one.target] > height[one.room]:
            yield f"{one.where} imports {one.name}, which is a floor above {one.room}"
        elif one.room in NARROW and one.target not in NARROW[one.room]:
            yield f"{one.where} imports {one.name}: {one.room} may import {', '.join(NARROW[one.room])} alone"


# -------------------------------------------------------------------------------------------------------- libraries


def library_faults(root: Path) -> Iterator[str]:
    """Imports of libraries where they must not be, or not outside of a function."""
    for one in imports(root):
        if one.room == "models" and one.library not in {"torch", PACKAGE, *sys.stdlib_module_names}:
            yield f"{one.where} imports {one.library}: models import torch alone"
        if one.room == "evidence" and one.library in HEAVY:
            yield f"{one.where} imports {one.library}: the evidence can be read without it"
        if one.room == "evidence" and one.library == "scipy" and not one.inside:
            yield f"{one.where} imports scipy: in the evidence only within functions"
        if one.library in OPTIONAL and not one.inside:
            yield f"{one.where} imports {one.library}: it is optional, import it in the function that uses it"


IMPORT_ALL = f"""
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
evidence = importlib.import_module("{PACKAGE}.evidence")
for module in pkgutil.walk_packages(evidence.__path__, evidence.__name__ + "."):
    print(importlib.import_module(module.name).__file__)
"""


def import_evidence(root: Path) -> subprocess.CompletedProcess[str]:
    """Import every module of the evidence where the heavy libraries, and scipy, cannot be imported."""
    command = [sys.executable, "-c", IMPORT_ALL, root, *HEAVY, "scipy"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


# ------------------------------------------------------------------------------------------------------------ needed


def needless(root: Path) -> list[str]:
    """Modules that no notebook, no tool and no command reaches by imports. Tests and benchmarks do not count."""
    roots = {f"{PACKAGE}.__main__"}
    for path in (root / "notebooks").glob("*.ipynb"):
        roots |= notebook_imports(files.read(path), root)
    for path in (root / "tools").glob("*.py"):
        roots |= imported(path.read_text(encoding="utf-8"), root=root)
    return sorted(modules(root).keys() - closure(*roots, root=root).keys())


# ------------------------------------------------------------------------------------------------------- this house


def test_nothing_imports_from_a_floor_above():
    assert list(floor_faults(ROOT)) == []


def test_libraries_are_imported_where_they_may_be():
    assert list(library_faults(ROOT)) == []


def test_the_evidence_is_read_without_torch_runtimes_and_plotting():
    done = import_evidence(ROOT)
    assert done.returncode == 0, done.stderr
    # Sub-packages are imported by their __init__.py, and the first one is not printed.
    every = {path for name, path in modules(ROOT).items() if name.startswith(f"{PACKAGE}.evidence.")}
    assert set(map(Path, done.stdout.splitlines())) == every


def test_every_module_is_needed():
    assert needless(ROOT) == []


# ------------------------------------------------------------------------------------------------- one with faults


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small package that keeps the rules, with what needs its modules."""
    build(tmp_path, {
        "folders": "import os",
        "profiles": "from types import SimpleNamespace",
        "models/resnet": "import torch\nfrom torch import nn\nimport math",
        "models/regnet": f"from {PACKAGE}.models.resnet import Network\nfrom . import resnet",
        "evidence/store": f"import json\nfrom {PACKAGE}.folders import DATA",
        "evidence/claims": f"import yaml\nfrom {PACKAGE} import profiles\nfrom .store import Store\n"
                           "def f():\n    import scipy",
        "measure/timing": f"import torch\nfrom {PACKAGE}.evidence import store\ndef f():\n    import openvino",
        "weights": f"from {PACKAGE}.measure import timing\nfrom {PACKAGE}.models import regnet",
        "experiments/training": f"import {PACKAGE}.weights\nfrom {PACKAGE} import measure",
        "teach/exercises": f"from ..experiments import training\nfrom {PACKAGE}.evidence import claims",
        "__main__": f"from {PACKAGE}.teach import exercises",
    })  # fmt: skip
    for folder in ("notebooks", "tools", "tests", "benchmarks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tools/runner.py").write_text(f"import {PACKAGE}.evidence.claims")
    return tmp_path


def build(root: Path, texts: dict[str, str]) -> None:
    """Write modules of the package, and the ``__init__.py`` of their folders."""
    for name, text in texts.items():
        path = root / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for folder in {root / PACKAGE, path.parent}:
            if not (folder / "__init__.py").exists():
                (folder / "__init__.py").touch()


def faults(root: Path) -> list[str]:
    """Every fault that the imports of a package show."""
    return [*floor_faults(root), *library_faults(root), *needless(root)]


def test_a_house_that_keeps_the_rules_has_no_fault(house):
    assert faults(house) == []



@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        # models: torch, the standard library, each other
        ("models/resnet", "import numpy", "resnet.py:1 imports numpy: models import torch alone"),
        ("models/resnet", "def f():\n    from torchvision.ops import x", "resnet.py:2 imports torchvision: models"),
        ("models/resnet", f"from {PACKAGE} import folders", f"imports {PACKAGE}.folders: models may import"),
        # evidence: none of what is heavy, also within functions
        ("evidence/store", "from torch import nn", "store.py:1 imports torch: the evidence can be read without it"),
        ("evidence/store", "def f():\n    import matplotlib.pyplot as plt", "store.py:2 imports matplotlib: the"),
        ("evidence/store", "import importlib as i\ni.import_module('timm.models')", "store.py:2 imports timm: the"),
        ("evidence/store", "from scipy import stats", "store.py:1 imports scipy: in the evidence only within"),
        ("evidence/store", f"from {PACKAGE}.measure import timing", "measure.timing: evidence may import"),
        ("figures", f"from {PACKAGE}.measure import timing", "measure.timing: figures may import"),
        # arrows
        ("measure/timing", f"from {PACKAGE}.experiments.training import x", "which is a floor above measure"),
        ("measure/timing", "from ..experiments import training", "which is a floor above measure"),
        ("weights", f"def f():\n    import {PACKAGE}.teach", "imports whichbackbone.teach, which is a floor above"),
        ("experiments/training", f"from {PACKAGE} import teach", "which is a floor above experiments"),
        ("folders", f"from {PACKAGE} import checks", "which is a floor above folders"),
        ("teach/exercises", "import runner", "imports runner, which stands above the package"),
        ("teach/exercises", "from benchmarks import a", "imports benchmarks.a, which stands above the package"),
        ("teach/exercises", f"from {PACKAGE} import results", f"imports {PACKAGE}.results, which does not exist"),
        ("attic", "", f"{PACKAGE}/attic has no floor"),
        # what is optional
        ("measure/timing", "import openvino as ov", "timing.py:1 imports openvino: it is optional"),
        ("measure/timing", "try:\n    from dask import x\nfinally:\n    pass", "imports dask: it is optional"),
        ("experiments/training", "class A:\n    import optuna", "training.py:2 imports optuna: it is optional"),
    ],
)  # fmt: skip
def test_an_import_that_breaks_a_rule_is_caught(house, name, text, says):
    build(house, {name: text})
    caught = [*floor_faults(house), *library_faults(house)]
    assert len(caught) == 1 and says in caught[0], caught


def test_evidence_that_needs_torch_by_the_way_is_caught(house):
    # The import itself is in no module of the evidence, and the module names no library.
    build(house, {"profiles": "import torch", "evidence/claims": f"from {PACKAGE} import profiles",
                  "folders": "DATA = 1", "evidence/store": ""})  # fmt: skip
    done = import_evidence(house)
    assert done.returncode == 1 and "torch is blocked" in done.stderr
    build(house, {"profiles": ""})
    done = import_evidence(house)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr


def test_a_module_that_nothing_needs_is_caught(house):
    # Neither a test, nor a benchmark, nor another module that nothing needs makes it needed.
    build(house, {"evidence/lone": f"import {PACKAGE}.evidence.other", "evidence/other": ""})
    for folder in ("tests", "benchmarks"):
        (house / folder / "test_lone.py").write_text(f"from {PACKAGE}.evidence import lone")
    assert needless(house) == [f"{PACKAGE}.evidence.lone", f"{PACKAGE}.evidence.other"]
    files.write(house / "notebooks/01_a.ipynb", notebook("x = 1", f"from {PACKAGE}.evidence import lone"))
    assert needless(house) == []
