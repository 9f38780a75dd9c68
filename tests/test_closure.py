"""What a result depends on: only code that imports reach, and of it no comment, docstring or layout."""

import json
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from project import ROOT, cell, notebook

from whichbackbone.evidence import closure

PACKAGE = {
    "__init__.py": '"""A small package."""\n',
    "evidence/__init__.py": "",
    "evidence/claims.py": "from whichbackbone.evidence import words\n\nBOUND = 1\n",
    "evidence/words.py": "HOLDS = 'holds'\n",
    "experiments/__init__.py": "",
    "experiments/training.py": '''\
"""How nets are trained."""

from whichbackbone.models import resnet

RATE = 0.1  # found by hand


def fit(net, epochs):
    """Train."""
    from whichbackbone.experiments.late import decay

    return resnet.build(net), epochs * RATE, decay
''',
    "experiments/late.py": "from .. import folders\n\ndecay = 0.5\n",
    "folders.py": "HERE = 1\n",
    "figures.py": "SIZE = 3\n",
    "models/__init__.py": "",
    "models/resnet.py": "WIDTH = 64\n\n\ndef build(name):\n    return WIDTH\n",
    "models/mobilenet.py": "WIDTH = 32\n",
    "checks.py": """\
import pkgutil
from importlib import import_module

from whichbackbone import models
from whichbackbone.evidence import words


def builders():
    return [import_module(f"{models.__name__}.{m.name}") for m in pkgutil.iter_modules(models.__path__)]
""",
}
SCRIPT = '''\
"""Stands in for the cells of a notebook."""
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

from whichbackbone import figures
from whichbackbone.evidence import claims, closure
from whichbackbone.experiments import training

RATE = 2
SHAPES = {"wide": (1, 2)}
live = SimpleNamespace(epochs=3, workers=2)


@dataclass(frozen=True)
class Row:
    """One variant."""
    depth: int = 18


ROWS = {"small": Row()}


@cache
def helper(x):
    """Scale."""
    return x * RATE  # twice


class Block:
    expansion = 4

    @property
    def width(self):
        return helper(self.expansion) + len(SHAPES)


def draw():
    return figures.SIZE + claims.BOUND


def train_one(net, seed, log=None):
    return training.fit(ROWS[net], live.epochs), Block().width, seed


print(closure.experiment_key(train_one, images=10))
'''


def small(folder: Path) -> Path:
    """Fill a folder with a small package and a script that prints the key of a training."""
    for name, text in PACKAGE.items():
        (folder / "whichbackbone" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "whichbackbone" / name).write_text(text)
    shutil.copy(closure.__file__, folder / "whichbackbone" / "evidence")
    (folder / "script.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return small(tmp_path)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The key while nothing is changed; the folder has no part in it."""
    return key(small(tmp_path_factory.mktemp("usual")))


def names(*modules: str, root: Path) -> list[str]:
    return [name.removeprefix("whichbackbone").lstrip(".") for name in closure.closure(*modules, root=root)]


def key(folder: Path) -> str:
    command = [sys.executable, "-B", "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def edit(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert text.count(old) == 1, (file, old)
    (folder / file).write_text(text.replace(old, new))


# ------------------------------------------------------------------------------------------------------------ closure


def test_imports_are_followed_into_functions_and_upwards(package):
    expected = ["", "experiments", "experiments.late", "experiments.training", "folders", "models", "models.resnet"]
    assert names("whichbackbone.experiments.training", root=package) == expected
    assert names("whichbackbone.figures", root=package) == ["", "figures"]
    assert names("torch", "whichbackbone.nowhere", "os.path", root=package) == []


def test_checks_reaches_every_model_by_computed_names(package):
    expected = ["", "checks", "evidence", "evidence.words", "models", "models.mobilenet", "models.resnet"]
    assert names("whichbackbone.checks", root=package) == expected
    reached = set(closure.closure("whichbackbone.checks"))
    built = {f"whichbackbone.models.{path.stem}" for path in (ROOT / "whichbackbone/models").glob("[a-z]*.py")}
    assert len(built) > 5 and built < reached


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import whichbackbone.models.resnet as r", {"models.resnet"}),
        ("from whichbackbone import figures, folders", {"", "figures", "folders"}),
        ("from whichbackbone.models.resnet import WIDTH", {"models.resnet"}),
        ("def f():\n    if x:\n        from whichbackbone import checks", {"", "checks"}),
        ("importlib.import_module('whichbackbone.figures')", {"figures"}),
        ("run([python, '-m', 'whichbackbone.checks', 'x'])", {"checks"}),
        ("import_module(f'whichbackbone.models.{name}')", {"models", "models.resnet", "models.mobilenet"}),
        ("import_module('whichbackbone.models.' + name)", {"models", "models.resnet", "models.mobilenet"}),
        ("import_module(name)", set()),
        ("NOT_COUNTED = ('whichbackbone.figures', 'whichbackbone.checks')", set()),
        ("import torch, whichbackboneish\nfrom torch import nn", set()),
        ("%matplotlib inline\nimport whichbackbone.figures", set()),
    ],
)
def test_what_one_text_imports(package, source, expected):
    found = closure.imported(source, root=package)
    assert {name.removeprefix("whichbackbone").lstrip(".") for name in found} == expected


