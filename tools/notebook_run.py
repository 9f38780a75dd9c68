"""Run one notebook with papermill in a process of its own, with time-outs, and say what became of it in one line."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import notebook_files as files

ANSI = re.compile(r"\x1b\[[0-9;]*m")
TICK = 0.5  # seconds between looks at a running notebook: seldom, so as not to disturb what it measures


@dataclass(frozen=True)
class Result:
    """How a run ended: ``problem`` is None or one line, ``details`` the failing cell's traceback."""

    seconds: float
    problem: str | None = None
    details: str = ""


@dataclass(frozen=True)
class Limits:
    """Seconds that one cell, and the whole notebook, may take."""

    cell: int
    notebook: int


def environment(root: Path, scratch: Path) -> dict[str, str]:
    """Variables under which Jupyter starts the kernel of this environment, whatever the user's own Jupyter is set to.

    ``root`` is the repository whose package the kernel imports. What Jupyter and IPython keep goes to ``scratch``.
    """
    own = re.compile(r"JUPYTER\w*_(DIR|PATH)|MPLBACKEND")  # kernels and settings of the user's; backend of a terminal
    return {name: value for name, value in os.environ.items() if not own.fullmatch(name)} | {
        "PYTHONPATH": str(root),  # the package beside these notebooks, whatever else is installed
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment, not the user's
        "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        "JUPYTER_DATA_DIR": str(scratch / "data"),
        "JUPYTER_RUNTIME_DIR": str(scratch / "jupyter"),
        "IPYTHONDIR": str(scratch / "ipython"),  # the user's IPython settings would change the outputs
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def execute(
    notebook: Path, executed: Path, parameters: dict[str, str], limits: Limits, report: Callable[[str], None]
) -> Result:
    """Run ``notebook`` in its own folder and leave ``executed`` behind, whole, whether or not a cell failed.

    ``report`` is told which cell is running ("[12] of 40"). When this is interrupted, or a limit is passed, the
    kernel and all that it started are ended first. Raises ``OSError`` when ``executed`` cannot be written.
    """
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_name(f".{executed.stem}.{os.getpid()}.ipynb")
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="whichbackbone-") as scratch:
            problem, messages = _papermill(notebook, partial, parameters, limits, report, Path(scratch))
        seconds = time.monotonic() - started
        if problem is None and messages is not None:
            problem, details = _diagnose(partial, messages, limits)
        else:
            details = ""
        if partial.exists():
            partial.replace(executed)
        return Result(seconds, problem, details)
    finally:
        partial.unlink(missing_ok=True)


def _papermill(
    notebook: Path,
    partial: Path,
    parameters: dict[str, str],
    limits: Limits,
    report: Callable[[str], None],
    scratch: Path,
) -> tuple[str | None, str | None]:
    """Run papermill to its end. Returns the problem if it was ended from here, and its messages if it failed itself."""
    command = [sys.executable, "-m", "papermill", str(notebook), str(partial), "--cwd", str(notebook.parent)]
    command += ["--kernel", "python3", "--execution-timeout", str(limits.cell), "--no-progress-bar"]
    for name, value in parameters.items():
        command += ["--parameters_raw", name, value]
    variables = environment(notebook.parent.parent, scratch)
    log = scratch / "papermill.log"
    with log.open("wb") as stderr:
        # A session of its own, so that Ctrl-C reaches only the runner, which then ends the tree in order.
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=variables, start_new_session=True
        )
        deadline, seen = time.monotonic() + limits.notebook, None
        where = "[1]"
        try:
            while worker.poll() is None:
                if time.monotonic() > deadline:
                    return f"it took over its {limits.notebook} s, in cell {where}", None
                if (changed := partial.stat().st_mtime_ns if partial.exists() else None) != seen:
                    seen, where = changed, _running_cell(_cells(partial))
                report(where)
                try:
                    worker.wait(TICK)
                except subprocess.TimeoutExpired:
                    continue
        except KeyboardInterrupt:
            report(_running_cell(_cells(partial)))
            raise
        finally:
            _end(worker, variables["JUPYTER_RUNTIME_DIR"])
    return None, log.read_text(errors="replace") if worker.returncode else None


def _end(worker: subprocess.Popen, mark: str) -> None:
    """End papermill, its kernel, and all that this started, also what lost its parent when the kernel died.

    They have sessions of their own, so no process group holds them all; but all inherited the run's own folder.
    """
    import psutil

    family = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == worker.pid or process.environ().get("JUPYTER_RUNTIME_DIR") == mark:
                family.append(process)
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                stop(process)
        _, family = psutil.wait_procs(family, timeout=3)
    worker.wait()


def _cells(partial: Path) -> list[files.Cell]:
    """Code cells of what papermill has saved so far; it saves before and after each cell."""
    try:
        return files.code_cells(files.read(partial))
    except (OSError, ValueError):
        return []  # not there yet, or being written


def _running_cell(cells: list[files.Cell]) -> str:
    started = [n for n, cell in enumerate(cells, 1) if cell["metadata"].get("papermill", {}).get("start_time")]
    return f"[{started[-1]}] of {len(cells)}" if started else "[1]"


def _diagnose(partial: Path, messages: str, limits: Limits) -> tuple[str, str]:
    """Why papermill failed: one line, and the traceback if a cell raised."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception|Interrupt)\b", line)), "")
    cells = _cells(partial)
    running = f"cell {_running_cell(cells)}"
    for number, cell in enumerate(cells, start=1):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                traceback = "\n".join(output["traceback"])
                if output["ename"] == "KeyboardInterrupt":  # nobody but papermill can interrupt that kernel
                    return f"cell [{number}] took over its {limits.cell} s", traceback
                what = f"{output['ename']}: {output['evalue']}".splitlines()[0]
                return f"cell [{number}] raised {what}", traceback
    if "CellTimeoutError" in messages:
        return f"{running} took over its {limits.cell} s", ""
    if "DeadKernelError" in messages:
        return f"the kernel died in {running} (killed, or out of memory?): run again, it goes on here", ""
    if re.search(r"OSError|PermissionError|FileNotFoundError", last):
        raise OSError(f"cannot write the executed notebook: {last}")
    return last or lines[-1] if lines else "papermill failed", messages[-3000:]
