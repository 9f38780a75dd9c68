"""What to use, in a few common situations: the first thing that notebook 00 and the README tell."""

import math

import pandas as pd

from whichbackbone.evidence import catalogue, chooser, claims, markdown, speed, store
from whichbackbone.evidence.cases import PUBLISHED, TIMED
from whichbackbone.evidence.intervals import Interval

# What somebody has -> what they would ask chooser.choose. The limits are round numbers, on purpose.
SITUATIONS: dict[str, dict[str, object]] = {
    "this CPU, PyTorch as it comes (eager), 30 ms an image": dict(hardware="cpu", latency_ms=30, runtime="eager"),
    "this CPU, ONNX Runtime, 15 ms": dict(hardware="cpu", latency_ms=15, runtime="onnxruntime"),
    "this CPU, OpenVINO, 15 ms": dict(hardware="cpu", latency_ms=15, runtime="openvino"),
    "this CPU, eager, 60 ms": dict(hardware="cpu", latency_ms=60, runtime="eager"),
    "this CPU, ONNX Runtime, 60 ms": dict(hardware="cpu", latency_ms=60, runtime="onnxruntime"),
    "this CPU, OpenVINO, 60 ms": dict(hardware="cpu", latency_ms=60, runtime="openvino"),
    "this CPU, any runtime, 60 ms, trained from scratch": dict(hardware="cpu", latency_ms=60, pretrained=False),
    "a phone, 80 ms": dict(hardware="phone", latency_ms=80),
    "a GPU, large batches, 0.2 ms an image": dict(hardware="gpu", latency_ms=0.2),
    "a GPU, large batches, 1 ms": dict(hardware="gpu", latency_ms=1),
}


def situations(machine: str | None = None, output: str = "") -> pd.DataFrame:
    """One row for each of :data:`SITUATIONS`, answered by :func:`whichbackbone.evidence.chooser.choose`.

    Args:
        machine: whose measurements, a folder of data/results; None is this machine's.
        output: folder whose results come first.

    Returns:
        "you have", "take" (several where they cannot be told apart), "ImageNet top-1", "time" (with its interval where
        it was measured), "how sure" (what was measured and what published), "runner-up" (of the next rank). Where
        nothing fits, or nothing was measured yet, "take" says so and the rest is empty.
    """
    return pd.DataFrame([_row(have, wish, machine, output) for have, wish in SITUATIONS.items()]).fillna("")


def first_question(machine: str | None = None, output: str = "") -> str:
    """How much of EfficientNet-B0's lead over ResNet-50 in operations arrives as time, in two or three sentences.

    The question that began the study, answered from the figures of two claims; arguments as of :func:`situations`.
    """
    fewer, faster = (
        claims.verdicts(machine, output, ids=[id]).iloc[0] for id in ("b0_ten_times_fewer_macs", "b0_ten_times_faster")
    )
    here = sorted((case for case in faster.cases if case.rests == TIMED), key=lambda case: case.figure.value)
    elsewhere = sorted(case.figure.value for case in faster.cases if case.rests == PUBLISHED)
    if not here or not fewer.cases:
        return "Whether fewer operations are less time was not measured yet: python -m whichbackbone measure."
    macs, (least, *_, most) = fewer.cases[0].figure.value, (here[0], *here[-1:])
    text = (
        f"EfficientNet-B0 needs **{macs:.1f} times fewer multiply-accumulates** than ResNet-50. On `{here[0].machine}` "
        f"it is **{least.figure.text(1)} times** ({least.where}) to **{most.figure.text(1)} times** ({most.where}) as "
        "fast"
    )
    if elsewhere:
        text += f", on published machines {elsewhere[0]:.1f} to {elsewhere[-1]:.1f} times"
    short = all(case.figure.value < macs for case in faster.cases)
    return f"{text}. " + (
        "Nowhere does all of the saving arrive: choose the runtime, then measure the two nets you can afford in it."
        if short
        else "How much of the saving arrives depends on the runtime: choose it first, then measure in it."
    )


PAIR = ("resnet50", "efficientnet_b0")
CORNERS: dict[str, dict[str, object]] = {  # how a page calls a corner -> what a point of it has
    "hot, all cores": {},
    "hot, one thread": dict(threads=1),
    "hot, batch 8": dict(batch=8),
    "cold caches": dict(regime="cold_cache"),
    "after a pause": dict(regime="cold_idle"),
}


def corners(table: speed.Table) -> dict[tuple[str, str], Interval]:
    """(runtime, corner) -> time of ResNet-50 over that of EfficientNet-B0, wherever both were timed.

    Hot: calls back to back. Cold: one call, after other data filled the caches, or after an idle pause.
    """
    found = {}
    for runtime in catalogue.RUNTIMES:
        for corner, setting in CORNERS.items():
            slow, fast = (speed.Point(name, runtime=runtime, **setting) for name in PAIR)
            if not table.missing([slow, fast]):
                found[runtime, corner] = table.ratio(slow, fast)
    return found


def by_runtime_and_corner(machine: str | None = None, output: str = "") -> pd.DataFrame:
    """:func:`corners` as a table with intervals, a row a runtime; empty where nothing was timed.

    Arguments as of :func:`situations`.
    """
    try:
        ratios = corners(speed.table(output, machine))
    except speed.NotMeasured:
        return pd.DataFrame()
    runtimes = dict.fromkeys(runtime for runtime, _ in ratios)
    return pd.DataFrame([
        {"ResNet-50's time over B0's": catalogue.RUNTIMES[runtime]}
        | {corner: ratios[runtime, corner].text(1) if (runtime, corner) in ratios else "" for corner in CORNERS}
        for runtime in runtimes])  # fmt: skip


