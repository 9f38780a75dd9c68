"""Open the notebooks in JupyterLab, with the kernel of this environment: what ``./run_all.sh --lab`` calls."""

import os
import sys
from pathlib import Path

import notebook_run


def command() -> list[str]:
    """How to start JupyterLab from the repository's root. It needs no network and offers one kernel, ours."""
    line = [sys.executable, "-m", "jupyterlab", "--ServerApp.root_dir=.", "--LabApp.default_url=/lab/tree/notebooks"]
    line += ["--KernelSpecManager.allowed_kernelspecs=python3"]
    line += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    line += ["--ServerApp.answer_yes=True"]  # Ctrl-C ends it, without a question
    if os.geteuid() == 0:
        line += ["--allow-root"]  # in a container one often is
    return line


def start(root: Path) -> None:
    """Become JupyterLab, so that Ctrl-C and the exit code are its own. Does not return.

    Its settings and layout are kept in ``build/lab`` and not among the user's own. Raises ``OSError`` where that
    folder cannot be made.
    """
    own = root / "build" / "lab"
    own.mkdir(parents=True, exist_ok=True)
    os.chdir(root)
    sys.stdout.flush()
    line = command()
    os.execve(line[0], line, notebook_run.environment(root, own))