def test_relative_imports_start_at_their_module(package):
    (package / "whichbackbone/experiments/__init__.py").write_text("from . import late\nfrom ..figures import SIZE")
    expected = ["", "experiments", "experiments.late", "figures", "folders"]
    assert names("whichbackbone.experiments", root=package) == expected


STRAYS = ("models/.ipynb_checkpoints/resnet-checkpoint.py", "models/__pycache__/resnet.py", "models/resnet.py~",
          ".DS_Store", "models/.#resnet.py", "models/#resnet.py#", "models/resnet copy.py", "models/.resnet.py.swp",
          ".ipynb_checkpoints/checks-checkpoint.py")  # fmt: skip


def test_stray_files_do_not_count(package, usual):
    before = closure.code_hash("whichbackbone.checks", root=package)
    for stray in STRAYS:
        path = package / "whichbackbone" / stray
        path.parent.mkdir(exist_ok=True)
        path.write_text("WIDTH = 1\n")
        assert closure.code_hash("whichbackbone.checks", root=package) == before, stray
    assert key(package) == usual


def test_a_new_model_counts_where_all_are_built(package, usual):
    before = closure.code_hash("whichbackbone.checks", root=package)
    (package / "whichbackbone/models/regnet.py").write_text("WIDTH = 1\n")
    assert closure.code_hash("whichbackbone.checks", root=package) != before and key(package) == usual


def test_what_python_loads_is_within_the_closure():
    """The static view is no narrower than what an import does."""
    entry = "whichbackbone.evidence.claims"
    code = f"import sys, {entry}; print(*(m for m in sys.modules if m.startswith('whichbackbone')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert entry in loaded and set(loaded.split()) <= set(closure.closure(entry))


def test_the_module_needs_the_standard_library_alone():
    code = "import sys; from whichbackbone.evidence import closure; print(*{m.partition('.')[0] for m in sys.modules})"
    tops = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not set(tops.stdout.split()) - sys.stdlib_module_names - {"whichbackbone", "__main__", "__mp_main__"}


# ------------------------------------------------------------------------------------------------------ canonical text

