"""Run the notebooks in order, 00 last, and draw every figure again. What ``./run_all.sh`` calls.

A notebook is skipped when nothing that its outputs depend on has changed since its last success and the outputs are
still there. So an interrupted run goes on where it stopped.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import notebook_files as files
import notebook_inputs as inputs

# Only the standard library up to here: run_all.sh checks the options before it installs anything.

# On a full disk Python leaves compiled modules cut off, and then cannot read them: this process compiles little.
sys.dont_write_bytecode = True

ROOT = Path(__file__).resolve().parent.parent
PROFILES = ("smoke", "standard", "full")
LIMITS = {"smoke": (120, 300), "standard": (900, 2700), "full": (6 * 3600, 24 * 3600)}  # seconds: a cell, a notebook

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        """Print one line that names the valid options, exit with 2."""
        if message.startswith("unrecognized arguments: "):
            options = [o for action in self._actions for o in action.option_strings if action.help != argparse.SUPPRESS]
            message = f"unknown option {message.split(': ', 1)[1]}: the options are {', '.join(options)}"
        self.exit(2, f"{self.prog}: error: {message}\n")


@dataclass(frozen=True)
class Options:
    """What the command line asks for. ``output`` is None for the usual places in the repository."""

    profile: str
    notebooks: list[Path]
    output: Path | None
    force: bool
    update: bool
    lab: bool = False
    measure: bool = False


def parse(arguments: list[str]) -> Options:
    """Read the command line. Exits with 2 and one line when something in it is wrong, with 0 after ``--check``."""
    parser = Parser(
        prog="run_all.sh", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some = parser.add_mutually_exclusive_group()
    add, add_some = parser.add_argument, some.add_argument
    add("--profile", default="standard", metavar="|".join(PROFILES), help="how much work (default: standard)")
    add_some("--only", metavar="02,09", help="run these notebooks only")
    add_some("--from", dest="start", metavar="05", help="run this notebook and those after it, 00 too")
    add("--force", action="store_true", help="run also what has not changed")
    add("--output", metavar="DIR", type=Path, help="write everything to this folder, nothing to the repository")
    add("--update", action="store_true", help="put the executed notebooks back into notebooks/ (standard profile only)")
    add("--measure", action="store_true", help="first make new visits for the speed table, also where it is complete")
    add("--lab", action="store_true", help="open the notebooks in JupyterLab instead of running them; Ctrl-C ends it")
    add("--check", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.lab and (others := [text for text in arguments if text not in ("--lab", "--check")]):
        parser.error(f"--lab opens JupyterLab and runs nothing: leave {' '.join(others)} out")
    if given.profile not in PROFILES:
        parser.error(f"unknown profile {given.profile!r}: choose one of {', '.join(PROFILES)}")
    if given.update and given.profile != "standard":
        parser.error(f"--update publishes the standard profile, not {given.profile}: leave --profile out")
    if given.update and given.output:
        parser.error("--update writes into the repository: leave --output out")
    try:
        notebooks = choose(given.only, given.start)
    except ValueError as problem:
        parser.error(str(problem))
    if given.check:
        sys.exit(0)
    output = given.output and given.output.resolve()
    return Options(given.profile, notebooks, output, given.force, given.update, given.lab, given.measure)


def choose(only: str | None = None, start: str | None = None) -> list[Path]:
    """The notebooks to run, in the order to run them. Raises ``ValueError`` naming those there are."""
    found = {path.name[:2]: path for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise ValueError("no notebooks in notebooks/: restore them with git")
    order = [number for number in found if number != "00"] + [number for number in found if number == "00"]

    def known(text: str) -> str:
        number = text.strip()
        if not number or number.zfill(2) not in found:
            raise ValueError(f"unknown notebook number {number!r}: the notebooks are {', '.join(found)}")
        return number.zfill(2)

    if only is not None:
        wanted = {known(text) for text in only.split(",")}
        order = [number for number in order if number in wanted]
    if start is not None:
        order = order[order.index(known(start)) :]
    return [found[number] for number in order]


class Place:
    """Where a run leaves its files, and what of them is still there."""

    def __init__(self, options: Options):
        build = ROOT / "build" / options.profile
        self.parameter = str(options.output or "")  # "" is the notebooks' word for these very places
        self.state = (options.output or build) / "state"
        self.executed = (options.output or build) / "notebooks"
        self.outputs = options.output or (build if options.profile == "smoke" else ROOT)

    def figure(self, name: str) -> Path:
        """File of a figure."""
        return self.outputs / "figures" / f"{name}.png"

    def results(self, pattern: str = "*") -> dict[str, int]:
        """Results files of the notebooks whose names match, with the time each was written."""
        folder = self.outputs / "data" / "results"
        found = sorted(folder.glob(f"*/{pattern}/*/*.csv"))
        return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in found}

    def tables(self, notebook: Path) -> list[str]:
        """Folders of the tables of a notebook."""
        return sorted({name.rpartition("/")[0] for name in self.results(notebook.stem)})

    def has_rows(self, table: str) -> bool:
        """Whether a table's folder holds the rows of a run, of whichever: older runs are tidied away."""
        return any((self.outputs / "data" / "results" / table).glob("*.csv"))


