"""What to use, in a few common situations: the first thing that notebook 00 and the README tell."""

import math

import pandas as pd

from whichbackbone.evidence import chooser, claims, markdown, speed, store
from whichbackbone.evidence.cases import PUBLISHED, TIMED

# What somebody has -> what they would ask chooser.choose. The limits are round numbers, on purpose.
SITUATIONS: dict[str, dict[str, object]] = {
    "this CPU, any runtime, 15 ms an image": dict(hardware="cpu", latency_ms=15),
    "this CPU, any runtime, 60 ms": dict(hardware="cpu", latency_ms=60),
    "this CPU, PyTorch as it comes (eager), 60 ms": dict(hardware="cpu", latency_ms=60, runtime="eager"),
    "this CPU, 60 ms, trained from scratch": dict(hardware="cpu", latency_ms=60, pretrained=False),
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
        it was measured), "how sure" (what was measured and what published), "faster still". Where nothing fits, or
        nothing was measured yet, "take" says so and the rest is empty.
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


# Tables that time EfficientNet-B0 in eager mode, one image -> what a page calls them, and which rows do.
TIMED_AGAIN = {
    ("05_efficientnet", "latency"): ("05", {"name": "efficientnet_b0"}),
    ("06_regnet", "latency"): ("06", {"name": "efficientnet_b0"}),
    ("09_speed_critique", "latency"): ("09, all nets", {"label": "efficientnet_b0", "layout": "NCHW"}),
    ("09_speed_critique", "runtimes"): ("09, runtimes", {"model": "efficientnet_b0", "runtime": "eager"}),
    ("09_speed_critique", "pairs_timed"): ("09, matched pairs", {"name": "efficientnet_b0"}),
}


def same_net_again(machine: str | None = None, output: str = "") -> str:
    """How far apart two tables put the time of one net, in a few sentences; arguments as of :func:`situations`.

    An interval over the rounds of one process knows nothing of another process. Shown are the two medians that lie
    furthest apart, each with its interval; nothing where fewer than two tables of the machine have the net.
    """
    found, owners = [], set()
    for (notebook, table), (title, where) in TIMED_AGAIN.items():
        try:
            rows = store.latest(notebook, table, output, machine)
        except FileNotFoundError:
            continue
        owners.add(rows.attrs["machine"])
        for column, value in where.items():
            rows = rows[rows[column] == value]
        found += [(row.median_ms, row.low_ms, row.high_ms, title) for row in rows.itertuples()]
    if len(found) < 2 or len(owners) > 1:
        return ""
    first, last = ((f"{ms:.1f} ms ({low:.1f} to {high:.1f}; {title})", ms)
                   for ms, low, high, title in (min(found), max(found)))  # fmt: skip
    return (f"**How far to trust a time:** in eager mode EfficientNet-B0 took {first[0]} in one table and {last[0]} in "
            f"another, {last[1] / first[1]:.1f} times as long. Such an interval is over the rounds of one block of "
            "nets: another block, process or hour can differ by more than it says. So the times here are rough; trust "
            "the ratio of two nets that were timed side by side more than the time of either.")  # fmt: skip


def _row(have: str, wish: dict[str, object], machine: str | None, output: str) -> dict[str, str]:
    try:
        ranked = chooser.choose(**wish, machine=machine, output=output)
    except (FileNotFoundError, speed.NotMeasured) as error:
        return {"you have": have, "take": str(error)}
    fits = ranked[ranked.fits]
    if fits.empty:
        return {"you have": have, "take": "nothing of the study fits"}
    first = fits[fits["rank"] == fits["rank"].iloc[0]]
    best, faster = first.iloc[0], fits[fits.ms < first.ms.min()]
    return {
        "you have": have,
        "take": " or ".join(_name(row) for row in first.itertuples()),
        "ImageNet top-1": f"{best.top1:.1f} %",
        "time": _time(best),
        "how sure": f"accuracy published, time {'published' if math.isnan(best.low_ms) else 'measured'}: {best.how}",
        "faster still": "".join(f"{_name(row)}, {row.top1:.1f} %, {row.ms:.3g} ms" for row in faster[:1].itertuples()),
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