CODE = '''\
"""Doc."""
RATE = 0.1  # a comment

def f(x, y=(1, 2)):
    """Do it."""
    return {"a": f"{x:.1f}"}


class A:
    """Hold it."""

    b = 1
    """What b is."""
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""', '"""Another."""'),
        ('"""Doc."""\n', ""),
        ("  # a comment", ""),
        ('    """Do it."""\n', ""),
        ('"""What b is."""', '"""What it is."""'),
        ('{"a": f"{x:.1f}"}', "{\n        'a': f'{x:.1f}',  # one\n    }"),
        ("(1, 2)", "(\n    1,\n    2,\n)"),
        ("0.1", "0.10"),
    ],
)
def test_wording_and_layout_do_not_count(old, new):
    assert closure.canonical(CODE.replace(old, new)) == closure.canonical(CODE) and old in CODE


@pytest.mark.parametrize(
    ("old", "new"), [("0.1", "0.2"), ("b = 1", "b = 1.0"), ('"a"', '"b"'), ("x:.1f", "x:.2f"), ("y=", "z="), ("A", "B")]
)
def test_code_counts(old, new):
    assert closure.canonical(CODE.replace(old, new)) != closure.canonical(CODE) and old in CODE


def test_what_is_no_python_stays_as_it_is():
    for text in ("%matplotlib inline\nx = 1", "def f(:", "a\0b"):
        assert closure.canonical(text, cell=True) == text


def test_in_a_cell_a_string_is_an_output_and_a_semicolon_hides_one():
    assert closure.canonical("'a'", cell=True) != closure.canonical("'b'", cell=True)
    assert closure.canonical("plot(x);", cell=True) != closure.canonical("plot(x)", cell=True)
    assert closure.canonical("plot(x);  # drawn\n", cell=True) == closure.canonical("plot(x) ;", cell=True)
    first, second = (closure.canonical(f"def f():\n    '{word}'\n    return 1", cell=True) for word in ("One.", "Two."))
    assert first == second


def test_the_text_is_the_same_under_every_python():
    """Python 3.12 parses a format within a format with an empty text after it."""
    assert closure.canonical("f'{x:<{w}}'").count("''") == 0


# ----------------------------------------------------------------------------------------------------------- notebooks


def notebook_file(folder: Path, *cells: dict | str) -> Path:
    path = folder / "01_a.ipynb"
    path.write_text(json.dumps(notebook(*cells)))
    return path


def test_a_notebook_depends_on_its_code_and_what_it_imports(package):
    cells = "%matplotlib inline\nfrom whichbackbone.experiments import training", "x = training.fit(1, 2)"

    def hashed(*more):
        return closure.notebook_hash(notebook_file(package, *cells, *more), package)

    before = hashed()
    assert hashed(cell("markdown", "Prose.")) == hashed("") == before != hashed("1")
    assert hashed(cell("code", "profile = 'smoke'", ["injected-parameters"])) == before
    assert hashed('import sys\nif "google.colab" in sys.modules:\n    pass') == before
    edit(package, "whichbackbone/figures.py", "3", "4")
    edit(package, "whichbackbone/models/resnet.py", "def build", "# Built here.\ndef build")
    assert hashed() == before
    edit(package, "whichbackbone/folders.py", "1", "2")
    assert hashed() != before


# ----------------------------------------------------------------------------------------------------- experiment keys


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("whichbackbone/experiments/training.py", '"""Train."""', '"""Train a net for some epochs."""'),
        ("whichbackbone/experiments/training.py", "  # found by hand", ""),
        ("whichbackbone/models/resnet.py", "\n\n\ndef", "\n\ndef"),
        ("whichbackbone/models/mobilenet.py", "32", "33"),
        ("whichbackbone/evidence/claims.py", "1", "2"),
        ("whichbackbone/evidence/closure.py", '"""What a result', '"""All that a result'),
        ("whichbackbone/evidence/closure.py", 'READS = ("LOAD_GLOBAL", ', 'READS = ("NEVER", "LOAD_GLOBAL", '),
        ("whichbackbone/figures.py", "3", "4"),
        ("script.py", '"""Scale."""', '"""Double."""'),
        ("script.py", '"""One variant."""', '"""A variant."""'),
        ("script.py", "  # twice", "  # two times"),
        ("script.py", "figures.SIZE + claims.BOUND", "0"),
        ("script.py", "workers=2", "workers=3"),
        ("script.py", "x * RATE", "(x\n            * RATE)"),
    ],
)
def test_a_stored_training_survives(package, usual, file, old, new):
    edit(package, file, old, new)
    assert key(package) == usual


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("whichbackbone/experiments/training.py", "RATE = 0.1", "RATE = 0.2"),
        ("whichbackbone/experiments/late.py", "0.5", "0.6"),
        ("whichbackbone/models/resnet.py", "64", "65"),
        ("script.py", "RATE = 2", "RATE = 3"),
        ("script.py", "(1, 2)", "(1, 3)"),
        ("script.py", "epochs=3", "epochs=4"),
        ("script.py", "x * RATE", "x + RATE"),
        ("script.py", "depth: int = 18", "depth: int = 34"),
        ("script.py", "Row()", "Row(50)"),
        ("script.py", "expansion = 4", "expansion = 2"),
        ("script.py", "helper(self.expansion)", "helper(self.expansion + 1)"),
        ("script.py", "Block().width, seed", "seed, Block().width"),
        ("script.py", "log=None", "log=1"),
        ("script.py", "images=10", "images=11"),
    ],
)
def test_a_stored_training_is_invalidated(package, usual, file, old, new):
    edit(package, file, old, new)
    assert key(package) != usual


TABLE = {"a": [1, 2]}


def uses_table(x, seed):
    return TABLE, x


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (np.arange(3000), np.arange(3000), np.arange(3000) + (np.arange(3000) == 1500)),
        (torch.zeros(9), torch.zeros(9), torch.zeros(9, dtype=torch.float16)),
        (pd.DataFrame({"a": range(99)}), pd.DataFrame({"a": range(99)}), pd.DataFrame({"a": [*range(98), 0]})),
        ({1, 2, "a"}, {"a", 2, 1}, {1, 2}),
        (partial(len, [1]), partial(len, [1]), partial(len, [2])),
        (SimpleNamespace(a=1), SimpleNamespace(a=1), SimpleNamespace(a=2)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2), None),
        (lambda x: x + 1, lambda x: x + 1, lambda x: x + 2),
        (torch.float32, torch.float32, torch.float16),
    ],
)
def test_values_are_told_apart_by_what_they_hold(monkeypatch, one, same, other):
    keys = []
    for value in (one, same, other):
        monkeypatch.setitem(globals(), "TABLE", value)
        keys.append(closure.experiment_key(uses_table))
    assert keys[0] == keys[1] != keys[2]


def test_a_value_that_holds_itself_ends():
    own = []
    own.append(own)
    assert closure.experiment_key(uses_table, own=own) != closure.experiment_key(uses_table, own=[])


def outer(factor):
    @cache
    def inner(x, seed):
        return x * factor

    return inner


def test_enclosed_values_and_wrapped_functions_count():
    assert closure.experiment_key(outer(1)) == closure.experiment_key(outer(1)) != closure.experiment_key(outer(2))


def test_modules_count_by_name_or_as_such():
    from whichbackbone import folders, profiles

    by_name = closure.experiment_key("whichbackbone.folders")
    assert by_name != closure.experiment_key("whichbackbone.profiles")
    assert closure.experiment_key(folders) != closure.experiment_key(profiles)
    with pytest.raises(ValueError, match="no module 'whichbackbone.nowhere'"):
        closure.experiment_key("whichbackbone.nowhere")


def test_versions_of_the_libraries_that_are_used_count(monkeypatch):
    def uses_torch(seed):
        return torch.rand(1)

    before = closure.experiment_key(uses_torch), closure.experiment_key(outer)
    monkeypatch.setattr(closure, "_version", lambda name: f"another {name}")
    assert closure.experiment_key(uses_torch) != before[0] and closure.experiment_key(outer) == before[1]
