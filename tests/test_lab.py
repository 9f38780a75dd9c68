"""``./run_all.sh --lab``: JupyterLab starts, offers this environment's kernel alone, and runs cells in a browser."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import notebook_files as files
import psutil
import pytest
from project import Project, other_jupyter
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

WHERE = "import os, sys, whichbackbone; print(sys.prefix, os.getcwd(), whichbackbone.NAME)"


def wait(what: str, holds: Callable[[], object], seconds: float = 60) -> object:
    """Wait until a thing holds, and return it. Fails, naming it, when it does not within that time."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.1)
    return found


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that runs, and the project whose notebooks it shows."""

    project: Project
    url: str
    files: set[str]  # of the project, before JupyterLab was opened

    def page(self, notebook: str) -> str:
        """Address of a notebook's page, with the token, and without what an earlier page left open."""
        return self.url.replace("/lab/tree/notebooks", f"/lab/tree/notebooks/{notebook}.ipynb") + "&reset"

    def ask(self, path: str) -> dict:
        """What the server answers to a question of its own interface."""
        address = urlsplit(self.url)
        with urllib.request.urlopen(f"http://{address.netloc}/api/{path}?{address.query}", timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def opened(project: Project, scratch: Path) -> Iterator[Lab]:
    """Call ``run_all.sh --lab`` as a user whose own Jupyter would run another kernel; end it as Ctrl-C does."""
    said, before = scratch / "said.txt", project.files()
    variables = os.environ | other_jupyter(scratch / "other") | {"BROWSER": "true %s"}  # opens none by itself
    ours, theirs = os.openpty()  # on a terminal Jupyter asks whether to end, unless it is told not to
    with said.open("wb") as log:
        process = subprocess.Popen([project.folder / "run_all.sh", "--lab"], cwd="/", env=variables,
                                   stdin=theirs, stdout=log, stderr=log)  # fmt: skip

    def address() -> re.Match | None:
        assert process.poll() is None, said.read_text()
        return re.search(r"^ +(http://127\S+token=\w+)$", said.read_text(), re.MULTILINE)

    try:
        yield Lab(project, wait("an address was printed", address)[1], before)
        kernels = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=20)
        _, left = psutil.wait_procs(kernels, timeout=5)
        assert (code, left) == (0, []), said.read_text()
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab over a small project."""
    scratch = tmp_path_factory.mktemp("lab")
    project = Project(scratch / "project").make_ready()
    (project.folder / "whichbackbone/__init__.py").write_text("NAME = 'this one'\n")
    project.add("01_a", WHERE, "6 * 7", "1 / 0", "'never'")
    with opened(project, scratch) as lab:
        yield lab


def test_one_kernel_and_the_notebooks_are_offered(lab):
    specs = lab.ask("kernelspecs")
    assert (specs["default"], list(specs["kernelspecs"])) == ("python3", ["python3"])
    assert specs["kernelspecs"]["python3"]["spec"]["argv"][0] != "false"
    assert [one["name"] for one in lab.ask("contents/notebooks")["content"]] == ["01_a.ipynb"]


def test_what_jupyter_keeps_stays_in_build(lab):
    assert {name for name in lab.project.files() if not name.startswith("build/lab/")} == lab.files
    assert not any((lab.project.folder.parent / "other/data").iterdir())  # the user's own


def test_a_folder_that_cannot_be_made_is_one_line(project):
    project.add("01_a", "1 + 1")
    (project.folder / "build").touch()
    done = project.run_all("--lab")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("run_all.sh: error: cannot write") and done.stderr.count("\n") == 1


# -------------------------------------------------------------------------------------------------------- a browser

MISSING = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
in_a_browser = pytest.mark.skipif(bool(MISSING), reason=f"no {' and no '.join(MISSING)}: on Debian, apt-get install "
                                                        "chromium chromium-driver")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--disable-background-networking", "--no-proxy-server", "--window-size=1400,1000"):  # fmt: skip
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


PROMPTS = "return [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent)"
OUTPUTS = "return [...document.querySelectorAll('.jp-OutputArea-output')].map(output => output.textContent).join('')"


def press(browser: webdriver.Chrome, modifier: str, key: str) -> None:
    """Press a key while another is held."""
    ActionChains(browser).key_down(modifier).send_keys(key).key_up(modifier).perform()


def run(lab: Lab, browser: webdriver.Chrome, name: str, cells: range) -> str:
    """Run code cells of the shown notebook, of which the first has the cursor; save it. Returns the outputs shown.

    Fails where a cell raised, with its message.
    """
    for cell in cells:
        press(browser, Keys.SHIFT, Keys.ENTER)
        ended = f"[{cell + 1}]:"
        wait(f"cell {ended} has run", lambda n=cell, ended=ended: browser.execute_script(PROMPTS)[n] == ended)
    shown = browser.execute_script(OUTPUTS)
    press(browser, Keys.CONTROL, "s")
    path = lab.project.folder / "notebooks" / f"{name}.ipynb"
    wait("the notebook is saved", lambda: files.code_cells(files.read(path))[cells[-1]]["execution_count"])
    for cell in cells:
        for output in files.code_cells(files.read(path))[cell]["outputs"]:
            assert output["output_type"] != "error", f"cell [{cell + 1}] raised {output['ename']}: {output['evalue']}"
    return shown


@in_a_browser
def test_cells_run_in_this_environment_and_one_that_fails_is_caught(lab, browser):
    browser.get(lab.page("01_a"))
    wait("the notebook is shown", lambda: len(browser.execute_script(PROMPTS)) == 5)
    wait("its kernel is idle", lambda: browser.find_elements(By.CSS_SELECTOR, "[data-status='idle']"))
    browser.find_element(By.CSS_SELECTOR, ".jp-CodeCell .cm-content").click()
    shown, folder = run(lab, browser, "01_a", range(3)), lab.project.folder
    assert f"{folder / '.venv'} {folder / 'notebooks'} this one" in shown and "42" in shown
    with pytest.raises(AssertionError, match=r"cell \[4\] raised ZeroDivisionError"):
        run(lab, browser, "01_a", range(3, 4))