def fingerprint(notebook: files.Notebook, path: Path, profile: str, place: Place) -> list[str]:
    """Hash what a notebook's outputs depend on: code, profile, data, environment, machine; and the results of others.

    Code is that of its cells and of the modules that these reach, without comments and docstrings. Prose does not
    count: it is put beside the outputs that are there. Returns two hashes, the second that of the results.
    """
    from whichbackbone.evidence import closure, machine  # need the installed environment

    here = f"{sys.version} {platform.system()} {platform.machine()} {machine.slug()}"
    code = closure.notebook_hash(path, ROOT), str(len(files.code_cells(notebook)))
    data = inputs.data(notebook, path.stem, ROOT)
    environment = [(ROOT / name).read_bytes() for name in ("requirements.lock", "requirements-weights.txt")]
    return [files.digest(profile, here, *code, *data, *environment), results_read(notebook, path, place)]


def results_read(notebook: files.Notebook, path: Path, place: Place) -> str:
    """Hash which results of others a notebook finds."""
    return files.digest(json.dumps(inputs.results(notebook, path.stem, ROOT, place.results())))


def is_done(state: Path, key: list[str], place: Place, executed: Path) -> bool:
    """Whether the last success stands: same fingerprint, and its outputs are there as it left them."""
    try:
        last = json.loads(state.read_text(encoding="utf-8"))
        figures = {name: files.digest(place.figure(name).read_bytes()) for name in last["figures"]}
        tables = all(map(place.has_rows, last["tables"]))
        return last["key"] == key and last["figures"] == figures and tables and executed.is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run(path: Path, options: Options, place: Place, line: "Line") -> bool:
    """Bring one notebook up to date, telling ``line`` about it. Returns whether it is good now."""
    executed, state = place.executed / path.name, place.state / f"{path.stem}.json"
    try:
        notebook = files.read(path)
        declared = files.declared_figures(notebook)
    except ValueError as problem:
        return line.failed(str(problem))
    key = fingerprint(notebook, path, options.profile, place)
    if not options.force and is_done(state, key, place, executed):
        line.done("unchanged, skipped")
    else:
        state.unlink(missing_ok=True)
        before = {name: _changed(place.figure(name)) for name in declared}
        parameters = {"profile": options.profile, "output": place.parameter}
        import notebook_run  # needs the installed environment

        limits = notebook_run.Limits(*LIMITS[options.profile])
        result = notebook_run.execute(path, executed, parameters, limits, line.running)
        if result.problem:
            return line.failed(f"{result.problem} ({duration(result.seconds)})", result.details)
        if missing := [name for name in declared if _changed(place.figure(name)) in (None, before[name])]:
            return line.failed(f"it declares figures that it did not write: {', '.join(missing)}")
        success = {
            "key": [key[0], results_read(notebook, path, place)],  # it may have measured something for all
            "seconds": round(result.seconds, 1),
            "figures": {name: files.digest(place.figure(name).read_bytes()) for name in declared},
            "tables": place.tables(path),
        }
        files.write_text(state, json.dumps(success, indent=1) + "\n")
        line.done(duration(result.seconds))
    return not options.update or put_back(path, executed, options.profile, line)


def put_back(path: Path, executed: Path, profile: str, line: "Line") -> bool:
    """Bring the outputs of the executed notebook into the repository's file. Returns whether that could be done."""
    try:
        files.write(path, files.with_outputs(files.read(path), files.read(executed), profile))
    except ValueError as problem:
        return line.failed(f"notebooks/{path.name} not updated: {problem}")
    return True


