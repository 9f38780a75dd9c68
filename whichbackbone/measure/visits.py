"""Makes the speed table: visits over a plan, each block of a visit in a fresh process. Needs no torch itself.

A visit that dies loses only its block. A run that was interrupted goes on where it stopped, if it began no more than
two hours ago: visits of one run should share an hour.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

import pandas as pd

from whichbackbone.evidence import catalogue, machine, speed, store
from whichbackbone.evidence.speed import KEY, NOTEBOOK, TABLE, YARD, Point
from whichbackbone.evidence.store import Store
from whichbackbone.folders import REPOSITORY, cache_folder
from whichbackbone.measure import plan
from whichbackbone.measure.plan import Block, Group

RESUME = timedelta(hours=2)
BLOCK = [sys.executable, "-m", "whichbackbone.measure.block"]
FILES = [sys.executable, "-m", "whichbackbone.measure.files"]
FROM_FILES = ("onnxruntime", "openvino")  # runtimes that read a file
LIMIT = 600  # seconds that a block may take before it counts as hung
# torch.compile keeps here what it compiled: a visit measures the running of a net, and its compiling once.
INDUCTOR = "inductor"


@dataclass(frozen=True)
class Outcome:
    """What a run measured.

    Attributes:
        run: its name.
        timed: points.
        refused: points that could not be timed, with the reason.
        complete: whether it was not cut short.
        files: exported and quantised files made before the visits, and the seconds that they took.
    """

    run: str
    timed: int
    refused: Mapping[Point, str]
    complete: bool
    files: tuple[int, float] = (0, 0.0)


def run(
    groups: Sequence[Group], *, profile: str = "standard", output: str = "", minutes: float | None = None,
    say: Callable[[str], None] = print, again: bool = False,
) -> Outcome:  # fmt: skip
    """Make all visits of a plan and keep them in the store, block by block.

    Args:
        groups: of :mod:`whichbackbone.measure.plan`.
        profile: kept with the run.
        output: folder of the results; "" is this repository.
        minutes: no block starts after them.
        say: is told each line of progress.
        again: begin a new run even where an interrupted one could be gone on with.

    Raises:
        OSError: where results cannot be written.
    """
    usable = machine.usable_cores()
    blocks = [replace(b, points=_numbered(b.points, usable)) for b in plan.blocks(groups, seed=0)]
    kept, done = (Store(NOTEBOOK, profile, output), pd.DataFrame()) if again else _unfinished(profile, output, blocks)
    kept.folder.mkdir(parents=True, exist_ok=True)  # where nothing can be kept, nothing is measured
    left = [(i, b) for i, b in enumerate(blocks) if done.empty or i not in set(done.block)]
    if not done.empty:
        say(f"going on with run {kept.run}: {len(blocks) - len(left)} of {len(blocks)} blocks are there")
    files = _make_files([point for _, block in left for point in block.points], say)
    start, rows = time.monotonic(), done
    for count, (number, block) in enumerate(left):
        if minutes is not None and count and time.monotonic() - start > minutes * 60:
            break
        if number == 0 or not kept.peaks:
            kept.peaks = _peaks()
        found = pd.DataFrame(measured(block, seed=number)).assign(visit=block.visit, block=number)
        rows = pd.concat([rows, found], ignore_index=True)
        kept.append(TABLE, rows)
        say(_progress(block, found, count + 1, len(left), time.monotonic() - start))
    complete = rows.block.nunique() == len(blocks)
    status = rows.drop_duplicates(KEY, keep="last").set_index(KEY).status
    refused = {Point(**dict(zip(KEY, key, strict=True))): reason for key, reason in status.items() if reason != "ok"}
    return Outcome(kept.run, int((status == "ok").sum()), refused, complete, files)


def measured(block: Block, seed: int = 0, limit: float = LIMIT) -> list[dict]:
    """Rows of the points of one block, from processes of their own.

    A point whose process died gets a row that says so, and the others of its block another process. A point whose
    samples among the others exceed its own warm-up by over 15 % is measured again, with ResNet-50 alone beside it; the
    flag stays where it exceeds it there too. Where more than half of a block does, the machine was disturbed, not they:
    no candidate is flagged, and the rows stay comparable, since ResNet-50 was disturbed alike.
    """
    waiting, rows = list(block.points), []
    while waiting:
        found, died = _process(waiting, seed, limit, counted=block.visit == 0)
        rows += found
        if died is None:
            break
        point, reason = died
        rows.append(_failed(point, reason))
        there = {_point(row) for row in rows}
        waiting = [p for p in waiting if p not in there]
        if all(p == p.yard() for p in waiting):
            break
        # ResNet-50 is measured in this process too, since its rows of the first died with it.
        rows = [row for row in rows if _point(row) != _point(row).yard() or row["status"] != "ok"]
        waiting = [p for p in block.points if p == p.yard() and p not in {_point(r) for r in rows}] + [
            p for p in waiting if p != p.yard()]  # fmt: skip
    return _checked(rows, seed, limit)


def _checked(rows: list[dict], seed: int, limit: float) -> list[dict]:
    """Rows whose flags were looked into."""
    flagged = [row for row in rows if row["flagged"]]
    if not flagged:
        return rows
    if len(flagged) > len(rows) / 2:
        return [row | dict(flagged=False) for row in rows]
    again: dict[Point, dict] = {}
    for name in dict.fromkeys((row["net"], row["pixels"]) for row in flagged):
        points = [_point(row) for row in flagged if (row["net"], row["pixels"]) == name]
        found, _ = _process(points, seed, limit)
        again |= {_point(row): row for row in found if row["status"] == "ok"}
    return [row | dict(flagged=again.get(_point(row), row)["flagged"]) for row in rows]


def _process(
    points: Sequence[Point], seed: int, limit: float, counted: bool = False
) -> tuple[list[dict], tuple[Point, str] | None]:
    """Rows that a process printed, and the point at which it died, with the reason; None where it ended well."""
    task = json.dumps(dict(points=[asdict(p) for p in points], seed=seed, counted=counted))
    try:
        done = subprocess.run(BLOCK, input=task, capture_output=True, text=True, timeout=limit, env=_environment())
        code, text, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as error:
        code, text, errors = -signal.SIGKILL, (error.stdout or b"").decode(), f"it took over its {limit:.0f} s"
    lines = list(_lines(text))
    rows = [line["row"] for line in lines if "row" in line]
    if code == 0:
        return rows, None
    at = points[next((line["doing"] for line in reversed(lines) if "doing" in line), 0)]
    last = (errors.strip().splitlines() or [""])[-1][:150]
    why = f"signal {-code}" if code < 0 else f"exit {code}"
    return [], (at, f"its process died ({why}){': ' if last else ''}{last}")


def _make_files(points: Sequence[Point], say: Callable[[str], None]) -> tuple[int, float]:
    """Make the files that points read, net by net in processes of their own; how many were made, in which seconds.

    A process that dies leaves its files to the visit, whose rows say why.
    """
    nets: dict[tuple[str, int], list[Point]] = {}
    for point in dict.fromkeys(p for p in points if p.runtime in FROM_FILES and p.device == "cpu"):
        nets.setdefault((point.net, point.pixels), []).append(point)
    parts = list(nets.values())
    made, seconds = 0, 0.0
    for i in range(0, len(parts), plan.NETS_A_BLOCK):
        some = [point for part in parts[i : i + plan.NETS_A_BLOCK] for point in part]
        task = json.dumps(dict(points=[asdict(p) for p in some]))
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(FILES, input=task, capture_output=True, text=True, timeout=LIMIT, env=_environment())
            found = [line["seconds"] for line in _lines(done.stdout) if "seconds" in line]
            made, seconds = made + len(found), seconds + sum(found)
        say(f"files of {min(i + plan.NETS_A_BLOCK, len(parts))} of {len(parts)} nets: {made} exported or quantised, "
            f"{seconds / 60:.1f} min")  # fmt: skip
    return made, seconds


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "TORCHINDUCTOR_CACHE_DIR": str(cache_folder() / INDUCTOR)}


def _lines(text: str) -> Iterator[dict]:
    """What of a process's output can be read; a library may print between our lines."""
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _point(row: Mapping[str, object]) -> Point:
    return Point(**{name: row[name] for name in KEY})