def how_far_to_trust(machine: str | None = None, output: str = "") -> str:
    """How precisely the speed table knows its ratios and its times, in a few sentences; "" where nothing was timed.

    Arguments as of :func:`situations`.
    """
    try:
        table = speed.table(output, machine)
    except speed.NotMeasured:
        return ""
    rows = table.points(batch=1, threads=0, regime="hot", mode="inference", device="cpu")
    rows = rows[rows.net != speed.YARD]
    ratio, time = (100 * (half.median() - 1) for half in (rows.high / rows.to_yard, rows.high_ms / rows.ms))
    hours = ("and the intervals hold how much runs at other hours differed" if len(table.runs) > 1 else
             "and what another hour would change is not in the intervals")  # fmt: skip
    known = store.runs(table.machine, output)
    bursts = (" The container grants a fraction of a core, so that times come in bursts."
              if known[known.run.isin(table.runs)].fraction.any() else "")  # fmt: skip
    return (f"**How far to trust a time:** each is pooled over {rows.visits.min()} to {rows.visits.max()} visits, "
            f"every visit a process of its own, in {len(table.runs)} run{'s' if len(table.runs) > 1 else ''} on "
            f"`{table.machine}`, {hours}. By the median of {len(rows)} nets and runtimes, the ratio to ResNet-50 is "
            f"known to within {ratio:.0f} %, a time in ms to within {time:.0f} % (95 %).{bursts}")  # fmt: skip


def _row(have: str, wish: dict[str, object], machine: str | None, output: str) -> dict[str, str]:
    try:
        ranked = chooser.choose(**wish, machine=machine, output=output)
    except (FileNotFoundError, speed.NotMeasured) as error:
        return {"you have": have, "take": str(error)}
    fits = ranked[ranked.fits]
    if fits.empty:
        return {"you have": have, "take": "nothing of the study fits"}
    first = fits[fits["rank"] == fits["rank"].iloc[0]]
    best, second = first.iloc[0], fits[fits["rank"] > fits["rank"].iloc[0]]
    return {
        "you have": have,
        "take": " or ".join(_name(row) for row in first.itertuples()),
        "ImageNet top-1": f"{best.top1:.1f} %",
        "time": _time(best),
        "how sure": f"accuracy published, time {'published' if math.isnan(best.low_ms) else 'measured'}: {best.how}",
        "runner-up": "".join(f"{_name(row)}, {row.top1:.1f} %, {row.ms:.3g} ms" for row in second[:1].itertuples()),
    }


def _name(row) -> str:
    return f"`{row.name}`" + ("" if row.size == 224 else f" at {row.size} px")


def _time(row: pd.Series) -> str:
    """Milliseconds an image, with the interval of a measured one."""
    text = f"{row.ms:.3g} ms"
    return text if math.isnan(row.low_ms) else f"{text} ({row.low_ms:.3g} to {row.high_ms:.3g})"


CLUSTER_NETS, CLUSTER_SPACES, CLUSTER_CORES = 500, 6, 64  # as in the paper; spaces AnyNetX_A to RegNetX
CLUSTER_STEPS = """\
Notebook {notebook} samples and trains populations of nets, small
ones so that two cores are enough. 500 models in each space, as in the paper, run on any Dask cluster:

1. `pip install dask-jobqueue` (Slurm) or `pip install dask-kubernetes`, and this repository where all nodes see it.
2. Slurm: `cluster = dask_jobqueue.SLURMCluster(cores=1, processes=1, memory="3GiB", walltime="02:00:00")`, then
   `cluster.scale(64)`. Kubernetes: `cluster = dask_kubernetes.operator.KubeCluster(image=YOUR_IMAGE, n_workers=64)`.
3. `export DASK_SCHEDULER_ADDRESS=...` with `cluster.scheduler_address`, then run notebook 06 with `nets=500`. What is
   trained is stored at once, so an interrupted sweep goes on where it stopped."""


def cluster(machine: str | None = None, output: str = "", folder: str = "notebooks/") -> str:
    """How to run notebook 06's populations at the paper's size, and what it costs by what 06 measured.

    06 stores ``cluster``: what (whose nets), core_seconds (one net, trained).

    Args:
        machine, output: as of :func:`situations`.
        folder: where the notebooks stand as seen from the page; ``""`` in a notebook.
    """
    link = markdown.link("06_regnet", "The paper's size, on a cluster", folder)
    steps = CLUSTER_STEPS.replace("{notebook}", link)
    try:
        rows = store.latest("06_regnet", "cluster", output, machine)
    except FileNotFoundError:
        return f"{steps}\n4. Cost: not measured yet: run 06."
    hours = rows.core_seconds * CLUSTER_NETS * CLUSTER_SPACES / 3600
    return (
        f"{steps}\n4. Cost: {rows.core_seconds[0]:.1f} core-seconds a net, measured on "
        f"`{rows.attrs['machine']}`: {hours[0]:.1f} core-hours in all, {hours[0] / CLUSTER_CORES * 60:.0f} minutes on "
        f"{CLUSTER_CORES} such cores.\n5. The paper's own nets ({rows.what[1]}) would take {hours[1]:,.0f} such "
        "core-hours: bring GPUs."
    )