def _changed(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def duration(seconds: float) -> str:
    """Seconds as people write them: 8.3 s, 2 min 05 s."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Line:
    """The line of progress of one notebook. On a terminal it shows the running cell until the end is known."""

    def __init__(self, name: str, width: int):
        self.start = f"{name:<{width}}  "
        self.started = time.monotonic()
        self.cell = "[1]"
        self.open = True
        print(self.start, end="", flush=True)

    def running(self, cell: str) -> None:
        """Show which cell runs."""
        self.cell = cell
        if sys.stdout.isatty():
            where = f"cell {cell}" if cell.startswith("[") else cell
            self._rewrite(f"{where}, {duration(int(time.monotonic() - self.started))}")

    def done(self, text: str) -> None:
        """End the line well."""
        self._end(f"ok      {text}")

    def failed(self, text: str, details: str = "") -> bool:
        """End the line with a problem, and show the traceback under it. Returns False."""
        self._end(f"FAILED  {text}")
        if details:
            from notebook_run import ANSI

            text = details if sys.stdout.isatty() else ANSI.sub("", details)
            print("\n".join("    " + row for row in text.splitlines()), flush=True)
        return False

    def _end(self, text: str) -> None:
        if not self.open:
            print(self.start, end="")  # a notebook that ran well but could not be put back has a second line
        elif sys.stdout.isatty():
            self._rewrite("")
        print(text, flush=True)
        self.open = False

    def _rewrite(self, text: str) -> None:
        print(f"\r\033[K{self.start}{text}", end="", flush=True)


def run_all(options: Options) -> int:
    """Run what was asked for. Returns the exit code."""
    from whichbackbone.folders import claimed  # needs the installed environment

    place = Place(options)
    if options.force:
        os.environ["WHICHBACKBONE_FRESH"] = "1"  # the notebooks measure again what they have measured before
    width = max(len(path.stem) for path in options.notebooks)
    good, bad, started = [], [], time.monotonic()
    line = None
    try:
        with claimed(place.state.parent):
            if options.profile != "smoke" and any(map(_reads_times, options.notebooks)):
                line = Line("speed table", width)
                make_visits(options, line)
            for path in options.notebooks:
                line = Line(path.stem, width)
                (good if run(path, options, place, line) else bad).append(path.name[:2])
    except KeyboardInterrupt:
        where = f" in {line.start.strip()}, cell {line.cell}," if line and line.open else ""
        print(f"\ninterrupted{where} with {_list(good)} done: the same command goes on there", flush=True)
        return 130
    except (OSError, RuntimeError) as problem:
        print(f"\nrun_all.sh: error: {_cause(problem)}", file=sys.stderr)
        return 1
    failed = f"{len(bad)} failed" + (f": {_list(bad)}" if bad else "")
    print(
        f"{len(good)} good, {failed}, {duration(time.monotonic() - started)}. "
        f"Figures: {_shown(place.outputs / 'figures')}, executed notebooks: {_shown(place.executed)}"
    )
    return 1 if bad else 0


def _reads_times(path: Path) -> bool:
    """Whether a notebook reads the speed table; one that cannot be read is told when it is run."""
    return "visits.table(" in path.read_text(encoding="utf-8", errors="replace")


def make_visits(options: Options, line: "Line") -> None:
    """Measure the speed table before the notebooks read it: what this machine lacks, or all of it where asked.

    Some notebooks alone measure what they show and is missing, and nothing else.
    """
    from whichbackbone.measure import plan, visits  # need the installed environment

    output = str(options.output or "")
    groups = plan.core() if options.measure else visits.lacking(plan.core(), output)
    if not groups or (not options.measure and len(options.notebooks) < len(choose())):
        return line.done("unchanged, skipped")
    started = time.monotonic()
    done = visits.run(groups, profile=options.profile, output=output, say=line.running, again=options.measure)
    refused = f", {len(done.refused)} refused" if done.refused else ""
    if done.files[0]:
        refused += f", {done.files[0]} files exported or quantised in {duration(done.files[1])}"
    line.done(f"{duration(time.monotonic() - started)}, {done.timed} points{refused}, run {done.run}")


def _cause(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.filename:
        return f"cannot write {problem.filename}: {problem.strerror}; free it, or choose another folder with --output"
    return str(problem)


def _list(numbers: list[str]) -> str:
    return ", ".join(numbers) or "none"


def _shown(folder: Path) -> str:
    return str(folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder)


def main() -> int:
    """Run the command line. A hang-up or a termination ends it as Ctrl-C does."""
    options = parse(sys.argv[1:])
    if options.lab:
        return open_lab()
    for number in STOPPING:
        signal.signal(number, stop)
    return run_all(options)


def open_lab() -> int:
    """Open JupyterLab in this process's place. Returns an exit code only where that cannot be."""
    import lab  # needs the installed environment

    try:
        lab.start(ROOT)
    except OSError as problem:
        print(f"run_all.sh: error: cannot write {problem.filename}: {problem.strerror}; free it", file=sys.stderr)
    return 1


def stop(*_: object) -> None:
    """Interrupt once; a second Ctrl-C must not disturb the tidying up."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