def _failed(point: Point, reason: str) -> dict:
    return asdict(point) | dict(status=reason, rounds=0, calls=0, flagged=False)


def _numbered(points: Sequence[Point], usable: int) -> tuple[Point, ...]:
    return tuple(replace(point, threads=point.threads or usable) for point in points)


def _peaks() -> dict[str, float]:
    """Both peaks of the machine, measured in a process of its own: this one holds no torch."""
    work = "from whichbackbone.measure import peaks; import json; print(json.dumps(peaks.quick()))"
    command = [sys.executable, "-c", work]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    return json.loads(done.stdout) if done.returncode == 0 else {}


def _unfinished(profile: str, output: str, blocks: Sequence[Block]) -> tuple[Store, pd.DataFrame]:
    """The newest run of this machine where it is recent, of this code and plan, and not complete; else a new one."""
    new = Store(NOTEBOOK, profile, output)
    for name, rows in store.all_runs(NOTEBOOK, TABLE, machine.slug(), str(new.root)):
        record = store.record_of(name, str(new.root))
        young = datetime.now(UTC) - datetime.fromisoformat(record.started) < RESUME
        there = set(rows.block)
        same = all(i < len(blocks) and {_point(r) for r in part.to_dict("records")} == set(blocks[i].points)
                   for i, part in rows.groupby("block"))  # fmt: skip
        if young and same and record.code == new.code and len(there) < len(blocks):
            return Store(NOTEBOOK, profile, output, peaks=record.peaks, run=name), rows.drop(columns="run")
        break
    return new, pd.DataFrame()


def _progress(block: Block, found: pd.DataFrame, count: int, total: int, seconds: float) -> str:
    left = seconds / count * (total - count)
    nets = ", ".join(dict.fromkeys(p.label for p in block.points if p.net != YARD)) or YARD
    bad = found[found.status != "ok"]
    refused = f"; refused: {', '.join(bad.net + ' in ' + bad.runtime)}" if len(bad) else ""
    return f"{count / total:4.0%}  {left / 60:4.1f} min left  visit {block.visit + 1}: {nets}{refused}"


def plan_of(
    nets: Sequence[str], runtimes: Sequence[str], precisions: Sequence[str], batches: Sequence[int],
    threads: Sequence[int], device: str,
) -> list[Group]:  # fmt: skip
    """The groups that a command line asks for; the core plan where it names no net.

    Raises:
        ValueError: for an unknown net, runtime, precision or device (it names those known), and for more threads than
            the process may use.
    """
    usable = machine.usable_cores()
    for number in threads:
        if number > usable:
            raise ValueError(f"{number} threads: this process may use {usable} cores")
    asked = {"runtime": (runtimes, catalogue.RUNTIMES), "precision": (precisions, catalogue.PRECISIONS),
             "device": ([device], speed.DEVICES)}  # fmt: skip
    for what, (given, known) in asked.items():
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"unknown {what} {unknown[0]!r}: choose one of {', '.join(known)}")
    from whichbackbone import checks  # torch, which whoever measures has

    known = checks.builders()
    if unknown := [name for name in nets if name not in known]:
        raise ValueError(f"unknown net {unknown[0]!r}: choose one of {', '.join(known)}")
    return plan.asked(nets, runtimes, precisions, batches, threads, device)


def lacking(groups: Sequence[Group], output: str = "") -> list[Group]:
    """Groups of a plan of which the runs of this machine that are pooled lack a point; a refusal counts as measured."""
    try:
        own = speed.table(output, machine.slug())
    except speed.NotMeasured:
        return list(groups)
    return [g for g in groups if not all(own.tried(p) for block in plan.blocks([g], 0) for p in block.points)]


def table(names: Sequence[str], profile: str, output: str = "") -> speed.Table:
    """The speed table, which holds these nets in the runtimes of the plan, hot and one image at a time.

    What no run of this machine has is measured first, but for the smoke profile, which takes any machine's table: a
    notebook that is run alone measures only what it shows. ``./run_all.sh`` makes all visits before the notebooks.

    Args:
        names: of nets, each at the side that it was trained at.
        profile, output: of the notebook.
    """
    wanted = [Point(name, runtime=runtime) for name in names for runtime in plan.RUNTIMES]
    if profile != "smoke":
        try:
            own = speed.table(output, machine.slug())
            missing = {p.net for p in own.missing(wanted) if not own.tried(p)}
        except speed.NotMeasured:
            missing = {p.net for p in wanted}
        if missing:
            run(plan.asked(sorted(missing), plan.RUNTIMES, ["fp32"], [1], [0], "cpu"), profile=profile, output=output)
    return speed.table(output)
